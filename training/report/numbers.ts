/**
 * Numbers as reports show them: the same words in the terminal, the page and the card.
 */
import type { Difference, EvaluationResult, MetricRow } from '../../shared/records.ts';

/** A metric of a row that may carry it with or without the `eval_` prefix; NaN where it has neither. */
export function metricOf(row: MetricRow, name: string): number {
  return row[`eval_${name}`] ?? row[name] ?? NaN;
}

/** Fixed digits with a true minus sign; `n/a` for what is not finite. */
export function fixed(value: number, digits: number): string {
  if (!Number.isFinite(value)) return 'n/a';
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/** As `fixed`, always with its sign. */
export function signed(value: number, digits: number): string {
  const text = fixed(value, digits);
  return value > 0 && Number(text) !== 0 ? `+${text}` : text;
}

/** A share as percent. */
export function percent(share: number): string {
  return Number.isFinite(share) ? `${(100 * share).toFixed(1)}%` : 'n/a';
}

/** 1234567 -> 1,234,567. */
export function grouped(count: number): string {
  return Number.isFinite(count) ? count.toString().replace(/\B(?=(\d{3})+$)/g, ',') : 'n/a';
}

/** Whether a 95% interval leaves 0 outside. */
export function isClearOfZero({ low, high }: Difference): boolean {
  return low > 0 || high < 0;
}

/** One compared quantity, ready to be printed. */
export interface Comparison {
  name: string;
  before: string;
  after: string;
  difference: string;
  interval: string;
  /** Whether the interval is clear of 0, and on the good side. */
  verdict: 'better' | 'worse' | 'undecided';
}

/** Held-out NLL and reward accuracy, before and after, with 95% intervals of their differences. */
export function comparisons({ before, after, differences }: EvaluationResult): Comparison[] {
  const { accuracy, nll, answerNll } = differences;
  const points = { mean: 100 * accuracy.mean, low: 100 * accuracy.low, high: 100 * accuracy.high };
  return [
    {
      name: 'NLL per token (nats)',
      before: fixed(metricOf(before, 'nll_loss'), 3),
      after: fixed(metricOf(after, 'nll_loss'), 3),
      difference: signed(nll.mean, 3),
      interval: `${signed(nll.low, 3)} to ${signed(nll.high, 3)}`,
      verdict: verdictOf(nll, 'lower'),
    },
    ...(answerNll
      ? [
          {
            name: 'NLL of the answers alone',
            before: fixed(-metricOf(before, 'logps/chosen'), 3),
            after: fixed(-metricOf(after, 'logps/chosen'), 3),
            difference: signed(answerNll.mean, 3),
            interval: `${signed(answerNll.low, 3)} to ${signed(answerNll.high, 3)}`,
            verdict: verdictOf(answerNll, 'lower'),
          },
        ]
      : []),
    {
      name: 'Reward accuracy',
      before: percent(metricOf(before, 'rewards/accuracies')),
      after: percent(metricOf(after, 'rewards/accuracies')),
      difference: `${signed(points.mean, 1)} points`,
      interval: `${signed(points.low, 1)} to ${signed(points.high, 1)}`,
      verdict: verdictOf(accuracy, 'higher'),
    },
  ];
}

function verdictOf(difference: Difference, better: 'lower' | 'higher'): Comparison['verdict'] {
  if (!isClearOfZero(difference)) return 'undecided';
  return difference.low > 0 === (better === 'higher') ? 'better' : 'worse';
}

/** A verdict in words. */
export const VERDICTS: Record<Comparison['verdict'], string> = {
  better: 'better, interval clear of 0',
  worse: 'worse, interval clear of 0',
  undecided: 'not clear of 0',
};

/** The other held-out metrics that both sides have, under TRL's names. */
export function otherMetrics({ before, after }: EvaluationResult): { name: string; before: string; after: string }[] {
  const names = [
    'loss',
    'log_odds_chosen',
    'rewards/margins',
    'rewards/chosen',
    'rewards/rejected',
    'logps/chosen',
    'logps/rejected',
  ];
  return names
    .map((name) => ({ name, before: fixed(metricOf(before, name), 4), after: fixed(metricOf(after, name), 4) }))
    .filter((row) => row.before !== 'n/a' || row.after !== 'n/a');
}

/** Which pairs were measured, in words. */
export function measuredOn({ pairs, split }: Pick<EvaluationResult, 'pairs' | 'split'>): string {
  const note =
    split === 'test'
      ? 'the test split, which training never saw'
      : 'the validation split: not trained on, but watched while training';
  return `${grouped(pairs)} held-out ${pairs === 1 ? 'pair' : 'pairs'} (${note})`;
}

/** 93.4 -> 1 min 33 s. */
export function duration(seconds: number): string {
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${rest} s` : `${rest} s`;
}
