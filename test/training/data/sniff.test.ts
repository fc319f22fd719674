import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { DatasetInvalid } from '../../../shared/errors.ts';
import { readPreferences } from '../../../training/data/read.ts';
import { COLUMNS, failureOf, scratch } from './scratch.ts';

const { folder, read } = scratch();
const PARQUET = await readFile(new URL('../../fixtures/data/parquet/text.parquet', import.meta.url));
const CSV = 'prompt,chosen,rejected\na,b,c\n';

describe('a file that is not what its name says', () => {
  it.each([
    ['a.csv', PARQUET, 'is named .csv but is Parquet; rename it to .parquet'],
    ['b.csv', 'PK\x03\x04\x14\0', 'is a zip archive or a spreadsheet (.xlsx)'],
    ['c.csv', gzipSync(CSV), 'is gzip-compressed; decompress it first (gunzip)'],
    ['d.csv', Buffer.from(`\ufeff${CSV}`, 'utf16le'), 'is UTF-16 text; save it as UTF-8'],
    ['e.csv', Buffer.from([1, 2, 0, 3, 4]), 'is a binary file: it starts with "\\u0001\\u0002\\u0000'],
    ['f.csv', '{"prompt": "a", "chosen": "b"}\n', 'is JSON; name it .jsonl if it has one object a line'],
    ['g.csv', '[{"prompt": "a"}]', 'is JSON'],
    ['h.csv', '<!DOCTYPE html><html>', 'is a web page or XML; download the file itself'],
    ['i.csv', 'version https://git-lfs.github.com/spec/v1\n', 'is a Git LFS pointer, not the data'],
    ['j.jsonl', CSV, 'does not start with a JSON object: "prompt,chosen,rejected'],
    ['k.jsonl', '[\n{"prompt": "a"}]', 'is one JSON array; write one object a line'],
    ['l.parquet', CSV, 'does not start as Parquet ("PAR1") but with "prompt,chosen,rejected'],
    ['m.parquet', 'PK\x03\x04', 'is a zip archive'],
    ['n.parquet', PARQUET.subarray(0, 900), 'is truncated: 900 bytes that do not end in "PAR1"'],
    ['o.parquet', 'PAR1PAR1', 'is truncated: 8 bytes'],
    ['p.json', '{}', 'must end in .csv, .jsonl or .parquet, got .json; write one object a line'],
    ['q.tsv', 'a\tb', 'got .tsv; save it with commas'],
    ['r.csv.gz', 'x', 'got .gz; decompress it first'],
    ['s.xlsx', 'x', 'got .xlsx'],
    ['noextension', 'x', 'got no extension'],
  ])('%s is one clear error', async (name, content, message) => {
    const error = await failureOf(read(name, content));
    expect(error).toBeInstanceOf(DatasetInvalid);
    expect(error.message).toContain(`${join(folder, name)}: `);
    expect(error.message).toContain(message);
    expect(error.message).not.toContain('\n');
  });

  it('does not take quoted CSV or a cell in brackets for JSON', async () => {
    const { pairs } = await read('t.csv', '"prompt","chosen","rejected"\n[a],{b},c\n');
    expect(pairs).toEqual([{ row: 1, prompt: '[a]', chosen: '{b}', rejected: 'c' }]);
  });

  it('that is not there, or is a folder, is named in full', async () => {
    const options = { columns: COLUMNS, skipInvalid: false };
    const missing = join(folder, 'deep', 'none.csv');
    expect((await failureOf(readPreferences(missing, options))).message).toBe(
      `${missing}: not found; check data.source`,
    );
    const inFile = join(folder, 'a.csv', 'x.csv');
    expect((await failureOf(readPreferences(inFile, options))).message).toBe(`${inFile}: not found; check data.source`);
    expect((await failureOf(readPreferences(folder, options))).message).toBe(`${folder}: is a folder; give one file`);
    const tooLong = join(folder, `${'x'.repeat(300)}.csv`);
    expect((await failureOf(readPreferences(tooLong, options))).message).toContain(
      '.csv: cannot be read (ENAMETOOLONG',
    );
  });
});
