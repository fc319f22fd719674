/**
 * Replays a run of TRL's trainer (scripts/reference/trl_parity.py) with this project's step and compares every metric.
 */
import { readFile } from 'node:fs/promises';
import type { RunConfig } from '../../shared/config.ts';
import type { MetricRow } from '../../shared/records.ts';
import { adapterTensors, saveAdapter, type LoraMethod } from '../../training/checkpoint/adapter.ts';
import type { EncodedPair } from '../../training/data/encoded.ts';
import { readModelConfig } from '../../training/model/config.ts';
import { createEagerStep } from '../../training/step/eager.ts';

interface ReferenceStep extends MetricRow {
  loss: number;
}

export interface Reference {
  options: {
    init: 'peft' | 'hash';
    rank: number;
    alpha: number;
    accumulation: number;
    weight_decay: number;
    max_grad_norm: number;
    beta: number;
  };
  pairs: EncodedPair[];
  steps: (ReferenceStep & { logps: [number, number][]; microBatches: number[][] })[];
}

export async function readReference(path: string): Promise<Reference> {
  return JSON.parse(await readFile(path, 'utf8')) as Reference;
}

export function loraMethod(overrides: Partial<LoraMethod> = {}): LoraMethod {
  return {
    kind: 'lora',
    rank: 8,
    alpha: 16,
    targetModules: 'all-linear',
    initFrom: null,
    dropout: 0,
    rsLora: false,
    bias: 'none',
    layers: null,
    ...overrides,
  };
}

/** Writes the adapter that `--init hash` starts from: values are a function of tensor name and index. */
export async function writeHashAdapter(folder: string, baseFolder: string, rank: number, alpha: number): Promise<void> {
  const method = loraMethod({ rank, alpha });
  const tensors = adapterTensors(method, await readModelConfig(baseFolder));
  const weights = Object.fromEntries(
    Object.entries(tensors).map(([name, shape]) => [name, { shape, data: hashValues(name, shape) }]),
  );
  await saveAdapter(folder, { state: { weights }, method, baseName: 'base' });
}

function hashValues(name: string, [rows = 0, columns = 0]: number[]): Float32Array {
  const start = crc32(name);
  const bound = name.includes('lora_B') ? 0.02 : columns ** -0.5;
  return Float32Array.from(
    { length: rows * columns },
    (_, index) => ((murmurMix((start + index) >>> 0) / 2 ** 32) * 2 - 1) * bound,
  );
}

function murmurMix(value: number): number {
  let h = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

function crc32(text: string): number {
  let crc = ~0;
  for (const byte of Buffer.from(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** Every step's metrics of ours on the reference's pairs. */
export async function replay(
  reference: Reference,
  baseFolder: string,
  method: RunConfig['method'],
  overrides: { microBatch?: number; recompute?: boolean } = {},
): Promise<MetricRow[]> {
  const { options, pairs, steps } = reference;
  const engine = await createEagerStep({
    baseFolder,
    method,
    orpo: {
      beta: options.beta,
      disableDropout: true,
      nllScope: 'prompt+completion',
      nllReduction: options.accumulation > 1 ? 'micro-batch' : 'token',
    },
    weightDecay: options.weight_decay,
    maxGradNorm: options.max_grad_norm,
    seed: 0,
    microBatch: pairs.length / options.accumulation,
    ...overrides,
  });
  const rows: MetricRow[] = [];
  for (const [stepIndex, { learning_rate: learningRate = 0, microBatches }] of steps.entries()) {
    const order = microBatches.flat().flatMap((row) => pairs.filter((pair) => pair.row === row));
    const { metrics } = await engine.step(order, { learningRate, stepIndex });
    rows.push(metrics);
  }
  engine.dispose();
  return rows;
}

/** All differences beyond 1e-3·max(|TRL's|, 1e-2); accuracies may differ where a pair's log-probabilities nearly tie. */
export function differences(reference: Reference, ours: MetricRow[]): string[] {
  return reference.steps.flatMap(({ logps, microBatches: _microBatches, ...theirs }, step) =>
    Object.entries(theirs).flatMap(([name, expected]) => {
      const got = ours[step]?.[name] ?? Number.NaN;
      const tied = logps.some(([chosen, rejected]) => Math.abs(chosen - rejected) < 1e-5);
      const tolerance = name === 'rewards/accuracies' ? (tied ? 1 : 1e-6) : 1e-3 * Math.max(Math.abs(expected), 1e-2);
      return Math.abs(got - expected) <= tolerance ? [] : [`step ${step + 1} ${name}: ${got}, TRL's ${expected}`];
    }),
  );
}

/** The largest difference as a share of what is allowed. */
export function worstShare(reference: Reference, ours: MetricRow[]): number {
  const shares = reference.steps.flatMap(({ logps: _logps, microBatches: _microBatches, ...theirs }, step) =>
    Object.entries(theirs)
      .filter(([name]) => name !== 'rewards/accuracies')
      .map(([name, expected]) => {
        const difference = Math.abs((ours[step]?.[name] ?? Number.NaN) - expected);
        return difference / (1e-3 * Math.max(Math.abs(expected), 1e-2));
      }),
  );
  return Math.max(...shares);
}
