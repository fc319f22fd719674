import { describe, expect, test } from 'vitest';
import { bootstrapRatio, compareScores, quantile } from '../../training/bootstrap.ts';
import { createRandom } from '../../training/random.ts';
import type { PairScores } from '../../training/step/index.ts';

const pair = (row: number, margin: number, nllSum: number, nllCount = 2): PairScores => ({
  row,
  logpChosen: -1,
  logpRejected: -1 - margin,
  nllSum,
  nllCount,
});

describe('paired bootstrap', () => {
  test('means worked by hand: accuracy after − before, NLL pooled over tokens', () => {
    const before = [pair(1, -1, 6, 2), pair(2, 1, 4, 2), pair(3, 0, 20, 4), pair(4, -1, 8, 2)];
    const after = [pair(1, 1, 4, 2), pair(2, 1, 4, 2), pair(3, 1, 10, 4), pair(4, -1, 8, 2)];
    const { accuracy, nll } = compareScores(before, after);
    // Before only row 2 is won (a tie is lost), after rows 1, 2 and 3: (3 − 1) / 4.
    expect(accuracy.mean).toBe(0.5);
    // (4 + 4 + 10 + 8) − (6 + 4 + 20 + 8) = −12 over 10 tokens.
    expect(nll.mean).toBe(-1.2);
    expect(accuracy.low).toBeGreaterThanOrEqual(0);
    expect(accuracy.high).toBeLessThanOrEqual(1);
    expect(nll.low).toBeLessThan(-1.2);
    expect(nll.high).toBe(0);
  });

  test('what does not change has an interval of no width at 0', () => {
    const same = Array.from({ length: 20 }, (_, index) => pair(index, index % 3, 5));
    expect(compareScores(same, same)).toEqual({
      accuracy: { mean: 0, low: 0, high: 0 },
      nll: { mean: 0, low: 0, high: 0 },
      answerNll: { mean: 0, low: 0, high: 0 },
    });
  });

  test('for a mean of 400 values the interval is that of the normal law: mean ± 1.96 s/√n', () => {
    const random = createRandom('test', 1);
    const values = Array.from({ length: 400 }, () => random.normal());
    const mean = values.reduce((a, b) => a + b, 0) / 400;
    const s = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / 400);
    const { low, high } = bootstrapRatio(values.map((numerator) => ({ numerator, denominator: 1 })));
    // The ends of 10,000 resamples scatter by about 2% of the half width.
    expect(low).toBeCloseTo(mean - (1.96 * s) / 20, 2);
    expect(high).toBeCloseTo(mean + (1.96 * s) / 20, 2);
  });

  test('the same seed gives the same interval, another one another', () => {
    const terms = Array.from({ length: 30 }, (_, index) => ({ numerator: index % 7, denominator: 1 + (index % 3) }));
    expect(bootstrapRatio(terms, { seed: 5 })).toEqual(bootstrapRatio(terms, { seed: 5 }));
    expect(bootstrapRatio(terms, { seed: 5 })).not.toEqual(bootstrapRatio(terms, { seed: 6 }));
  });

  test('a wider level holds a narrower one', () => {
    const terms = Array.from({ length: 30 }, (_, index) => ({ numerator: index % 7, denominator: 1 }));
    const [narrow, wide] = [bootstrapRatio(terms, { level: 0.8 }), bootstrapRatio(terms, { level: 0.99 })];
    expect(wide.low).toBeLessThan(narrow.low);
    expect(wide.high).toBeGreaterThan(narrow.high);
  });

  test('quantiles lie between order statistics as NumPy’s do', () => {
    // numpy.quantile([1, 2, 4, 8], [0, 0.25, 0.5, 0.75, 1])
    expect([0, 0.25, 0.5, 0.75, 1].map((share) => quantile([1, 2, 4, 8], share))).toEqual([1, 1.75, 3, 5, 8]);
  });

  test('refuses what has no meaning', () => {
    const one = [{ numerator: 1, denominator: 1 }];
    expect(() => bootstrapRatio([])).toThrow('got no pairs; an interval needs at least one');
    expect(() => bootstrapRatio(one, { resamples: 100 })).toThrow('got 100 resamples; the ends need at least 2000');
    expect(() => bootstrapRatio(one, { level: 1 })).toThrow('got level 1; it must be between 0 and 1');
  });

  test('refuses scores of other pairs', () => {
    const [a, b] = [pair(1, 1, 4), pair(2, 1, 4)];
    expect(() => compareScores([a], [b])).toThrow('pair 0 is row 1 with 2 tokens before, row 2 with 2 tokens after');
    expect(() => compareScores([a, b], [a])).toThrow('pair 1 is row 2 with 2 tokens before, nothing after');
    expect(() => compareScores([a], [a, b])).toThrow('1 pairs before, 2 after');
    expect(() => compareScores([a], [pair(1, 1, 4, 9)])).toThrow('row 1 with 9 tokens after');
  });
});
