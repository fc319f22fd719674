import { describe, expect, it } from 'vitest';
import { curve, movingAverage, paddedRange, smoothingWindow, thin } from '../../../training/report/series.ts';
import type { Point } from '../../../training/report/series.ts';

const pointsOf = (values: (number | null)[]): Point[] => values.map((value, i) => ({ at: i + 1, value }));

describe('curve', () => {
  it('takes the values of a name in order, the last of a step that appears twice, and null where it is not finite', () => {
    const rows = [
      { step: 2, epoch: 1, loss: 5 },
      { step: 1, epoch: 0.5, loss: null },
      { step: 2, epoch: 1, loss: 4 },
      { step: 3, epoch: 1.5, loss: NaN },
      { step: 4, epoch: 2, other: 1 },
    ];
    expect(curve(rows, 'loss', 'step')).toEqual([
      { at: 1, value: null },
      { at: 2, value: 4 },
      { at: 3, value: null },
    ]);
  });
});

describe('thin', () => {
  const noisy = pointsOf(Array.from({ length: 10_000 }, (_, i) => Math.sin(i * 12.9898) * 43_758.5453 - i / 7));

  it('leaves a short curve as it is', () => {
    const points = pointsOf([3, null, 1]);
    expect(thin(points, 3)).toEqual({ points, span: 1 });
  });

  it('keeps the overall extremes, only points of the curve, in order and below the limit', () => {
    const { points, span } = thin(noisy, 600);
    expect(span).toBe(34);
    expect(points.length).toBeLessThanOrEqual(600);
    for (const point of points) expect(noisy[point.at - 1]).toEqual(point);
    expect(points.map(({ at }) => at)).toEqual([...points.map(({ at }) => at)].sort((a, b) => a - b));
    const values = noisy.map(({ value }) => value ?? 0);
    const kept = points.map(({ value }) => value ?? 0);
    expect([Math.min(...kept), Math.max(...kept)]).toEqual([Math.min(...values), Math.max(...values)]);
  });

  it('keeps a single spike among ten thousand equal values', () => {
    const flat = pointsOf(Array.from({ length: 10_000 }, (_, i) => (i === 7_777 ? 9 : 1)));
    expect(thin(flat, 600).points).toContainEqual({ at: 7_778, value: 9 });
  });

  it('turns a long run without finite values into gaps, not into values', () => {
    const lost = pointsOf(Array.from({ length: 2_000 }, (_, i) => (i < 1_000 ? null : i)));
    const { points } = thin(lost, 200);
    expect(points.filter(({ at }) => at <= 1_000).every(({ value }) => value === null)).toBe(true);
    expect(points.filter(({ at }) => at > 1_000).every(({ value }) => value !== null)).toBe(true);
  });
});

describe('movingAverage', () => {
  it('is the mean of the neighbours that are there, worked by hand', () => {
    // (2+4)/2, (2+4+9)/3, (4+9+1)/3, (9+1)/2
    const values = movingAverage(pointsOf([2, 4, 9, 1]), 3).map(({ value }) => value);
    [3, 5, 14 / 3, 5].forEach((expected, i) => expect(values[i]).toBeCloseTo(expected, 12));
  });

  it('skips gaps and leaves them gaps', () => {
    expect(movingAverage(pointsOf([2, null, 9]), 3).map(({ value }) => value)).toEqual([2, null, 9]);
  });

  it('keeps the mean of a straight line inside', () => {
    const line = pointsOf(Array.from({ length: 50 }, (_, i) => 3 * i));
    const inner = movingAverage(line, 7).slice(3, -3);
    inner.forEach(({ at, value }) => expect(value).toBeCloseTo(3 * (at - 1), 9));
  });
});

describe('smoothingWindow', () => {
  it('is odd, a tenth of the steps within 5 and 101, and 1 for the shortest runs', () => {
    expect([1, 11, 12, 90, 600, 10_000].map(smoothingWindow)).toEqual([1, 1, 5, 9, 61, 101]);
  });
});

describe('paddedRange', () => {
  it('has air around the values, and width even where there is one value', () => {
    expect(paddedRange([0, 10])).toEqual([-0.6, 10.6]);
    expect(paddedRange([2])).toEqual([1.8, 2.2]);
    expect(paddedRange([0])).toEqual([-0.01, 0.01]);
  });
});
