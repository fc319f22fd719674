/**
 * Vega-Lite spec -> SVG -> PNG, without browser or canvas. Same spec, same bytes on every machine: text is measured by
 * estimate, and the PNG is drawn with the DejaVu fonts of an npm package, never with those the machine happens to have.
 */
import { createRequire } from 'node:module';
import { Resvg } from '@resvg/resvg-js';
import { parse, textMetrics, View } from 'vega';
import { compile } from 'vega-lite';
import type { TopLevelSpec } from 'vega-lite';
import { EnvironmentIncomplete } from '../../shared/errors.ts';
import { darkRules, PAPER, textWidth } from './theme.ts';

declare module 'vega' {
  /** How vega measures text; exported, but missing in its types. */
  const textMetrics: { width(item: { fontSize?: number }, text: string): number };
}

const require = createRequire(import.meta.url);
// Without a canvas vega guesses 0.8 em a letter, which leaves wide gaps; with one it would measure the machine's own fonts.
textMetrics.width = (item, text) => textWidth(text ?? '', item.fontSize ?? 11);

const FONT_FILES = ['DejaVuSans.ttf', 'DejaVuSans-Bold.ttf'];

/** Draws a spec.
 *  @returns SVG text in the light colours, without any `id`, so that several can stand in one page */
export async function renderSvg(spec: TopLevelSpec): Promise<string> {
  const runtime = parse(compile(spec).spec);
  const view = new View(runtime, { renderer: 'none' });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

/** An SVG with the rules that adapt it to dark devices: for files that stand alone. */
export function withDarkRules(svg: string): string {
  return svg.replace(/^(<svg[^>]*>)/, `$1<style>${darkRules()}</style>`);
}

/** SVG -> PNG at twice its size in pixels. @throws EnvironmentIncomplete where the font package is missing */
export function renderPng(svg: string): Buffer {
  const image = new Resvg(svg, {
    background: PAPER.light,
    fitTo: { mode: 'zoom', value: 2 },
    font: {
      loadSystemFonts: false,
      fontFiles: fontFiles(),
      defaultFontFamily: 'DejaVu Sans',
      sansSerifFamily: 'DejaVu Sans',
    },
  });
  return image.render().asPng();
}

/** Paths of the fonts that PNGs are drawn with. @param resolve - how a package's file is found */
export function fontFiles(resolve: (file: string) => string = require.resolve): string[] {
  try {
    return FONT_FILES.map((file) => resolve(`dejavu-fonts-ttf/ttf/${file}`));
  } catch (cause) {
    throw new EnvironmentIncomplete(
      'plots: the font package "dejavu-fonts-ttf" is not installed, so a PNG would have no text; run `npm ci`',
      { cause },
    );
  }
}
