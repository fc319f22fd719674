import { describe, expect, it } from 'vitest';
import { scratch } from './scratch.ts';

const { read } = scratch();
const line = (prompt: string, chosen: string, rejected: string) => JSON.stringify({ prompt, chosen, rejected });
const reportOf = async (...lines: string[]) => (await read('a.jsonl', lines.join('\n'), { skipInvalid: true })).report;
const fine = line('fine', 'one', 'two');

describe('the prompt inside an answer', () => {
  it('is bad where the prompt is long enough to be no coincidence, or stands in both answers', async () => {
    const { bad } = await reportOf(
      fine,
      line('What is the capital?', 'What is the capital?\nParis', 'I do not know'),
      line('Three short words', 'No', '  Three short words and more'),
      line('Hi', 'Hi there', 'Hi'),
    );
    expect(bad.map(({ line: at, column }) => [at, column])).toEqual([
      [2, 'chosen'],
      [3, 'rejected'],
      [4, 'chosen'],
      [4, 'rejected'],
    ]);
  });

  it('is a warning where a short prompt starts one answer', async () => {
    const { bad, warnings } = await reportOf(fine, line('Good morning', 'Good morning! How are you?', 'What?'));
    expect(bad).toEqual([]);
    expect(warnings).toEqual(['1 pairs in which one answer starts with the (short) prompt; first at line 2']);
  });
});

describe('the report', () => {
  it('warns of contradicting pairs and of U+FFFD, with the first lines', async () => {
    const broken = Array.from({ length: 7 }, (_, i) => line(`p${i}`, 'caf\ufffd', 'x'));
    const { warnings } = await reportOf(line('p', 'a', 'b'), line('p', 'b', 'a'), ...broken);
    expect(warnings).toEqual([
      '1 pairs whose answers stand the other way round in an earlier row (the preferences contradict each other); first at line 2',
      '7 pairs with U+FFFD, left by an earlier wrong decoding; first at line 3, 4, 5, 6, 7, …',
    ]);
  });

  it('has lengths in characters and the share of longer chosen answers', async () => {
    const { lengths, chosenLonger } = await reportOf(
      line('p', 'a', 'bb'),
      line('pp', 'aaa', 'b'),
      line('ppp', 'aaaaa', 'b'),
    );
    expect(lengths.prompt).toEqual({ min: 1, median: 2, mean: 2, p95: 3, max: 3 });
    expect(lengths.chosen).toEqual({ min: 1, median: 3, mean: 3, p95: 5, max: 5 });
    expect(chosenLonger).toBe(2 / 3);
  });

  it('keeps pairs of one prompt with other answers', async () => {
    expect(await reportOf(line('p', 'a', 'b'), line('p', 'a', 'c'), line('p', 'a', 'b'))).toMatchObject({
      pairs: 2,
      bad: [{ line: 3, column: null, reason: 'is a duplicate of line 1' }],
    });
  });
});
