import { parse as parseVega } from 'vega';
import { compile } from 'vega-lite';
import { describe, expect, it } from 'vitest';
import { CHART_METRICS, chartSpec, epochChart, stepChart } from '../../../training/report/charts.ts';
import type { LogRow } from '../../../training/report/metrics.ts';
import { metricNamed, metricRows } from './rows.ts';

interface Drawn {
  mark: string;
  series: string | undefined;
  values: Record<string, unknown>[];
  strokeWidth: number | undefined;
}

/** Every layer with data, flattened, of a spec. */
function layersOf(node: unknown): Drawn[] {
  if (typeof node !== 'object' || node === null) return [];
  const spec = node as Record<string, unknown>;
  const inner = [...((spec['layer'] as unknown[]) ?? []), ...((spec['hconcat'] as unknown[]) ?? [])].flatMap(layersOf);
  const data = spec['data'] as { values: Record<string, unknown>[] } | undefined;
  const mark = spec['mark'] as { type: string; strokeWidth?: number } | undefined;
  if (!data || !mark) return inner;
  const series = data.values[0]?.['series'] as string | undefined;
  return [...inner, { mark: mark.type, series, values: data.values, strokeWidth: mark.strokeWidth }];
}

const line = (layers: Drawn[], series: string, strokeWidth: number): Drawn['values'] =>
  layers.find((l) => l.mark === 'line' && l.series === series && l.strokeWidth === strokeWidth)?.values ?? [];

const textsOf = (spec: unknown): string => JSON.stringify(spec);

describe('chart specs', () => {
  const rows = metricRows({ steps: 90, epochs: 3 });

  it('are made for the five metrics of the plan and the loss', () => {
    expect(CHART_METRICS.map(({ name }) => name)).toEqual([
      'log_odds_chosen',
      'rewards/chosen',
      'rewards/rejected',
      'rewards/margins',
      'rewards/accuracies',
      'loss',
    ]);
  });

  it.each(CHART_METRICS.map(({ name }) => name))('draw every value of %s as it stands in the rows', (name) => {
    const metric = metricNamed(name);
    const valueOf = (type: string, key: string, at: 'step' | 'epoch') =>
      rows.filter((row) => row.type === type && key in row).map((row) => ({ at: row[at], value: row[key] }));
    const drawn = (layer: Drawn['values'], at: string) => layer.map((v) => ({ at: v[at], value: v['value'] }));
    const steps = layersOf(stepChart(rows, metric));
    expect(drawn(line(steps, 'train', 1), 'step')).toEqual(valueOf('step', name, 'step'));
    expect(drawn(line(steps, 'held-out', 2), 'step')).toEqual(valueOf('epoch', `eval_${name}`, 'step'));
    const epochs = layersOf(epochChart(rows, metric));
    expect(drawn(line(epochs, 'train', 2), 'epoch')).toEqual(valueOf('epoch', `train_${name}`, 'epoch'));
    expect(drawn(line(epochs, 'held-out', 2), 'epoch')).toEqual(valueOf('epoch', `eval_${name}`, 'epoch'));
  });

  it('name the smoothing and put it on the same steps', () => {
    const spec = stepChart(rows, metricNamed('loss'));
    expect(textsOf(spec)).toContain('mean of 9 steps');
    expect(line(layersOf(spec), 'train', 2.5).map((v) => v['step'])).toEqual(
      Array.from({ length: 90 }, (_, i) => i + 1),
    );
  });

  it('tell train and held-out apart by colour, by shape and by dash', () => {
    const text = textsOf(chartSpec(rows, metricNamed('loss')));
    for (const channel of ['"color":', '"shape":', '"strokeDash":']) {
      expect(text).toMatch(new RegExp(`${channel}\\{"field":"series"[^}]*"domain":\\["train","held-out"\\]`));
    }
  });

  it('thin ten thousand steps to real rows, say so, and keep the extremes', () => {
    const long = metricRows({ steps: 10_000, epochs: 20 });
    const spec = stepChart(long, metricNamed('log_odds_chosen'));
    const raw = line(layersOf(spec), 'train', 1);
    expect(textsOf(spec)).toContain('lowest and highest value of every 34 steps');
    expect(raw.length).toBeLessThanOrEqual(600);
    const real = new Map(long.filter((r) => r.type === 'step').map((r) => [r.step, r['log_odds_chosen'] as number]));
    for (const v of raw) expect(v['value']).toBe(real.get(v['step'] as number));
    const all = [...real.values()];
    const kept = raw.map((v) => v['value'] as number);
    expect([Math.min(...kept), Math.max(...kept)]).toEqual([Math.min(...all), Math.max(...all)]);
  });

  it('leave a gap, marked and counted, where a step had no finite value', () => {
    const broken = metricRows({ steps: 30, epochs: 1, gaps: [11, 12] });
    const spec = stepChart(broken, metricNamed('loss'));
    expect(textsOf(spec)).toContain('× no finite value (2 of 30 steps)');
    const raw = line(layersOf(spec), 'train', 1);
    expect(raw.filter((v) => v['value'] === null).map((v) => v['step'])).toEqual([11, 12]);
  });

  it('show a run without held-out rows without naming them', () => {
    const spec = chartSpec(metricRows({ steps: 20, epochs: 2, held: false }), metricNamed('loss'));
    expect(layersOf(spec).some(({ mark, series }) => mark === 'line' && series === 'held-out')).toBe(false);
    expect(textsOf(spec)).not.toContain('"text":"held-out"');
  });

  it('mark at most six epoch ends', () => {
    const labels = textsOf(stepChart(metricRows({ steps: 400, epochs: 40 }), metricNamed('loss'))).match(
      /"epoch \d+"/g,
    );
    expect(labels).toEqual(['"epoch 7"', '"epoch 14"', '"epoch 21"', '"epoch 28"', '"epoch 35"']);
  });

  it('say so where nothing was recorded', () => {
    expect(textsOf(chartSpec([], metricNamed('loss')))).toContain('no values recorded');
    const nothing: LogRow[] = [{ type: 'step', step: 1, epoch: 1, loss: null }];
    expect(textsOf(stepChart(nothing, metricNamed('loss')))).toContain('no values recorded');
  });

  it.each([
    ['one step', metricRows({ steps: 1, epochs: 1 })],
    ['no rows', []],
    ['all rows', metricRows({ steps: 90, epochs: 3 })],
  ])('compile without a warning: %s', (_, some) => {
    const warnings: string[] = [];
    const logger = {
      level: () => logger,
      error: (...m: unknown[]) => (warnings.push(String(m)), logger),
      warn: (...m: unknown[]) => (warnings.push(String(m)), logger),
      info: () => logger,
      debug: () => logger,
    };
    for (const metric of CHART_METRICS) {
      parseVega(compile(chartSpec(some, metric), { logger: logger as never }).spec);
    }
    expect(warnings).toEqual([]);
  });
});
