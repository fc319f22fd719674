/** The evaluation of a run on the tiny model with the real engine, and its resume on an engine of plain arithmetic. */
import { mkdtemp, readFile, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { CheckpointIncompatible, Preempted } from '../../../shared/errors.ts';
import type { EvaluationResult } from '../../../shared/records.ts';
import { answer, choosePrompts, endIdsOf, promptText, type SampleRow } from '../../../training/steps/answers.ts';
import { evaluateRun, type EvaluateInput, type EvaluationFile } from '../../../training/steps/evaluate.ts';
import { loadTokenizer } from '../../../training/tokenizer/load.ts';
import { createPlainStep, plainScores } from '../../helpers/plain-step.ts';
import { quiet, trainAll } from '../../helpers/segments.ts';
import { makeTinyRun, tinyPairs } from '../../helpers/tiny-run.ts';
import { scratchFolder } from '../../helpers/scratch.ts';

const scratch = scratchFolder();

vi.hoisted(() => {
  process.env['TF_NUM_INTRAOP_THREADS'] = '1';
  process.env['TF_NUM_INTEROP_THREADS'] = '1';
  process.env['TF_CPP_MIN_LOG_LEVEL'] = '2';
});

let input: EvaluateInput;
let result: EvaluationResult | null;

beforeAll(async () => {
  const folder = await mkdtemp(join(scratch, 'orpo-evaluate-'));
  const run = await makeTinyRun(folder, { train: 32, test: 24, training: { epochs: 3, learningRate: 2e-2 } });
  const { results } = await trainAll(run);
  input = { ...run, from: results.at(-1)?.checkpoint ?? { uri: '', step: 0, sha256: '' } };
  result = await evaluateRun(input, quiet);
}, 120_000);

const read = async <T>(file: string): Promise<T> => JSON.parse(await readFile(join(input.output, file), 'utf8')) as T;

describe('the evaluation of a run', () => {
  test('training on rising and falling answers shows on pairs never seen: NLL falls, accuracy rises, clear of 0', () => {
    expect(result).toMatchObject({ split: 'test', pairs: 24 });
    const { nll, accuracy } = result?.differences ?? { nll: null, accuracy: null };
    expect(nll?.high).toBeLessThan(0);
    expect(accuracy?.low).toBeGreaterThan(0);
    const [before, after] = [result?.before ?? {}, result?.after ?? {}];
    expect(nll?.mean).toBeCloseTo((after['eval_nll_loss'] ?? 0) - (before['eval_nll_loss'] ?? 0), 10);
    const gained = (after['eval_rewards/accuracies'] ?? 0) - (before['eval_rewards/accuracies'] ?? 0);
    expect(accuracy?.mean).toBeCloseTo(gained, 10);
  });

  test('evaluation.json holds every pair’s scores, from which all of it follows', async () => {
    const file = await read<EvaluationFile>('evaluation.json');
    expect(file).toMatchObject({
      ...result,
      step: input.from.step,
      interval: { level: 0.95, resamples: 10_000, seed: 0 },
    });
    expect(file.rows.map(({ row }) => row)).toEqual(Array.from({ length: 24 }, (_, index) => 37 + index));
    const won = file.rows.filter(({ after }) => after.logpChosen > after.logpRejected).length;
    expect(result?.after['eval_rewards/accuracies']).toBe(won / 24);
    const shorter = file.rows.map(({ chosenTokens: c, rejectedTokens: r }) => (c < r ? 1 : c === r ? 0.5 : 0));
    expect(result?.shorterWins).toBeCloseTo(shorter.reduce<number>((a, b) => a + b, 0) / 24, 12);
  });

  test('samples show six prompts with both answers and whether they ended', async () => {
    const samples = await read<SampleRow[]>('samples.json');
    expect(samples).toHaveLength(6);
    for (const sample of samples) {
      expect(sample.endedBefore).toBeTypeOf('boolean');
      expect(sample.prompt).not.toBe('');
      expect(sample.chosen).not.toBe(sample.rejected);
    }
    expect(samples.some(({ before, after }) => before !== after)).toBe(true);
    expect(await readFile(join(input.output, 'samples.md'), 'utf8')).toContain('Before:');
  });

  test('again, it computes nothing and says the same', async () => {
    const files = ['evaluation.json', 'samples.json'];
    const before = await Promise.all(files.map((file) => readFile(join(input.output, file), 'utf8')));
    const createStep = () => Promise.reject(new Error('no engine is needed'));
    expect(await evaluateRun(input, quiet, { createStep })).toEqual(result);
    expect(await Promise.all(files.map((file) => readFile(join(input.output, file), 'utf8')))).toEqual(before);
  });
});

describe('an evaluation that was disturbed', () => {
  const elsewhere = async () => ({ ...input, output: await mkdtemp(join(scratch, 'orpo-evaluate-')) });

  test('keeps the base’s part when it is asked to leave, and does the rest later', async () => {
    const fresh = await elsewhere();
    const made: (string | null)[] = [];
    let isAsked = false;
    const createStep = (options: { method: { kind: string } | null }) => {
      made.push(options.method?.kind ?? null);
      isAsked = options.method !== null && made.length === 2;
      return Promise.resolve(createPlainStep());
    };
    const hooks = { ...quiet, stopRequest: () => (isAsked ? ('pause' as const) : null) };
    await expect(evaluateRun(fresh, hooks, { createStep })).rejects.toThrow(Preempted);
    await expect(evaluateRun(fresh, { ...quiet }, { createStep })).resolves.toMatchObject({ pairs: 24 });
    // Base, tuned (left), tuned again: the base was not done twice.
    expect(made).toEqual([null, 'lora', 'lora']);
  });

  test('a signal ends it too', async () => {
    const hooks = { ...quiet, signal: AbortSignal.abort() };
    const left = evaluateRun(await elsewhere(), hooks, { createStep: async () => createPlainStep() });
    await expect(left).rejects.toThrow('evaluation: asked to leave; what is measured so far is kept');
  });

  test('a part of other weights is made anew', async () => {
    const fresh = await elsewhere();
    let made = 0;
    const createStep = async () =>
      createPlainStep({ scores: (row) => ({ row, logpChosen: -1, logpRejected: -2, nllSum: ++made, nllCount: 1 }) });
    await evaluateRun(fresh, quiet, { createStep });
    expect(made).toBe(48);
    await evaluateRun({ ...fresh, model: { ...fresh.model, weightsSha256: fresh.model.weightsSha256 } }, quiet, {
      createStep,
    });
    expect(made).toBe(48);
    await evaluateRun(
      { ...fresh, config: { ...fresh.config, orpo: { ...fresh.config.orpo, nllScope: 'completion' } } },
      quiet,
      { createStep },
    );
    expect(made).toBe(96);
  });

  test('a part that was cut short is made anew', async () => {
    const fresh = await elsewhere();
    const createStep = async () => createPlainStep({ scores: plainScores });
    const whole = await evaluateRun(fresh, quiet, { createStep });
    await truncate(join(fresh.output, 'evaluation', 'before.json'), 40);
    expect(await evaluateRun(fresh, quiet, { createStep })).toEqual(whole);
  });
});

describe('what an evaluation refuses or leaves out', () => {
  const createStep = async () => createPlainStep();

  test('the validation split serves where there is no test split, and null where there is neither', async () => {
    const { counts, splits } = input.tokens;
    const output = await mkdtemp(join(scratch, 'orpo-evaluate-'));
    const validation = { ...input.tokens, counts: { ...counts, test: 0 }, splits: { ...splits, test: null } };
    expect(await evaluateRun({ ...input, output, tokens: validation }, quiet, { createStep })).toMatchObject({
      split: 'validation',
      pairs: 4,
    });
    const none = {
      ...validation,
      counts: { ...counts, test: 0, validation: 0 },
      splits: { ...splits, test: null, validation: null },
    };
    expect(await evaluateRun({ ...input, output, tokens: none }, quiet, { createStep })).toBeNull();
  });

  test('weights trained on another base or by another method are refused', async () => {
    const output = await mkdtemp(join(scratch, 'orpo-evaluate-'));
    const other = { ...input, output, model: { ...input.model, weightsSha256: 'other' } };
    await expect(evaluateRun(other, quiet, { createStep })).rejects.toThrow(CheckpointIncompatible);
    await expect(evaluateRun(other, quiet, { createStep })).rejects.toThrow('base weights: ba5e there, other here');
    const full = { ...input, output, config: { ...input.config, method: { kind: 'full' as const } } };
    await expect(evaluateRun(full, quiet, { createStep })).rejects.toThrow('method: ');
  });

  test('a damaged checkpoint is refused', async () => {
    const output = await mkdtemp(join(scratch, 'orpo-evaluate-'));
    const from = { ...input.from, sha256: 'ab'.repeat(32) };
    await expect(evaluateRun({ ...input, output, from }, quiet, { createStep })).rejects.toThrow('it is damaged');
  });
});

describe('answers', () => {
  test('prompts are distinct and spread over the split', () => {
    const pairs = tinyPairs(12);
    expect(choosePrompts(pairs).map(({ row }) => row)).toEqual([1, 3, 5, 7, 9, 11]);
    const repeated = [...pairs.slice(0, 2), ...pairs.slice(0, 2)];
    expect(choosePrompts(repeated)).toHaveLength(2);
    expect(choosePrompts([])).toEqual([]);
  });

  test('the end tokens are EOS and the special tokens that answers end with', async () => {
    const tokenizer = await loadTokenizer(input.model.folder);
    const withEos = { ...tokenizer, eosId: 0 };
    expect(endIdsOf(tinyPairs(3), withEos)).toEqual([0, 2]);
    const cut = tinyPairs(1).map((pair) => ({
      ...pair,
      chosen: { ...pair.chosen, ids: pair.chosen.ids.slice(0, -1) },
    }));
    expect(endIdsOf(cut, withEos)).toEqual([0]);
  });

  test('an answer has ended when it stopped short of the limit', async () => {
    const tokenizer = await loadTokenizer(input.model.folder);
    const [pair] = tinyPairs(1);
    if (!pair) throw new Error('no pair');
    const engine = createPlainStep();
    expect(await answer(engine, tokenizer, pair, [2])).toMatchObject({ row: 1, tokens: 2, ended: true });
    const endless = { ...engine, generate: async () => Array.from({ length: 64 }, () => 100) };
    expect(await answer(endless, tokenizer, pair, [2])).toMatchObject({ tokens: 64, ended: false });
  });

  test('a chat prompt is shown as its author wrote it; another one as it stands', async () => {
    const tokenizer = await loadTokenizer(input.model.folder);
    const rendered = tokenizer.renderChat([{ role: 'user', content: 'How long\ndo eggs boil?' }], {
      addGenerationPrompt: true,
    });
    const pairOf = (text: string) => {
      const ids = [...tokenizer.encode(text), 2];
      return { row: 1, chosen: { ids, promptLength: ids.length - 1 }, rejected: { ids, promptLength: ids.length - 1 } };
    };
    expect(promptText(tokenizer, pairOf(rendered))).toBe('How long\ndo eggs boil?');
    expect(promptText(tokenizer, pairOf('How long do eggs boil?'))).toBe('How long do eggs boil?');
    const plain = { ...tokenizer, chatTemplate: null };
    expect(promptText(plain, pairOf('How long do eggs boil?'))).toBe('How long do eggs boil?');
  });
});
