/**
 * The optimiser step, op by op: the definition that any faster implementation must equal. A step is split into
 * micro-batches of pairs of similar length; their gradients sum to the whole step's exactly; then clipping and AdamW.
 * Nothing changes until loss and gradient are known to be finite.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { RunConfig } from '../../shared/config.ts';
import { CheckpointIncompatible, ConfigInvalid, NonFiniteLoss } from '../../shared/errors.ts';
import type { EncodedPair } from '../data/encoded.ts';
import { generateGreedy } from '../generate.ts';
import type { Decoder, Keep } from '../model/decoder.ts';
import type { Gradients } from '../model/layers.ts';
import { disposeDecoder, loadDecoder } from '../model/load.ts';
import type { DropoutSource } from '../model/lora.ts';
import { adamwInit, adamwUpdate, isDecayed, type AdamWState } from '../optim/adamw.ts';
import { clipFactor, globalNorm } from '../optim/clip.ts';
import { metricsOf } from '../orpo.ts';
import { dispose, nativeTensor, tf, type Tensor } from '../tf.ts';
import { buildMicroBatch, type MicroBatch } from './batch.ts';
import { microBatchGradients, scoreMicroBatch, type LossScale } from './gradient.ts';
import type { NamedArray, PairScores, StepResult, TrainState, TrainStep } from './index.ts';

export interface EagerStepOptions {
  /** Hugging Face folder of the base model. */
  baseFolder: string;
  /** null is the base model alone: it evaluates and generates. */
  method: RunConfig['method'] | null;
  orpo: RunConfig['orpo'];
  weightDecay: number;
  maxGradNorm: number | null;
  /** Of a fresh adapter and of dropout. */
  seed: number;
  /** Pairs computed at once. */
  microBatch: number;
  /** Compute layers again in backward instead of keeping their values: a third more time, a tenth of the memory.
   *  @default false */
  recompute?: boolean;
  /** Ends a call between micro-batches, the state unchanged. */
  signal?: AbortSignal;
  /** After each micro-batch: pairs done and all pairs of the call. */
  onProgress?: (done: number, total: number) => void;
}

/** All that lives while the step does. */
interface Engine {
  options: EagerStepOptions;
  decoder: Decoder;
  /** Names of what trains, sorted. */
  names: string[];
  optimiser: AdamWState;
  step: number;
}

/** Loads the base and what trains on it.
 *  @throws ModelNotFound, ModelInvalid, ConfigInvalid where files or method do not fit */
export async function createEagerStep(options: EagerStepOptions): Promise<TrainStep> {
  const decoder = await loadDecoder(options.baseFolder, options.method, options.seed);
  const trained = trainedTensors(decoder);
  const engine: Engine = {
    options,
    decoder,
    names: Object.keys(trained).sort(),
    optimiser: adamwInit(trained),
    step: 0,
  };
  return {
    step: (pairs, stepOptions) => runStep(engine, pairs, stepOptions),
    evaluate: (pairs) => evaluatePairs(engine, pairs),
    generate: (promptIds, generateOptions) => generateGreedy(decoder, promptIds, generateOptions, options.signal),
    readState: () => readState(engine),
    writeState: (state) => writeState(engine, state),
    trainableCount: Object.values(trained).reduce((sum, { size }) => sum + size, 0),
    dispose: () => {
      disposeDecoder(decoder);
      dispose(engine.optimiser);
    },
  };
}

/** The record that holds what trains: replaced tensors are put back into it. */
function trainedTensors(decoder: Decoder): Record<string, Tensor> {
  return decoder.trainsBase ? decoder.weights : (decoder.adapter?.weights ?? {});
}

async function runStep(
  engine: Engine,
  pairs: EncodedPair[],
  { learningRate, stepIndex }: { learningRate: number; stepIndex: number },
): Promise<StepResult> {
  const { orpo, microBatch, maxGradNorm, weightDecay } = engine.options;
  if (engine.names.length === 0)
    throw new ConfigInvalid('step: this is the base model alone, nothing trains; give a method');
  const groups = microBatches(pairs, microBatch, orpo.nllReduction !== 'micro-batch');
  const { gradients, scores, tokens } = await sumOverMicroBatches(engine, groups, stepIndex);
  try {
    const gradNorm = await globalNorm(gradients);
    const metrics = metricsOf(scores, { beta: orpo.beta, nllReduction: orpo.nllReduction, microBatch });
    mustBeFinite(metrics['loss'], gradNorm, scores, stepIndex);
    const factor = clipFactor(gradNorm, maxGradNorm);
    engine.step += 1;
    for (const name of engine.names)
      updateParameter(engine, name, gradients[name], factor, { learningRate, weightDecay });
    return { metrics: { ...metrics, grad_norm: gradNorm, learning_rate: learningRate }, tokens };
  } finally {
    dispose(gradients);
  }
}

/** Pairs computed together. Similar lengths share a micro-batch, so that little is padded; where the order is part of the
 *  result (TRL's mean of means) it is kept. */
function microBatches(pairs: EncodedPair[], size: number, sortByLength: boolean): EncodedPair[][] {
  const longest = ({ chosen, rejected }: EncodedPair) => Math.max(chosen.ids.length, rejected.ids.length);
  const ordered = sortByLength ? [...pairs].sort((a, b) => longest(b) - longest(a) || a.row - b.row) : pairs;
  return Array.from({ length: Math.ceil(pairs.length / size) }, (_, index) =>
    ordered.slice(index * size, (index + 1) * size),
  );
}

async function sumOverMicroBatches(engine: Engine, groups: EncodedPair[][], stepIndex: number) {
  const { decoder, options } = engine;
  const batches = groups.map((group) => buildMicroBatch(group, options.orpo.nllScope));
  const scale = lossScale(batches, options.orpo);
  const keep: Keep = options.recompute ? 'inputs' : 'all';
  const gradients: Gradients = {};
  const scores: PairScores[] = [];
  try {
    for (const batch of batches) {
      options.signal?.throwIfAborted();
      const part = microBatchGradients(decoder, batch, scale, dropoutOf(options, stepIndex), keep);
      accumulate(gradients, part.gradients);
      scores.push(...part.scores);
      options.onProgress?.(scores.length, scale.pairCount);
      // Native ops are synchronous: let messages and timers through.
      await nextTurn();
    }
  } catch (error) {
    dispose(gradients);
    throw error;
  } finally {
    dispose(batches);
  }
  return { gradients, scores, tokens: batches.reduce((sum, { tokenCount }) => sum + tokenCount, 0) };
}

function lossScale(batches: MicroBatch[], orpo: RunConfig['orpo']): LossScale {
  const counts = batches.flatMap(({ nllCounts }) => nllCounts);
  return {
    beta: orpo.beta,
    nllReduction: orpo.nllReduction,
    pairCount: counts.length,
    nllTokens: counts.reduce((sum, count) => sum + count, 0),
    microBatches: batches.length,
  };
}

function dropoutOf({ method, orpo, seed }: EagerStepOptions, stepIndex: number): DropoutSource | null {
  if (method?.kind !== 'lora' || method.dropout === 0 || orpo.disableDropout) return null;
  return { rate: method.dropout, seed, stepIndex };
}

/** Adds a part's gradients to the total and frees them. */
function accumulate(total: Gradients, part: Gradients): void {
  for (const [name, gradient] of Object.entries(part)) {
    const before = total[name];
    total[name] = before ? tf.add(before, gradient) : gradient;
    if (before) dispose([before, gradient]);
  }
}

function mustBeFinite(loss: number | undefined, gradNorm: number, scores: PairScores[], stepIndex: number): void {
  if (Number.isFinite(loss) && Number.isFinite(gradNorm)) return;
  const bad = scores.filter((pair) => !Number.isFinite(pair.logpChosen + pair.logpRejected + pair.nllSum));
  const rows = (bad.length > 0 ? bad : scores).map((pair) => pair.row).join(', ');
  throw new NonFiniteLoss(
    `training: step ${stepIndex + 1} has loss ${loss} and gradient norm ${gradNorm} (data rows ${rows}); both must be finite. ` +
      'No weight was changed. Lower training.learningRate, or look at these rows',
  );
}

function updateParameter(
  engine: Engine,
  name: string,
  gradient: Tensor | undefined,
  factor: number,
  { learningRate, weightDecay }: { learningRate: number; weightDecay: number },
): void {
  const { optimiser, step } = engine;
  const record = trainedTensors(engine.decoder);
  const [weight, first, second] = [record[name], optimiser.first[name], optimiser.second[name]];
  if (!weight || !first || !second || !gradient) throw new Error(`step: "${name}" has no weight, moments or gradient`);
  const clipped = tf.mul(gradient, factor);
  const next = adamwUpdate(
    { weight, gradient: clipped, first, second },
    { learningRate, weightDecay: isDecayed(name) ? weightDecay : 0, step },
  );
  dispose([clipped, weight, first, second]);
  record[name] = next.weight;
  optimiser.first[name] = next.first;
  optimiser.second[name] = next.second;
}

/** Scores in the order of the pairs, computed longest first. */
async function evaluatePairs(engine: Engine, pairs: EncodedPair[]): Promise<PairScores[]> {
  const { options, decoder } = engine;
  const scores = new Map<EncodedPair, PairScores>();
  for (const group of microBatches(pairs, options.microBatch, true)) {
    options.signal?.throwIfAborted();
    const batch = buildMicroBatch(group, options.orpo.nllScope);
    for (const [index, score] of scoreMicroBatch(decoder, batch).entries()) {
      const pair = group[index];
      if (pair) scores.set(pair, score);
    }
    dispose(batch);
    options.onProgress?.(scores.size, pairs.length);
    await nextTurn();
  }
  return pairs.flatMap((pair) => scores.get(pair) ?? []);
}

async function readState({ decoder, optimiser, names, step }: Engine): Promise<TrainState> {
  const trained = trainedTensors(decoder);
  return {
    weights: await toArrays(trained, names),
    firstMoments: await toArrays(optimiser.first, names),
    secondMoments: await toArrays(optimiser.second, names),
    step,
  };
}

async function toArrays(tensors: Record<string, Tensor>, names: string[]): Promise<Record<string, NamedArray>> {
  const arrays: Record<string, NamedArray> = {};
  for (const name of names) {
    const tensor = tensors[name];
    if (tensor) arrays[name] = { shape: [...tensor.shape], data: (await tensor.data()) as Float32Array };
  }
  return arrays;
}

/** Replaces weights, moments and step count. @throws CheckpointIncompatible listing every tensor that does not fit */
async function writeState(engine: Engine, state: TrainState): Promise<void> {
  const { decoder, optimiser, names } = engine;
  const trained = trainedTensors(decoder);
  const parts: [Record<string, Tensor>, Record<string, NamedArray>, string][] = [
    [trained, state.weights, 'weights'],
    [optimiser.first, state.firstMoments, 'firstMoments'],
    [optimiser.second, state.secondMoments, 'secondMoments'],
  ];
  const problems = parts.flatMap(([own, given, part]) => misfits(own, given, names, part));
  if (problems.length > 0) {
    throw new CheckpointIncompatible(
      `state: does not fit this model and method\n${problems
        .slice(0, 20)
        .map((p) => `  - ${p}`)
        .join('\n')}\n` + 'Resume with the config the checkpoint was made with, or start a new run',
      { problems },
    );
  }
  for (const [own, given] of parts) {
    for (const name of names) {
      const array = given[name];
      if (!array) continue;
      own[name]?.dispose();
      own[name] = nativeTensor(array.data, array.shape);
    }
    await nextTurn();
  }
  engine.step = state.step;
}

function misfits(
  own: Record<string, Tensor>,
  given: Record<string, NamedArray>,
  names: string[],
  part: string,
): string[] {
  const missing = names.filter((name) => !Object.hasOwn(given, name)).map((name) => `${part}: missing ${name}`);
  const unexpected = Object.keys(given).filter((name) => !names.includes(name));
  const wrong = names.filter((name) => given[name] && given[name].shape.join() !== own[name]?.shape.join());
  return [
    ...missing,
    ...unexpected.map((name) => `${part}: unexpected ${name}`),
    ...wrong.map(
      (name) => `${part}: ${name} is [${given[name]?.shape.join(', ')}], expected [${own[name]?.shape.join(', ')}]`,
    ),
  ];
}
