/**
 * A finished run in the terminal: which base, what changed on held-out pairs and how surely, a few answers before and
 * after, and where the files are.
 */
import { join } from 'node:path';
import type { RunResult } from '../../shared/records.ts';
import { comparisons, duration, fixed, grouped, percent } from './numbers.ts';
import { readRunFile, type RunFile } from './run-file.ts';
import { CUT_MARK, readSamples, type Sample } from './samples.ts';

export interface SummaryContent {
  result: RunResult;
  samples: readonly Sample[];
  /** run.json, where it is at hand. */
  run: RunFile | null;
  /** Columns of the terminal. @default 100 */
  width?: number;
}

const SHOWN_SAMPLES = 3;
/** Longest answer shown, in characters; the whole stands in samples.md. */
const LONGEST_ANSWER = 400;

/** Reads what the run's folder holds and says it. The folder may be on another machine: then the result speaks alone. */
export async function summaryOf(result: RunResult, options: { width?: number } = {}): Promise<string> {
  const [run, samples] = await Promise.all([readRunFile(result.output), readSamples(result.output)]);
  return summaryText({ result, samples, run, ...options });
}

/** @returns several lines without a last newline, free of control characters of the model's making */
export function summaryText({ result, samples, run, width = 100 }: SummaryContent): string {
  const blocks = [
    headLines(result, run),
    evaluationLines(result),
    sampleLines(samples.slice(0, SHOWN_SAMPLES), width),
    warningLines(run?.warnings ?? [], width),
    fileLines(result),
  ];
  return blocks
    .filter((lines) => lines.length > 0)
    .map((lines) => lines.join('\n'))
    .join('\n\n');
}

function headLines(result: RunResult, run: RunFile | null): string[] {
  const seconds = run?.timings.trainingSeconds ?? null;
  const facts = [
    `${grouped(result.steps)} ${result.steps === 1 ? 'step' : 'steps'}`,
    `${fixed(result.epochs, Number.isInteger(result.epochs) ? 0 : 2)} ${result.epochs === 1 ? 'epoch' : 'epochs'}`,
    ...(run ? [`${grouped(run.data.counts.train)} pairs`] : []),
    ...(seconds === null ? [] : [`${duration(seconds)} of training`]),
    ...(result.resumes > 0 ? [`resumed ${result.resumes}×`] : []),
  ];
  const hash = run ? ` (sha256 ${run.baseSha256.slice(0, 12)})` : '';
  return [
    ...(result.alreadyFinished ? ['This run was finished already; nothing was trained. What came of it:'] : []),
    `Model         ${printable(result.model)}, ${facts.join(', ')}`,
    `Base weights  ${printable(result.baseSource)}${hash}`,
    ...(run && !run.exact ? [`Repeatable    not to the bit: ${run.inexactBecause.join('; ')}`] : []),
  ];
}

function evaluationLines({ evaluation }: RunResult): string[] {
  if (!evaluation) return ['No held-out pairs were set apart, so nothing was measured.'];
  const clear = { better: 'clear of 0', worse: 'clear of 0, and worse', undecided: 'not clear of 0' };
  const rows = comparisons(evaluation).map(({ name, before, after, difference, interval, verdict }) => [
    `  ${name}`,
    before,
    after,
    `${difference} (${interval})`,
    clear[verdict],
  ]);
  const heading = `Held-out, ${grouped(evaluation.pairs)} pairs (${evaluation.split})`;
  return [
    ...aligned([[heading, 'before', 'after', 'difference (95% interval)', ''], ...rows]),
    `  Always preferring the shorter answer: right on ${percent(evaluation.shorterWins)}`,
  ];
}

/** Columns of equal width, the first two numbers to the right. */
function aligned(rows: readonly string[][]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows.map((row) =>
    row
      .map((cell, i) => (i === 1 || i === 2 ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
      .join('   ')
      .trimEnd(),
  );
}

function sampleLines(samples: readonly Sample[], width: number): string[] {
  if (samples.length === 0) return [];
  const lines = samples.flatMap(({ prompt, before, after, endedBefore = true, endedAfter = true }, i) => [
    ...(i === 0 ? [] : ['']),
    ...wrapped(`  ${i + 1}. `, prompt, width),
    ...wrapped('     before  ', before + (endedBefore ? '' : CUT_MARK), width),
    ...wrapped('     after   ', after + (endedAfter ? '' : CUT_MARK), width),
  ]);
  return ['Held-out prompts, answered before and after', ...lines];
}

function warningLines(warnings: readonly string[], width: number): string[] {
  return warnings.flatMap((warning) => wrapped('Warning: ', warning, width));
}

function fileLines({ output, artifacts }: RunResult): string[] {
  const widest = Math.max(...Object.keys(artifacts).map((name) => name.length), 0);
  const lines = Object.entries(artifacts).map(([name, path]) => `  ${name.padEnd(widest)}  ${join(output, path)}`);
  return ['Files', ...lines];
}

/** Words in lines of at most `width` columns, the first after `lead`, the rest under it. */
function wrapped(lead: string, text: string, width: number): string[] {
  const flat = printable(text);
  const room = Math.max(20, width - lead.length);
  const cut = flat.length > LONGEST_ANSWER ? `${flat.slice(0, LONGEST_ANSWER).trimEnd()} …` : flat;
  const lines: string[] = [];
  let line = '';
  for (const word of (cut === '' ? '(empty)' : cut).split(' ')) {
    if (line !== '' && line.length + 1 + word.length > room) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  lines.push(line);
  return lines.map((content, i) => (i === 0 ? lead : ' '.repeat(lead.length)) + content);
}

// eslint-disable-next-line no-control-regex -- control characters are what it is about
const ESCAPE_SEQUENCE = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?)/g;

/** One line of text without what a terminal would obey: escape sequences and control characters. */
function printable(text: string): string {
  return text
    .replace(ESCAPE_SEQUENCE, '')
    .replace(/\s+/g, ' ')
    .replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, '')
    .trim();
}
