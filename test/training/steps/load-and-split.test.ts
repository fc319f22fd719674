import { access, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { resolveConfig } from '../../../shared/config.ts';
import { DatasetInvalid } from '../../../shared/errors.ts';
import type { PreferencePair } from '../../../training/data/preference.ts';
import type { DataReport } from '../../../training/data/report.ts';
import type { SplitBalance } from '../../../training/data/split.ts';
import { readPairs } from '../../../training/data/split-files.ts';
import { loadAndSplit, splitFile } from '../../../training/steps/load-and-split.ts';
import { rejection, scratchFolder } from '../../helpers/scratch.ts';

const folder = scratchFolder();
const rows = Array.from({ length: 200 }, (_, i) => `"Question ${i}, please?",Answer ${i},No idea`);
const source = join(folder, 'pairs.csv');
await writeFile(source, ['prompt,chosen,rejected', ...rows, ',bad,row'].join('\n'));
const config = (data: object = {}) => resolveConfig({ data: { source, skipInvalid: true, ...data } });

describe('load and split', () => {
  it('writes every pair once, as it was, with counts and hashes', async () => {
    const output = join(folder, 'run');
    const dataset = await loadAndSplit({ config: config(), output });
    expect(dataset).toMatchObject({ rows: 201, warnings: ['1 of 201 rows are bad and were left out (skipInvalid)'] });
    const { train, validation, test } = dataset.splits;
    const parts = [train, validation, test].map((ref) => ref?.uri ?? '');
    expect(parts).toEqual(['train', 'validation', 'test'].map((name) => join(output, 'data', `${name}.parquet`)));
    const read = await Promise.all(parts.map(readPairs));
    expect(read.map(({ length }) => length)).toEqual([
      dataset.counts.train,
      dataset.counts.validation,
      dataset.counts.test,
    ]);
    const all: PreferencePair[] = read.flat().sort((a, b) => a.row - b.row);
    expect(all).toEqual(
      rows.map((_, i) => ({
        row: i + 1,
        prompt: `Question ${i}, please?`,
        chosen: `Answer ${i}`,
        rejected: 'No idea',
      })),
    );
  });

  it('writes a report with bad rows, lengths and balance', async () => {
    const output = join(folder, 'reported');
    await loadAndSplit({ config: config(), output });
    const text = await readFile(join(output, 'data', 'report.json'), 'utf8');
    const report = JSON.parse(text) as DataReport & { splits: Record<string, SplitBalance> };
    expect(report.bad).toEqual([{ line: 202, column: 'prompt', reason: 'is empty' }]);
    expect(report.splits['train']?.pairs).toBeGreaterThan(100);
    expect(report.chosenLonger).toBe(1);
  });

  it('gives the same files when it is repeated, and reports progress', async () => {
    const output = join(folder, 'repeated');
    const first = await loadAndSplit({ config: config(), output });
    const seen: [number, number][] = [];
    const second = await loadAndSplit({ config: config(), output, onProgress: (...progress) => seen.push(progress) });
    expect(second).toEqual(first);
    const { size } = await import('node:fs').then(({ statSync }) => statSync(source));
    expect(seen.at(-1)).toEqual([size, size]);
    expect((await readdir(join(output, 'data'))).sort()).toEqual([
      'report.json',
      'test.parquet',
      'train.parquet',
      'validation.parquet',
    ]);
  });

  it('removes a split that the config no longer has', async () => {
    const output = join(folder, 'changed');
    await loadAndSplit({ config: config(), output });
    const { splits, counts } = await loadAndSplit({ config: config({ testFraction: 0 }), output });
    expect(splits.test).toBeNull();
    expect(counts.test).toBe(0);
    await expect(access(join(output, 'data', 'test.parquet'))).rejects.toThrow('ENOENT');
  });

  it('fails whole, leaving nothing, where rows are bad and may not be skipped', async () => {
    const output = join(folder, 'failed');
    const error = await rejection(loadAndSplit({ config: config({ skipInvalid: false }), output }));
    expect(error).toBeInstanceOf(DatasetInvalid);
    expect(error.message).toContain(`${source}:202: "prompt" is empty`);
    await expect(access(output)).rejects.toThrow('ENOENT');
  });

  it('splits into any folder for the split command', async () => {
    const out = join(folder, 'elsewhere');
    await mkdir(out);
    const { splits } = await splitFile({ data: config({ validationFraction: 0 }).data, folder: out });
    expect(splits.train.uri).toBe(join(out, 'train.parquet'));
    expect((await readdir(out)).sort()).toEqual(['report.json', 'test.parquet', 'train.parquet']);
  });

  it('stops when told to', async () => {
    const controller = new AbortController();
    controller.abort();
    const error = await rejection(
      loadAndSplit({ config: config(), output: join(folder, 'stopped'), signal: controller.signal }),
    );
    expect(error.name).toBe('AbortError');
  });
});
