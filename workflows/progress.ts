/**
 * A run's progress as its workflow keeps it: empty at the start, brought up to date by every segment's result.
 */
import type { Progress, SegmentResult } from '../shared/records.ts';

export function initialProgress(): Progress {
  return {
    phase: 'resolving',
    epoch: 0,
    epochs: 0,
    step: 0,
    totalSteps: 0,
    etaSeconds: null,
    loss: null,
    evalLoss: null,
    rewardAccuracy: null,
    margin: null,
    tokensPerSecond: null,
    worker: null,
    checkpoint: null,
    resumes: 0,
    warnings: [],
  };
}

/** Takes a finished segment into account. */
export function absorb(progress: Progress, segment: SegmentResult): void {
  Object.assign(progress, {
    epoch: segment.epoch,
    step: segment.step,
    totalSteps: segment.totalSteps,
    checkpoint: segment.checkpoint,
    tokensPerSecond: segment.tokensPerSecond,
    worker: segment.worker,
    loss: segment.train['train_loss'] ?? progress.loss,
    evalLoss: segment.eval?.['eval_loss'] ?? progress.evalLoss,
    rewardAccuracy: segment.eval?.['eval_rewards/accuracies'] ?? progress.rewardAccuracy,
    margin: segment.eval?.['eval_rewards/margins'] ?? progress.margin,
    resumes: progress.resumes + (segment.resumes ?? 0),
    warnings: [...new Set([...progress.warnings, ...segment.warnings])],
  });
}
