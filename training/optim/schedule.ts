/**
 * Learning-rate schedules with linear warm-up, as transformers' optimization.py has them under the same names (its
 * `constant_with_warmup` is our `constant`: warm-up is a field of its own here).
 */
import type { RunConfig } from '../../shared/config.ts';

export type ScheduleName = RunConfig['training']['schedule'];

/** inverse_sqrt without warm-up decays as if from here (transformers' default time scale). */
const INVERSE_SQRT_TIMESCALE = 10_000;

/** Factor on the base learning rate.
 *  @param step - optimiser steps done before this one: 0 at the first  @param totalSteps - of the whole run */
export function scheduleFactor(name: ScheduleName, step: number, warmupSteps: number, totalSteps: number): number {
  if (step < warmupSteps) return step / Math.max(1, warmupSteps);
  const progress = (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps);
  switch (name) {
    case 'linear':
      return Math.max(0, (totalSteps - step) / Math.max(1, totalSteps - warmupSteps));
    case 'cosine':
      return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
    case 'constant':
      return 1;
    case 'inverse_sqrt': {
      const timescale = warmupSteps || INVERSE_SQRT_TIMESCALE;
      return 1 / Math.sqrt((step + timescale - warmupSteps) / timescale);
    }
  }
}

/** The learning rate of one optimiser step.
 *  @param step - optimiser steps done before this one */
export function learningRateAt(
  step: number,
  options: { learningRate: number; schedule: ScheduleName; warmupSteps: number; totalSteps: number },
): number {
  return options.learningRate * scheduleFactor(options.schedule, step, options.warmupSteps, options.totalSteps);
}
