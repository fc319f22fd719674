/**
 * A small run on a tiny model: encoded pairs of random ids with a preference that can be learnt, and the inputs of a
 * segment. The same options give the same run on every machine.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { resolveConfig, type RunConfigInput } from '../../shared/config.ts';
import type { TokensRef } from '../../shared/records.ts';
import type { EncodedPair } from '../../training/data/encoded.ts';
import { writeTokens } from '../../training/data/split-files.ts';
import { createRandom, type Random } from '../../training/random.ts';
import type { SegmentInput } from '../../training/steps/train-segment.ts';
import { makeTinyModel } from './tiny-model.ts';
import { TINY_SPECIALS } from './tiny-tokenizer.ts';

export interface TinyRunOptions {
  /** Pairs to train on. @default 10 */
  train?: number;
  /** @default 4 */
  validation?: number;
  /** @default 0 */
  test?: number;
  training?: RunConfigInput['training'];
  method?: RunConfigInput['method'];
  /** Pairs computed at once. @default 2 */
  microBatch?: number;
}

/** Writes base and tokens under the folder. @returns inputs of a first segment; the output is `<folder>/run` */
export async function makeTinyRun(folder: string, options: TinyRunOptions = {}): Promise<SegmentInput> {
  const base = join(folder, 'base');
  const tokens = join(folder, 'tokens');
  await makeTinyModel(base);
  await mkdir(tokens, { recursive: true });
  const counts = { train: options.train ?? 10, validation: options.validation ?? 4, test: options.test ?? 0 };
  const config = resolveConfig({
    model: base,
    data: { source: join(folder, 'pairs.csv') },
    method: options.method ?? { kind: 'lora', rank: 4, alpha: 8 },
    training: { epochs: 2, batchSize: 4, learningRate: 5e-3, ...options.training },
    output: join(folder, 'run'),
  });
  return {
    config,
    output: join(folder, 'run'),
    configHash: 'c0ffee',
    model: {
      folder: base,
      source: 'folder',
      weightsSha256: 'ba5e',
      modelType: 'llama',
      parameters: 0,
      trainable: 0,
      memoryEstimateBytes: 0,
      engine: {
        library: 'test',
        device: 'cpu',
        step: 'eager',
        precision: 'float32',
        threads: 1,
        microBatch: options.microBatch ?? 2,
        cpuModel: 'test',
      },
    },
    tokens: await writeSplits(tokens, counts),
    lineage: 'main',
    from: null,
    attemptToken: 1000,
    worker: 'host-a',
  };
}

async function writeSplits(folder: string, counts: TokensRef['counts']): Promise<TokensRef> {
  const write = async (name: 'train' | 'validation' | 'test', firstRow: number) =>
    writeTokens(join(folder, `${name}.parquet`), tinyPairs(counts[name], firstRow));
  const { train, validation, test } = counts;
  return {
    counts,
    dropped: 0,
    splits: {
      train: await write('train', 1),
      validation: validation > 0 ? await write('validation', 1 + train) : null,
      test: test > 0 ? await write('test', 1 + train + validation) : null,
    },
    warnings: [],
  };
}

/** Chosen answers rise from 100, rejected ones fall from 240; both end in the end token. */
export function tinyPairs(count: number, firstRow = 1): EncodedPair[] {
  return Array.from({ length: count }, (_, index) => {
    const row = firstRow + index;
    const random = createRandom('tiny-pairs', row);
    const prompt = Array.from({ length: 3 + random.below(6) }, () => byteId(random));
    const answer = (direction: 1 | -1) => {
      const start = direction === 1 ? 100 + random.below(20) : 240 - random.below(20);
      return [...Array.from({ length: 2 + random.below(5) }, (_, k) => start + direction * k), TINY_SPECIALS.eos];
    };
    return {
      row,
      chosen: { ids: [...prompt, ...answer(1)], promptLength: prompt.length },
      rejected: { ids: [...prompt, ...answer(-1)], promptLength: prompt.length },
    };
  });
}

/** Some printable byte's token: specials come first in the tiny vocabulary. */
function byteId(random: Random): number {
  return 60 + random.below(90);
}
