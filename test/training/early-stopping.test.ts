import { describe, expect, test } from 'vitest';
import { ConfigInvalid } from '../../shared/errors.ts';
import {
  mustBeMeasured,
  NOTHING_YET,
  observe,
  shouldStop,
  type EarlyStoppingOptions,
} from '../../training/early-stopping.ts';

const min: EarlyStoppingOptions = { metric: 'eval_loss', goal: 'min', patience: 2, minDelta: 0 };

/** States after each value in turn. */
function watch(values: number[], options: EarlyStoppingOptions | null = min) {
  let state = NOTHING_YET;
  return values.map((value, index) => {
    const held = { [options?.metric ?? 'eval_loss']: value };
    state = observe(state, held, options, { step: index + 1, checkpoint: `main/step-${index + 1}` });
    return { best: state.best?.value ?? null, step: state.best?.step ?? null, stop: shouldStop(state, options) };
  });
}

describe('early stopping', () => {
  test('stops once patience epochs in a row brought nothing', () => {
    expect(watch([3, 2, 2.5, 2.1]).map(({ stop }) => stop)).toEqual([false, false, false, true]);
    expect(watch([3, 2, 2.5, 1.9, 2, 2]).map(({ stop }) => stop)).toEqual([false, false, false, false, false, true]);
  });

  test('the best is the best ever, with its step and checkpoint', () => {
    expect(watch([3, 2, 2.5]).at(-1)).toMatchObject({ best: 2, step: 2 });
    const state = observe(NOTHING_YET, { eval_loss: 3 }, min, { step: 4, checkpoint: 'main/step-4' });
    expect(state.best).toEqual({ metric: 'eval_loss', value: 3, step: 4, checkpoint: 'main/step-4' });
  });

  test('goal max looks the other way', () => {
    const max: EarlyStoppingOptions = { ...min, metric: 'eval_rewards/accuracies', goal: 'max' };
    expect(watch([0.5, 0.7, 0.6], max).at(-1)).toMatchObject({ best: 0.7, step: 2 });
    expect(watch([0.7, 0.6, 0.6], max).at(-1)?.stop).toBe(true);
  });

  test('NaN is never the best, neither first nor later, and counts as no improvement', () => {
    expect(watch([NaN])).toEqual([{ best: null, step: null, stop: false }]);
    expect(watch([NaN, 2]).at(-1)).toMatchObject({ best: 2, step: 2 });
    expect(watch([2, NaN]).at(-1)).toMatchObject({ best: 2, step: 1 });
    expect(watch([-Infinity, 2]).at(-1)).toMatchObject({ best: 2 });
    expect(watch([NaN, NaN]).at(-1)?.stop).toBe(true);
  });

  test('improvements within minDelta add up: patience counts from the last value that counted', () => {
    const options = { ...min, minDelta: 0.5 };
    // 3 → 2.8 is within 0.5 of 3, 2.4 is not.
    expect(watch([3, 2.8, 2.4, 2.3, 2.2], options).map(({ stop }) => stop)).toEqual([false, false, false, false, true]);
    expect(watch([3, 2.8], options).at(-1)).toMatchObject({ best: 2.8, step: 2 });
  });

  test('without options eval_loss is watched and nothing is stopped', () => {
    expect(watch([2, 3, 3, 3], null).at(-1)).toEqual({ best: 2, step: 1, stop: false });
  });

  test('a metric that no evaluation makes is refused with those there are', () => {
    const options = { ...min, metric: 'eval_los' };
    const check = () => mustBeMeasured(options, { eval_loss: 1, eval_nll_loss: 1 });
    expect(check).toThrow(ConfigInvalid);
    expect(check).toThrow('no evaluation makes "eval_los"; choose one of eval_loss, eval_nll_loss');
    expect(() => mustBeMeasured(min, { eval_loss: NaN })).not.toThrow();
    expect(() => mustBeMeasured(null, {})).not.toThrow();
  });
});
