/**
 * The order of pairs: a pure function of count, seed and epoch, so that a resumed run sees the rows it would have seen.
 */
import { shuffled } from '../random.ts';

/** Indices 0 … count − 1 in the order of this epoch. @param epoch - from 0 */
export function epochOrder(count: number, seed: number, epoch: number): number[] {
  return shuffled(count, 'order', seed, epoch);
}

/** Optimiser steps of an epoch; the last batch may be smaller. */
export function stepsPerEpoch(count: number, batchSize: number): number {
  return Math.ceil(count / batchSize);
}

/** The epoch's indices in batches of batchSize, the smaller last one kept. */
export function epochBatches(count: number, options: { batchSize: number; seed: number; epoch: number }): number[][] {
  const order = epochOrder(count, options.seed, options.epoch);
  return Array.from({ length: stepsPerEpoch(count, options.batchSize) }, (_, step) =>
    order.slice(step * options.batchSize, (step + 1) * options.batchSize),
  );
}
