import { describe, expect, it } from 'vitest';
import { epochBatches, epochOrder, stepsPerEpoch } from '../../../training/data/order.ts';

describe('the order of pairs', () => {
  it('is a function of count, seed and epoch', () => {
    expect(epochOrder(100, 42, 3)).toEqual(epochOrder(100, 42, 3));
    const others = [epochOrder(100, 42, 4), epochOrder(100, 43, 3)];
    for (const other of others) expect(other).not.toEqual(epochOrder(100, 42, 3));
  });

  it('shows every pair once an epoch, the smaller last batch kept', () => {
    const batches = epochBatches(10, { batchSize: 4, seed: 42, epoch: 0 });
    expect(batches.map((batch) => batch.length)).toEqual([4, 4, 2]);
    expect(batches.flat()).toEqual(epochOrder(10, 42, 0));
    expect([...batches.flat()].sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(stepsPerEpoch(10, 4)).toBe(3);
    expect(stepsPerEpoch(8, 4)).toBe(2);
  });

  it('puts a pair in every place about equally often over epochs', () => {
    const places = Array.from({ length: 2000 }, (_, epoch) => epochOrder(10, 42, epoch).indexOf(0));
    const counts = Array.from({ length: 10 }, (_, place) => places.filter((at) => at === place).length);
    for (const count of counts) expect(Math.abs(count - 200)).toBeLessThan(4 * Math.sqrt(2000 * 0.1 * 0.9));
  });
});
