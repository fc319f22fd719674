/**
 * Best epoch and patience as pure functions over plain data, so that both stand in a checkpoint. A metric that is not a
 * number is never the best. `best` moves with every improvement, however small; patience counts epochs that did not
 * improve by more than `minDelta` on the last value that did (Keras' EarlyStopping; Hugging Face's compares with the
 * best instead, so that many small improvements count as none).
 */
import type { RunConfig } from '../shared/config.ts';
import { ConfigInvalid } from '../shared/errors.ts';
import type { MetricRow } from '../shared/records.ts';

export type EarlyStoppingOptions = NonNullable<RunConfig['training']['earlyStopping']>;

export interface Best {
  metric: string;
  value: number;
  step: number;
  /** Its checkpoint as `<lineage>/<name>`. */
  checkpoint: string;
}

export interface StoppingState {
  best: Best | null;
  /** The last value that improved by more than minDelta. */
  reference: number | null;
  /** Epochs since then. */
  epochsWithout: number;
}

export const NOTHING_YET: StoppingState = { best: null, reference: null, epochsWithout: 0 };

/** Which metric names the best epoch where nothing is stopped early. */
const WATCH_ONLY = { metric: 'eval_loss', goal: 'min', minDelta: 0 } as const;

/** Takes one epoch's evaluation in.
 *  @param options - null watches `eval_loss` without stopping
 *  @param at - the step and the checkpoint about to be written with these weights */
export function observe(
  state: StoppingState,
  held: MetricRow,
  options: EarlyStoppingOptions | null,
  at: { step: number; checkpoint: string },
): StoppingState {
  const { metric, goal, minDelta } = options ?? WATCH_ONLY;
  const value = held[metric] ?? NaN;
  const isBetter = (than: number | undefined | null, by: number): boolean =>
    Number.isFinite(value) && (than == null || (goal === 'min' ? value < than - by : value > than + by));
  const improved = isBetter(state.reference, minDelta);
  return {
    best: isBetter(state.best?.value, 0) ? { metric, value, ...at } : state.best,
    reference: improved ? value : state.reference,
    epochsWithout: improved ? 0 : state.epochsWithout + 1,
  };
}

/** Whether patience has run out. */
export function shouldStop(state: StoppingState, options: EarlyStoppingOptions | null): boolean {
  return options !== null && state.epochsWithout >= options.patience;
}

/** Refuses a metric that no evaluation makes, before anything is trained.
 *  @throws ConfigInvalid naming those there are */
export function mustBeMeasured(options: EarlyStoppingOptions | null, held: MetricRow): void {
  if (!options || options.metric in held) return;
  throw new ConfigInvalid(
    `training.earlyStopping.metric: no evaluation makes "${options.metric}"; choose one of ${Object.keys(held).join(', ')}`,
  );
}
