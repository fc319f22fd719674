/**
 * What a worker and its trainer child say to each other over Node's IPC channel. Plain JSON, a `type` each.
 */
import type { EvaluateInput } from '../../training/steps/evaluate.ts';
import type { SegmentInput, SegmentProgress } from '../../training/steps/train-segment.ts';
import type { EvaluationResult, SegmentResult } from '../../shared/records.ts';

export type TrainerTask = { kind: 'segment'; input: SegmentInput } | { kind: 'evaluate'; input: EvaluateInput };

export interface TaskResults {
  segment: SegmentResult;
  evaluate: EvaluationResult | null;
}

/** `pause`: finish the step, checkpoint and return. `handOver`: the same, but end as Preempted, for the next attempt. */
export type StopReason = 'pause' | 'handOver';

export type ToTrainer = { type: 'run'; task: TrainerTask } | { type: 'stop'; reason: StopReason };

export type FromTrainer =
  | { type: 'progress'; progress: SegmentProgress }
  | { type: 'result'; value: unknown }
  | { type: 'error'; name: string; message: string; problems: string[]; stack: string | undefined };
