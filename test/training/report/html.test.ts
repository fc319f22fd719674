import { beforeAll, describe, expect, it } from 'vitest';
import { CHART_METRICS, epochChart, stepChart } from '../../../training/report/charts.ts';
import { escapeHtml, reportHtml, type ReportChart } from '../../../training/report/html.ts';
import { renderSvg } from '../../../training/report/render.ts';
import { makeRunFile } from '../../../training/report/run-record.ts';
import type { RunFile } from '../../../training/report/run-file.ts';
import { finishedRun, SAMPLES } from './finished-run.ts';
import { metricRows } from './rows.ts';

const rows = metricRows({ steps: 12, epochs: 2 });
const charts: ReportChart[] = [];
let run: RunFile;
let page = '';

beforeAll(async () => {
  for (const metric of CHART_METRICS) {
    const [bySteps, byEpochs] = [stepChart(rows, metric), epochChart(rows, metric)];
    charts.push({ metric, bySteps: await renderSvg(bySteps), byEpochs: await renderSvg(byEpochs) });
  }
  const timings = { trainingSeconds: 93, tokens: 1, tokensPerSecond: 1, workers: [] };
  run = makeRunFile(await finishedRun(), { rows, digest: 'e'.repeat(64), versions: {}, timings, artifacts: {} });
  page = reportHtml({ run, samples: SAMPLES, charts });
});

/** The page's own words: tags taken off, entities undone. */
const textOf = (html: string): string =>
  html
    .replace(/<style>[\s\S]*?<\/style>|<[^>]*>/g, ' ')
    .replace(/&lt;/g, '<')
    .replace(/&gt;/g, '>')
    .replace(/&quot;/g, '"')
    .replace(/&#39;/g, "'")
    .replace(/&amp;/g, '&');

describe('reportHtml', () => {
  it('shows before, after and interval of both held-out measures, and the shorter-wins baseline', () => {
    const text = textOf(page).replace(/\s+/g, ' ');
    expect(text).toContain('NLL per token (nats) 2.413 1.987 −0.426 −0.510 to −0.342 better, interval clear of 0');
    expect(text).toContain('Reward accuracy 52.8% 76.4% +23.6 points +12.5 to +34.7 better, interval clear of 0');
    expect(text).toContain('shorter answer would be right on 66.7%');
  });

  it('holds every chart twice, named for those who cannot see it', () => {
    expect(page.match(/<svg /g)?.length).toBe(12);
    expect(page).toContain('role="img" aria-label="rewards/margins over optimiser steps"');
    expect(page).toContain('role="img" aria-label="rewards/margins over epochs"');
  });

  it('shows every text from outside as text', () => {
    const text = textOf(page);
    for (const { prompt, after } of SAMPLES.slice(0, 2))
      expect([text.includes(prompt), text.includes(after)]).toEqual([true, true]);
    expect(text).toContain('<script>alert(1)</script>');
    expect(page).not.toContain('<script');
    expect(page).not.toContain('<b>');
  });

  it('escapes warnings, config and provenance too', () => {
    const evil = '"><img src=x onerror=alert(1)>';
    const poisoned: RunFile = {
      ...run,
      warnings: [evil],
      config: { ...run.config, model: evil },
      base: { ...run.base, model: evil, source: evil },
      versions: { [evil]: evil },
      engine: { ...run.engine, library: evil },
      inexactBecause: [evil],
    };
    const html = reportHtml({ run: poisoned, samples: [], charts: [] });
    expect(html).not.toContain('<img');
    expect(textOf(html).split(evil).length - 1).toBeGreaterThanOrEqual(8);
  });

  it('asks nothing of the network: no script, link, import or address to load', () => {
    expect(page).toContain(`content="default-src 'none'; style-src 'unsafe-inline'"`);
    expect(page).not.toMatch(/<script|<link|@import|url\(|\ssrc=|\shref=|http-equiv="refresh"/i);
  });

  it('has balanced tags', () => {
    const open: string[] = [];
    const isVoid = new Set(['meta', 'br', '!doctype']);
    for (const [, slash, name = '', rest = ''] of page.matchAll(/<(\/?)([!a-z][\w]*)([^>]*)>/gi)) {
      if (isVoid.has(name.toLowerCase()) || rest.endsWith('/')) continue;
      if (slash) expect(open.pop()).toBe(name);
      else open.push(name);
    }
    expect(open).toEqual([]);
  });

  it('fits phones and dark devices', () => {
    expect(page).toContain('width=device-width');
    expect(page).toContain('prefers-color-scheme');
    expect(page).not.toMatch(/<svg[^>]*\swidth="/);
  });

  it('marks an answer that was cut at the limit', () => {
    expect(textOf(page)).toMatch(/and on\s+\[…\]/);
  });

  it('tells a run without held-out pairs, samples and warnings without empty sections', () => {
    const bare = reportHtml({ run: { ...run, metrics: null, warnings: [] }, samples: [], charts: [] });
    expect(bare).toContain('No held-out pairs were set apart, so nothing was measured.');
    for (const heading of ['Warnings', 'Answers to held-out prompts', 'Curves'])
      expect(bare).not.toContain(`<h2>${heading}`);
  });

  it('is the same for the same content', () => {
    expect(reportHtml({ run, samples: SAMPLES, charts })).toBe(page);
  });
});

describe('escapeHtml', () => {
  it('escapes what HTML reads, and drops control characters but tabs and line ends', () => {
    expect(escapeHtml(`<a b="c" d='e'>&\u0000\u001b[31m\t\n`)).toBe(
      '&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;[31m\t\n',
    );
  });
});
