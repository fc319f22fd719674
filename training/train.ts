/**
 * The loop: from a position, the rest of an epoch, one optimiser step after the other. No I/O of its own; what happens
 * is reported through hooks. The order of the pairs is a function of (seed, epoch) and the position counts pairs, so that a
 * run taken up again sees the very batches an undisturbed one sees.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ModelInvalid, NonFiniteLoss } from '../shared/errors.ts';
import type { RunConfig } from '../shared/config.ts';
import { epochOrder } from './data/order.ts';
import type { EncodedPair } from './data/encoded.ts';
import { scheduleFactor } from './optim/schedule.ts';
import { epochFraction, totalStepsOf, type Position } from './position.ts';
import { stepRow, type LogRow } from './report/metrics.ts';
import type { StepResult, TrainStep } from './step/index.ts';

export type LoopOptions = Pick<
  RunConfig['training'],
  'seed' | 'batchSize' | 'epochs' | 'maxSteps' | 'learningRate' | 'schedule' | 'warmupSteps'
>;

export interface StepReport {
  position: Position;
  row: LogRow;
  tokens: number;
  /** Whether this was the epoch's last step, or the run's. */
  isLast: boolean;
}

export interface LoopHooks {
  onStep(report: StepReport): Promise<void> | void;
  /** Either stops the loop before its next step. */
  signal?: AbortSignal | undefined;
  shouldStop?: (() => boolean) | undefined;
}

/** Trains the rest of the present epoch, at most to the run's last step.
 *  @returns the position reached; its epoch is the same, its cursor the pair count where the epoch's end was reached
 *  @throws NonFiniteLoss naming step and rows; ModelInvalid where the first step has nothing to learn from */
export async function trainEpoch(
  engine: TrainStep,
  pairs: readonly EncodedPair[],
  start: Position,
  options: LoopOptions,
  hooks: LoopHooks,
): Promise<Position> {
  const { batchSize, seed } = options;
  const totalSteps = totalStepsOf(start, pairs.length, options);
  const order = epochOrder(pairs.length, seed, start.epoch);
  const isStopped = (): boolean => hooks.signal?.aborted === true || hooks.shouldStop?.() === true;
  let position = start;
  while (position.cursor < pairs.length && position.step < totalSteps && !isStopped()) {
    const batch = batchAt(pairs, order, position.cursor, batchSize);
    const factor = scheduleFactor(options.schedule, position.step, options.warmupSteps, totalSteps);
    const learningRate = options.learningRate * factor;
    const result = await engine.step(batch, { learningRate, stepIndex: position.step });
    position = { ...position, step: position.step + 1, cursor: position.cursor + batch.length };
    mustLearn(result, position.step, batch, engine.trainableCount);
    const epoch = epochFraction(position, pairs.length, batchSize);
    const row = stepRow({ step: position.step, epoch, pairs: batch.length }, result.metrics);
    const isLast = position.cursor >= pairs.length || position.step >= totalSteps;
    await hooks.onStep({ position, row, tokens: result.tokens, isLast });
    // Native steps are synchronous: let messages and timers through.
    await nextTurn();
  }
  return position;
}

function batchAt(pairs: readonly EncodedPair[], order: number[], cursor: number, batchSize: number): EncodedPair[] {
  return order.slice(cursor, cursor + batchSize).flatMap((index) => pairs[index] ?? []);
}

/** The first step shows whether anything is learnt at all; every step must be finite. */
function mustLearn({ metrics }: StepResult, step: number, batch: EncodedPair[], trainable: number): void {
  const { loss, grad_norm: gradNorm } = metrics;
  if (!Number.isFinite(loss) || !Number.isFinite(gradNorm)) {
    const rows = batch.map((pair) => pair.row).join(', ');
    throw new NonFiniteLoss(
      `training: step ${step} has loss ${loss} and gradient norm ${gradNorm} on rows ${rows}; both must be finite. ` +
        'The last checkpoint is untouched. Lower training.learningRate, or look at these rows',
    );
  }
  if (step === 1 && gradNorm === 0) {
    throw new ModelInvalid(
      `training: the first step has a gradient of exactly 0 over ${trainable} trained values: nothing would be learnt. ` +
        'Check method.targetModules and method.layers, and that the base is not damaged',
    );
  }
}
