/**
 * The rows of a run's metrics and the files made from them, in one place: metrics.jsonl (one JSON object a line: `step`
 * rows under TRL's train names, `epoch` rows with `train_*` and `eval_*`) and trainer_state.json in the shape of Hugging
 * Face's Trainer (transformers 5.23, trainer_callback.py TrainerState, trainer.py log), with a row every optimiser step.
 * Nothing here depends on time or host: equal runs have equal files. What does stands in timings.jsonl (segment-log.ts).
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DatasetInvalid } from '../../shared/errors.ts';
import type { MetricRow } from '../../shared/records.ts';
import { writeFileAtomic } from '../checkpoint/atomic.ts';

export const METRICS_FILE = 'metrics.jsonl';
export const TRAINER_STATE_FILE = 'trainer_state.json';

/** A row of metrics.jsonl. A value that is not finite stands as null, since JSON has no NaN. */
export interface LogRow {
  type: 'step' | 'epoch';
  /** Optimiser steps done. */
  step: number;
  /** Epochs done, with the fraction of the present one, as in Hugging Face's logs. */
  epoch: number;
  [metric: string]: number | null | 'step' | 'epoch';
}

/** What trainer_state.json says beside the rows. */
export interface TrainerStateInfo {
  step: number;
  epoch: number;
  totalSteps: number;
  epochs: number;
  batchSize: number;
  checkpointEverySteps: number;
  best: { value: number; step: number; checkpoint: string } | null;
}

/** Not averaged over an epoch: they describe a step, not its pairs. */
const NOT_AVERAGED = new Set(['type', 'step', 'epoch', 'pairs', 'learning_rate', 'grad_norm']);

/** One optimiser step. @param pairs - how many pairs it saw (the last step of an epoch may see fewer) */
export function stepRow(at: { step: number; epoch: number; pairs: number }, metrics: MetricRow): LogRow {
  return { type: 'step', step: at.step, epoch: at.epoch, pairs: at.pairs, ...finiteOrNull(metrics) };
}

/** One epoch: means over its steps under `train_*`, and the held-out split's `eval_*`. */
export function epochRow(at: { step: number; epoch: number }, train: MetricRow, held: MetricRow | null): LogRow {
  return {
    type: 'epoch',
    step: at.step,
    epoch: at.epoch,
    ...finiteOrNull(prefixed('train_', train)),
    ...finiteOrNull(held ?? {}),
  };
}

/** Means over an epoch's pairs of what its step rows say: each step weighs as many as it saw pairs.
 *  @param epoch - counted from 0  @returns TRL's train names without prefix; empty where no step was made */
export function epochMeans(rows: readonly LogRow[], epoch: number): MetricRow {
  const steps = rows.filter((row) => row.type === 'step' && row.epoch > epoch && row.epoch <= epoch + 1);
  const names = Object.keys(steps[0] ?? {}).filter((name) => !NOT_AVERAGED.has(name));
  const pairs = steps.reduce((sum, row) => sum + numberOf(row['pairs']), 0);
  const mean = (name: string): number =>
    steps.reduce((sum, row) => sum + numberOf(row[name]) * numberOf(row['pairs']), 0) / pairs;
  return Object.fromEntries(names.map((name) => [name, mean(name)]));
}

/** The same row with every name prefixed. */
export function prefixed(prefix: string, row: MetricRow): MetricRow {
  return Object.fromEntries(Object.entries(row).map(([name, value]) => [prefix + name, value]));
}

/** An epoch row's metrics whose names start with the prefix; null where it has none. */
export function metricsWith(prefix: 'train_' | 'eval_', row: LogRow | undefined): MetricRow | null {
  const found = Object.entries(row ?? {}).filter(([name]) => name.startsWith(prefix));
  return found.length === 0 ? null : Object.fromEntries(found.map(([name, value]) => [name, numberOf(value)]));
}

/** Rows as the text of metrics.jsonl. */
export function serializeRows(rows: readonly LogRow[]): string {
  return rows.map((row) => `${JSON.stringify(row)}\n`).join('');
}

/** Rows of a metrics.jsonl's text. A last line without its end is one being written (or cut by a crash) and left out.
 *  @throws DatasetInvalid for any other line that is not a row */
export function parseRows(text: string, path: string): LogRow[] {
  const lines = text.split('\n');
  lines.pop();
  return lines.map((line, index) => {
    const row = parseJson(line);
    if (isRow(row)) return row;
    throw new DatasetInvalid(
      `${path}:${index + 1}: not a row of metrics (got ${JSON.stringify(line.slice(0, 60))}); ` +
        'restore the file, or start the same run again: it is written anew from the newest checkpoint',
    );
  });
}

/** Reads an output folder's metrics.jsonl. @throws DatasetInvalid for a damaged line */
export async function readMetrics(output: string): Promise<LogRow[]> {
  const path = join(output, METRICS_FILE);
  return parseRows(await readFile(path, 'utf8'), path);
}

/** Puts metrics.jsonl and trainer_state.json in place, each whole. @throws DiskFull */
export async function writeMetrics(output: string, rows: readonly LogRow[], info: TrainerStateInfo): Promise<void> {
  await writeFileAtomic(join(output, METRICS_FILE), serializeRows(rows));
  await writeFileAtomic(join(output, TRAINER_STATE_FILE), `${JSON.stringify(trainerState(rows, info), null, 2)}\n`);
}

/** Hugging Face's trainer state: log_history with a row every optimiser step and one `eval_*` row every epoch. */
export function trainerState(rows: readonly LogRow[], info: TrainerStateInfo): object {
  return {
    best_global_step: info.best?.step ?? null,
    best_metric: info.best?.value ?? null,
    best_model_checkpoint: info.best?.checkpoint ?? null,
    epoch: info.epoch,
    global_step: info.step,
    is_hyper_param_search: false,
    is_local_process_zero: true,
    is_world_process_zero: true,
    log_history: rows.flatMap(historyRow),
    logging_steps: 1,
    max_steps: info.totalSteps,
    num_train_epochs: info.epochs,
    save_steps: info.checkpointEverySteps,
    train_batch_size: info.batchSize,
  };
}

function historyRow({ type, step, epoch, pairs: _pairs, ...metrics }: LogRow): object[] {
  if (type === 'step') return [{ epoch, ...metrics, step }];
  const held = Object.entries(metrics).filter(([name]) => name.startsWith('eval_'));
  return held.length === 0 ? [] : [{ epoch, ...Object.fromEntries(held), step }];
}

function finiteOrNull(metrics: MetricRow): Record<string, number | null> {
  return Object.fromEntries(
    Object.entries(metrics).map(([name, value]) => [name, Number.isFinite(value) ? value : null]),
  );
}

function numberOf(value: LogRow[string] | undefined): number {
  return typeof value === 'number' ? value : NaN;
}

function isRow(row: unknown): row is LogRow {
  if (typeof row !== 'object' || row === null || !('type' in row) || !('step' in row) || !('epoch' in row))
    return false;
  return (row.type === 'step' || row.type === 'epoch') && typeof row.step === 'number' && typeof row.epoch === 'number';
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
