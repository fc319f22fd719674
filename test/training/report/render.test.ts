import { inflateSync } from 'node:zlib';
import { beforeAll, describe, expect, it } from 'vitest';
import { chartSpec, stepChart } from '../../../training/report/charts.ts';
import { fontFiles, renderPng, renderSvg, withDarkRules } from '../../../training/report/render.ts';
import { HELD_OUT, INK, PAPER, SHADES, TRAIN } from '../../../training/report/theme.ts';
import { metricNamed, metricRows } from './rows.ts';

const rows = metricRows({ steps: 60, epochs: 3 });
let svg = '';
beforeAll(async () => {
  svg = await renderSvg(chartSpec(rows, metricNamed('log_odds_chosen')));
});

/** Pixels of an 8-bit RGBA PNG, row-major (PNG specification, section 9: filters). */
function pixelsOf(png: Buffer): { width: number; height: number; rgba: Uint8Array } {
  const [width, height] = [png.readUInt32BE(16), png.readUInt32BE(20)];
  const parts: Buffer[] = [];
  for (let at = 8; at < png.length;) {
    const length = png.readUInt32BE(at);
    if (png.toString('latin1', at + 4, at + 8) === 'IDAT') parts.push(png.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  const raw = inflateSync(Buffer.concat(parts));
  const stride = width * 4;
  const rgba = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)] ?? 0;
    for (let x = 0; x < stride; x++) {
      const left = x >= 4 ? (rgba[y * stride + x - 4] ?? 0) : 0;
      const up = y > 0 ? (rgba[(y - 1) * stride + x] ?? 0) : 0;
      const corner = x >= 4 && y > 0 ? (rgba[(y - 1) * stride + x - 4] ?? 0) : 0;
      const guess = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter] ?? 0;
      rgba[y * stride + x] = ((raw[y * (stride + 1) + 1 + x] ?? 0) + guess) & 255;
    }
  }
  return { width, height, rgba };
}

function paeth(left: number, up: number, corner: number): number {
  const guess = left + up - corner;
  const [dl, du, dc] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  return dl <= du && dl <= dc ? left : du <= dc ? up : corner;
}

/** How many pixels come close to a colour. */
function countNear(png: Buffer, hex: string, box = { left: 0, top: 0, right: Infinity, bottom: Infinity }): number {
  const { width, height, rgba } = pixelsOf(png);
  const want = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  let count = 0;
  for (let y = Math.max(0, box.top); y < Math.min(height, box.bottom); y++)
    for (let x = Math.max(0, box.left); x < Math.min(width, box.right); x++)
      if (want.every((c, i) => Math.abs((rgba[(y * width + x) * 4 + i] ?? 0) - c) <= 24)) count++;
  return count;
}

describe('renderPng', () => {
  it('draws text: the title in ink, where there is nothing but text', () => {
    const png = renderPng(svg);
    // The title stands in the first 60 rows (at twice the size); without a font not one pixel of it is dark.
    expect(countNear(png, INK.light, { left: 0, top: 20, right: 600, bottom: 66 })).toBeGreaterThan(800);
    const untitled = renderPng(svg.replaceAll(/<text[^>]*>[^<]*<\/text>/g, ''));
    expect(countNear(untitled, INK.light, { left: 0, top: 20, right: 600, bottom: 66 })).toBe(0);
  });

  it('draws both series on an opaque background', () => {
    const png = renderPng(svg);
    const { rgba } = pixelsOf(png);
    expect(countNear(png, TRAIN.light)).toBeGreaterThan(1_000);
    expect(countNear(png, HELD_OUT.light)).toBeGreaterThan(1_000);
    expect(countNear(png, PAPER.light)).toBeGreaterThan(rgba.length / 4 / 2);
    expect(rgba.every((value, i) => i % 4 !== 3 || value === 255)).toBe(true);
  });

  it('shows one step as a point', async () => {
    const spec = stepChart(metricRows({ steps: 1, epochs: 1, held: false }), metricNamed('loss'));
    const belowLegend = { left: 0, top: 120, right: Infinity, bottom: Infinity };
    expect(countNear(renderPng(await renderSvg(spec)), TRAIN.light, belowLegend)).toBeGreaterThan(100);
  });

  it('says what to do where the font package is missing, instead of drawing no text', () => {
    const lost = () => {
      throw new Error("Cannot find module 'dejavu-fonts-ttf/ttf/DejaVuSans.ttf'");
    };
    expect(() => fontFiles(lost)).toThrow(
      'plots: the font package "dejavu-fonts-ttf" is not installed, so a PNG would have no text; run `npm ci`',
    );
  });
});

describe('renderSvg', () => {
  it('gives the same bytes for the same rows, also after other charts', async () => {
    await renderSvg(chartSpec(metricRows({ steps: 5, epochs: 1 }), metricNamed('loss')));
    const again = await renderSvg(chartSpec(metricRows({ steps: 60, epochs: 3 }), metricNamed('log_odds_chosen')));
    expect(again).toBe(svg);
    expect(renderPng(again).equals(renderPng(svg))).toBe(true);
  });

  it('has no ids, links or scripts, so that several stand in one page', () => {
    expect(svg).not.toMatch(/\sid=|href|<script|url\(/);
  });

  it('uses no colour that dark devices do not know', () => {
    const known = new Set(SHADES.map(({ light }) => light));
    const used = [...svg.matchAll(/(?:fill|stroke)="(#[^"]+|[a-z]+)"/g)].map((match) => match[1]);
    expect(
      [...new Set(used)].filter((color) => color !== 'none' && color !== 'transparent' && !known.has(color ?? '')),
    ).toEqual([]);
    expect(withDarkRules(svg)).toContain('prefers-color-scheme:dark');
  });

  it('keeps a contrast of 3:1 for lines and 4.5:1 for text on both backgrounds', () => {
    for (const side of ['light', 'dark'] as const) {
      const paper = PAPER[side];
      for (const shade of [TRAIN, HELD_OUT]) expect(contrast(shade[side], paper)).toBeGreaterThan(3);
      for (const shade of SHADES.slice(1, 3)) expect(contrast(shade[side], paper)).toBeGreaterThan(4.5);
    }
  });
});

/** WCAG 2 contrast ratio. */
function contrast(a: string, b: string): number {
  const luminance = (hex: string): number => {
    const [r = 0, g = 0, blue = 0] = [1, 3, 5].map((i) => {
      const c = parseInt(hex.slice(i, i + 2), 16) / 255;
      return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * blue;
  };
  const [low = 0, high = 0] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}
