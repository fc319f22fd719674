/**
 * What a segment writes down while it trains. metrics.jsonl holds every row as soon as it is there and is put in place
 * anew, whole, with each checkpoint; timings.jsonl takes what differs between equal runs: time, throughput, host, attempts.
 * A live row goes to the file that this attempt itself put in place: once a newer attempt has put its own there, rows of
 * an attempt that was given up fall into a file without a name.
 */
import { appendFile, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { diskFullOr } from '../checkpoint/atomic.ts';
import { METRICS_FILE, serializeRows, writeMetrics, type LogRow, type TrainerStateInfo } from '../report/metrics.ts';

export const TIMINGS_FILE = 'timings.jsonl';

/** One line of timings.jsonl. */
export interface TimingRow {
  event: 'start' | 'step' | 'evaluate' | 'checkpoint' | 'end';
  /** Optimiser steps done. */
  step: number;
  seconds: number;
  tokens?: number;
  bytes?: number;
}

export interface SegmentLog {
  /** All rows of the run so far. */
  readonly rows: readonly LogRow[];
  append(row: LogRow): Promise<void>;
  timing(row: TimingRow): Promise<void>;
  /** Puts metrics.jsonl and trainer_state.json in place, whole. */
  publish(info: TrainerStateInfo): Promise<void>;
  close(): Promise<void>;
}

export interface SegmentLogOptions {
  output: string;
  lineage: string;
  attempt: number;
  worker: string;
  nowMs(): number;
}

/** Begins with the adopted checkpoint's rows: what a lost attempt wrote past it is gone from the files.
 *  @throws DiskFull from every method */
export async function openSegmentLog(
  options: SegmentLogOptions,
  before: readonly LogRow[],
  info: TrainerStateInfo,
): Promise<SegmentLog> {
  const { output, lineage, attempt, worker, nowMs } = options;
  const rows = [...before];
  const metricsPath = join(output, METRICS_FILE);
  const timingsPath = join(output, TIMINGS_FILE);
  const publish = async (now: TrainerStateInfo) => {
    await writeMetrics(output, rows, now);
    return open(metricsPath, 'a');
  };
  let live = await publish(info);
  // A line cut short by a crash must not swallow the next one.
  if (!(await endsInNewline(timingsPath))) await full(timingsPath, appendFile(timingsPath, '\n'));
  return {
    rows,
    append: async (row) => {
      rows.push(row);
      await full(metricsPath, live.appendFile(serializeRows([row])));
    },
    timing: (row) => {
      const line = { time: new Date(nowMs()).toISOString(), lineage, attempt, worker, ...row };
      return full(timingsPath, appendFile(timingsPath, `${JSON.stringify(line)}\n`));
    },
    publish: async (now) => {
      const previous = live;
      live = await publish(now);
      await previous.close();
    },
    close: () => live.close(),
  };
}

/** Steps that a lineage computed more than once within (after, upTo], as timings.jsonl tells. */
export async function recomputedSteps(
  output: string,
  lineage: string,
  range: { after: number; upTo: number },
): Promise<number> {
  const text = await readFile(join(output, TIMINGS_FILE), 'utf8');
  const steps = text.split('\n').flatMap((line) => stepOf(line, lineage));
  const inRange = steps.filter((step) => step > range.after && step <= range.upTo);
  return inRange.length - new Set(inRange).size;
}

function stepOf(line: string, lineage: string): number[] {
  try {
    const row = JSON.parse(line) as { event?: string; lineage?: string; step?: number };
    return row.event === 'step' && row.lineage === lineage && row.step !== undefined ? [row.step] : [];
  } catch {
    // Cut short by a crash, or empty.
    return [];
  }
}

async function endsInNewline(path: string): Promise<boolean> {
  const text = await readFile(path).catch(() => Buffer.alloc(0));
  return text.length === 0 || text.at(-1) === 0x0a;
}

async function full<T>(path: string, write: Promise<T>): Promise<T> {
  try {
    return await write;
  } catch (error) {
    throw diskFullOr(error, path);
  }
}
