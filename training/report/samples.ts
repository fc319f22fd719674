/**
 * Answers to held-out prompts before and after training: as the evaluation writes them (samples.json), and as Markdown
 * to read (samples.md).
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DatasetInvalid } from '../../shared/errors.ts';

export const SAMPLES_FILE = 'samples.json';

export interface Sample {
  prompt: string;
  chosen: string;
  rejected: string;
  before: string;
  after: string;
  /** Whether the answer came to its end within the limit of tokens; unknown counts as yes. */
  endedBefore?: boolean;
  endedAfter?: boolean;
}

/** Stands after an answer that was cut at the limit of tokens. */
export const CUT_MARK = ' […]';

/** Reads samples.json. @returns empty where there is none  @throws DatasetInvalid where it is not a list of samples */
export async function readSamples(output: string): Promise<Sample[]> {
  const path = join(output, SAMPLES_FILE);
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return null;
    throw error;
  });
  if (text === null) return [];
  const samples = parseJson(text);
  if (Array.isArray(samples) && samples.every(isSample)) return samples;
  throw new DatasetInvalid(
    `${path}: not a list of samples (prompt, chosen, rejected, before, after); run the evaluation again: it writes the file anew`,
  );
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isSample(value: unknown): value is Sample {
  if (typeof value !== 'object' || value === null) return false;
  const sample = value as Record<string, unknown>;
  return ['prompt', 'chosen', 'rejected', 'before', 'after'].every((key) => typeof sample[key] === 'string');
}

/** One sample as Markdown: the prompt, then each answer as a quotation. */
export function sampleMarkdown({ prompt, before, after, endedBefore, endedAfter }: Sample): string {
  const title = escapeMarkdown(prompt).replace(/\s+/g, ' ').trim();
  return `**${title}**\n\nBefore:\n\n${quote(before, endedBefore)}\n\nAfter:\n\n${quote(after, endedAfter)}\n`;
}

/** samples.md: all of them, with the answers of the data. */
export function samplesMarkdown(samples: readonly Sample[]): string {
  const parts = samples.map(
    (sample) =>
      `${sampleMarkdown(sample)}\nChosen in the data:\n\n${quote(sample.chosen)}\n\nRejected in the data:\n\n${quote(sample.rejected)}\n`,
  );
  return `# Answers to held-out prompts\n\nGreedy decoding, before and after training.\n\n${parts.join('\n---\n\n')}`;
}

/** Text that reads as it is, whatever Markdown or HTML it contains. */
export function escapeMarkdown(text: string): string {
  return text
    .replace(/[^\P{Cc}\t\n\r]/gu, '')
    .replace(/[\\`*_[\]<>&#|~$]/g, '\\$&')
    .replace(/^(\s*)([-+=]|\d+(?=[.)]))/gm, (_, space: string, mark: string) => {
      return /\d/.test(mark) ? `${space}${mark}\\` : `${space}\\${mark}`;
    });
}

function quote(text: string, ended = true): string {
  const shown = text.trim() === '' ? '(empty)' : escapeMarkdown(text);
  return (shown + (ended ? '' : escapeMarkdown(CUT_MARK)))
    .split(/\r?\n/)
    .map((line) => `> ${line}`.trimEnd())
    .join('\n');
}
