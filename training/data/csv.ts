/**
 * Preference pairs from CSV as RFC 4180 has it: quotes, embedded line breaks, CRLF or LF, a byte order mark. Parsed by
 * csv-parse in its lenient mode, then each raw record is held against the RFC, so that every broken record is reported
 * and not only the first. Bytes pass the parser as latin1 (one byte, one character) and each cell is then decoded as
 * strict UTF-8, so that a wrong encoding is reported with its line and column.
 */
import { parse } from 'csv-parse';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { DatasetInvalid } from '../../shared/errors.ts';
import type { SniffedSource } from './sniff.ts';
import { decodeUtf8, MAX_RECORD_BYTES, missingColumns, NOT_UTF8 } from './source.ts';
import type { SourceOptions, SourceRecord } from './source.ts';
import { PARTS } from './report.ts';
import type { Part } from './report.ts';

interface RawRecord {
  record: string[];
  raw: string;
}

/** Column names of the header and where each part stands. */
interface Header {
  names: string[];
  indexOf: Record<Part, number>;
}

const CELL_END = /[",\r\n]/g;

/** Reads every record. @throws DatasetInvalid for a header without the columns, an unclosed quote, a record over 16 MiB */
export async function readCsv(source: SniffedSource, options: SourceOptions): Promise<void> {
  let header: Header | null = null;
  let row = 0;
  let nextLine = 1;
  const onRecord = ({ record, raw }: RawRecord): null => {
    // What precedes the record in `raw` are skipped empty lines; its own line break may be missing at the end.
    const blank = countLines(/^[\r\n]*/.exec(raw)?.[0] ?? '');
    const line = nextLine + blank;
    nextLine += Math.max(countLines(raw), blank + 1);
    if (header === null) header = readHeader(source.path, record, raw, options);
    else options.onRecord(toRecord(record, raw, header, ++row, line));
    return null;
  };
  const parser = parse({
    encoding: 'latin1',
    raw: true,
    relax_column_count: true,
    relax_quotes: true,
    skip_empty_lines: true,
    record_delimiter: ['\r\n', '\n', '\r'],
    max_record_size: MAX_RECORD_BYTES,
    on_record: (record: unknown) => onRecord(record as RawRecord),
  });
  let done = 0;
  const tap = async function* (chunks: AsyncIterable<Buffer>) {
    for await (const chunk of chunks) {
      yield chunk;
      done += chunk.length;
      options.onProgress?.(done, source.bytes);
    }
  };
  const drain = async (records: AsyncIterable<unknown>) => {
    for await (const _ of records);
  };
  try {
    const bytes = createReadStream(source.path, { start: source.bomBytes });
    await pipeline(bytes, tap, parser, drain, options.signal ? { signal: options.signal } : {});
  } catch (error) {
    throw brokenCsv(error, source.path, nextLine);
  }
  if (header === null) throw new DatasetInvalid(`${source.path}: has only empty lines; expected a header and rows`);
}

function readHeader(path: string, record: string[], raw: string, options: SourceOptions): Header {
  const names = record.map((name) => {
    const text = decodeUtf8(Buffer.from(name, 'latin1'));
    return text === NOT_UTF8 ? name : text.trim();
  });
  if (strayQuote(raw) !== null) {
    throw new DatasetInvalid(`${path}:1: the header is no CSV: a quote stands inside a name; got ${raw.trim()}`);
  }
  const missing = PARTS.map((part) => options.columns[part]).filter((name) => !names.includes(name));
  if (missing.length > 0) throw new DatasetInvalid(missingColumns(path, options.columns, missing, names));
  const twice = PARTS.map((part) => options.columns[part]).find(
    (name) => names.indexOf(name) !== names.lastIndexOf(name),
  );
  if (twice !== undefined) {
    throw new DatasetInvalid(`${path}:1: column "${twice}" stands twice in the header; rename or remove one`);
  }
  const at = (part: Part) => names.indexOf(options.columns[part]);
  return { names, indexOf: { prompt: at('prompt'), chosen: at('chosen'), rejected: at('rejected') } };
}

function toRecord(record: string[], raw: string, header: Header, row: number, line: number): SourceRecord {
  const cell = (part: Part) => decodeUtf8(Buffer.from(record[header.indexOf[part]] ?? '', 'latin1'));
  const cells = { prompt: cell('prompt'), chosen: cell('chosen'), rejected: cell('rejected') };
  const stray = strayQuote(raw);
  if (stray !== null) {
    const column = header.names[stray] ?? null;
    const reason = 'a quote inside a cell; write the cell in quotes and each quote in it twice (RFC 4180)';
    return { row, line, cells, problems: [{ column, reason }] };
  }
  if (record.length !== header.names.length) {
    const reason = `has ${record.length} cells, the header has ${header.names.length}; cells with commas need quotes`;
    return { row, line, cells, problems: [{ column: null, reason }] };
  }
  return { row, line, cells, problems: [] };
}

/** Index of the first cell that breaks RFC 4180's rules for quotes, null if none. @param raw - one record as it stands */
function strayQuote(raw: string): number | null {
  if (!raw.includes('"')) return null;
  let column = 0;
  let at = /^[\r\n]*/.exec(raw)?.[0].length ?? 0;
  while (at < raw.length) {
    if (raw[at] === '"') {
      at = closingQuote(raw, at) + 1;
    } else {
      CELL_END.lastIndex = at;
      at = CELL_END.exec(raw)?.index ?? raw.length;
    }
    if (at >= raw.length || raw[at] === '\r' || raw[at] === '\n') return null;
    if (raw[at] !== ',') return column;
    column++;
    at++;
  }
  return null;
}

/** Position of the quote that closes the cell opened at `open`; the end of the text if there is none. */
function closingQuote(raw: string, open: number): number {
  let at = raw.indexOf('"', open + 1);
  while (at >= 0 && raw[at + 1] === '"') at = raw.indexOf('"', at + 2);
  return at < 0 ? raw.length : at;
}

function countLines(text: string): number {
  return text.match(/\r\n|\r|\n/g)?.length ?? 0;
}

function brokenCsv(error: unknown, path: string, line: number): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : null;
  if (code === 'CSV_QUOTE_NOT_CLOSED') {
    return new DatasetInvalid(`${path}:${line}: the record that starts here opens a quote that never closes`, {
      cause: error,
    });
  }
  if (code === 'CSV_MAX_RECORD_SIZE') {
    const limit = `${MAX_RECORD_BYTES / 2 ** 20} MiB`;
    return new DatasetInvalid(
      `${path}:${line}: the record that starts here is over ${limit}; is a quote in it never closed?`,
      { cause: error },
    );
  }
  return error;
}
