import { describe, expect, test } from 'vitest';
import { evaluateSplit, shorterWins } from '../../training/evaluate.ts';
import type { PairScores } from '../../training/step/index.ts';
import { createPlainStep } from '../helpers/plain-step.ts';
import { tinyPairs } from '../helpers/tiny-run.ts';

const orpo = { beta: 0.5, disableDropout: true, nllScope: 'prompt+completion', nllReduction: 'token' } as const;

describe('evaluateSplit', () => {
  // Log-probabilities that are logarithms of simple fractions: odds 1 : 1 against 1 : 3, and 1 : 4 against 4 : 1.
  const scores: PairScores[] = [
    { row: 1, logpChosen: Math.log(1 / 2), logpRejected: Math.log(1 / 4), nllSum: 6, nllCount: 2 },
    { row: 2, logpChosen: Math.log(1 / 5), logpRejected: Math.log(4 / 5), nllSum: 4, nllCount: 6 },
  ];
  const engine = createPlainStep({ scores: (row) => scores[row - 1] ?? ({ ...scores[0], row: 0 } as PairScores) });

  test('every metric by hand, under TRL’s names with eval_ before them', async () => {
    const evaluation = await evaluateSplit(engine, tinyPairs(2), { orpo, batchSize: 1 });
    const m = evaluation?.metrics ?? {};
    // Odds ratios 3 and 1/16: log odds ln 3 and −ln 16, their sigmoids 3/4 and 1/17.
    expect(m['eval_log_odds_chosen']).toBeCloseTo((Math.log(3) - Math.log(16)) / 2, 12);
    expect(m['eval_log_odds_ratio']).toBeCloseTo((Math.log(3 / 4) + Math.log(1 / 17)) / 2, 12);
    // (6 + 4) / (2 + 6): tokens pooled, not (3 + 2/3) / 2.
    expect(m['eval_nll_loss']).toBe(1.25);
    expect(m['eval_loss']).toBeCloseTo(1.25 - 0.5 * ((Math.log(3 / 4) + Math.log(1 / 17)) / 2), 12);
    expect(m['eval_rewards/accuracies']).toBe(0.5);
    expect(m['eval_logps/chosen']).toBeCloseTo(Math.log(1 / 10) / 2, 12);
    expect(m['eval_rewards/chosen']).toBeCloseTo(0.5 * (Math.log(1 / 10) / 2), 12);
    expect(m['eval_rewards/margins']).toBeCloseTo(0.5 * ((Math.log(1 / 10) - Math.log(1 / 5)) / 2), 12);
    expect(Object.keys(m).every((name) => name.startsWith('eval_'))).toBe(true);
  });

  test('does not depend on how many pairs are scored at once, and keeps their order', async () => {
    const pairs = tinyPairs(7);
    const plain = createPlainStep();
    const whole = await evaluateSplit(plain, pairs, { orpo, batchSize: 7 });
    const done: number[] = [];
    const parts = await evaluateSplit(plain, pairs, { orpo, batchSize: 3, onBatch: (count) => void done.push(count) });
    expect(parts).toEqual(whole);
    expect(parts?.scores.map(({ row }) => row)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(done).toEqual([3, 6, 7]);
  });

  test('gives up between batches when asked to', async () => {
    let asked = 0;
    const given = evaluateSplit(createPlainStep(), tinyPairs(4), { orpo, batchSize: 2, shouldStop: () => ++asked > 1 });
    expect(await given).toBeNull();
    expect(asked).toBe(2);
  });
});

describe('shorterWins', () => {
  const pair = (chosen: number, rejected: number) => ({
    row: 1,
    chosen: { ids: Array.from({ length: 5 + chosen }, () => 9), promptLength: 5 },
    rejected: { ids: Array.from({ length: 5 + rejected }, () => 9), promptLength: 5 },
  });

  test('counts the pairs whose chosen answer has fewer tokens, equal lengths as half', () => {
    expect(shorterWins([pair(2, 3), pair(3, 2), pair(4, 4), pair(1, 9)])).toBe(2.5 / 4);
    expect(shorterWins([])).toBeNaN();
  });

  test('looks at the answer, not at the prompt before it', () => {
    const longPrompt = { ids: Array.from({ length: 40 }, () => 9), promptLength: 38 };
    expect(shorterWins([{ row: 1, chosen: longPrompt, rejected: pair(1, 3).rejected }])).toBe(1);
  });
});
