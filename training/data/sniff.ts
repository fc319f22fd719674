/**
 * Whether a source file is what its name says, before anything parses it: a Parquet file named .csv, a spreadsheet, a
 * saved web page and the like get one clear message instead of ten thousand bad rows.
 */
import { open, stat } from 'node:fs/promises';
import { extname, resolve } from 'node:path';
import { DatasetInvalid } from '../../shared/errors.ts';
import type { DataReport } from './report.ts';

export interface SniffedSource {
  path: string;
  format: DataReport['format'];
  bytes: number;
  /** Bytes of the UTF-8 byte order mark to skip: 0 or 3. */
  bomBytes: number;
}

const FORMATS: Record<string, DataReport['format']> = {
  '.csv': 'csv',
  '.jsonl': 'jsonl',
  '.ndjson': 'jsonl',
  '.parquet': 'parquet',
};

/** First bytes (latin1) of files that are none of ours, and what to do with them. */
const MAGIC: [start: string, what: string][] = [
  ['PK\x03\x04', 'a zip archive or a spreadsheet (.xlsx); unpack it, or save the sheet as CSV UTF-8'],
  ['\x1f\x8b', 'gzip-compressed; decompress it first (gunzip)'],
  ['\x28\xb5\x2f\xfd', 'zstd-compressed; decompress it first (unzstd)'],
  ['BZh', 'bzip2-compressed; decompress it first (bunzip2)'],
  ['\xfd7zXZ', 'xz-compressed; decompress it first (unxz)'],
  ['SQLite format 3', 'an SQLite database; export the table as CSV'],
  ['ARROW1', 'an Arrow file; save it as Parquet'],
  ['%PDF', 'a PDF document'],
  ['\xd0\xcf\x11\xe0', 'an old Office document (.xls); save the sheet as CSV UTF-8'],
  ['version https://git-lfs', 'a Git LFS pointer, not the data; fetch it with `git lfs pull`'],
  ['\xff\xfe', 'UTF-16 text; save it as UTF-8'],
  ['\xfe\xff', 'UTF-16 text; save it as UTF-8'],
];

/** @throws DatasetInvalid if the file is missing, a folder, empty, of another kind than its name says, or truncated Parquet */
export async function sniffSource(source: string): Promise<SniffedSource> {
  const path = resolve(source);
  const bytes = await sizeOf(path);
  const format = FORMATS[extname(path).toLowerCase()];
  if (format === undefined) throw new DatasetInvalid(`${path}: ${unknownKind(path)}`);
  if (bytes === 0) throw new DatasetInvalid(`${path}: is empty (0 bytes); expected ${format} with preference pairs`);
  const { head, tail } = await readEnds(path, bytes);
  const text = head.toString('latin1');
  const found = format === 'parquet' ? notParquet(text, tail, bytes) : notText(text, format);
  if (found !== null) throw new DatasetInvalid(`${path}: is named ${extname(path)} but ${found}`);
  return { path, format, bytes, bomBytes: text.startsWith('\xef\xbb\xbf') ? 3 : 0 };
}

async function sizeOf(path: string): Promise<number> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    const isMissing = error.code === 'ENOENT' || error.code === 'ENOTDIR';
    throw new DatasetInvalid(
      isMissing ? `${path}: not found; check data.source` : `${path}: cannot be read (${error.message})`,
      { cause: error },
    );
  });
  if (!found.isFile()) {
    throw new DatasetInvalid(`${path}: is ${found.isDirectory() ? 'a folder' : 'no regular file'}; give one file`);
  }
  return found.size;
}

function unknownKind(path: string): string {
  const extension = extname(path).toLowerCase();
  const known = 'data.source must end in .csv, .jsonl or .parquet';
  if (extension === '.json') return `${known}, got .json; write one object a line (jq -c '.[]' in.json > out.jsonl)`;
  if (extension === '.tsv') return `${known}, got .tsv; save it with commas as .csv`;
  if (['.gz', '.zst', '.zip', '.bz2', '.xz'].includes(extension)) {
    return `${known}, got ${extension}; decompress it first`;
  }
  return `${known}, got ${extension === '' ? 'no extension' : extension}`;
}

async function readEnds(path: string, bytes: number): Promise<{ head: Buffer; tail: string }> {
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    throw new DatasetInvalid(`${path}: cannot be opened (${error.message})`, { cause: error });
  });
  try {
    const head = Buffer.alloc(Math.min(4096, bytes));
    const tail = Buffer.alloc(Math.min(4, bytes));
    await file.read(head, 0, head.length, 0);
    await file.read(tail, 0, tail.length, bytes - tail.length);
    return { head, tail: tail.toString('latin1') };
  } finally {
    await file.close();
  }
}

function notParquet(head: string, tail: string, bytes: number): string | null {
  if (!head.startsWith('PAR1')) {
    const known = MAGIC.find(([start]) => head.startsWith(start));
    return known ? `is ${known[1]}` : `does not start as Parquet ("PAR1") but with ${quoteStart(head)}`;
  }
  if (bytes < 12 || tail !== 'PAR1') {
    return `is truncated: ${bytes} bytes that do not end in "PAR1"; copy or download it again`;
  }
  return null;
}

function notText(head: string, format: 'csv' | 'jsonl'): string | null {
  if (head.startsWith('PAR1')) return 'is Parquet; rename it to .parquet';
  const known = MAGIC.find(([start]) => head.startsWith(start));
  if (known) return `is ${known[1]}`;
  // A NUL in the first line is a binary file; further on, it is one bad cell, which validation reports.
  const firstLine = head.split(/[\r\n]/, 1)[0] ?? '';
  if (firstLine.includes('\0')) return `is a binary file: it starts with ${quoteStart(head)}`;
  const text = head.replace(/^\xef\xbb\xbf/, '').trimStart();
  if (/^<(!doctype|html|\?xml)/i.test(text)) return 'is a web page or XML; download the file itself';
  if (format === 'csv') {
    return /^[[{]\s*["[{]/.test(text) ? 'is JSON; name it .jsonl if it has one object a line' : null;
  }
  if (text.startsWith('[')) return "is one JSON array; write one object a line (jq -c '.[]' in.jsonl > out.jsonl)";
  return text === '' || text.startsWith('{') ? null : `does not start with a JSON object: ${quoteStart(text)}`;
}

function quoteStart(text: string): string {
  return JSON.stringify(text.slice(0, 24));
}
