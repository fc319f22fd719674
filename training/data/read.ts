/**
 * A file of preference pairs becomes pairs and a report. CSV, JSON lines and Parquet, told apart by name and checked
 * against their first bytes. All bad rows are reported together, with line, column and reason.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { DatasetInvalid } from '../../shared/errors.ts';
import { readCsv } from './csv.ts';
import { readJsonl } from './jsonl.ts';
import { readParquet } from './parquet-source.ts';
import type { PreferencePair } from './preference.ts';
import { lengthStats, textLength } from './report.ts';
import type { BadCell, Columns, DataReport, ProgressHook } from './report.ts';
import { sniffSource } from './sniff.ts';
import type { SniffedSource } from './sniff.ts';
import { createValidator } from './validate.ts';

export interface ReadOptions {
  columns: Columns;
  /** Leave bad rows out, listed in the report, instead of failing. */
  skipInvalid: boolean;
  signal?: AbortSignal | undefined;
  onProgress?: ProgressHook | undefined;
}

export interface Preferences {
  pairs: PreferencePair[];
  report: DataReport;
  sourceSha256: string;
}

/** Bad rows quoted in an error's message; its `problems` has all of them. */
const SHOWN_PROBLEMS = 20;

const READERS = { csv: readCsv, jsonl: readJsonl, parquet: readParquet };

/** Reads and validates a source of pairs.
 *  @throws DatasetInvalid if the file is missing or not what its name says, has not the columns, has no usable row, or
 *  (without skipInvalid) has any bad row: then all of them, `problems` one by one */
export async function readPreferences(source: string, options: ReadOptions): Promise<Preferences> {
  const sniffed = await sniffSource(source);
  const { columns, signal, onProgress } = options;
  const lineWord = sniffed.format === 'parquet' ? 'row' : 'line';
  const validator = createValidator(columns, lineWord);
  await READERS[sniffed.format](sniffed, { columns, onRecord: validator.add, signal, onProgress });
  const { pairs, bad } = validator;
  if (validator.rows() === 0) {
    throw new DatasetInvalid(`${sniffed.path}: has ${emptyWord(sniffed)} but no rows; expected preference pairs`);
  }
  if (bad.length > 0 && (!options.skipInvalid || pairs.length === 0)) {
    throw badRows(sniffed.path, lineWord, bad, { rows: validator.rows(), skipInvalid: options.skipInvalid });
  }
  const report = reportOf(sniffed, pairs, bad, { rows: validator.rows(), warnings: validator.warnings() });
  return { pairs, report, sourceSha256: await hashFile(sniffed.path, signal) };
}

/** sha256 of a file's bytes as hex. */
export async function hashFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash, signal ? { signal } : {});
  return hash.digest('hex');
}

function emptyWord(source: SniffedSource): string {
  return { csv: 'a header', jsonl: 'only empty lines', parquet: 'columns' }[source.format];
}

function reportOf(
  source: SniffedSource,
  pairs: PreferencePair[],
  bad: BadCell[],
  found: { rows: number; warnings: string[] },
): DataReport {
  const sizes = pairs.map(({ prompt, chosen, rejected }) => ({
    prompt: textLength(prompt),
    chosen: textLength(chosen),
    rejected: textLength(rejected),
  }));
  const skipped = new Set(bad.map(({ line }) => line)).size;
  const warnings = skipped > 0 ? [`${skipped} of ${found.rows} rows are bad and were left out (skipInvalid)`] : [];
  return {
    format: source.format,
    rows: found.rows,
    pairs: pairs.length,
    bad,
    warnings: [...warnings, ...found.warnings],
    lengths: {
      prompt: lengthStats(sizes.map((size) => size.prompt)),
      chosen: lengthStats(sizes.map((size) => size.chosen)),
      rejected: lengthStats(sizes.map((size) => size.rejected)),
    },
    chosenLonger: sizes.filter((size) => size.chosen > size.rejected).length / Math.max(1, sizes.length),
  };
}

function badRows(
  path: string,
  lineWord: 'line' | 'row',
  bad: BadCell[],
  found: { rows: number; skipInvalid: boolean },
): DatasetInvalid {
  const problems = bad.map(({ line, column, reason }) => {
    const at = lineWord === 'line' ? `${path}:${line}` : `${path}: row ${line}`;
    return column === null ? `${at}: ${reason}` : `${at}: "${column}" ${reason}`;
  });
  const lines = new Set(bad.map(({ line }) => line)).size;
  const shown = problems.slice(0, SHOWN_PROBLEMS).map((problem) => `  - ${problem}`);
  const more = problems.length > shown.length ? [`  … and ${problems.length - shown.length} more`] : [];
  const advice = found.skipInvalid
    ? 'No usable row is left. Check data.columns and the file.'
    : 'Correct them, or set data.skipInvalid to leave such rows out.';
  return new DatasetInvalid([`${path}: ${lines} of ${found.rows} rows are bad`, ...shown, ...more, advice].join('\n'), {
    problems,
  });
}
