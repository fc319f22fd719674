/**
 * What reading and splitting tell about the data: bad rows one by one, warnings, lengths. Plain JSON, because it is
 * written beside the splits as `data/report.json`.
 */

import type { TextOrMessages } from './preference.ts';

/** The three parts of a pair; also the default column names. */
export const PARTS = ['prompt', 'chosen', 'rejected'] as const;
export type Part = (typeof PARTS)[number];

/** Which column of the source holds which part. */
export type Columns = Record<Part, string>;

/** One reason why one row cannot be used. */
export interface BadCell {
  /** Physical line on which the record starts, from 1; the row number from 1 in Parquet, which has no lines. */
  line: number;
  /** Name in the source, null where the whole record is meant. */
  column: string | null;
  reason: string;
}

/** Of text lengths in characters (UTF-16 code units). */
export interface LengthStats {
  min: number;
  median: number;
  mean: number;
  p95: number;
  max: number;
}

export interface DataReport {
  format: 'csv' | 'jsonl' | 'parquet';
  /** Records in the source, bad ones included. */
  rows: number;
  /** Records that became pairs. */
  pairs: number;
  bad: BadCell[];
  warnings: string[];
  lengths: Record<Part, LengthStats>;
  /** Share of pairs whose chosen answer is the longer one. */
  chosenLonger: number;
}

/** How far a long piece of work is; called often, so it must be cheap. */
export type ProgressHook = (done: number, total: number) => void;

/** Statistics of a list of lengths; all 0 for an empty list. */
export function lengthStats(lengths: number[]): LengthStats {
  const sorted = [...lengths].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
  const total = sorted.reduce((sum, length) => sum + length, 0);
  return {
    min: at(0),
    median: at(0.5),
    mean: sorted.length > 0 ? Math.round((total / sorted.length) * 10) / 10 : 0,
    p95: at(0.95),
    max: at(1),
  };
}

/** Characters of a text, or of all messages together. */
export function textLength(value: TextOrMessages): number {
  return typeof value === 'string' ? value.length : value.reduce((sum, { content }) => sum + content.length, 0);
}
