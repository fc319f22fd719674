import { describe, expect, it } from 'vitest';
import {
  comparisons,
  duration,
  fixed,
  grouped,
  isClearOfZero,
  measuredOn,
  metricOf,
  percent,
  signed,
} from '../../../training/report/numbers.ts';
import { EVALUATION } from './finished-run.ts';

describe('numbers', () => {
  it('never show a minus before zero, nor a word for what is not a number', () => {
    expect([fixed(-0.0004, 3), fixed(-1.5, 1), fixed(NaN, 2), signed(0.0004, 3), signed(2, 1)]).toEqual([
      '0.000',
      '−1.5',
      'n/a',
      '0.000',
      '+2.0',
    ]);
    expect([percent(0.52777), percent(NaN), grouped(1234567), grouped(999)]).toEqual([
      '52.8%',
      'n/a',
      '1,234,567',
      '999',
    ]);
    expect([duration(0.4), duration(59.6), duration(93), duration(7384)]).toEqual([
      '0 s',
      '1 min 0 s',
      '1 min 33 s',
      '2 h 3 min',
    ]);
  });

  it('find a metric with or without its prefix', () => {
    expect([metricOf({ eval_loss: 1 }, 'loss'), metricOf({ loss: 2 }, 'loss'), metricOf({}, 'loss')]).toEqual([
      1,
      2,
      NaN,
    ]);
  });

  it('call an interval clear of 0 only when 0 lies outside', () => {
    const cases = [
      { mean: 1, low: 0.1, high: 2 },
      { mean: -1, low: -2, high: -0.1 },
      { mean: 1, low: 0, high: 2 },
      { mean: 0, low: -1, high: 1 },
    ];
    expect(cases.map(isClearOfZero)).toEqual([true, true, false, false]);
  });

  it('judge NLL better when it falls and accuracy better when it rises', () => {
    const verdicts = (nll: [number, number], accuracy: [number, number]) =>
      comparisons({
        ...EVALUATION,
        differences: {
          nll: { mean: 0, low: nll[0], high: nll[1] },
          accuracy: { mean: 0, low: accuracy[0], high: accuracy[1] },
        },
      }).map(({ verdict }) => verdict);
    expect(verdicts([-2, -1], [0.1, 0.2])).toEqual(['better', 'better']);
    expect(verdicts([1, 2], [-0.2, -0.1])).toEqual(['worse', 'worse']);
    expect(verdicts([-1, 1], [-0.1, 0.1])).toEqual(['undecided', 'undecided']);
  });

  it('say which split was measured', () => {
    expect(measuredOn(EVALUATION)).toBe('72 held-out pairs (the test split, which training never saw)');
    expect(measuredOn({ pairs: 1, split: 'validation' })).toContain(
      '1 held-out pair (the validation split: not trained on',
    );
  });
});
