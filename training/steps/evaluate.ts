/**
 * What did training change? Base and tuned model on the held-out split: scores of every pair, metrics, intervals of the
 * differences, and answers to a few prompts. Each side is written as soon as it is done, so that another attempt only
 * does what is missing; the same inputs give the same files.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { RunConfig } from '../../shared/config.ts';
import { Preempted } from '../../shared/errors.ts';
import type { CheckpointRef, EvaluationResult, ModelRef, TokensRef } from '../../shared/records.ts';
import { compareScores } from '../bootstrap.ts';
import { writeFileAtomic } from '../checkpoint/atomic.ts';
import { loadCheckpoint } from '../checkpoint/checkpoint.ts';
import { canonicalJson, hashPairs, mustBelong } from '../checkpoint/identity.ts';
import type { EncodedPair } from '../data/encoded.ts';
import { evaluateSplit, shorterWins } from '../evaluate.ts';
import { metricsOf } from '../orpo.ts';
import { prefixed } from '../report/metrics.ts';
import { createEagerStep } from '../step/eager.ts';
import type { PairScores, TrainState, TrainStep } from '../step/index.ts';
import { loadTokenizer } from '../tokenizer/load.ts';
import { answer, choosePrompts, endIdsOf, writeSamples, type Answer } from './answers.ts';
import { readSplit } from './segment.ts';
import type { SegmentHooks } from './train-segment.ts';

export const EVALUATION_FILE = 'evaluation.json';

export interface EvaluateInput {
  config: RunConfig;
  output: string;
  configHash: string;
  model: ModelRef;
  tokens: TokensRef;
  /** The tuned weights. */
  from: CheckpointRef;
}

export interface EvaluateDeps {
  createStep: typeof createEagerStep;
}

/** evaluation.json: the result and what it was made of. */
export interface EvaluationFile extends EvaluationResult {
  step: number;
  interval: { level: number; resamples: number; seed: number };
  rows: { row: number; chosenTokens: number; rejectedTokens: number; before: PairScores; after: PairScores }[];
}

/** One model's part: kept on disk under the key of what it was made from. */
interface Side {
  key: string;
  scores: PairScores[];
  answers: Answer[];
}

interface Evaluation {
  input: EvaluateInput;
  hooks: SegmentHooks;
  deps: EvaluateDeps;
  split: EvaluationResult['split'];
  pairs: EncodedPair[];
}

const INTERVAL = { level: 0.95, resamples: 10_000, seed: 0 };

/** Scores the test split (the validation split where there is no test split) before and after training.
 *  @returns null where neither split has pairs  @throws CheckpointIncompatible, DatasetInvalid, DiskFull; Preempted when
 *  asked to stop, what is done then kept */
export async function evaluateRun(
  input: EvaluateInput,
  hooks: SegmentHooks,
  deps: EvaluateDeps = { createStep: createEagerStep },
): Promise<EvaluationResult | null> {
  const { splits, counts } = input.tokens;
  const split = splits.test && counts.test > 0 ? 'test' : 'validation';
  const file = splits[split];
  if (!file || counts[split] === 0) return null;
  const evaluation = { input, hooks, deps, split, pairs: await readSplit(file) } as const;
  const before = await baseSide(evaluation);
  const after = await tunedSide(evaluation);
  const result = resultOf(evaluation, before, after);
  await writeEvaluation(evaluation, result, before, after);
  await writeSamples(input.output, await loadTokenizer(input.model.folder), evaluation.pairs, {
    before: before.answers,
    after: after.answers,
  });
  return result;
}

/** The base alone, without adapter. */
function baseSide(evaluation: Evaluation): Promise<Side> {
  return side(evaluation, 'before', 'base', null, null);
}

async function tunedSide(evaluation: Evaluation): Promise<Side> {
  const { config, model, from } = evaluation.input;
  const { meta, state } = await loadCheckpoint(from.uri, from.sha256);
  const identity = { ...meta.identity, base: model.weightsSha256, method: canonicalJson(config.method) };
  mustBelong(meta, from.uri, { lineage: meta.lineage, identity });
  return side(evaluation, 'after', from.sha256, config.method, state);
}

/** @param weights - names the weights in the key  @param state - null leaves the engine as it begins */
async function side(
  evaluation: Evaluation,
  name: 'before' | 'after',
  weights: string,
  method: RunConfig['method'] | null,
  state: TrainState | null,
): Promise<Side> {
  const { input, deps, pairs, hooks } = evaluation;
  const { config, model, output } = input;
  const path = join(output, 'evaluation', `${name}.json`);
  const key = canonicalJson({ base: model.weightsSha256, weights, pairs: hashPairs(pairs), orpo: config.orpo });
  const kept = await readSide(path, key);
  if (kept) return kept;
  hooks.onProgress({ phase: 'load' });
  const engine = await deps.createStep({
    baseFolder: model.folder,
    method,
    orpo: config.orpo,
    weightDecay: config.training.weightDecay,
    maxGradNorm: config.training.maxGradNorm,
    seed: config.training.seed,
    microBatch: model.engine.microBatch,
    onProgress: () => hooks.onProgress({ phase: 'evaluate' }),
  });
  try {
    if (state) await engine.writeState(state);
    const made = { key, ...(await measure(evaluation, engine)) };
    await writeFileAtomic(path, `${JSON.stringify(made)}\n`);
    return made;
  } finally {
    engine.dispose();
  }
}

async function measure({ input, hooks, pairs }: Evaluation, engine: TrainStep): Promise<Omit<Side, 'key'>> {
  const isAskedToStop = (): boolean => hooks.signal?.aborted === true || (hooks.stopRequest?.() ?? null) !== null;
  const evaluated = await evaluateSplit(engine, pairs, {
    orpo: input.config.orpo,
    batchSize: input.config.training.batchSize,
    onBatch: (done, total) => hooks.onProgress({ phase: 'evaluate', done, total }),
    shouldStop: isAskedToStop,
  });
  if (!evaluated) throw leave();
  const tokenizer = await loadTokenizer(input.model.folder);
  const endIds = endIdsOf(pairs, tokenizer);
  const answers: Answer[] = [];
  for (const pair of choosePrompts(pairs)) {
    if (isAskedToStop()) throw leave();
    answers.push(await answer(engine, tokenizer, pair, endIds));
    hooks.onProgress({ phase: 'evaluate', done: pairs.length, total: pairs.length });
  }
  return { scores: evaluated.scores, answers };
}

function leave(): Preempted {
  return new Preempted('evaluation: asked to leave; what is measured so far is kept, the next attempt does the rest');
}

/** A part that is not there, cut short, or of other weights or pairs is made anew. */
async function readSide(path: string, key: string): Promise<Side | null> {
  try {
    const side = JSON.parse(await readFile(path, 'utf8')) as Side;
    return side.key === key ? side : null;
  } catch {
    return null;
  }
}

function resultOf({ input, split, pairs }: Evaluation, before: Side, after: Side): EvaluationResult {
  const { orpo } = input.config;
  return {
    split,
    pairs: pairs.length,
    before: prefixed('eval_', metricsOf(before.scores, orpo)),
    after: prefixed('eval_', metricsOf(after.scores, orpo)),
    differences: compareScores(before.scores, after.scores, INTERVAL),
    shorterWins: shorterWins(pairs),
  };
}

async function writeEvaluation(
  { input, pairs }: Evaluation,
  result: EvaluationResult,
  before: Side,
  after: Side,
): Promise<void> {
  const rows = pairs.flatMap(({ row, chosen, rejected }, index) => {
    const [first, second] = [before.scores[index], after.scores[index]];
    const chosenTokens = chosen.ids.length - chosen.promptLength;
    const rejectedTokens = rejected.ids.length - rejected.promptLength;
    return first && second ? [{ row, chosenTokens, rejectedTokens, before: first, after: second }] : [];
  });
  const file: EvaluationFile = { ...result, step: input.from.step, interval: INTERVAL, rows };
  await writeFileAtomic(join(input.output, EVALUATION_FILE), `${JSON.stringify(file, null, 1)}\n`);
}
