import { afterEach, describe, expect, it } from 'vitest';
import { DatasetInvalid } from '../../../shared/errors.ts';
import { buildMicroBatch, sequenceLayout, type MicroBatch } from '../../../training/step/batch.ts';
import { dispose, tf } from '../../../training/tf.ts';

const PAIRS = [
  { row: 7, chosen: { ids: [1, 2, 3, 4, 5], promptLength: 2 }, rejected: { ids: [1, 2, 6], promptLength: 2 } },
  { row: 9, chosen: { ids: [1, 8, 9], promptLength: 1 }, rejected: { ids: [1, 2, 3, 4], promptLength: 3 } },
];

const batches: MicroBatch[] = [];
afterEach(() => dispose(batches.splice(0)));

function build(...parameters: Parameters<typeof buildMicroBatch>): MicroBatch {
  const batch = buildMicroBatch(...parameters);
  batches.push(batch);
  return batch;
}

describe('a micro-batch', () => {
  it('has chosen sequences first, each without its last id, side by side', () => {
    const { layout, ids, tokenCount } = build(PAIRS, 'prompt+completion');
    expect(layout.lengths).toEqual([4, 2, 2, 3]);
    expect([...ids.dataSync()]).toEqual([1, 2, 3, 4, 1, 8, 1, 2, 1, 2, 3]);
    expect(layout.keys).toEqual(['7/chosen', '9/chosen', '7/rejected', '9/rejected']);
    expect(tokenCount).toBe(15);
  });

  it('counts all chosen ids from the second on, and of rejected ones the answers', () => {
    const { positions, targets, nllCounts, answerMean, nllMask } = build(PAIRS, 'prompt+completion');
    expect([...targets.dataSync()]).toEqual([2, 3, 4, 5, 8, 9, 6, 4]);
    expect([...positions.dataSync()]).toEqual([0, 1, 2, 3, 4, 5, 7, 10]);
    expect(nllCounts).toEqual([4, 2]);
    const third = Math.fround(1 / 3);
    expect(answerMean.arraySync()).toEqual([
      [0, third, third, third, 0, 0, 0, 0],
      [0, 0, 0, 0, 0.5, 0.5, 0, 0],
      [0, 0, 0, 0, 0, 0, 1, 0],
      [0, 0, 0, 0, 0, 0, 0, 1],
    ]);
    expect(nllMask.arraySync()).toEqual([
      [1, 1, 1, 1, 0, 0, 0, 0],
      [0, 0, 0, 0, 1, 1, 0, 0],
    ]);
  });

  it('leaves prompts out where the NLL is over answers', () => {
    const { targets, nllCounts } = build(PAIRS, 'completion');
    expect([...targets.dataSync()]).toEqual([3, 4, 5, 8, 9, 6, 4]);
    expect(nllCounts).toEqual([3, 2]);
  });

  it('refuses answers without a token, all of them named', () => {
    const empty = { ids: [1, 2], promptLength: 2 };
    const attempt = () =>
      buildMicroBatch([{ row: 3, chosen: empty, rejected: { ids: [5], promptLength: 0 } }], 'completion');
    expect(attempt).toThrow(DatasetInvalid);
    expect(attempt).toThrow('row 3: chosen has 2 ids and none of them');
    expect(attempt).toThrow('row 3: rejected has 1 ids');
  });
});

it('padding and back finds every token again, and what is padded is the row after the last', () => {
  const layout = sequenceLayout([2, 3]);
  expect([...layout.padIndex.dataSync()]).toEqual([0, 1, 5, 2, 3, 4]);
  expect([...layout.unpadIndex.dataSync()]).toEqual([0, 1, 3, 4, 5]);
  const back = tf.gather(layout.padIndex, layout.unpadIndex);
  expect([...back.dataSync()]).toEqual([0, 1, 2, 3, 4]);
  dispose([layout, back]);
});
