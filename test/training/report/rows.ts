/** Metric rows of an imagined run that learns, the same on every call. */
import { CHART_METRICS } from '../../../training/report/charts.ts';
import type { LogRow } from '../../../training/report/metrics.ts';

interface Shape {
  steps: number;
  epochs: number;
  held?: boolean;
  /** Steps whose values were not finite. */
  gaps?: number[];
}

export function metricRows({ steps, epochs, held = true, gaps = [] }: Shape): LogRow[] {
  const random = parkMiller(7);
  const perEpoch = steps / epochs;
  const valuesAt = (step: number, noise: number): Record<string, number> => {
    const learned = 1 - Math.exp((-3 * step) / steps);
    return {
      loss: 2.2 - 0.7 * learned + noise * random(),
      nll_loss: 2.1 - 0.6 * learned,
      log_odds_chosen: -0.05 + 1.1 * learned + noise * random(),
      'rewards/chosen': -0.2 + 0.06 * learned,
      'rewards/rejected': -0.2 - 0.04 * learned,
      'rewards/margins': 0.1 * learned + noise * 0.1 * random(),
      'rewards/accuracies': Math.min(1, Math.round(8 * (0.5 + 0.4 * learned)) / 8),
    };
  };
  const prefixed = (prefix: string, values: Record<string, number>): Record<string, number> =>
    Object.fromEntries(Object.entries(values).map(([name, value]) => [prefix + name, value]));
  const rows: LogRow[] = [];
  if (held) rows.push({ type: 'epoch', step: 0, epoch: 0, ...prefixed('eval_', valuesAt(0, 0)) });
  for (let step = 1; step <= steps; step++) {
    const values = valuesAt(step, 0.3);
    const lost = Object.fromEntries(Object.keys(values).map((name) => [name, null]));
    rows.push({ type: 'step', step, epoch: step / perEpoch, ...(gaps.includes(step) ? lost : values) });
    if (step % perEpoch !== 0) continue;
    const ended = valuesAt(step, 0);
    const evaluated = held ? prefixed('eval_', ended) : {};
    rows.push({ type: 'epoch', step, epoch: step / perEpoch, ...prefixed('train_', ended), ...evaluated });
  }
  return rows;
}

/** A generator of −0.5 … 0.5 (Park and Miller's minimal standard). */
function parkMiller(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 16_807) % 2_147_483_647;
    return state / 2_147_483_647 - 0.5;
  };
}

/** The metric that a test draws where one is enough. */
export function metricNamed(name: string): (typeof CHART_METRICS)[number] {
  const found = CHART_METRICS.find((metric) => metric.name === name);
  if (!found) throw new Error(`no chart of ${name}`);
  return found;
}
