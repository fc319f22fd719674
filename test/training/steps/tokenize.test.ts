import { cp, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { resolveConfig } from '../../../shared/config.ts';
import type { RunConfig } from '../../../shared/config.ts';
import { DatasetInvalid, TokenizerMismatch } from '../../../shared/errors.ts';
import type { DatasetRef } from '../../../shared/records.ts';
import { encodePair } from '../../../training/data/encode.ts';
import { readPairs } from '../../../training/data/split-files.ts';
import { loadAndSplit } from '../../../training/steps/load-and-split.ts';
import { readTokens, tokenizeSplits } from '../../../training/steps/tokenize.ts';
import { loadTokenizer } from '../../../training/tokenizer/load.ts';
import { rejection, scratchFolder } from '../../helpers/scratch.ts';

const folder = scratchFolder();
const modelFolder = fileURLToPath(new URL('../../fixtures/tokenizer/small', import.meta.url));
const LONG = 60; // this row's answer is the only long one
const rows = Array.from({ length: 120 }, (_, i) => {
  const chosen = `Answer ${i}${i === LONG ? ' and so on'.repeat(40) : ''}`;
  return JSON.stringify({ prompt: `Question ${i}?`, chosen, rejected: 'No idea' });
});
const source = join(folder, 'pairs.jsonl');
await writeFile(source, rows.join('\n'));

async function prepare(
  name: string,
  data: object = {},
): Promise<{ config: RunConfig; output: string; dataset: DatasetRef }> {
  const output = join(folder, name);
  const config = resolveConfig({ data: { source, maxCompletionLength: 100, ...data } });
  return { config, output, dataset: await loadAndSplit({ config, output }) };
}

interface Report {
  promptFormat: string;
  splits: Record<'train' | 'validation' | 'test', { pairs: number; dropped: object[]; chosen: { max: number } }>;
}
const reportIn = async (output: string) =>
  JSON.parse(await readFile(join(output, 'data', 'tokens-report.json'), 'utf8')) as Report;

describe('tokenizing the splits', () => {
  it('writes for every pair what encodePair makes of it, in the split order', async () => {
    const input = await prepare('all', { maxCompletionLength: 1000 });
    const tokens = await tokenizeSplits({ ...input, modelFolder });
    expect(tokens).toMatchObject({ counts: input.dataset.counts, dropped: 0, warnings: [] });
    const tokenizer = await loadTokenizer(modelFolder);
    for (const name of ['train', 'validation', 'test'] as const) {
      const pairs = await readPairs(input.dataset.splits[name]?.uri ?? '');
      const options = { ...input.config.data, promptFormat: 'chat' } as const;
      const expected = pairs.map((pair) => encodePair(pair, tokenizer, options));
      const written = await readTokens(tokens.splits[name]?.uri ?? '');
      expect(written.map((encoded) => ({ encoded }))).toEqual(expected);
    }
    expect(tokens.splits.train.uri).toBe(join(input.output, 'data', 'tokens-train.parquet'));
  });

  it('lists the rows it leaves out, with reasons', async () => {
    const input = await prepare('dropped');
    const tokens = await tokenizeSplits({ ...input, modelFolder });
    expect(tokens.dropped).toBe(1);
    expect(tokens.warnings).toEqual(['1 rows were left out while tokenizing; see data/tokens-report.json']);
    const report = await reportIn(input.output);
    const dropped = Object.values(report.splits).flatMap((split) => split.dropped);
    expect(dropped).toEqual([
      {
        row: LONG + 1,
        reason: expect.stringMatching(/^chosen is \d+ tokens \(data\.maxCompletionLength 100\)$/) as string,
        isOverlength: true,
      },
    ]);
    expect(report.promptFormat).toBe('chat');
  });

  it('cuts long rows where it is told to', async () => {
    const input = await prepare('cut', { overlength: 'truncate' });
    const tokens = await tokenizeSplits({ ...input, modelFolder });
    expect(tokens).toMatchObject({ dropped: 0, counts: input.dataset.counts });
    const maxima = Object.values((await reportIn(input.output)).splits).map(({ chosen }) => chosen.max);
    expect(Math.max(...maxima)).toBe(100);
  });

  it('reports all rows past the limits in one error where they are to be one', async () => {
    const input = await prepare('error', { overlength: 'error', maxPromptLength: 1, maxCompletionLength: 1000 });
    const error = await rejection(tokenizeSplits({ ...input, modelFolder }));
    expect(error).toBeInstanceOf(DatasetInvalid);
    expect((error as DatasetInvalid).problems).toHaveLength(120);
    expect(error.message).toMatch(
      /^tokenize: 120 rows cannot be used and data.overlength is "error"\n {2}- row \d+: the prompt is/,
    );
    expect(error.message).toContain('… and 100 more');
  });

  it('fails where a split loses all its rows, saying what to do, and writes nothing', async () => {
    const input = await prepare('emptied', { maxPromptLength: 1 });
    const error = await rejection(tokenizeSplits({ ...input, modelFolder }));
    expect(error).toBeInstanceOf(DatasetInvalid);
    expect(error.message).toMatch(/^tokenize: all \d+ rows of the train split are left out\n/);
    expect(error.message).toContain('Raise data.maxPromptLength or data.maxCompletionLength, set data.overlength to');
    expect((await readdir(join(input.output, 'data'))).filter((name) => name.startsWith('tokens'))).toEqual([]);
  });

  it('gives another advice where the rows are not too long', async () => {
    const conversations = rows.map((row, i) =>
      JSON.stringify({ ...(JSON.parse(row) as object), prompt: [{ role: 'user', content: `Question ${i}?` }] }),
    );
    const path = join(folder, 'conversations.jsonl');
    await writeFile(path, conversations.join('\n'));
    const input = await prepare('plain', { source: path, promptFormat: 'plain' });
    const error = await rejection(tokenizeSplits({ ...input, modelFolder }));
    expect(error.message).toContain('has role/content messages, which need a chat template');
    expect(error.message).toContain('Correct the rows, or choose another data.promptFormat.');
  });

  it('warns of special tokens in the text of answers', async () => {
    const path = join(folder, 'specials.jsonl');
    const special = JSON.stringify({ prompt: 'Special?', chosen: 'a<|im_start|>b', rejected: 'c<|im_end|>' });
    await writeFile(path, [...rows, special].join('\n'));
    const input = await prepare('specials', { source: path, maxCompletionLength: 1000 });
    const { warnings } = await tokenizeSplits({ ...input, modelFolder });
    expect(warnings).toEqual(["1 pairs have special tokens of the model in their answers' text"]);
  });

  it('is the same when repeated, and takes away a split that is no more', async () => {
    const input = await prepare('repeated');
    const first = await tokenizeSplits({ ...input, modelFolder });
    expect(await tokenizeSplits({ ...input, modelFolder })).toEqual(first);
    const without = await prepare('repeated', { testFraction: 0 });
    const { splits, counts } = await tokenizeSplits({ ...without, modelFolder });
    expect([splits.test, counts.test]).toEqual([null, 0]);
    expect(await readdir(join(input.output, 'data'))).not.toContain('tokens-test.parquet');
  });

  it('refuses a tokenizer whose ids the model has no rows for', async () => {
    const input = await prepare('mismatch');
    const other = join(folder, 'model');
    await cp(modelFolder, other, { recursive: true });
    await writeFile(join(other, 'config.json'), JSON.stringify({ vocab_size: 512 }));
    const error = await rejection(tokenizeSplits({ ...input, modelFolder: other }));
    expect(error).toBeInstanceOf(TokenizerMismatch);
    expect(error.message).toContain('tokenizer ids go to 599');
  });

  it('reports progress over all splits and lets the event loop turn', async () => {
    const input = await prepare('progress');
    let turns = 0;
    let isDone = false;
    const count = () => {
      turns++;
      if (!isDone) setImmediate(count);
    };
    setImmediate(count);
    const seen: [number, number][] = [];
    await tokenizeSplits({ ...input, modelFolder, onProgress: (...progress) => seen.push(progress) });
    isDone = true;
    expect(seen.at(-1)).toEqual([120, 120]);
    expect(seen).toHaveLength(120);
    expect(turns).toBeGreaterThan(3);
  });

  it('stops when told to, after the row it is at', async () => {
    const input = await prepare('stopped');
    const controller = new AbortController();
    let rowsDone = 0;
    const onProgress = () => {
      if (++rowsDone === 10) controller.abort();
    };
    const error = await rejection(tokenizeSplits({ ...input, modelFolder, signal: controller.signal, onProgress }));
    expect([error.name, rowsDone]).toEqual(['AbortError', 10]);
  });
});
