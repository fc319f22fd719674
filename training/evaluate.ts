/**
 * Scores of a split at the present weights and the metrics made of them: TRL's names with `eval_` before them, over all
 * pairs at once (TRL averages batch means instead, in which a short last batch weighs more).
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { RunConfig } from '../shared/config.ts';
import type { MetricRow } from '../shared/records.ts';
import type { EncodedPair, EncodedSequence } from './data/encoded.ts';
import { metricsOf } from './orpo.ts';
import { prefixed } from './report/metrics.ts';
import type { PairScores, TrainStep } from './step/index.ts';

export interface EvaluateOptions {
  orpo: RunConfig['orpo'];
  /** Pairs scored between two reports. */
  batchSize: number;
  /** After every batch. @param done - pairs scored so far */
  onBatch?: (done: number, total: number) => void;
  /** Asked before every batch; true gives the evaluation up. */
  shouldStop?: (() => boolean) | undefined;
}

export interface SplitEvaluation {
  /** In the order of the pairs. */
  scores: PairScores[];
  metrics: MetricRow;
}

/** @returns null where it was asked to stop before the end */
export async function evaluateSplit(
  engine: TrainStep,
  pairs: readonly EncodedPair[],
  { orpo, batchSize, onBatch, shouldStop }: EvaluateOptions,
): Promise<SplitEvaluation | null> {
  const scores: PairScores[] = [];
  for (let start = 0; start < pairs.length; start += batchSize) {
    if (shouldStop?.()) return null;
    scores.push(...(await engine.evaluate(pairs.slice(start, start + batchSize))));
    onBatch?.(scores.length, pairs.length);
    await nextTurn();
  }
  return { scores, metrics: prefixed('eval_', metricsOf(scores, orpo)) };
}

/** Accuracy of always preferring the answer of fewer tokens (end token counted): what a model may gain by brevity alone.
 *  Two answers of one length count as half a win, as a coin toss would. @returns NaN without pairs */
export function shorterWins(pairs: readonly EncodedPair[]): number {
  const wins = pairs.map(({ chosen, rejected }) => {
    const difference = answerLength(rejected) - answerLength(chosen);
    return difference > 0 ? 1 : difference === 0 ? 0.5 : 0;
  });
  return wins.reduce<number>((sum, win) => sum + win, 0) / wins.length;
}

function answerLength({ ids, promptLength }: EncodedSequence): number {
  return ids.length - promptLength;
}
