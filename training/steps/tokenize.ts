/**
 * Step of a run: the splits become token ids, in Parquet files that the trainer reads, and a report of every row left
 * out and why. Gives way to the event loop, so that a caller's heartbeats and cancellation get through.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { RunConfig } from '../../shared/config.ts';
import { DatasetInvalid } from '../../shared/errors.ts';
import type { ArtifactRef, DatasetRef, TokensRef } from '../../shared/records.ts';
import { writeFileAtomic } from '../checkpoint/atomic.ts';
import { encodePair, resolvePromptFormat } from '../data/encode.ts';
import type { EncodeOptions } from '../data/encode.ts';
import type { EncodedPair, EncodedSequence } from '../data/encoded.ts';
import { readPairs, writeTokens } from '../data/split-files.ts';
import type { PreferencePair } from '../data/preference.ts';
import { lengthStats } from '../data/report.ts';
import type { LengthStats, ProgressHook } from '../data/report.ts';
import { SPLITS } from '../data/split.ts';
import type { SplitName } from '../data/split.ts';
import { checkTokenizerFits, loadTokenizer } from '../tokenizer/load.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';

export { readTokens } from '../data/split-files.ts';

export interface TokenizeInput {
  config: RunConfig;
  /** Absolute folder of the run. */
  output: string;
  dataset: DatasetRef;
  /** Hugging Face folder with the tokenizer. */
  modelFolder: string;
  signal?: AbortSignal | undefined;
  onProgress?: ProgressHook | undefined;
}

interface DroppedRow {
  row: number;
  reason: string;
  isOverlength: boolean;
}

/** What is remembered of a split; its ids go to disk as they come. */
interface TokenizedSplit {
  dropped: DroppedRow[];
  /** Pairs whose answers hold special tokens before their end. */
  withSpecials: number;
  /** Tokens of each kept pair. */
  lengths: { prompt: number[]; chosen: number[]; rejected: number[] };
}

type WrittenSplit = TokenizedSplit & { file: ArtifactRef };

interface WrittenSplits {
  train: WrittenSplit;
  validation: WrittenSplit | null;
  test: WrittenSplit | null;
}

/** What `data/tokens-report.json` holds for a split, lengths in tokens. */
interface SplitTokens {
  pairs: number;
  dropped: DroppedRow[];
  prompt: LengthStats;
  chosen: LengthStats;
  rejected: LengthStats;
}

/** The longest stretch without giving way to the event loop. */
const TURN_MS = 50;

/** Tokenizes all splits into `<output>/data/tokens-*.parquet`.
 *  @throws DatasetInvalid if a split loses all its rows, or any row is past the limits and overlength is `error`;
 *  TokenizerMismatch, ModelInvalid, DiskFull */
export async function tokenizeSplits(input: TokenizeInput): Promise<TokensRef> {
  const { config, output, dataset, modelFolder, signal } = input;
  const tokenizer = await loadTokenizer(modelFolder);
  await checkFits(tokenizer, modelFolder);
  const { compat, maxPromptLength, maxCompletionLength, overlength } = config.data;
  const promptFormat = resolvePromptFormat(config.data.promptFormat, tokenizer);
  const options = { promptFormat, compat, maxPromptLength, maxCompletionLength, overlength };
  const total = dataset.counts.train + dataset.counts.validation + dataset.counts.test;
  let done = 0;
  const onPair = () => input.onProgress?.(++done, total);
  const work = { tokenizer, options, signal, onPair };
  const tokenize = (name: SplitName, { uri }: ArtifactRef) => tokenizeSplit(uri, tokensPath(output, name), work);
  const tokenizeOrRemove = async (name: 'validation' | 'test') => {
    const split = dataset.splits[name];
    if (split !== null) return tokenize(name, split);
    await rm(tokensPath(output, name), { force: true });
    return null;
  };
  const tokenized: WrittenSplits = {
    train: await tokenize('train', dataset.splits.train),
    validation: await tokenizeOrRemove('validation'),
    test: await tokenizeOrRemove('test'),
  };
  const problem = findProblem(tokenized, config);
  if (problem !== null) {
    for (const name of SPLITS) await rm(tokensPath(output, name), { force: true });
    throw problem;
  }
  return writeReport(tokenized, { output, promptFormat });
}

function tokensPath(output: string, name: SplitName): string {
  return join(output, 'data', `tokens-${name}.parquet`);
}

async function checkFits(tokenizer: Tokenizer, modelFolder: string): Promise<void> {
  const text = await readFile(join(modelFolder, 'config.json'), 'utf8').catch(() => '{}');
  const { vocab_size: vocabSize } = JSON.parse(text) as { vocab_size?: unknown };
  if (typeof vocabSize === 'number') checkTokenizerFits(tokenizer, vocabSize);
}

interface SplitWork {
  tokenizer: Tokenizer;
  options: EncodeOptions;
  signal: AbortSignal | undefined;
  onPair: () => void;
}

/** Reads pairs from one file and writes their ids to another, pair by pair. */
async function tokenizeSplit(from: string, to: string, work: SplitWork): Promise<WrittenSplit> {
  const split: TokenizedSplit = { dropped: [], withSpecials: 0, lengths: { prompt: [], chosen: [], rejected: [] } };
  const file = await writeTokens(to, encodeAll(await readPairs(from), split, work), { signal: work.signal });
  return { ...split, file };
}

async function* encodeAll(
  pairs: PreferencePair[],
  split: TokenizedSplit,
  { tokenizer, options, signal, onPair }: SplitWork,
): AsyncGenerator<EncodedPair> {
  // Under `error` the rows are collected first, so that all of them are reported together.
  const overlength = options.overlength === 'error' ? 'drop' : options.overlength;
  let turnStart = performance.now();
  for (const pair of pairs) {
    signal?.throwIfAborted();
    const result = encodePair(pair, tokenizer, { ...options, overlength });
    if ('dropped' in result) {
      split.dropped.push({ row: pair.row, reason: result.dropped, isOverlength: result.isOverlength ?? false });
    } else {
      note(split, result.encoded, tokenizer, options.compat);
      yield result.encoded;
    }
    onPair();
    if (performance.now() - turnStart < TURN_MS) continue;
    await nextTurn();
    turnStart = performance.now();
  }
}

function note(
  split: TokenizedSplit,
  { chosen, rejected }: EncodedPair,
  tokenizer: Tokenizer,
  compat: EncodeOptions['compat'],
): void {
  split.lengths.prompt.push(chosen.promptLength);
  split.lengths.chosen.push(chosen.ids.length - chosen.promptLength);
  split.lengths.rejected.push(rejected.ids.length - rejected.promptLength);
  if ([chosen, rejected].some((sequence) => hasSpecials(sequence, tokenizer, compat))) split.withSpecials++;
}

/** A special token inside an answer was text such as "<|im_end|>" in the source. TRL's own doubled end token is none. */
function hasSpecials(
  { ids, promptLength }: EncodedSequence,
  tokenizer: Tokenizer,
  compat: EncodeOptions['compat'],
): boolean {
  const doubled = compat === 'trl' ? ids.at(-1) : undefined;
  return ids.slice(promptLength, -1).some((id) => id !== doubled && tokenizer.specialIds.has(id));
}

function findProblem(tokenized: WrittenSplits, config: RunConfig): DatasetInvalid | null {
  const dropped = SPLITS.flatMap((name) => tokenized[name]?.dropped ?? []);
  if (config.data.overlength === 'error' && dropped.length > 0) {
    return refused(`tokenize: ${dropped.length} rows cannot be used and data.overlength is "error"`, dropped);
  }
  for (const name of SPLITS) {
    const split = tokenized[name];
    if (split === null || split.lengths.prompt.length > 0) continue;
    return refused(`tokenize: all ${split.dropped.length} rows of the ${name} split are left out`, split.dropped);
  }
  return null;
}

function refused(what: string, dropped: DroppedRow[]): DatasetInvalid {
  const problems = dropped.map(({ row, reason }) => `row ${row}: ${reason}`);
  const shown = problems.slice(0, 20).map((problem) => `  - ${problem}`);
  const more = problems.length > shown.length ? [`  … and ${problems.length - shown.length} more`] : [];
  const advice = dropped.some(({ isOverlength }) => isOverlength)
    ? 'Raise data.maxPromptLength or data.maxCompletionLength, set data.overlength to "truncate", or shorten the rows.'
    : 'Correct the rows, or choose another data.promptFormat.';
  return new DatasetInvalid([what, ...shown, ...more, advice].join('\n'), { problems });
}

async function writeReport(
  tokenized: WrittenSplits,
  { output, promptFormat }: { output: string; promptFormat: string },
): Promise<TokensRef> {
  const count = (name: SplitName) => tokenized[name]?.lengths.prompt.length ?? 0;
  const dropped = SPLITS.reduce((sum, name) => sum + (tokenized[name]?.dropped.length ?? 0), 0);
  const withSpecials = SPLITS.reduce((sum, name) => sum + (tokenized[name]?.withSpecials ?? 0), 0);
  const warnings = [
    ...(dropped > 0 ? [`${dropped} rows were left out while tokenizing; see data/tokens-report.json`] : []),
    ...(withSpecials > 0 ? [`${withSpecials} pairs have special tokens of the model in their answers' text`] : []),
  ];
  const report = { promptFormat, warnings, splits: reportSplits(tokenized) };
  await writeFileAtomic(join(output, 'data', 'tokens-report.json'), `${JSON.stringify(report, null, 2)}\n`);
  return {
    counts: { train: count('train'), validation: count('validation'), test: count('test') },
    dropped,
    splits: {
      train: tokenized.train.file,
      validation: tokenized.validation?.file ?? null,
      test: tokenized.test?.file ?? null,
    },
    warnings,
  };
}

function reportSplits(tokenized: WrittenSplits): Partial<Record<SplitName, SplitTokens>> {
  const report: Partial<Record<SplitName, SplitTokens>> = {};
  for (const name of SPLITS) {
    const split = tokenized[name];
    if (split === null) continue;
    const { prompt, chosen, rejected } = split.lengths;
    report[name] = {
      pairs: prompt.length,
      dropped: split.dropped,
      prompt: lengthStats(prompt),
      chosen: lengthStats(chosen),
      rejected: lengthStats(rejected),
    };
  }
  return report;
}
