/**
 * run.json: what a finished run was and what came of it. Written last, so that it marks the run as finished; a file that
 * is missing, cut or of another form marks nothing. Everything that reports on a run reads this one record.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { RunConfig } from '../../shared/config.ts';
import type { EngineFingerprint, EvaluationResult, MetricRow, RunResult, SplitCounts } from '../../shared/records.ts';

export const RUN_FILE = 'run.json';
/** Raised when a reader of the old form could misread the new one. */
export const RUN_FORMAT = 1;

export interface RunFile {
  runFormat: typeof RUN_FORMAT;
  status: 'completed';
  /** sha256 of the config without output, limits and ifExists. */
  configHash: string;
  /** sha256 of the data source. */
  dataSha256: string;
  /** sha256 over the base's tensors. */
  baseSha256: string;
  /** sha256 over the trained tensors' names, shapes and bytes in name order. */
  digest: string;
  /** Whether the same run ends with the same bits; `inexactBecause` says why not. */
  exact: boolean;
  inexactBecause: string[];
  config: RunConfig;
  base: BaseRecord;
  data: DataRecord;
  engine: EngineFingerprint;
  training: TrainingRecord;
  /** Held-out metrics before and after, and their differences; null without a held-out split. */
  metrics: EvaluationResult | null;
  versions: Record<string, string>;
  timings: TimingsRecord;
  warnings: string[];
  result: RunResult;
}

export interface BaseRecord {
  model: string;
  folder: string;
  source: string;
  modelType: string;
  parameters: number;
  trainable: number;
}

export interface DataRecord {
  rows: number;
  /** Rows dropped as too long. */
  dropped: number;
  /** Pairs a split after that. */
  counts: SplitCounts;
}

export interface TrainingRecord {
  steps: number;
  totalSteps: number;
  epochs: number;
  stop: RunResult['stop'];
  resumes: number;
  recomputedSteps: number;
  perEpoch: { epoch: number; step: number; train: MetricRow; eval: MetricRow | null }[];
}

export interface TimingsRecord {
  /** Sums over the rows of timings.jsonl; null where it has none. */
  trainingSeconds: number | null;
  tokens: number | null;
  /** Median over segments. */
  tokensPerSecond: number | null;
  workers: string[];
}

/** Reads a finished run's record.
 *  @returns null where the folder holds none that is complete: the run is then unfinished
 *  @throws where the file is there but cannot be read (permissions, a failing disk) */
export async function readRunFile(output: string): Promise<RunFile | null> {
  const text = await readFile(join(output, RUN_FILE), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return null;
    throw error;
  });
  if (text === null) return null;
  try {
    const parsed: unknown = JSON.parse(text);
    return isRunFile(parsed) ? parsed : null;
  } catch {
    return null;
  }
}

/** A model's or a source's name without the machine's folders, for what is published or used as a title. */
export function withoutFolders(text: string): string {
  return text.replace(/^((?:folder |gguf )?)\/.*\/([^/]+)\/?$/, '$1$2');
}

const HASHES = ['configHash', 'dataSha256', 'baseSha256', 'digest'];
const RECORDS = ['config', 'base', 'data', 'engine', 'training', 'versions', 'timings', 'result'];

function isRunFile(value: unknown): value is RunFile {
  if (typeof value !== 'object' || value === null) return false;
  const run = value as Record<string, unknown>;
  return (
    run['runFormat'] === RUN_FORMAT &&
    run['status'] === 'completed' &&
    HASHES.every((key) => /^[0-9a-f]{64}$/.test(String(run[key]))) &&
    RECORDS.every((key) => typeof run[key] === 'object' && run[key] !== null) &&
    Array.isArray(run['warnings'])
  );
}
