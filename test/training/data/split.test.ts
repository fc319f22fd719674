import { describe, expect, it } from 'vitest';
import { DatasetInvalid } from '../../../shared/errors.ts';
import type { PreferencePair } from '../../../training/data/preference.ts';
import { normalisePrompt, splitOf, splitPairs, SPLITS } from '../../../training/data/split.ts';
import type { Splits } from '../../../training/data/split.ts';

const OPTIONS = { validationFraction: 0.1, testFraction: 0.2, splitSeed: 42 };
const pair = (row: number, prompt: PreferencePair['prompt']): PreferencePair => ({
  row,
  prompt,
  chosen: 'aa',
  rejected: 'b',
});
const pairs = (count: number, from = 0) =>
  Array.from({ length: count }, (_, i) => pair(from + i + 1, `prompt ${from + i}`));
const whereIs = (splits: Splits) =>
  new Map(SPLITS.flatMap((name) => splits[name].map(({ prompt }) => [JSON.stringify(prompt), name] as const)));

describe('the split', () => {
  it('gives each part its share, with every pair in one of them', () => {
    const splits = splitPairs(pairs(5000), OPTIONS);
    const counts = SPLITS.map((name) => splits[name].length);
    expect(counts.reduce((sum, count) => sum + count)).toBe(5000);
    // four standard errors of a binomial: √(5000·p·(1 − p))
    [0.7, 0.1, 0.2].forEach((share, index) => {
      expect(Math.abs((counts[index] ?? 0) - share * 5000)).toBeLessThan(4 * Math.sqrt(5000 * share * (1 - share)));
    });
    expect(whereIs(splits).size).toBe(5000);
  });

  it('never moves a row when rows are added before, between or after, or when others go', () => {
    const old = pairs(300);
    const before = whereIs(splitPairs(old, OPTIONS));
    const more = [...pairs(200, 1000), ...old, ...pairs(500, 5000)].reverse();
    const after = whereIs(splitPairs(more, OPTIONS));
    for (const [prompt, name] of before) expect(after.get(prompt)).toBe(name);
    const fewer = whereIs(splitPairs(old.slice(100), OPTIONS));
    for (const [prompt, name] of fewer) expect(before.get(prompt)).toBe(name);
  });

  it('keeps all pairs of one prompt together, also where case, spacing or character forms differ', () => {
    const forms = ['What is  this?', ' what is this?\n', 'WHAT IS THIS?', 'What\u00a0is this？', 'ｗhat is this?'];
    expect(new Set(forms.map(normalisePrompt)).size).toBe(1);
    for (let i = 0; i < 200; i++) {
      const names = forms.map((form) => splitOf(`${form} ${i}`, OPTIONS));
      expect(new Set(names).size).toBe(1);
    }
    expect(normalisePrompt('What is this?')).not.toBe(normalisePrompt('What is that?'));
  });

  it('treats a conversation of one user message as its text, and tells longer ones apart', () => {
    const user = (content: string) => ({ role: 'user', content });
    expect(normalisePrompt([user(' Why  ?')])).toBe(normalisePrompt('why ?'));
    const two = [user('a'), { role: 'assistant', content: 'b' }, user('c')];
    expect(normalisePrompt(two)).not.toBe(normalisePrompt([user('a'), user('b'), user('c')]));
    expect(normalisePrompt(two)).toBe(normalisePrompt([user('A '), { role: 'assistant', content: 'B' }, user('c')]));
    expect(normalisePrompt([{ role: 'system', content: 'a' }])).not.toBe(normalisePrompt('a'));
  });

  it('of a known prompt and seed is known for ever', () => {
    const names = Array.from({ length: 12 }, (_, i) => splitOf(`prompt ${i}`, OPTIONS));
    expect(names).toEqual(KNOWN);
  });

  it('changes with the seed', () => {
    const other = whereIs(splitPairs(pairs(300), { ...OPTIONS, splitSeed: 43 }));
    const moved = [...whereIs(splitPairs(pairs(300), OPTIONS))].filter(([prompt, name]) => other.get(prompt) !== name);
    expect(moved.length).toBeGreaterThan(90); // 46% are expected to move
  });

  it('keeps a prompt in test when the validation share grows', () => {
    for (let i = 0; i < 300; i++) {
      const name = splitOf(`prompt ${i}`, OPTIONS);
      const wider = splitOf(`prompt ${i}`, { ...OPTIONS, validationFraction: 0.3 });
      expect(name === 'train' ? ['train', 'validation'] : [name]).toContain(wider);
    }
  });

  it('may have no validation and no test part', () => {
    const splits = splitPairs(pairs(3), { ...OPTIONS, validationFraction: 0, testFraction: 0 });
    expect(SPLITS.map((name) => splits[name].length)).toEqual([3, 0, 0]);
  });

  it('reports how alike the parts are', () => {
    const twice = [...pairs(50), ...pairs(50).map((p) => ({ ...p, row: p.row + 50, chosen: 'a', rejected: 'bbbb' }))];
    const { balance, train } = splitPairs(twice, OPTIONS);
    expect(balance.train).toMatchObject({
      pairs: train.length,
      prompts: train.length / 2,
      meanChosen: 1.5,
      meanRejected: 2.5,
      chosenLonger: 0.5,
    });
  });

  it('that leaves a part empty says how many rows it takes', () => {
    const split = () => splitPairs([pair(1, 'prompt 0'), pair(2, 'Prompt  0 ')], OPTIONS);
    expect(split).toThrow(DatasetInvalid);
    const error = failure(split);
    expect(error.problems).toHaveLength(2);
    expect(error.problems[0]).toBe(
      'split: no row falls into validation (validationFraction: 0.1; distinct prompts: 1). It takes about 44 rows with ' +
        'distinct prompts to be sure; add rows, raise data.validationFraction or set it to 0, or try another data.splitSeed',
    );
    expect(error.problems[1]).toContain(
      'no row falls into test (testFraction: 0.2; distinct prompts: 1). It takes about 21',
    );
  });

  it('that leaves nothing to train on says so', () => {
    const options = { validationFraction: 0.5, testFraction: 0.49, splitSeed: 42 };
    const held = Array.from({ length: 40 }, (_, i) => pair(i + 1, `prompt ${i}`)).filter(
      ({ prompt }) => splitOf(prompt, options) !== 'train',
    );
    expect(failure(() => splitPairs(held, options)).message).toContain(
      'no row falls into train (what validationFraction and testFraction leave: 0.01; distinct prompts: 39). ' +
        'It takes about 459 rows with distinct prompts to be sure; add rows, lower the two fractions, or try another',
    );
  });
});

function failure(work: () => unknown): DatasetInvalid {
  try {
    work();
  } catch (error) {
    if (error instanceof DatasetInvalid) return error;
  }
  throw new Error('expected DatasetInvalid');
}

const KNOWN = [
  'train',
  'train',
  'train',
  'train',
  'test',
  'train',
  'test',
  'test',
  'test',
  'validation',
  'train',
  'test',
];
