/**
 * Train, validation and test: where a pair goes is a function of hash(splitSeed, normalised prompt) and the fractions
 * alone. So adding rows never moves old ones, and pairs of one prompt, also of prompts that differ in case or spacing,
 * stay together. Balance across lengths is reported, not forced.
 */
import { DatasetInvalid } from '../../shared/errors.ts';
import { stableFraction } from '../random.ts';
import type { PreferencePair, TextOrMessages } from './preference.ts';
import { textLength } from './report.ts';

export const SPLITS = ['train', 'validation', 'test'] as const;
export type SplitName = (typeof SPLITS)[number];

export interface SplitOptions {
  validationFraction: number;
  testFraction: number;
  splitSeed: number;
}

/** How alike the splits are. */
export interface SplitBalance {
  pairs: number;
  /** Distinct prompts. */
  prompts: number;
  /** Mean characters of prompt, chosen and rejected. */
  meanPrompt: number;
  meanChosen: number;
  meanRejected: number;
  /** Share of pairs whose chosen answer is the longer one. */
  chosenLonger: number;
}

export type Splits = Record<SplitName, PreferencePair[]> & { balance: Record<SplitName, SplitBalance> };

/** Divides pairs by their prompts, each split in the source's order.
 *  @throws DatasetInvalid if a split with a share above 0 comes out empty, saying how many rows it takes */
export function splitPairs(pairs: PreferencePair[], options: SplitOptions): Splits {
  const splits: Record<SplitName, PreferencePair[]> = { train: [], validation: [], test: [] };
  for (const pair of pairs) splits[splitOf(pair.prompt, options)].push(pair);
  checkNotEmpty(splits, options);
  const balance = {
    train: balanceOf(splits.train),
    validation: balanceOf(splits.validation),
    test: balanceOf(splits.test),
  };
  return { ...splits, balance };
}

/** The split of a prompt: test below testFraction, validation next, train above. */
export function splitOf(prompt: TextOrMessages, options: SplitOptions): SplitName {
  const at = stableFraction('split', options.splitSeed, normalisePrompt(prompt));
  if (at < options.testFraction) return 'test';
  return at < options.testFraction + options.validationFraction ? 'validation' : 'train';
}

/** What makes two prompts one: compatibility characters, case and white space do not tell them apart (Unicode NFKC).
 *  A conversation of a single user message is the same as its text. */
export function normalisePrompt(prompt: TextOrMessages): string {
  if (typeof prompt === 'string') return normaliseText(prompt);
  const [only] = prompt;
  if (prompt.length === 1 && only?.role === 'user') return normaliseText(only.content);
  return JSON.stringify(prompt.map(({ role, content }) => [role, normaliseText(content)]));
}

function normaliseText(text: string): string {
  return text.normalize('NFKC').toLowerCase().replace(/\s+/g, ' ').trim();
}

function checkNotEmpty(splits: Record<SplitName, PreferencePair[]>, options: SplitOptions): void {
  const { validationFraction, testFraction } = options;
  const shares = { train: 1 - validationFraction - testFraction, validation: validationFraction, test: testFraction };
  const empty = SPLITS.filter((name) => shares[name] > 0 && splits[name].length === 0);
  if (empty.length === 0) return;
  const prompts = new Set(SPLITS.flatMap((name) => splits[name].map(({ prompt }) => normalisePrompt(prompt)))).size;
  const problems = empty.map((name) => {
    const field = name === 'train' ? 'what validationFraction and testFraction leave' : `${name}Fraction`;
    return (
      `split: no row falls into ${name} (${field}: ${round(shares[name])}; distinct prompts: ${prompts}). ` +
      `It takes about ${promptsNeeded(shares[name])} rows with distinct prompts to be sure; add rows, ` +
      (name === 'train' ? 'lower the two fractions' : `raise data.${field} or set it to 0`) +
      ', or try another data.splitSeed'
    );
  });
  throw new DatasetInvalid(problems.join('\n'), { problems });
}

/** Prompts with which a share comes out empty in one case of a hundred: (1 − share)^n = 0.01. */
function promptsNeeded(share: number): number {
  return share >= 1 ? 1 : Math.ceil(Math.log(0.01) / Math.log1p(-share));
}

function balanceOf(pairs: PreferencePair[]): SplitBalance {
  const mean = (part: 'prompt' | 'chosen' | 'rejected') =>
    round(pairs.reduce((sum, pair) => sum + textLength(pair[part]), 0) / Math.max(1, pairs.length));
  const longer = pairs.filter(({ chosen, rejected }) => textLength(chosen) > textLength(rejected)).length;
  return {
    pairs: pairs.length,
    prompts: new Set(pairs.map(({ prompt }) => normalisePrompt(prompt))).size,
    meanPrompt: mean('prompt'),
    meanChosen: mean('chosen'),
    meanRejected: mean('rejected'),
    chosenLonger: round(longer / Math.max(1, pairs.length)),
  };
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
