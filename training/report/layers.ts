/**
 * The marks that charts are made of, as Vega-Lite layers. Train and held-out differ in colour, in shape (circle,
 * diamond) and in dash (solid, dashed), so that none of the three is needed to tell them apart.
 */
import type { Point } from './series.ts';
import { ALERT, HELD_OUT, INK, MARK, MUTED, textWidth, TRAIN } from './theme.ts';

export type Layer = Record<string, unknown>;
/** Name of the horizontal axis' field. */
export type Axis = 'step' | 'epoch';
export type Series = 'train' | 'held-out';

const SERIES: Series[] = ['train', 'held-out'];
const by = (range: unknown[]) => ({ field: 'series', type: 'nominal', scale: { domain: SERIES, range }, legend: null });
const COLOR = by([TRAIN.light, HELD_OUT.light]);
const SHAPE = by(['circle', 'diamond']);
/** Areas in square pixels that look equally large. */
const POINT_SIZE: Record<Series, number> = { train: 55, 'held-out': 95 };
const SOLID = [1, 0];
const DASHED = [6, 4];
const DASH = by([SOLID, DASHED]);

/** Makers of lines and points over one horizontal axis. Each layer carries its own data: `{ [x], value, series }` rows. */
export function layersOver(x: Axis) {
  const rowsOf = (points: readonly Point[], series: Series) => ({
    values: points.map(({ at, value }) => ({ [x]: at, value, series })),
  });
  const place = { x: { field: x }, y: { field: 'value' } };
  return {
    line: (points: readonly Point[], series: Series, mark: { strokeWidth: number; opacity?: number }): Layer => ({
      data: rowsOf(points, series),
      mark: { type: 'line', strokeCap: 'round', strokeJoin: 'round', ...mark },
      encoding: { ...place, color: COLOR, strokeDash: DASH },
    }),
    points: (points: readonly Point[], series: Series, mark: { opacity?: number }): Layer => ({
      data: rowsOf(points, series),
      mark: { type: 'point', filled: true, size: POINT_SIZE[series], opacity: 1, ...mark },
      encoding: { ...place, color: COLOR, shape: SHAPE },
    }),
  };
}

/** A horizontal line at a value with a meaning, named at its right end. */
export function referenceLine({ value, label }: { value: number; label: string }): Layer {
  const text = { type: 'text', color: MUTED.light, align: 'right', baseline: 'bottom', dx: -6, dy: -3, fontSize: 11 };
  return {
    data: { values: [{ value, label }] },
    encoding: { x: null, y: { field: 'value' } },
    layer: [
      { mark: { type: 'rule', color: MARK.light, strokeDash: [2, 3] } },
      { mark: text, encoding: { x: { value: 'width' }, text: { field: 'label' } } },
    ],
  };
}

/** Vertical lines at the last steps of epochs, named at the top. */
export function epochEnds(epochs: readonly { step: number; epoch: number }[]): Layer[] {
  if (epochs.length === 0) return [];
  const text = { type: 'text', color: MUTED.light, align: 'right', baseline: 'bottom', dy: -4, fontSize: 10 };
  return [
    {
      data: { values: epochs.map(({ step, epoch }) => ({ step, label: `epoch ${Number(epoch.toFixed(2))}` })) },
      encoding: { x: { field: 'step' }, y: null },
      layer: [
        { mark: { type: 'rule', color: MARK.light, strokeWidth: 0.75, opacity: 0.6 } },
        { mark: text, encoding: { y: { value: 0 }, text: { field: 'label' } } },
      ],
    },
  ];
}

/** Crosses on the step axis where the value was not finite. */
export function gapMarks(points: readonly Point[], height: number): Layer[] {
  if (points.length === 0) return [];
  const cross = 'M-.4,-.4L.4,.4M-.4,.4L.4,-.4';
  return [
    {
      data: { values: points.map(({ at }) => ({ step: at })) },
      mark: { type: 'point', shape: cross, stroke: ALERT.light, opacity: 1, size: 60, strokeWidth: 1.5 },
      encoding: { x: { field: 'step' }, y: { value: height - 5 } },
    },
  ];
}

/** One line of the legend: how it is drawn, and what it is. */
export interface LegendEntry {
  label: string;
  series: Series;
  strokeWidth: number;
  opacity?: number;
  point: boolean;
}

const LEGEND_Y = -28;
const SWATCH = 26;
const LABEL_SIZE = 11;

/** The legend above a view, in one row, drawn with the very marks it explains. */
export function legend(entries: readonly LegendEntry[]): Layer[] {
  let left = 0;
  return entries.flatMap(({ label, series, strokeWidth, opacity = 1, point }) => {
    const from = left;
    left += SWATCH + 6 + textWidth(label, LABEL_SIZE) + 20;
    const [color, shape, strokeDash] =
      series === 'train' ? [TRAIN.light, 'circle', SOLID] : [HELD_OUT.light, 'diamond', DASHED];
    const at = (x: number) => ({ x: { value: x }, y: { value: LEGEND_Y } });
    const stroke = { type: 'rule', color, strokeWidth, strokeDash, opacity };
    const dot = { type: 'point', filled: true, shape, color, opacity, size: POINT_SIZE[series] };
    const text = {
      type: 'text',
      text: label,
      align: 'left',
      baseline: 'middle',
      color: INK.light,
      fontSize: LABEL_SIZE,
    };
    return [
      still(stroke, { ...at(from), x2: { value: from + SWATCH } }),
      ...(point ? [still(dot, at(from + SWATCH / 2))] : []),
      still(text, at(from + SWATCH + 6)),
    ];
  });
}

/** A mark at a fixed place in pixels. */
function still(mark: Layer, encoding: Layer): Layer {
  return { data: { values: [{}] }, mark, encoding };
}

/** A view's whole content where there is nothing to draw. */
export function sentence(text: string, x: number, y: number): Layer {
  const mark = { type: 'text', text, color: MUTED.light, fontSize: 13 };
  return still(mark, { x: { value: x }, y: { value: y } });
}
