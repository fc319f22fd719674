/**
 * What every reader of a source file (csv.ts, jsonl.ts, parquet-source.ts) gives and needs, and the strict decoding of
 * text that all of them share. Text is never coerced: "NA", "null" and "007" stay what they are.
 */
import type { BadCell, Columns, Part, ProgressHook } from './report.ts';

/** A cell as the source has it: text, a list of messages, something else that is then refused, or unreadable bytes. */
export type Cell = unknown;

/** Stands in a cell's place where its bytes are no UTF-8. */
export const NOT_UTF8 = Symbol('not UTF-8');

export interface SourceRecord {
  /** Record number from 1, header not counted. */
  row: number;
  line: number;
  cells: Record<Part, Cell>;
  /** What the reader itself found wrong with the record; its cells are then not looked at. */
  problems: Omit<BadCell, 'line'>[];
}

export interface SourceOptions {
  columns: Columns;
  onRecord(record: SourceRecord): void;
  signal?: AbortSignal | undefined;
  onProgress?: ProgressHook | undefined;
}

/** Records larger than this are no preference pairs but broken files (a quote that never closes): 16 MiB. */
export const MAX_RECORD_BYTES = 16 * 2 ** 20;

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Text of UTF-8 bytes, or NOT_UTF8. A byte order mark stays: only the start of a file may have one. */
export function decodeUtf8(bytes: Uint8Array): string | typeof NOT_UTF8 {
  try {
    return utf8.decode(bytes);
  } catch {
    return NOT_UTF8;
  }
}

/** The message for a source that has not the mapped columns. @param found - names in the source, in its order */
export function missingColumns(source: string, columns: Columns, missing: string[], found: string[]): string {
  const quote = (names: string[]) => names.map((name) => `"${name}"`).join(', ');
  const shown = found.slice(0, 20);
  const more = found.length > shown.length ? ` and ${found.length - shown.length} more` : '';
  const all = missing.length === Object.keys(columns).length;
  return (
    `${source}: has ${all ? 'none of the columns' : 'no column'} ${quote(missing)}; ` +
    `found ${shown.length > 0 ? quote(shown) + more : 'no column names at all'}. ` +
    `Map yours with data.columns, for example {"prompt": "question", "chosen": "better", "rejected": "worse"}` +
    separatorHint(found)
  );
}

/** A single column whose name holds another separator is a file that is not comma-separated. */
function separatorHint(found: string[]): string {
  const [only] = found;
  if (found.length !== 1 || only === undefined) return '';
  const other = [';', '\t', '|'].find((separator) => only.includes(separator));
  if (other === undefined) return '';
  return `. The file looks separated by ${other === '\t' ? 'tabs' : `"${other}"`}: save it with commas`;
}
