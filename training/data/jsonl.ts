/**
 * Preference pairs from JSON lines (jsonlines.org): one object a line, UTF-8, empty lines skipped. Values may be text
 * or lists of role/content messages; every broken line is reported, not only the first.
 */
import { createReadStream } from 'node:fs';
import { DatasetInvalid } from '../../shared/errors.ts';
import type { SniffedSource } from './sniff.ts';
import { decodeUtf8, MAX_RECORD_BYTES, missingColumns, NOT_UTF8 } from './source.ts';
import type { SourceOptions, SourceRecord } from './source.ts';
import { PARTS } from './report.ts';

type Line = { bytes: Buffer } | { tooLong: number };

/** Reads every line. @throws DatasetInvalid if a mapped name occurs in no line */
export async function readJsonl(source: SniffedSource, options: SourceOptions): Promise<void> {
  const seen = new Set<string>();
  let row = 0;
  let line = 0;
  let done = 0;
  const stream = createReadStream(source.path, { start: source.bomBytes, highWaterMark: 256 * 1024 });
  for await (const found of splitLines(stream)) {
    options.signal?.throwIfAborted();
    line++;
    done += 'bytes' in found ? found.bytes.length + 1 : found.tooLong;
    options.onProgress?.(Math.min(done, source.bytes), source.bytes);
    if ('bytes' in found && isBlank(found.bytes)) continue;
    options.onRecord(toRecord(found, { row: ++row, line }, options, seen));
  }
  const missing = PARTS.map((part) => options.columns[part]).filter((name) => !seen.has(name));
  if (row > 0 && seen.size > 0 && missing.length > 0) {
    throw new DatasetInvalid(missingColumns(source.path, options.columns, missing, [...seen]));
  }
}

/** Lines without their line break. A line over the limit is counted, not kept. */
async function* splitLines(chunks: AsyncIterable<Buffer>): AsyncGenerator<Line> {
  let held: Buffer[] = [];
  let heldBytes = 0;
  const take = (): Line => {
    const line: Line = heldBytes > MAX_RECORD_BYTES ? { tooLong: heldBytes + 1 } : { bytes: Buffer.concat(held) };
    held = [];
    heldBytes = 0;
    return line;
  };
  const hold = (part: Buffer) => {
    heldBytes += part.length;
    if (heldBytes <= MAX_RECORD_BYTES) held.push(part);
    else held = [];
  };
  for await (const chunk of chunks) {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      hold(chunk.subarray(start, end));
      yield take();
      start = end + 1;
    }
    hold(chunk.subarray(start));
  }
  if (heldBytes > 0) yield take();
}

function toRecord(
  found: Line,
  at: { row: number; line: number },
  options: SourceOptions,
  seen: Set<string>,
): SourceRecord {
  const empty = { prompt: undefined, chosen: undefined, rejected: undefined };
  const problem = (reason: string): SourceRecord => ({ ...at, cells: empty, problems: [{ column: null, reason }] });
  if (!('bytes' in found)) return problem(`the line is over ${MAX_RECORD_BYTES / 2 ** 20} MiB`);
  const text = decodeUtf8(found.bytes);
  if (text === NOT_UTF8) return problem('is not valid UTF-8; convert the file (iconv -f WINDOWS-1252 -t UTF-8)');
  const value = parseJson(text);
  if ('error' in value) return problem(`is not valid JSON: ${value.error}`);
  const object = value.json;
  if (typeof object !== 'object' || object === null || Array.isArray(object)) {
    return problem('is not a JSON object; every line must be one, like {"prompt": …, "chosen": …, "rejected": …}');
  }
  const fields = object as Record<string, unknown>;
  if (seen.size < 1000) for (const name of Object.keys(fields)) seen.add(name);
  const cell = (name: string) => (Object.hasOwn(fields, name) ? fields[name] : undefined);
  const { prompt, chosen, rejected } = options.columns;
  return { ...at, cells: { prompt: cell(prompt), chosen: cell(chosen), rejected: cell(rejected) }, problems: [] };
}

function parseJson(text: string): { json: unknown } | { error: string } {
  try {
    return { json: JSON.parse(text) as unknown };
  } catch (error) {
    return { error: error instanceof Error ? error.message.slice(0, 160) : 'unknown' };
  }
}

function isBlank(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 32 || byte === 9 || byte === 13);
}
