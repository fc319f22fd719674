/**
 * Metric rows -> Vega-Lite specs: one chart a metric, over steps and over epochs, train and held-out.
 * The names are TRL's (trl/experimental/orpo/orpo_trainer.py, `get_batch_loss_metrics`). Pure: rows in, spec out. What is
 * drawn raw is a value of a row; thinning and smoothing are named in the chart itself. A null in a row is a gap.
 */
import type { TopLevelSpec } from 'vega-lite';
import { epochEnds, gapMarks, layersOver, legend, referenceLine, sentence } from './layers.ts';
import type { Layer, LegendEntry } from './layers.ts';
import type { LogRow } from './metrics.ts';
import { curve, movingAverage, paddedRange, sample, smoothingWindow, thin } from './series.ts';
import type { Point } from './series.ts';
import { CHART_CONFIG } from './theme.ts';

export interface ChartMetric {
  /** TRL's name, as in a step row; epoch rows carry it as `train_<name>` and `eval_<name>`. */
  name: string;
  /** File name without extension. */
  file: string;
  /** What it says, in plain words. */
  meaning: string;
  unit: string;
  /** A value with a meaning of its own: drawn as a line, always inside the range. */
  reference?: { value: number; label: string };
  /** Fixed range of the value axis. */
  range?: [number, number];
  format?: string;
}

const REWARD_UNIT = 'β × log-probability per token (nats)';
const EVEN = { value: 0, label: 'no preference' };

export const CHART_METRICS: readonly ChartMetric[] = [
  {
    name: 'log_odds_chosen',
    file: 'log_odds_chosen',
    meaning: 'How strongly the model prefers the chosen answer; higher is better',
    unit: 'log odds ratio (nats)',
    reference: EVEN,
  },
  {
    name: 'rewards/chosen',
    file: 'rewards_chosen',
    meaning: 'How likely the chosen answers are to the model; higher is likelier',
    unit: REWARD_UNIT,
  },
  {
    name: 'rewards/rejected',
    file: 'rewards_rejected',
    meaning: 'How likely the rejected answers are to the model; higher is likelier',
    unit: REWARD_UNIT,
  },
  {
    name: 'rewards/margins',
    file: 'rewards_margins',
    meaning: 'Reward of the chosen minus reward of the rejected answer; higher is better',
    unit: REWARD_UNIT,
    reference: EVEN,
  },
  {
    name: 'rewards/accuracies',
    file: 'rewards_accuracies',
    meaning: 'Share of pairs whose chosen answer is the likelier one; higher is better',
    unit: 'pairs (%)',
    reference: { value: 0.5, label: 'coin toss' },
    range: [0, 1],
    format: '.0%',
  },
  {
    name: 'loss',
    file: 'loss',
    meaning: 'ORPO loss: NLL of the chosen row plus the odds-ratio term; lower is better',
    unit: 'loss (nats per token)',
  },
];

/** Most points of one line: about one a pixel. */
const MAX_POINTS = 600;
/** Up to this many values each one is a point as well as part of the line. */
const FEW_POINTS = 40;
/** Most epochs whose ends are marked in the step view. */
const MAX_EPOCH_MARKS = 6;
const HEIGHT = 250;
const HELD_OUT_ENTRY: LegendEntry = { label: 'held-out', series: 'held-out', strokeWidth: 2, point: true };

/** One metric, its step view and epoch view beside each other. */
export function chartSpec(rows: readonly LogRow[], metric: ChartMetric): TopLevelSpec {
  return topLevel({
    title: { text: metric.name, subtitle: metric.meaning },
    hconcat: [stepView(rows, metric, 500), epochView(rows, metric, 240)],
  });
}

/** The step view alone, for narrow pages. */
export function stepChart(rows: readonly LogRow[], metric: ChartMetric): TopLevelSpec {
  return topLevel(stepView(rows, metric, 380));
}

/** The epoch view alone. */
export function epochChart(rows: readonly LogRow[], metric: ChartMetric): TopLevelSpec {
  return topLevel(epochView(rows, metric, 380));
}

function topLevel(spec: Layer): TopLevelSpec {
  const $schema = 'https://vega.github.io/schema/vega-lite/v6.json';
  return { $schema, ...spec, config: CHART_CONFIG } as unknown as TopLevelSpec;
}

/** Train of every step (thin) and smoothed (thick); held-out at the ends of epochs (dashed, diamonds). */
function stepView(rows: readonly LogRow[], metric: ChartMetric, width: number): Layer {
  const epochs = rows.filter((row) => row.type === 'epoch');
  const raw = curve(
    rows.filter((row) => row.type === 'step'),
    metric.name,
    'step',
  );
  const heldOut = curve(epochs, `eval_${metric.name}`, 'step');
  const window = smoothingWindow(raw.length);
  const smooth = window > 1 ? sample(movingAverage(raw, window), MAX_POINTS) : [];
  const thinned = thin(raw, MAX_POINTS);
  const gaps = raw.filter(({ value }) => value === null);
  const draw = layersOver('step');
  const thinStroke = { strokeWidth: smooth.length > 0 ? 1 : 2, opacity: smooth.length > 0 ? 0.5 : 1 };
  const layers = [
    ...epochEnds(markedEpochs(epochs)),
    draw.line(thinned.points, 'train', thinStroke),
    ...(raw.length <= FEW_POINTS ? [draw.points(raw, 'train', { opacity: thinStroke.opacity })] : []),
    draw.line(smooth, 'train', { strokeWidth: 2.5 }),
    draw.line(heldOut, 'held-out', { strokeWidth: 2 }),
    draw.points(heldOut, 'held-out', {}),
    ...gapMarks(sample(gaps, MAX_POINTS), HEIGHT),
  ];
  const entries: LegendEntry[] = [
    { label: 'train, each step', series: 'train', point: raw.length <= FEW_POINTS, ...thinStroke },
    ...(window > 1
      ? [{ label: `mean of ${window} steps`, series: 'train' as const, strokeWidth: 2.5, point: false }]
      : []),
    ...(heldOut.length > 0 ? [HELD_OUT_ENTRY] : []),
  ];
  const notes = [
    ...(thinned.span > 1 ? [`thin line: lowest and highest value of every ${thinned.span} steps`] : []),
    ...(gaps.length > 0 ? [`× no finite value (${gaps.length} of ${raw.length} steps)`] : []),
  ];
  const domain: [number, number] = [0, Math.max(1, ...rows.map((row) => row.step))];
  const title = ['optimiser step', ...notes];
  return view([...raw, ...heldOut], [...layers, ...legend(entries)], { metric, width, domain, title });
}

/** Train means and held-out values, a point an epoch. */
function epochView(rows: readonly LogRow[], metric: ChartMetric, width: number): Layer {
  const epochs = rows.filter((row) => row.type === 'epoch');
  const train = curve(epochs, `train_${metric.name}`, 'epoch');
  const heldOut = curve(epochs, `eval_${metric.name}`, 'epoch');
  const draw = layersOver('epoch');
  const layers = [
    draw.line(train, 'train', { strokeWidth: 2 }),
    draw.points(train, 'train', {}),
    draw.line(heldOut, 'held-out', { strokeWidth: 2 }),
    draw.points(heldOut, 'held-out', {}),
  ];
  const domain: [number, number] = [0, Math.max(1, ...rows.map((row) => row.epoch))];
  const entries: LegendEntry[] = [
    ...(train.length > 0
      ? [{ label: 'train, epoch mean', series: 'train' as const, strokeWidth: 2, point: true }]
      : []),
    ...(heldOut.length > 0 ? [HELD_OUT_ENTRY] : []),
  ];
  const title = ['epoch'];
  return view([...train, ...heldOut], [...layers, ...legend(entries)], { metric, width, domain, title });
}

/** Epochs whose ends are marked: all of them, or evenly chosen ones where there are many. */
function markedEpochs(epochs: readonly LogRow[]): LogRow[] {
  const ended = epochs.filter((row) => row.epoch > 0);
  const stride = Math.ceil(ended.length / MAX_EPOCH_MARKS);
  return ended.filter((_, i) => (i + 1) % stride === 0);
}

interface ViewOptions {
  metric: ChartMetric;
  width: number;
  domain: [number, number];
  title: string[];
}

/** Layers on common axes, the reference line under them; a sentence where there is nothing to draw. */
function view(shown: readonly Point[], layers: readonly Layer[], options: ViewOptions): Layer {
  const { metric, width, domain } = options;
  const values = shown.flatMap(({ value }) => (value === null ? [] : [value]));
  if (values.length === 0) {
    return { width, height: HEIGHT, layer: [sentence('no values recorded', width / 2, HEIGHT / 2)] };
  }
  const range = metric.range ?? paddedRange(metric.reference ? [...values, metric.reference.value] : values);
  return {
    width,
    height: HEIGHT,
    encoding: {
      x: {
        type: 'quantitative',
        scale: { domain, nice: false },
        axis: { title: options.title, format: ',d', tickMinStep: 1, tickCount: Math.round(width / 60) },
      },
      y: {
        type: 'quantitative',
        scale: { domain: range, nice: false, zero: false },
        axis: { title: metric.unit, tickCount: 6, ...(metric.format ? { format: metric.format } : {}) },
      },
    },
    layer: [...(metric.reference ? [referenceLine(metric.reference)] : []), ...layers],
  };
}
