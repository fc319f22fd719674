/**
 * Step of a run: the source file becomes validated pairs in three Parquet files and a report. The same config and source
 * give the same bytes, so repeating the step does no harm.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { RunConfig } from '../../shared/config.ts';
import type { ArtifactRef, DatasetRef } from '../../shared/records.ts';
import { writeFileAtomic } from '../checkpoint/atomic.ts';
import { writePairs } from '../data/split-files.ts';
import type { PreferencePair } from '../data/preference.ts';
import { readPreferences } from '../data/read.ts';
import type { ProgressHook } from '../data/report.ts';
import { splitPairs } from '../data/split.ts';
import type { SplitName } from '../data/split.ts';

export interface SplitFileInput {
  data: RunConfig['data'];
  /** Absolute folder for `train.parquet`, `validation.parquet`, `test.parquet` and `report.json`. */
  folder: string;
  signal?: AbortSignal | undefined;
  onProgress?: ProgressHook | undefined;
}

export interface LoadAndSplitInput {
  config: RunConfig;
  /** Absolute folder of the run. */
  output: string;
  signal?: AbortSignal | undefined;
  onProgress?: ProgressHook | undefined;
}

/** Reads, validates and splits into `<output>/data/`. @throws DatasetInvalid, DiskFull */
export async function loadAndSplit(input: LoadAndSplitInput): Promise<DatasetRef> {
  const { config, output, signal, onProgress } = input;
  return splitFile({ data: config.data, folder: join(output, 'data'), signal, onProgress });
}

/** The same for any folder: what `./orpo split` does. @throws DatasetInvalid, DiskFull */
export async function splitFile(input: SplitFileInput): Promise<DatasetRef> {
  const { data, folder, signal, onProgress } = input;
  const { columns, skipInvalid } = data;
  const { pairs, report, sourceSha256 } = await readPreferences(data.source, {
    columns,
    skipInvalid,
    signal,
    onProgress,
  });
  const splits = splitPairs(pairs, data);
  const counts = { train: splits.train.length, validation: splits.validation.length, test: splits.test.length };
  const write = (name: SplitName) => writeSplit(join(folder, `${name}.parquet`), splits[name], signal);
  const train = await writePairs(join(folder, 'train.parquet'), splits.train, { signal });
  const written = { train, validation: await write('validation'), test: await write('test') };
  const warnings = report.warnings;
  const text = JSON.stringify({ source: data.source, sourceSha256, ...report, splits: splits.balance }, null, 2);
  await writeFileAtomic(join(folder, 'report.json'), `${text}\n`);
  return { sourceSha256, rows: report.rows, counts, splits: written, warnings };
}

/** Writes a split, or removes what an earlier config left there where it is empty. */
async function writeSplit(
  path: string,
  pairs: PreferencePair[],
  signal: AbortSignal | undefined,
): Promise<ArtifactRef | null> {
  if (pairs.length > 0) return writePairs(path, pairs, { signal });
  await rm(path, { force: true });
  return null;
}
