/**
 * How far a run has come, counted in pairs within an epoch, so that a position means the same whatever the batch size.
 */
import type { RunConfig } from '../shared/config.ts';

export interface Position {
  /** Optimiser steps done. */
  step: number;
  /** Epochs finished, their evaluation included. */
  epoch: number;
  /** Pairs of the present epoch already trained on. */
  cursor: number;
}

export const START: Position = { step: 0, epoch: 0, cursor: 0 };

/** Optimiser steps of the whole run, seen from a position: those done and those still to come. */
export function totalStepsOf(
  position: Position,
  pairs: number,
  { batchSize, epochs, maxSteps }: Pick<RunConfig['training'], 'batchSize' | 'epochs' | 'maxSteps'>,
): number {
  const restOfEpoch = position.epoch < epochs ? Math.ceil((pairs - position.cursor) / batchSize) : 0;
  const laterEpochs = Math.max(0, epochs - position.epoch - 1) * Math.ceil(pairs / batchSize);
  return Math.min(position.step + restOfEpoch + laterEpochs, maxSteps ?? Infinity);
}

/** Epochs done with the fraction of the present one: batches done over batches in it (transformers 5.23, trainer.py,
 *  `self.state.epoch = epoch + (step + 1) / steps_in_epoch`). */
export function epochFraction({ epoch, cursor }: Position, pairs: number, batchSize: number): number {
  return epoch + Math.ceil(cursor / batchSize) / Math.ceil(pairs / batchSize);
}
