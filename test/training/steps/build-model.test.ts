import { cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { resolveConfig, type RunConfig } from '../../../shared/config.ts';
import {
  ConfigInvalid,
  EnvironmentIncomplete,
  InsufficientMemory,
  ModelInvalid,
  TokenizerMismatch,
} from '../../../shared/errors.ts';
import type { ArtifactRef, TokensRef } from '../../../shared/records.ts';
import { digestOf } from '../../../training/checkpoint/digest.ts';
import { openSafetensors, writeSafetensors } from '../../../training/checkpoint/safetensors.ts';
import type { EncodedPair } from '../../../training/data/encoded.ts';
import { writeTokens } from '../../../training/data/split-files.ts';
import type { ModelProgress } from '../../../training/hub/resolve.ts';
import { openWeights } from '../../../training/model/weights.ts';
import { buildModel, type EngineInfo } from '../../../training/steps/build-model.ts';
import { rejection, scratchFolder } from '../../helpers/scratch.ts';
import { makeTinyModel } from '../../helpers/tiny-model.ts';

const scratch = scratchFolder();
const folder = join(scratch, 'tiny');
const cacheDir = join(scratch, 'cache');
const ENGINE: EngineInfo = { library: 'lib 1', device: 'cpu', threads: 3, cpuModel: 'a CPU', memoryBytes: 8e9 };
let tokens: TokensRef;

beforeAll(async () => {
  await makeTinyModel(folder);
  tokens = await tokensOf([10, 20, 30]);
});

/** Tokenised training pairs whose two sequences have these lengths. */
async function tokensOf(lengths: number[]): Promise<TokensRef> {
  const sequence = (length: number) => ({ ids: new Array<number>(length).fill(5), promptLength: 2 });
  const pairs: EncodedPair[] = lengths.map((n, i) => ({ row: i + 1, chosen: sequence(n), rejected: sequence(n - 1) }));
  const train: ArtifactRef = await writeTokens(join(scratch, `${lengths.join('-')}.parquet`), pairs);
  const counts = { train: pairs.length, validation: 0, test: 0 };
  return { counts, dropped: 0, splits: { train, validation: null, test: null }, warnings: [] };
}

const configOf = (over: object = {}): RunConfig => resolveConfig({ model: folder, data: { source: 'x.csv' }, ...over });
const build = (over: object = {}, engine: Partial<EngineInfo> = {}, of: TokensRef | null = tokens) =>
  buildModel({ config: configOf(over), tokens: of, cacheDir, engine: { ...ENGINE, ...engine } });

describe('the model reference', () => {
  it('says what the base is, how much of it trains and on what', async () => {
    const progress: ModelProgress[] = [];
    const onProgress = (p: ModelProgress): void => void progress.push(p);
    const model = await buildModel({ config: configOf(), tokens, cacheDir, engine: ENGINE, onProgress });
    const weights = await openWeights(folder);
    const all: Record<string, { shape: number[]; data: Float32Array }> = {};
    for (const name of weights.names) all[name] = { shape: weights.shapeOf(name), data: await weights.read(name) };
    // Embedding 384·32, norms 5·32, and per layer q, o 32·32, k, v 16·32, three of 64·32.
    expect(model).toMatchObject({
      folder,
      source: `folder ${folder}`,
      weightsSha256: digestOf(all),
      modelType: 'llama',
      parameters: 384 * 32 + 5 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32),
      // r·(in + out) of each projection, r = 16.
      trainable: 2 * 16 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64)),
      engine: {
        ...{ library: 'lib 1', device: 'cpu', step: 'eager', precision: 'float32' },
        ...{ threads: 3, microBatch: 8, cpuModel: 'a CPU' },
      },
    });
    expect(progress.at(-1)).toEqual({ what: 'verifying weights', done: 20, total: 20, unit: 'tensors' });
  });

  it('counts what each method trains', async () => {
    const some = { kind: 'lora', rank: 4, alpha: 8, targetModules: ['q_proj', 'v_proj'], layers: [1] };
    expect((await build({ method: some })).trainable).toBe(4 * (32 + 32 + 32 + 16));
    const full = await build({ method: { kind: 'full' } });
    expect(full.trainable).toBe(full.parameters);
    const error = await rejection(build({ method: { kind: 'lora', targetModules: ['c_attn'] } }));
    expect(error).toBeInstanceOf(ConfigInvalid);
    expect(error.message).toContain('the model has no projection "c_attn"');
  });

  it('is the same digest for half-precision weights of equal values, another for other weights', async () => {
    const [half, twin, other] = ['half', 'twin', 'other'].map((name) => join(scratch, name));
    await makeTinyModel(half ?? '', { dtype: 'BF16' });
    await makeTinyModel(other ?? '', { seed: 2 });
    await cp(half ?? '', twin ?? '', { recursive: true });
    const file = await openSafetensors(join(half ?? '', 'model.safetensors'));
    const widened = await Promise.all(
      file.names.map(async (name) => {
        const shape = file.entries.get(name)?.shape ?? [];
        return { name, dtype: 'F32' as const, shape, data: await file.readFloat32(name) };
      }),
    );
    await writeSafetensors(join(twin ?? '', 'model.safetensors'), widened);
    const digest = async (model = '') => (await build({ model })).weightsSha256;
    expect(await digest(twin)).toBe(await digest(half));
    expect(await digest(other)).not.toBe(await digest(folder));
  });
});

describe('what auto means', () => {
  const SEQUENCES = 500;

  it('threads and micro-batch given are kept, the micro-batch within the batch', async () => {
    const { engine } = await build({ engine: { threads: 1, microBatch: 2 } });
    expect([engine.threads, engine.microBatch]).toEqual([1, 2]);
  });

  it('fewer pairs at once where rows are long', async () => {
    const long = await tokensOf([SEQUENCES, SEQUENCES]);
    expect((await build({}, {}, long)).engine.microBatch).toBe(2);
    expect((await build({}, { device: 'gpu' }, long)).engine.microBatch).toBe(8);
  });

  it('fewer pairs at once where memory is short', async () => {
    const long = await tokensOf([SEQUENCES, SEQUENCES]);
    expect((await build({}, { device: 'gpu', memoryBytes: 1.5e9 }, long)).engine.microBatch).toBeLessThan(8);
  });

  it('the whole batch where micro-batches are part of the result', async () => {
    const long = await tokensOf([SEQUENCES, SEQUENCES]);
    expect((await build({ orpo: { nllReduction: 'micro-batch' } }, {}, long)).engine.microBatch).toBe(8);
  });

  it('the limits of the config stand in for unknown rows', async () => {
    const known = await build({}, {}, tokens);
    const unknown = await build({ data: { source: 'x', maxPromptLength: 100, maxCompletionLength: 100 } }, {}, null);
    expect(unknown.memoryEstimateBytes).toBeGreaterThan(known.memoryEstimateBytes);
  });
});

describe('what does not fit together', () => {
  it('a row longer than the context', async () => {
    const error = await rejection(build({}, {}, await tokensOf([513])));
    expect(error).toBeInstanceOf(ConfigInvalid);
    expect(error.message).toBe(
      'data: the longest row has 513 tokens but the model reads 512 (max_position_embeddings); lower data.maxPromptLength (512) or data.maxCompletionLength (1024)',
    );
  });

  it('more than the memory', async () => {
    const error = await rejection(
      build({ engine: { microBatch: 4 }, method: { kind: 'full' } }, { memoryBytes: 0.5e9 }),
    );
    expect(error).toBeInstanceOf(InsufficientMemory);
    expect(error.message).toMatch(
      new RegExp(
        `^host ${hostname()} has 0.5 GB of memory; a training step of 4 pairs of up to 30 tokens needs about 0.6 GB. ` +
          'To need less: set engine.microBatch to 1 or "auto", use method.kind "lora", or choose a smaller model$',
      ),
    );
    const one = await rejection(build({ engine: { microBatch: 1 } }, { memoryBytes: 0.5e9 }));
    expect(one.message).toContain('of 1 pair of');
    expect(one.message).toContain('lower data.maxPromptLength and data.maxCompletionLength');
  });

  it('a GPU asked for and an engine without one', async () => {
    const error = await rejection(build({ engine: { device: 'gpu:1' } }));
    expect(error).toBeInstanceOf(EnvironmentIncomplete);
    expect(error.message).toContain(`engine.device is "gpu:1" but the engine of host ${hostname()} runs on the CPU`);
  });

  it('a tokenizer of another model', async () => {
    const model = join(scratch, 'mismatch');
    await makeTinyModel(model);
    const big = join(scratch, 'big');
    await makeTinyModel(big, { vocab: 500 });
    await cp(join(big, 'tokenizer.json'), join(model, 'tokenizer.json'));
    const error = await rejection(build({ model }));
    expect(error).toBeInstanceOf(TokenizerMismatch);
    expect(error.message).toContain("the model's embedding has 384 rows");
  });

  it('weights that are not numbers', async () => {
    const model = join(scratch, 'nan');
    await mkdir(model);
    await cp(folder, model, { recursive: true });
    const path = join(model, 'model.safetensors');
    const { start } = (await openSafetensors(path)).entries.get('model.norm.weight') ?? { start: 0 };
    const bytes = await readFile(path);
    bytes.writeFloatLE(NaN, start + 12);
    await writeFile(path, bytes);
    const error = await rejection(build({ model }));
    expect(error).toBeInstanceOf(ModelInvalid);
    expect(error.message).toBe(
      `${model}: model.norm.weight holds NaN at place 3; the weights are damaged, fetch them again`,
    );
  });

  it('an abort ends it', async () => {
    const reason = new Error('canceled');
    const input = { config: configOf(), tokens, cacheDir, engine: ENGINE, signal: AbortSignal.abort(reason) };
    expect(await rejection(buildModel(input))).toBe(reason);
  });
});
