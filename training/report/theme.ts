/**
 * Colours and type of the charts. Train and held-out are blue and vermillion of Okabe and Ito's palette for colour-blind
 * readers (jfly.uni-koeln.de/color), lightened on dark; every colour reaches a contrast of 3:1 on its background.
 */

interface Shade {
  light: string;
  dark: string;
}

export const PAPER: Shade = { light: '#fdfdfe', dark: '#0f141b' };
export const INK: Shade = { light: '#24292f', dark: '#e4e9ef' };
/** Axis labels, units, notes. */
export const MUTED: Shade = { light: '#5b6470', dark: '#9aa5b1' };
/** Grid and frame. */
export const FAINT: Shade = { light: '#e3e7ec', dark: '#28303a' };
/** Reference lines and epoch marks. */
export const MARK: Shade = { light: '#8a94a0', dark: '#77828e' };
export const TRAIN: Shade = { light: '#0072b2', dark: '#56b4e9' };
export const HELD_OUT: Shade = { light: '#c24e00', dark: '#f0964b' };
export const ALERT: Shade = { light: '#a40e3c', dark: '#ff7b93' };

export const SHADES: readonly Shade[] = [PAPER, INK, MUTED, FAINT, MARK, TRAIN, HELD_OUT, ALERT];

/** Browsers take the reader's own font; the PNG is drawn with DejaVu Sans, whatever the machine has. */
export const FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif";

/** Width of a text in pixels, estimated: DejaVu Sans, the widest of the fonts above, takes 0.6 em a letter in English. */
export function textWidth(text: string, fontSize: number): number {
  return Math.ceil(0.6 * text.length * fontSize);
}

/** Style rules that turn the light shades into the dark ones where the reader's device is dark. The selectors match
 *  the presentation attributes that vega writes, in an SVG file or inline in a page. */
export function darkRules(): string {
  const rules = SHADES.map(({ light, dark }) => `[fill="${light}"]{fill:${dark}}[stroke="${light}"]{stroke:${dark}}`);
  return `@media (prefers-color-scheme:dark){${rules.join('')}}`;
}

/** Vega-Lite config shared by all charts. */
export const CHART_CONFIG = {
  background: PAPER.light,
  padding: { left: 18, right: 22, top: 16, bottom: 14 },
  font: FONT,
  view: { stroke: null },
  concat: { spacing: 36 },
  title: {
    anchor: 'start',
    color: INK.light,
    fontSize: 16,
    fontWeight: 600,
    subtitleColor: MUTED.light,
    subtitleFontSize: 12,
    subtitlePadding: 6,
    offset: 14,
  },
  axis: {
    labelColor: MUTED.light,
    labelFontSize: 11,
    titleColor: MUTED.light,
    titleFontSize: 11,
    titleFontWeight: 400,
    titlePadding: 10,
    gridColor: FAINT.light,
    domainColor: MARK.light,
    tickColor: MARK.light,
    tickSize: 4,
  },
  axisY: { domain: false, ticks: false, labelPadding: 10 },
  axisX: { grid: false, labelFlush: false },
};
