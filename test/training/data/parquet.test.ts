import { execFile } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { DatasetInvalid } from '../../../shared/errors.ts';
import type { EncodedPair } from '../../../training/data/encoded.ts';
import { packIds, readParquetRows, unpackIds, writeParquet } from '../../../training/data/parquet.ts';
import type { PreferencePair } from '../../../training/data/preference.ts';
import { readPreferences } from '../../../training/data/read.ts';
import { readPairs, readTokens, writePairs, writeTokens } from '../../../training/data/split-files.ts';
import { createRandom } from '../../../training/random.ts';
import { COLUMNS, failureOf, scratch } from './scratch.ts';

const { folder, read } = scratch();
const fixture = (name: string) =>
  fileURLToPath(new URL(`../../fixtures/data/parquet/${name}.parquet`, import.meta.url));
const options = { columns: COLUMNS, skipInvalid: false };

describe('Parquet of other writers', () => {
  it('is read with dictionaries, snappy, several row groups and columns of other names', async () => {
    const columns = { prompt: 'question', chosen: 'better', rejected: 'worse' };
    const { pairs, report } = await readPreferences(fixture('text'), { columns, skipInvalid: false });
    expect(pairs).toEqual([
      { row: 1, prompt: 'What is 1+1?', chosen: '2', rejected: '3' },
      { row: 2, prompt: 'NA', chosen: 'null', rejected: '007' },
      { row: 3, prompt: 'Emoji 🤦🏼‍♂️?', chosen: 'Yes\r\nindeed', rejected: 'No' },
    ]);
    expect(report.format).toBe('parquet');
  });

  it('may hold conversations as lists of structs (zstd)', async () => {
    const { pairs } = await readPreferences(fixture('messages'), options);
    expect(pairs[1]).toEqual({
      row: 2,
      prompt: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'Why?' },
      ],
      chosen: [{ role: 'assistant', content: 'Because.' }],
      rejected: [{ role: 'assistant', content: 'It depends.' }],
    });
  });

  it('may have the form of UltraFeedback (gzip)', async () => {
    const { pairs } = await readPreferences(fixture('ultrafeedback'), options);
    expect(pairs).toEqual([
      {
        row: 1,
        prompt: [{ role: 'user', content: 'What is the tallest mountain?' }],
        chosen: [{ role: 'assistant', content: 'Mount Everest.' }],
        rejected: [{ role: 'assistant', content: 'I do not know.' }],
      },
    ]);
  });

  it('may be binary without a text annotation, in data pages of version 2', async () => {
    const { pairs } = await readPreferences(fixture('plain'), options);
    expect(pairs).toEqual([
      { row: 1, prompt: 'p1', chosen: 'chosen', rejected: 'rejected' },
      { row: 2, prompt: 'p2', chosen: 'xchosen', rejected: 'xrejected' },
    ]);
  });

  it('has bad rows reported by row number', async () => {
    const error = await failureOf(readPreferences(fixture('mistakes'), options));
    const problems = error.problems?.map((problem) => problem.replace(/^.*\.parquet: /, ''));
    expect(problems).toEqual([
      'row 1: "rejected" is a bigint (1); expected text or a list of {role, content}',
      'row 2: "prompt" is not valid UTF-8; convert the file (iconv -f WINDOWS-1252 -t UTF-8)',
      'row 2: "rejected" is a bigint (2); expected text or a list of {role, content}',
      'row 3: "prompt" is missing',
      'row 3: "rejected" is a bigint (3); expected text or a list of {role, content}',
      'row 4: "rejected" is missing',
    ]);
  });

  it('without the columns lists the top-level ones', async () => {
    const error = await failureOf(
      readPreferences(fixture('messages'), { ...options, columns: { ...COLUMNS, prompt: 'q' } }),
    );
    expect(error.message).toContain('has no column "q"; found "prompt", "chosen", "rejected"');
  });

  it('that is damaged inside is one clear error', async () => {
    const bytes = await readFile(fixture('text'));
    const footer = Buffer.from(bytes);
    footer.writeUInt32LE(0x7fffffff, bytes.length - 8);
    expect((await failureOf(read('a.parquet', footer))).message).toMatch(
      /cannot be read as Parquet \(.*\); copy or write/,
    );
    const page = Buffer.from(bytes);
    page.fill(0xee, 4, 200);
    const error = await failureOf(
      read('b.parquet', page, { columns: { prompt: 'question', chosen: 'better', rejected: 'worse' } }),
    );
    expect(error).toBeInstanceOf(DatasetInvalid);
    expect(error.message).toContain('cannot be read as Parquet');
  });
});

describe('split files', () => {
  const pairs: PreferencePair[] = [
    { row: 3, prompt: 'a "b"\r\n\u0085', chosen: '🤦🏼‍♂️', rejected: '007' },
    {
      row: 70_000,
      prompt: [{ role: 'user', content: 'ü' }],
      chosen: [{ role: 'assistant', content: 'x' }],
      rejected: [{ role: 'assistant', content: '[1]' }],
    },
    { row: 70_001, prompt: '[1, 2]', chosen: '{"role": "x"}', rejected: 'null' },
  ];

  it('come back as they were, text that looks like JSON included', async () => {
    const path = join(folder, 'pairs.parquet');
    const { uri, sha256, bytes } = await writePairs(path, pairs);
    expect(await readPairs(path)).toEqual(pairs);
    expect(uri).toBe(path);
    const { createHash } = await import('node:crypto');
    const content = await readFile(path);
    expect({ sha256, bytes }).toEqual({
      sha256: createHash('sha256').update(content).digest('hex'),
      bytes: content.length,
    });
  });

  it('have the same bytes for the same pairs', async () => {
    const [first, second] = [
      await writePairs(join(folder, '1.parquet'), pairs),
      await writePairs(join(folder, '2.parquet'), pairs),
    ];
    expect(first.sha256).toBe(second.sha256);
  });

  it('are sources themselves', async () => {
    const path = join(folder, 'again.parquet');
    await writePairs(path, pairs);
    const again = await readPreferences(path, options);
    expect(again.pairs.map(({ prompt, chosen, rejected }) => ({ prompt, chosen, rejected }))).toEqual(
      pairs.map(({ prompt, chosen, rejected }) => ({ prompt, chosen, rejected })),
    );
  });

  it('of many megabytes are written in pieces', async () => {
    const many = Array.from({ length: 3000 }, (_, i) => ({
      row: i + 1,
      prompt: `${i} ${'x'.repeat(5000)}`,
      chosen: 'a',
      rejected: 'b',
    }));
    const path = join(folder, 'many.parquet');
    await writePairs(path, many);
    const { parquetMetadataAsync, asyncBufferFromFile } = await import('hyparquet');
    const metadata = await parquetMetadataAsync(await asyncBufferFromFile(path));
    expect(metadata.row_groups).toHaveLength(4); // 15 MB, 4 MiB each
    expect(await readPairs(path)).toEqual(many);
  });

  it('that stop half-way leave nothing behind', async () => {
    const controller = new AbortController();
    controller.abort();
    const path = join(folder, 'stopped.parquet');
    expect((await failureOf(writePairs(path, pairs, { signal: controller.signal }))).name).toBe('AbortError');
    expect((await readdir(folder)).filter((name) => name.includes('stopped'))).toEqual([]);
  });

  it('that meet a full disk are DiskFull', async () => {
    const rows = function* () {
      yield { row: 1 };
      throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    };
    const error = await failureOf(writeParquet(join(folder, 'full.parquet'), { row: 'INT32' }, rows()));
    expect(error.name).toBe('DiskFull');
    expect(error.message).toContain('full.parquet');
    expect((await readdir(folder)).filter((name) => name.includes('full'))).toEqual([]);
  });

  it('that are missing, damaged or of another kind are refused', async () => {
    expect((await failureOf(readPairs(join(folder, 'none.parquet')))).message).toMatch(
      /none\.parquet: cannot be opened \(ENOENT/,
    );
    const path = join(folder, 'tokens.parquet');
    await writeParquet(path, { row: 'INT32' }, [{ row: 1 }]);
    expect((await failureOf(readPairs(path))).message).toMatch(/tokens\.parquet: is broken \(.*prompt.*\); delete it/);
    await writeFile(path, (await readFile(path)).subarray(0, 60));
    expect((await failureOf(readTokens(path))).message).toMatch(/tokens\.parquet: is broken \(.*\); delete it and run/);
    const fields = { row: 'UTF8', prompt: 'UTF8', chosen: 'UTF8', rejected: 'UTF8', form: 'UTF8' } as const;
    await writeParquet(path, fields, [{ row: 'x', prompt: 'p', chosen: 'c', rejected: 'r', form: 'text' }]);
    expect((await failureOf(readPairs(path))).message).toContain('has other columns or values than this step writes');
  });
});

describe('token files', () => {
  it('come back as they were', async () => {
    const random = createRandom('tokens');
    const ids = () => Array.from({ length: 1 + random.below(300) }, () => random.below(49_152));
    const sequence = () => {
      const all = [...ids(), 2];
      return { ids: all, promptLength: random.below(all.length) };
    };
    const pairs: EncodedPair[] = Array.from({ length: 5000 }, (_, i) => ({
      row: i + 1,
      chosen: sequence(),
      rejected: sequence(),
    }));
    const path = join(folder, 'tokens-many.parquet');
    const start = performance.now();
    await writeTokens(path, pairs);
    const written = performance.now() - start;
    expect(await readTokens(path)).toEqual(pairs);
    expect(written).toBeLessThan(5000); // about 0.2 s; a list column took 11 s for a tenth of it
  });

  it('with a prompt as long as its sequence are refused', async () => {
    const path = join(folder, 'no-answer.parquet');
    const empty = { ids: [1, 2], promptLength: 2 };
    await writeTokens(path, [{ row: 1, chosen: empty, rejected: empty }]);
    expect((await failureOf(readTokens(path))).message).toContain('has other columns or values than this step writes');
  });

  it('pack ids of four bytes, in any alignment', () => {
    const ids = [0, 1, 255, 49_151, 2 ** 31 - 1];
    const packed = packIds(ids);
    expect(packed).toHaveLength(20);
    const moved = new Uint8Array(21);
    moved.set(packed, 1);
    expect(unpackIds(moved.subarray(1))).toEqual(ids);
  });

  it('are read a row group at a time', async () => {
    const path = join(folder, 'lazy.parquet');
    await writeParquet(
      path,
      { row: 'INT32' },
      Array.from({ length: 10_000 }, (_, row) => ({ row })),
    );
    for await (const first of readParquetRows(path, { row: 'INT32' })) {
      expect(first).toEqual({ row: 0 });
      break;
    }
  });
});

describe('a disk that refuses more bytes', () => {
  it('is DiskFull, with nothing left behind and no unhandled rejection', async () => {
    // A file size limit of 8 KiB stands for a full disk: the write itself fails, in the middle of the file.
    const program = `
      import { writePairs } from ${JSON.stringify(new URL('../../../training/data/split-files.ts', import.meta.url).href)};
      const pairs = Array.from({ length: 9000 }, (_, i) => ({ row: i + 1, prompt: 'p'.repeat(1000), chosen: 'c', rejected: 'r' }));
      writePairs(process.argv[1], pairs).catch((error) => console.log(error.name, error.message));
    `;
    const path = join(folder, 'limited', 'pairs.parquet');
    const shell = 'ulimit -f 8; exec "$0" --import tsx --input-type=module --eval "$1" "$2"';
    const { stdout, stderr } = await promisify(execFile)('sh', ['-c', shell, process.execPath, program, path]);
    expect(stderr).toBe('');
    expect(stdout).toMatch(/^DiskFull .*pairs\.parquet: could not be written, no space left \(EFBIG\)/);
    expect(await readdir(join(folder, 'limited'))).toEqual([]);
  });
});
