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
import type { EncodedPair } from '../data/encoded.ts';
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

interface TokenizedSplit {
  pairs: EncodedPair[];
  dropped: DroppedRow[];
  /** Pairs whose answers hold special tokens before their end. */
  withSpecials: number;
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
  const tokenized: Partial<Record<SplitName, TokenizedSplit>> = {};
  for (const name of SPLITS) {
    const ref = dataset.splits[name];
    if (ref !== null)
      tokenized[name] = await tokenizeSplit(await readPairs(ref.uri), tokenizer, options, { signal, onPair });
  }
  checkSplits(tokenized, config);
  return writeSplits(tokenized, { folder: join(output, 'data'), promptFormat, signal });
}

async function checkFits(tokenizer: Tokenizer, modelFolder: string): Promise<void> {
  const text = await readFile(join(modelFolder, 'config.json'), 'utf8').catch(() => '{}');
  const { vocab_size: vocabSize } = JSON.parse(text) as { vocab_size?: unknown };
  if (typeof vocabSize === 'number') checkTokenizerFits(tokenizer, vocabSize);
}

async function tokenizeSplit(
  pairs: PreferencePair[],
  tokenizer: Tokenizer,
  options: EncodeOptions,
  hooks: { signal: AbortSignal | undefined; onPair: () => void },
): Promise<TokenizedSplit> {
  const split: TokenizedSplit = { pairs: [], dropped: [], withSpecials: 0 };
  // Under `error` the rows are collected first, so that all of them are reported together.
  const overlength = options.overlength === 'error' ? 'drop' : options.overlength;
  let turnStart = performance.now();
  for (const pair of pairs) {
    hooks.signal?.throwIfAborted();
    const result = encodePair(pair, tokenizer, { ...options, overlength });
    if ('encoded' in result) {
      split.pairs.push(result.encoded);
      if (hasSpecials(result.encoded, tokenizer)) split.withSpecials++;
    } else {
      split.dropped.push({ row: pair.row, reason: result.dropped, isOverlength: result.isOverlength ?? false });
    }
    hooks.onPair();
    if (performance.now() - turnStart < TURN_MS) continue;
    await nextTurn();
    turnStart = performance.now();
  }
  return split;
}

/** A special token inside an answer was text such as "<|im_end|>" in the source. TRL's doubled end token is none. */
function hasSpecials({ chosen, rejected }: EncodedPair, tokenizer: Tokenizer): boolean {
  return [chosen, rejected].some(({ ids, promptLength }) => {
    const end = ids.at(-1);
    return ids.slice(promptLength, -1).some((id) => id !== end && tokenizer.specialIds.has(id));
  });
}

function checkSplits(tokenized: Partial<Record<SplitName, TokenizedSplit>>, config: RunConfig): void {
  const found = SPLITS.flatMap((name) => {
    const split = tokenized[name];
    return split === undefined ? [] : [{ name, ...split }];
  });
  const dropped = found.flatMap((split) => split.dropped);
  if (config.data.overlength === 'error' && dropped.length > 0) {
    throw refused(`tokenize: ${dropped.length} rows cannot be used and data.overlength is "error"`, dropped);
  }
  const emptied = found.find((split) => split.pairs.length === 0);
  if (emptied !== undefined) {
    throw refused(
      `tokenize: all ${emptied.dropped.length} rows of the ${emptied.name} split are left out`,
      emptied.dropped,
    );
  }
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

async function writeSplits(
  tokenized: Partial<Record<SplitName, TokenizedSplit>>,
  to: { folder: string; promptFormat: string; signal: AbortSignal | undefined },
): Promise<TokensRef> {
  const write = async (name: SplitName): Promise<ArtifactRef | null> => {
    const path = join(to.folder, `tokens-${name}.parquet`);
    const split = tokenized[name];
    if (split !== undefined) return writeTokens(path, split.pairs, { signal: to.signal });
    await rm(path, { force: true });
    return null;
  };
  const train = await write('train');
  if (train === null) throw new DatasetInvalid('tokenize: there is no train split; run load-and-split again');
  const splits = { train, validation: await write('validation'), test: await write('test') };
  const count = (name: SplitName) => tokenized[name]?.pairs.length ?? 0;
  const counts = { train: count('train'), validation: count('validation'), test: count('test') };
  const dropped = SPLITS.reduce((sum, name) => sum + (tokenized[name]?.dropped.length ?? 0), 0);
  const withSpecials = SPLITS.reduce((sum, name) => sum + (tokenized[name]?.withSpecials ?? 0), 0);
  const warnings = [
    ...(dropped > 0 ? [`${dropped} rows were left out while tokenizing; see data/tokens-report.json`] : []),
    ...(withSpecials > 0 ? [`${withSpecials} pairs have special tokens of the model in their answers' text`] : []),
  ];
  const report = { promptFormat: to.promptFormat, warnings, splits: reportSplits(tokenized) };
  await writeFileAtomic(join(to.folder, 'tokens-report.json'), `${JSON.stringify(report, null, 2)}\n`);
  return { counts, dropped, splits, warnings };
}

function reportSplits(tokenized: Partial<Record<SplitName, TokenizedSplit>>): Partial<Record<SplitName, SplitTokens>> {
  const report: Partial<Record<SplitName, SplitTokens>> = {};
  for (const name of SPLITS) {
    const split = tokenized[name];
    if (split === undefined) continue;
    const { pairs, dropped } = split;
    report[name] = {
      pairs: pairs.length,
      dropped,
      prompt: lengthStats(pairs.map(({ chosen }) => chosen.promptLength)),
      chosen: lengthStats(pairs.map(({ chosen }) => chosen.ids.length - chosen.promptLength)),
      rejected: lengthStats(pairs.map(({ rejected }) => rejected.ids.length - rejected.promptLength)),
    };
  }
  return report;
}
