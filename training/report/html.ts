/**
 * report.html: one page that tells a run's whole story and needs nothing but itself. No script, no network (its content
 * policy forbids both); readable on a phone and on dark devices. Every text from outside is escaped.
 */
import { readFileSync } from 'node:fs';
import type { ChartMetric } from './charts.ts';
import { comparisons, duration, fixed, grouped, measuredOn, otherMetrics, percent, VERDICTS } from './numbers.ts';
import { withoutFolders, type RunFile } from './run-file.ts';
import { CUT_MARK, type Sample } from './samples.ts';
import { darkRules } from './theme.ts';

export interface ReportChart {
  metric: ChartMetric;
  /** SVG of the step view and of the epoch view. */
  bySteps: string;
  byEpochs: string;
}

export interface ReportContent {
  run: RunFile;
  samples: readonly Sample[];
  charts: readonly ReportChart[];
}

/** The page as text; the same content gives the same bytes. */
export function reportHtml({ run, samples, charts }: ReportContent): string {
  const title = `${withoutFolders(run.base.model)}, fine-tuned with ORPO`;
  const body = [
    header(title, run),
    resultSection(run),
    chartSection(charts),
    sampleSection(samples),
    warningSection(run.warnings),
    epochSection(run),
    provenanceSection(run),
    configSection(run),
  ];
  return [
    '<!doctype html>',
    '<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    `<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">`,
    '<meta name="color-scheme" content="light dark">',
    `<title>${escapeHtml(title)}</title>`,
    `<style>${styleSheet()}${darkRules()}</style></head><body><main>`,
    ...body.filter((part) => part !== ''),
    '</main></body></html>',
    '',
  ].join('\n');
}

/** Text as it may stand in HTML, between tags and in quoted attributes. */
export function escapeHtml(text: string): string {
  const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
  return text.replace(CONTROLS, '').replace(/[&<>"']/g, (letter) => entities[letter] ?? letter);
}

/** Control characters but tab and line ends; HTML allows none of them. */
const CONTROLS = /[^\P{Cc}\t\n\r]/gu;

const STYLE_FILE = new URL('./report.css', import.meta.url);

function styleSheet(): string {
  return readFileSync(STYLE_FILE, 'utf8').replace(/\s+/g, ' ').trim();
}

function header(title: string, { base, training, data, timings }: RunFile): string {
  const facts = [
    `${grouped(training.steps)} optimiser steps`,
    `${fixed(training.epochs, Number.isInteger(training.epochs) ? 0 : 2)} epochs`,
    `${grouped(data.counts.train)} training pairs`,
    `${grouped(base.trainable)} trained parameters`,
    ...(timings.trainingSeconds === null ? [] : [`${duration(timings.trainingSeconds)} of training`]),
  ];
  return `<header><h1>${escapeHtml(title)}</h1><p class="facts">${facts.map(escapeHtml).join(' · ')}</p></header>`;
}

function resultSection({ metrics }: RunFile): string {
  if (!metrics) return section('Result', '<p>No held-out pairs were set apart, so nothing was measured.</p>');
  const rows = comparisons(metrics).map(
    ({ name, before, after, difference, interval, verdict }) =>
      `<tr><th scope="row">${escapeHtml(name)}</th><td>${before}</td><td>${after}</td>` +
      `<td>${escapeHtml(difference)}<small>${escapeHtml(interval)}</small>` +
      `<small class="${verdict}">${escapeHtml(VERDICTS[verdict])}</small></td></tr>`,
  );
  const others = otherMetrics(metrics).map(
    ({ name, before, after }) =>
      `<tr><th scope="row"><code>${escapeHtml(name)}</code></th><td>${before}</td><td>${after}</td></tr>`,
  );
  return section(
    'Result',
    `<p>On ${measuredOn(metrics)}. ` +
      `Always preferring the shorter answer would be right on ${percent(metrics.shorterWins)} of them.</p>` +
      table(['', 'before', 'after', 'difference, 95% interval'], rows) +
      details('All held-out metrics', table(['', 'before', 'after'], others)),
  );
}

function chartSection(charts: readonly ReportChart[]): string {
  const figures = charts.map(
    ({ metric, bySteps, byEpochs }) =>
      `<figure><figcaption><strong>${escapeHtml(metric.name)}</strong> ${escapeHtml(metric.meaning)}</figcaption>` +
      `<div class="pair">${picture(bySteps, `${metric.name} over optimiser steps`)}` +
      `${picture(byEpochs, `${metric.name} over epochs`)}</div></figure>`,
  );
  return charts.length === 0 ? '' : section('Curves', figures.join('\n'));
}

/** An SVG as part of the page: no fixed size, a name for those who cannot see it. */
function picture(svg: string, label: string): string {
  const fluid = svg.replace(/^<svg([^>]*)>/, (_, attributes: string) => {
    const kept = attributes.replace(/\s(?:width|height)="[^"]*"/g, '');
    return `<svg${kept} role="img" aria-label="${escapeHtml(label)}">`;
  });
  return `<div class="plot">${fluid}</div>`;
}

function sampleSection(samples: readonly Sample[]): string {
  if (samples.length === 0) return '';
  const cards = samples.map(
    ({ prompt, before, after, chosen, rejected, endedBefore, endedAfter }) =>
      `<article><h3>${escapeHtml(prompt)}</h3><div class="pair">` +
      answer('before', before, endedBefore) +
      answer('after', after, endedAfter) +
      `</div>${details('The pair in the data', `<div class="pair">${answer('chosen', chosen)}${answer('rejected', rejected)}</div>`)}</article>`,
  );
  return section('Answers to held-out prompts', `<p>Greedy decoding, before and after.</p>${cards.join('\n')}`);
}

function answer(label: string, text: string, ended = true): string {
  const shown = (text === '' ? '<em>(empty)</em>' : escapeHtml(text)) + (ended ? '' : `<em>${CUT_MARK}</em>`);
  return `<div class="answer"><h4>${label}</h4><p>${shown}</p></div>`;
}

function warningSection(warnings: readonly string[]): string {
  if (warnings.length === 0) return '';
  const items = warnings.map((warning) => `<li>${escapeHtml(warning)}</li>`).join('');
  return section('Warnings', `<ul class="warnings">${items}</ul>`);
}

function epochSection({ training }: RunFile): string {
  const cell = (row: Record<string, number> | null, name: string): string =>
    `<td>${row?.[name] === undefined ? '' : fixed(row[name], 4)}</td>`;
  const rows = training.perEpoch.map(
    ({ epoch, step, train, eval: held }) =>
      `<tr><th scope="row">${fixed(epoch, Number.isInteger(epoch) ? 0 : 2)}</th><td>${grouped(step)}</td>` +
      cell(train, 'train_loss') +
      cell(held, 'eval_loss') +
      cell(train, 'train_rewards/accuracies') +
      cell(held, 'eval_rewards/accuracies') +
      '</tr>',
  );
  const heads = ['epoch', 'step', 'loss, train', 'loss, held-out', 'accuracy, train', 'accuracy, held-out'];
  return rows.length === 0 ? '' : section('Epochs', table(heads, rows));
}

function provenanceSection(run: RunFile): string {
  const { base, engine, training } = run;
  const facts: [string, string][] = [
    ['Base weights', `${base.source}, ${grouped(base.parameters)} parameters`],
    ['Base weights sha256', run.baseSha256],
    ['Data sha256', run.dataSha256],
    ['Config sha256', run.configHash],
    ['Digest of the trained tensors', run.digest],
    ['Exactly repeatable', run.exact ? 'yes' : `no: ${run.inexactBecause.join('; ')}`],
    ['Resumes', `${training.resumes}, ${training.recomputedSteps} steps computed again`],
    [
      'Engine',
      `${engine.library}, ${engine.device}, ${engine.step} step, ${engine.precision}, ${engine.threads} threads`,
    ],
    [
      'Versions',
      Object.entries(run.versions)
        .map(([name, version]) => `${name} ${version}`)
        .join(', '),
    ],
  ];
  const items = facts.map(([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd>`).join('');
  return section('Where it comes from', `<dl>${items}</dl>`);
}

function configSection({ config }: RunFile): string {
  const text = `<pre>${escapeHtml(JSON.stringify(config, null, 2))}</pre>`;
  return section('Config', details('The full config, defaults included', text));
}

function section(heading: string, content: string): string {
  return `<section><h2>${heading}</h2>${content}</section>`;
}

function details(summary: string, content: string): string {
  return `<details><summary>${summary}</summary>${content}</details>`;
}

function table(heads: readonly string[], rows: readonly string[]): string {
  const head = heads.map((text) => `<th scope="col">${text}</th>`).join('');
  return `<div class="scroll"><table><thead><tr>${head}</tr></thead><tbody>${rows.join('')}</tbody></table></div>`;
}
