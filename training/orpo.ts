/**
 * ORPO (arXiv 2403.07691) as TRL 1.16.0 computes and names it (trl/experimental/orpo/orpo_trainer.py): from the mean
 * log-probabilities ℓ of the two answers and the chosen row's negative log-likelihood,
 *   L = NLL − mean(β·logsigmoid(log_odds)),  log_odds = (ℓ_w − ℓ_l) − (g(ℓ_w) − g(ℓ_l)),  g(ℓ) = log(1 − e^ℓ).
 * Differs from TRL where ℓ rounds to 0: both branches of g see at most −1e-7, so that neither is infinite. `logits/*`,
 * which in TRL average over padding and the whole vocabulary, are left out.
 * Shapes: B pairs.
 */
import { tf, tidy, type Tensor } from './tf.ts';
import type { PairScores } from './step/index.ts';
import type { MetricRow } from '../shared/records.ts';

export type NllReduction = 'token' | 'micro-batch' | 'sequence';

/** The largest log-probability that g accepts: at 0 it would be −∞. */
const LARGEST_LOGP = -1e-7;

/** log(1 − e^ℓ), accurate for all ℓ ≤ −1e-7 (Mächler 2012, "Accurately computing log(1 − exp(−|a|))"). */
export function log1mexp(logp: number): number {
  const x = Math.min(logp, LARGEST_LOGP);
  return x < -Math.LN2 ? Math.log1p(-Math.exp(x)) : Math.log(-Math.expm1(x));
}

/** Log of the odds ratio of chosen over rejected. */
export function logOdds(logpChosen: number, logpRejected: number): number {
  return logpChosen - logpRejected - (log1mexp(logpChosen) - log1mexp(logpRejected));
}

/** log σ(x) without overflow. */
export function logSigmoid(x: number): number {
  return x < 0 ? x - Math.log1p(Math.exp(x)) : -Math.log1p(Math.exp(-x));
}

/** Cotangents of the odds term −β/B·Σ logsigmoid(log_odds) in closed form: ∂L/∂ℓ_w = −β/B·σ(−z)/(1 − p_w),
 *  ∂L/∂ℓ_l = +β/B·σ(−z)/(1 − p_l). A pair's gradient depends on that pair alone: micro-batches sum exactly.
 *  @param logpChosen - float32 [B′], a part of the step's pairs  @param pairCount - B, pairs of the whole step
 *  @returns float32 [B′] each */
export function oddsGradient(logpChosen: Tensor, logpRejected: Tensor, beta: number, pairCount: number) {
  return tidy(() => {
    const chosen = tf.minimum(logpChosen, LARGEST_LOGP);
    const rejected = tf.minimum(logpRejected, LARGEST_LOGP);
    const difference = tf.sub(tf.sub(logpChosen, logpRejected), tf.sub(log1mexpOf(chosen), log1mexpOf(rejected)));
    const pull = tf.mul(tf.sigmoid(tf.neg(difference)), beta / pairCount);
    return {
      dChosen: tf.neg(tf.div(pull, oneMinusP(logpChosen))),
      dRejected: tf.div(pull, oneMinusP(logpRejected)),
    };
  });
}

function log1mexpOf(x: Tensor): Tensor {
  return tf.where(tf.less(x, -Math.LN2), tf.log1p(tf.neg(tf.exp(x))), tf.log(tf.neg(tf.expm1(x))));
}

/** 1 − e^ℓ, and 1 where the clamp holds: there g is constant. */
function oneMinusP(logp: Tensor): Tensor {
  return tf.where(tf.less(logp, LARGEST_LOGP), tf.neg(tf.expm1(logp)), tf.onesLike(logp));
}

export interface MetricOptions {
  beta: number;
  nllReduction: NllReduction;
  /** Pairs of a micro-batch, for the mean of means; all pairs by default. */
  microBatch?: number;
}

/** Metrics of a set of pairs under TRL's names, as means over pairs: `loss`, `nll_loss`, `log_odds_ratio` (TRL's name for
 *  the mean of logsigmoid(log_odds)), `log_odds_chosen` (the mean of log_odds), `rewards/*`, `logps/*`. With the reduction
 *  `micro-batch` each is a mean of micro-batches' means, as TRL logs them.
 *  @param scores - at least one pair, in the order they were computed */
export function metricsOf(scores: PairScores[], { beta, nllReduction, microBatch }: MetricOptions): MetricRow {
  if (scores.length === 0) throw new RangeError('metricsOf: got no pairs; a mean needs at least one');
  const size = nllReduction === 'micro-batch' ? (microBatch ?? scores.length) : scores.length;
  const parts = Array.from({ length: Math.ceil(scores.length / size) }, (_, index) =>
    metricsOfOne(scores.slice(index * size, (index + 1) * size), beta, nllReduction),
  );
  const names = Object.keys(parts[0] ?? {});
  return Object.fromEntries(names.map((name) => [name, mean(parts.map((part) => part[name] ?? Number.NaN))]));
}

function metricsOfOne(scores: PairScores[], beta: number, nllReduction: NllReduction): MetricRow {
  const odds = scores.map((pair) => logOdds(pair.logpChosen, pair.logpRejected));
  const ratio = mean(odds.map(logSigmoid));
  const chosen = mean(scores.map((pair) => pair.logpChosen));
  const rejected = mean(scores.map((pair) => pair.logpRejected));
  const nll =
    nllReduction === 'sequence'
      ? mean(scores.map((pair) => pair.nllSum / pair.nllCount))
      : sum(scores.map((pair) => pair.nllSum)) / sum(scores.map((pair) => pair.nllCount));
  return {
    loss: nll - beta * ratio,
    nll_loss: nll,
    log_odds_ratio: ratio,
    log_odds_chosen: mean(odds),
    'rewards/chosen': beta * chosen,
    'rewards/rejected': beta * rejected,
    'rewards/accuracies': mean(scores.map((pair) => (pair.logpChosen > pair.logpRejected ? 1 : 0))),
    'rewards/margins': beta * (chosen - rejected),
    'logps/chosen': chosen,
    'logps/rejected': rejected,
  };
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function mean(values: number[]): number {
  return sum(values) / values.length;
}
