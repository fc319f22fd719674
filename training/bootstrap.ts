/**
 * How sure is a difference between two models on the same pairs? Paired bootstrap: pairs are drawn with replacement,
 * before and after of a pair together, and the difference is taken anew each time (Efron and Tibshirani 1993, chapter 13,
 * percentile interval; Koehn 2004, "Statistical significance tests for machine translation evaluation").
 */
import type { Difference, EvaluationResult } from '../shared/records.ts';
import { createRandom } from './random.ts';
import type { PairScores } from './step/index.ts';

export interface BootstrapOptions {
  /** @default 10000 */
  resamples?: number;
  /** @default 0 */
  seed?: number;
  /** Share of resamples inside the interval. @default 0.95 */
  level?: number;
}

/** What a statistic is summed from: its value on a draw of pairs is Σ numerator / Σ denominator. */
export interface PairTerm {
  numerator: number;
  denominator: number;
}

/** A ratio of sums over pairs with its bootstrap interval.
 *  @throws RangeError without pairs, below 2,000 resamples or for a level outside (0, 1) */
export function bootstrapRatio(terms: readonly PairTerm[], options: BootstrapOptions = {}): Difference {
  const { resamples = 10_000, seed = 0, level = 0.95 } = options;
  if (terms.length === 0) throw new RangeError('bootstrap: got no pairs; an interval needs at least one');
  if (resamples < 2000) throw new RangeError(`bootstrap: got ${resamples} resamples; the ends need at least 2000`);
  if (!(level > 0 && level < 1)) throw new RangeError(`bootstrap: got level ${level}; it must be between 0 and 1`);
  const random = createRandom('bootstrap', seed);
  const drawn = Float64Array.from({ length: resamples }, () =>
    ratioOf(terms.length, () => terms[random.below(terms.length)]),
  ).sort();
  let next = 0;
  const mean = ratioOf(terms.length, () => terms[next++]);
  return { mean, low: quantile(drawn, (1 - level) / 2), high: quantile(drawn, (1 + level) / 2) };
}

/** After − before of reward accuracy (share of pairs whose chosen answer is the likelier, ties lost) of NLL per token in
 *  its scope, and of the chosen answers' own NLL (−logps/chosen).
 *  @param before - scores of the same pairs in the same order as after  @throws RangeError where they are not */
export function compareScores(
  before: readonly PairScores[],
  after: readonly PairScores[],
  options: BootstrapOptions = {},
): Required<EvaluationResult['differences']> {
  const pairs = before.map((first, index) => ({ first, second: mustMatch(first, after[index], index) }));
  if (after.length !== before.length) {
    throw new RangeError(
      `bootstrap: ${before.length} pairs before, ${after.length} after; they must be the same pairs`,
    );
  }
  const accuracy = pairs.map(({ first, second }) => ({ numerator: wins(second) - wins(first), denominator: 1 }));
  const nll = pairs.map(({ first, second }) => ({
    numerator: second.nllSum - first.nllSum,
    denominator: first.nllCount,
  }));
  const answers = pairs.map(({ first, second }) => ({
    numerator: first.logpChosen - second.logpChosen,
    denominator: 1,
  }));
  return {
    accuracy: bootstrapRatio(accuracy, options),
    nll: bootstrapRatio(nll, options),
    answerNll: bootstrapRatio(answers, options),
  };
}

/** Quantile by linear interpolation between order statistics (NumPy's default). @param sorted - rising, not empty */
export function quantile(sorted: ArrayLike<number>, share: number): number {
  const place = share * (sorted.length - 1);
  const low = sorted[Math.floor(place)] ?? NaN;
  const high = sorted[Math.ceil(place)] ?? NaN;
  return low + (high - low) * (place - Math.floor(place));
}

function ratioOf(count: number, next: () => PairTerm | undefined): number {
  let numerator = 0;
  let denominator = 0;
  for (let drawn = 0; drawn < count; drawn++) {
    const term = next();
    numerator += term?.numerator ?? NaN;
    denominator += term?.denominator ?? NaN;
  }
  return numerator / denominator;
}

function wins(pair: PairScores): number {
  return pair.logpChosen > pair.logpRejected ? 1 : 0;
}

function mustMatch(first: PairScores, second: PairScores | undefined, index: number): PairScores {
  if (second && second.row === first.row && second.nllCount === first.nllCount) return second;
  const got = second ? `row ${second.row} with ${second.nllCount} tokens` : 'nothing';
  throw new RangeError(
    `bootstrap: pair ${index} is row ${first.row} with ${first.nllCount} tokens before, ${got} after; they must be the same pairs`,
  );
}
