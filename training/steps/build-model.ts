/**
 * The build-model step: finds the base, verifies all of it, and decides once what `auto` means for this run. No tensors
 * are computed here, and TensorFlow is not loaded.
 */
import { hostname, totalmem } from 'node:os';
import { constrainedMemory } from 'node:process';
import type { RunConfig } from '../../shared/config.ts';
import { ConfigInvalid, EnvironmentIncomplete, InsufficientMemory, ModelInvalid } from '../../shared/errors.ts';
import type { ArtifactRef, EngineFingerprint, ModelRef, TokensRef } from '../../shared/records.ts';
import { adapterTensors, mustFitBase, readAdapterShape } from '../checkpoint/adapter.ts';
import { createTensorDigest } from '../checkpoint/digest.ts';
import { readTokens } from '../data/split-files.ts';
import { resolveBase, type ResolveOptions } from '../hub/resolve.ts';
import type { ModelConfig } from '../model/config.ts';
import { stepMemoryBytes, type StepSize } from '../model/memory.ts';
import { expectedTensors, openWeights, type Weights } from '../model/weights.ts';
import { checkTokenizerFits, loadTokenizer } from '../tokenizer/load.ts';

/** What a worker knows of its engine. */
export interface EngineInfo {
  /** Name and version, with what proves it: `libtensorflow 2.21.0 (2b847d217b02ee77)`. */
  library: string;
  device: 'cpu' | 'gpu';
  /** Used where the config says `auto`. */
  threads: number;
  cpuModel: string;
  /** Memory that training may use; default is this machine's, or its container's limit. */
  memoryBytes?: number;
}

export interface BuildModelInput extends Omit<ResolveOptions, 'cacheDir'> {
  config: RunConfig;
  /** Tokenised splits: their longest row decides memory. null takes the config's limits. */
  tokens: TokensRef | null;
  cacheDir: string;
  engine: EngineInfo;
}

/** Tokens computed at once beyond which a device gains nothing from more. */
const USEFUL_TOKENS = { cpu: 2048, gpu: 32_768 };
/** Share of memory that `microBatch: auto` fills at most; the rest is for the estimate's error and for others. */
const AUTO_SHARE = 0.5;

/** Resolves and verifies the base, counts parameters, estimates memory.
 *  @throws ModelNotFound, ModelInvalid, TokenizerMismatch; ConfigInvalid where config and model do not fit together;
 *  InsufficientMemory; EnvironmentIncomplete where a GPU is asked for and the engine has none */
export async function buildModel(input: BuildModelInput): Promise<ModelRef> {
  const { config, engine } = input;
  checkDevice(config, engine);
  const base = await resolveBase(config.model, input);
  const weights = await openWeights(base.folder);
  checkTokenizerFits(await loadTokenizer(base.folder), weights.config.vocab_size);
  const parameters = countValues(expectedTensors(weights.config));
  const { trainable, rank } = await countTrainable(config.method, weights.config, parameters);
  const lengths = await rowLengths(input);
  checkContext(config, lengths.longest, weights.config);
  const size = { parameters, trainable, rank, method: config.method.kind, longest: lengths.longest };
  const microBatch = chooseMicroBatch(config, size, weights.config, lengths.mean, engine);
  const memoryEstimateBytes = checkMemory(weights.config, { ...size, microBatch }, engine);
  const weightsSha256 = await digestWeights(base.folder, weights, input);
  const { method } = config;
  if (method.kind === 'lora' && method.initFrom !== null) await mustFitBase(method.initFrom, weightsSha256);
  return {
    folder: base.folder,
    source: base.source,
    weightsSha256,
    modelType: weights.config.model_type,
    parameters,
    trainable,
    memoryEstimateBytes,
    engine: fingerprint(config, engine, microBatch),
  };
}

function checkDevice({ engine: { device } }: RunConfig, engine: EngineInfo): void {
  if (!device.startsWith('gpu') || engine.device === 'gpu') return;
  throw new EnvironmentIncomplete(
    `engine.device is "${device}" but the engine of host ${hostname()} runs on the CPU; start a worker on a machine with a GPU, or set engine.device to "auto" or "cpu"`,
  );
}

function countValues(shapes: Record<string, number[]>): number {
  return Object.values(shapes).reduce((sum, shape) => sum + shape.reduce((product, n) => product * n, 1), 0);
}

async function countTrainable(
  method: RunConfig['method'],
  model: ModelConfig,
  parameters: number,
): Promise<{ trainable: number; rank: number }> {
  if (method.kind === 'full') return { trainable: parameters, rank: 0 };
  const shape = method.initFrom === null ? method : await readAdapterShape(method.initFrom);
  return { trainable: countValues(adapterTensors(shape, model)), rank: shape.rank };
}

/** Longest and mean sequence over all splits. */
async function rowLengths({ config, tokens, signal }: BuildModelInput): Promise<{ longest: number; mean: number }> {
  const limit = config.data.maxPromptLength + config.data.maxCompletionLength;
  const lengths: number[] = [];
  const splits: (ArtifactRef | null)[] = tokens ? Object.values(tokens.splits) : [];
  for (const split of splits) {
    signal?.throwIfAborted();
    if (!split) continue;
    for (const { chosen, rejected } of await readTokens(split.uri))
      lengths.push(chosen.ids.length, rejected.ids.length);
  }
  if (lengths.length === 0) return { longest: limit, mean: limit };
  return {
    longest: lengths.reduce((longest, length) => Math.max(longest, length), 0),
    mean: lengths.reduce((sum, length) => sum + length, 0) / lengths.length,
  };
}

function checkContext({ data }: RunConfig, longest: number, model: ModelConfig): void {
  if (longest <= model.max_position_embeddings) return;
  throw new ConfigInvalid(
    `data: the longest row has ${longest} tokens but the model reads ${model.max_position_embeddings} (max_position_embeddings); ` +
      `lower data.maxPromptLength (${data.maxPromptLength}) or data.maxCompletionLength (${data.maxCompletionLength})`,
  );
}

type SizeWithoutBatch = Omit<StepSize, 'microBatch'>;

/** `auto`: as many pairs as fill the device usefully and half the memory safely. Where micro-batches are part of the
 *  result (nllReduction "micro-batch") it is the whole batch, whatever the machine. */
function chooseMicroBatch(
  { engine: { microBatch }, training: { batchSize }, orpo }: RunConfig,
  size: SizeWithoutBatch,
  model: ModelConfig,
  meanLength: number,
  engine: EngineInfo,
): number {
  if (microBatch !== 'auto') return Math.min(microBatch, batchSize);
  if (orpo.nllReduction === 'micro-batch') return batchSize;
  const useful = Math.max(1, Math.floor(USEFUL_TOKENS[engine.device] / (2 * meanLength)));
  let chosen = Math.min(batchSize, useful);
  while (chosen > 1 && stepMemoryBytes(model, { ...size, microBatch: chosen }) > AUTO_SHARE * memoryOf(engine))
    chosen--;
  return chosen;
}

/** Memory of this machine, or what its container may use. */
function memoryOf({ memoryBytes }: EngineInfo): number {
  if (memoryBytes !== undefined) return memoryBytes;
  const limit = constrainedMemory() ?? 0;
  return limit > 0 ? Math.min(totalmem(), limit) : totalmem();
}

function checkMemory(model: ModelConfig, size: StepSize, engine: EngineInfo): number {
  const needed = Math.round(stepMemoryBytes(model, size));
  const available = memoryOf(engine);
  if (needed <= available) return needed;
  const advice =
    size.microBatch > 1
      ? 'set engine.microBatch to 1 or "auto"'
      : 'lower data.maxPromptLength and data.maxCompletionLength';
  throw new InsufficientMemory(
    `host ${hostname()} has ${gigabytes(available)} of memory; a training step of ${size.microBatch} ${size.microBatch === 1 ? 'pair' : 'pairs'} of up to ${size.longest} tokens needs about ${gigabytes(needed)}. ` +
      `To need less: ${advice}${size.method === 'full' ? ', use method.kind "lora"' : ''}, or choose a smaller model`,
  );
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

/** Reads every base tensor once. @throws ModelInvalid when one holds a value that is not finite */
async function digestWeights(
  folder: string,
  weights: Weights,
  { onProgress, signal }: BuildModelInput,
): Promise<string> {
  const digest = createTensorDigest();
  for (const [index, name] of weights.names.entries()) {
    signal?.throwIfAborted();
    const values = await weights.read(name);
    const bad = firstNotFinite(values);
    if (bad >= 0) {
      throw new ModelInvalid(
        `${folder}: ${name} holds ${values[bad]} at place ${bad}; the weights are damaged, fetch them again`,
      );
    }
    digest.add(name, weights.shapeOf(name), values);
    onProgress?.({ what: 'verifying weights', done: index + 1, total: weights.names.length, unit: 'tensors' });
  }
  return digest.hex();
}

/** A plain loop: findIndex takes ten times as long on 10^8 values. @returns −1 where all are finite */
function firstNotFinite(values: Float32Array): number {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return i;
  return -1;
}

function fingerprint({ engine: asked }: RunConfig, engine: EngineInfo, microBatch: number): EngineFingerprint {
  return {
    library: engine.library,
    device: asked.device === 'cpu' ? 'cpu' : engine.device,
    step: 'eager',
    precision: 'float32',
    threads: asked.threads === 'auto' ? engine.threads : asked.threads,
    microBatch,
    cpuModel: engine.cpuModel,
  };
}
