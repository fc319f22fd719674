/**
 * Greedy answers to a few held-out prompts, chosen once for all: what a person reads to see what training did.
 */
import { join } from 'node:path';
import { writeFileAtomic } from '../checkpoint/atomic.ts';
import type { EncodedPair } from '../data/encoded.ts';
import { SAMPLES_FILE, samplesMarkdown, type Sample } from '../report/samples.ts';
import type { TrainStep } from '../step/index.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';

export const SAMPLE_COUNT = 6;
export const MAX_NEW_TOKENS = 64;
export const SAMPLES_PAGE = 'samples.md';

export interface Answer {
  row: number;
  text: string;
  tokens: number;
  /** Whether an end token came within the limit. */
  ended: boolean;
}

/** A sample as it stands in samples.json. */
export interface SampleRow extends Sample {
  row: number;
  endedBefore: boolean;
  endedAfter: boolean;
}

/** Pairs of distinct prompts, spread evenly over the split. */
export function choosePrompts(pairs: readonly EncodedPair[], count = SAMPLE_COUNT): EncodedPair[] {
  const byPrompt = new Map(pairs.map((pair) => [promptOf(pair).join(' '), pair]));
  const distinct = [...byPrompt.values()];
  const wanted = Math.min(count, distinct.length);
  return Array.from({ length: wanted }, (_, index) => Math.floor((index * distinct.length) / wanted)).flatMap(
    (place) => distinct[place] ?? [],
  );
}

/** Ids that end an answer: EOS and the special tokens that the data's answers end with. */
export function endIdsOf(pairs: readonly EncodedPair[], { eosId, specialIds }: Tokenizer): number[] {
  const last = pairs.flatMap(({ chosen }) => chosen.ids.at(-1) ?? []).filter((id) => specialIds.has(id));
  return [...new Set([...(eosId === null ? [] : [eosId]), ...last])];
}

/** @param endIds - see endIdsOf */
export async function answer(
  engine: TrainStep,
  tokenizer: Tokenizer,
  pair: EncodedPair,
  endIds: number[],
): Promise<Answer> {
  const ids = await engine.generate(promptOf(pair), { maxNewTokens: MAX_NEW_TOKENS, endIds });
  const text = tokenizer.decode(ids, { skipSpecialTokens: true });
  return { row: pair.row, text, tokens: ids.length, ended: ids.length < MAX_NEW_TOKENS };
}

/** samples.json and samples.md. @throws DiskFull */
export async function writeSamples(
  output: string,
  tokenizer: Tokenizer,
  pairs: readonly EncodedPair[],
  { before, after }: { before: readonly Answer[]; after: readonly Answer[] },
): Promise<void> {
  const samples: SampleRow[] = choosePrompts(pairs).flatMap((pair, index) => {
    const [first, second] = [before[index], after[index]];
    if (!first || !second) return [];
    const texts = { prompt: promptText(tokenizer, pair), before: first.text, after: second.text };
    const references = { chosen: answerText(tokenizer, pair.chosen), rejected: answerText(tokenizer, pair.rejected) };
    return [{ row: pair.row, ...texts, ...references, endedBefore: first.ended, endedAfter: second.ended }];
  });
  await writeFileAtomic(join(output, SAMPLES_FILE), `${JSON.stringify(samples, null, 2)}\n`);
  await writeFileAtomic(join(output, SAMPLES_PAGE), samplesMarkdown(samples));
}

/** The prompt as its author wrote it: what the chat template put around a single user message is taken off. */
export function promptText(tokenizer: Tokenizer, pair: EncodedPair): string {
  const ids = promptOf(pair);
  const whole = tokenizer.decode(ids, { skipSpecialTokens: false });
  const [head, tail] = frameOf(tokenizer);
  if (tail !== '' && whole.startsWith(head) && whole.endsWith(tail)) return whole.slice(head.length, -tail.length);
  return tokenizer.decode(ids, { skipSpecialTokens: true });
}

/** What the template writes before and after a user's message. */
function frameOf(tokenizer: Tokenizer): [string, string] {
  if (tokenizer.chatTemplate === null) return ['', ''];
  const mark = 'MESSAGE';
  const rendered = tokenizer.renderChat([{ role: 'user', content: mark }], { addGenerationPrompt: true });
  const place = rendered.lastIndexOf(mark);
  return [rendered.slice(0, place), rendered.slice(place + mark.length)];
}

function answerText(tokenizer: Tokenizer, { ids, promptLength }: EncodedPair['chosen']): string {
  return tokenizer.decode(ids.slice(promptLength), { skipSpecialTokens: true });
}

function promptOf({ chosen }: EncodedPair): number[] {
  return chosen.ids.slice(0, chosen.promptLength);
}
