/**
 * Resume is a law, not a claim: a run disturbed in any way ends with the same weights, bit for bit, and the same
 * metrics.jsonl as an undisturbed one. On the tiny model, real engine, one thread (on which op-by-op execution repeats).
 */
import { readFileSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { AttemptSuperseded, CheckpointIncompatible, DatasetInvalid, Preempted } from '../../../shared/errors.ts';
import type { CheckpointRef, SegmentResult } from '../../../shared/records.ts';
import { loadCheckpoint, saveCheckpoint } from '../../../training/checkpoint/checkpoint.ts';
import { digestOf } from '../../../training/checkpoint/digest.ts';
import { listAttempts } from '../../../training/checkpoint/lineage.ts';
import { readMetrics } from '../../../training/report/metrics.ts';
import {
  trainSegment,
  type SegmentHooks,
  type SegmentInput,
  type SegmentProgress,
} from '../../../training/steps/train-segment.ts';
import { makeTinyRun } from '../../helpers/tiny-run.ts';

vi.hoisted(() => {
  process.env['TF_NUM_INTRAOP_THREADS'] = '1';
  process.env['TF_NUM_INTEROP_THREADS'] = '1';
  process.env['TF_CPP_MIN_LOG_LEVEL'] = '2';
});

class Killed extends Error {}

const quiet: SegmentHooks = { onProgress: () => {} };

let templateInput: SegmentInput;
let reference: { digest: string; metrics: string; results: SegmentResult[] };

beforeAll(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'orpo-segment-'));
  // 10 pairs in batches of 4: steps 1–3, 4–6; a checkpoint after steps 2 and 5, and at the end of each epoch.
  templateInput = await makeTinyRun(folder, { training: { checkpointEverySteps: 2 } });
  reference = await outcome(await train(templateInput));
}, 60_000);

/** The same run with an output of its own; base and tokens are shared. */
async function freshRun(): Promise<SegmentInput> {
  return { ...templateInput, output: await mkdtemp(join(tmpdir(), 'orpo-segment-run-')) };
}

/** Segments in turn until the run is over, as the workflow does. */
async function train(input: SegmentInput, hooks = quiet, from: CheckpointRef | null = input.from) {
  const results: SegmentResult[] = [];
  let attemptToken = input.attemptToken;
  do {
    const checkpoint: CheckpointRef | null = results.at(-1)?.checkpoint ?? from;
    results.push(await trainSegment({ ...input, from: checkpoint, attemptToken: attemptToken++ }, hooks));
  } while (results.at(-1)?.stop === 'epoch');
  return { input, results };
}

async function outcome({ input, results }: { input: SegmentInput; results: SegmentResult[] }) {
  const last = results.at(-1);
  const { state } = await loadCheckpoint(last?.checkpoint.uri ?? '');
  const all = [state.weights, state.firstMoments, state.secondMoments].map(digestOf);
  return { digest: all.join(' '), metrics: await readFile(join(input.output, 'metrics.jsonl'), 'utf8'), results };
}

/** Ends as by a kill in the moment that this progress is reported. */
function killedWhen(moment: (progress: SegmentProgress) => boolean): SegmentHooks {
  return {
    onProgress: (progress) => {
      if (moment(progress)) throw new Killed(`at ${JSON.stringify(progress)}`);
    },
  };
}

const afterStep = (step: number) => killedWhen((p) => p.phase === 'step' && p.step === step && p.loss !== undefined);

function lastCheckpoint(output: string, name: string): string {
  return join(output, 'checkpoints', 'main', name);
}

async function expectUndisturbed(run: { input: SegmentInput; results: SegmentResult[] }): Promise<void> {
  const { digest, metrics } = await outcome(run);
  expect(metrics).toBe(reference.metrics);
  expect(digest).toBe(reference.digest);
}

describe('an undisturbed run', () => {
  test('has a row every step and every epoch, the base’s first', async () => {
    const rows = reference.metrics
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(rows.map((row) => [row['type'], row['step'], row['epoch']])).toEqual([
      ['epoch', 0, 0],
      ['step', 1, 1 / 3],
      ['step', 2, 2 / 3],
      ['step', 3, 1],
      ['epoch', 3, 1],
      ['step', 4, 1 + 1 / 3],
      ['step', 5, 1 + 2 / 3],
      ['step', 6, 2],
      ['epoch', 6, 2],
    ]);
    expect(rows[0]).not.toHaveProperty('train_loss');
    expect(Number(rows[8]?.['train_loss'])).toBeLessThan(Number(rows[4]?.['train_loss']));
    expect(Number(rows[8]?.['eval_loss'])).toBeLessThan(Number(rows[0]?.['eval_loss']));
  });

  test('a segment’s result carries the epoch’s means, the held-out metrics and the best checkpoint', async () => {
    const [first, second] = reference.results;
    expect(first).toMatchObject({ stop: 'epoch', epoch: 1, step: 3, totalSteps: 6, resumedFrom: null, resumes: 0 });
    expect(second).toMatchObject({ stop: 'done', epoch: 2, step: 6, recomputedSteps: 0, exact: true, warnings: [] });
    expect(second?.best).toEqual(second?.checkpoint);
    const rows = await readMetrics(templateInput.output);
    expect(second?.train['train_loss']).toBe(rows.at(-1)?.['train_loss']);
    expect(second?.eval?.['eval_rewards/margins']).toBe(rows.at(-1)?.['eval_rewards/margins']);
  });

  test('trainer_state.json tells the same story', async () => {
    const state = JSON.parse(await readFile(join(templateInput.output, 'trainer_state.json'), 'utf8')) as {
      log_history: { step: number; epoch: number }[];
    };
    expect(state).toMatchObject({ global_step: 6, max_steps: 6, num_train_epochs: 2, epoch: 2, best_global_step: 6 });
    expect(state.log_history.map(({ step }) => step)).toEqual([0, 1, 2, 3, 3, 4, 5, 6, 6]);
  });

  test('nothing that depends on time or host stands in metrics.jsonl; timings.jsonl has it', async () => {
    const again = await freshRun();
    const other = await train({ ...again, worker: 'host-b', attemptToken: 777_000 });
    await expectUndisturbed(other);
    const timings = await readFile(join(again.output, 'timings.jsonl'), 'utf8');
    expect(timings).toContain('"worker":"host-b"');
    expect(timings).toMatch(/"event":"checkpoint","step":6,"seconds":[\d.]+,"bytes":\d+/);
  });
});

describe('a run killed and resumed', () => {
  test.each([
    [1, 0, 1],
    [2, 0, 2],
    [3, 2, 1],
  ])('after step %i goes on from step %i, %i recomputed, and ends the same', async (step, resumed, recomputed) => {
    const input = await freshRun();
    await expect(trainSegment(input, afterStep(step))).rejects.toThrow(Killed);
    const run = await train({ ...input, attemptToken: 2000 });
    await expectUndisturbed(run);
    expect(run.results[0]).toMatchObject({ resumedFrom: resumed, resumes: 1, recomputedSteps: recomputed });
    expect(run.results[1]).toMatchObject({ resumedFrom: null, resumes: 0, recomputedSteps: 0 });
  });

  test.each([
    ['while loading', (p: SegmentProgress) => p.phase === 'load'],
    ['in the first evaluation', (p: SegmentProgress) => p.phase === 'evaluate' && p.step === 0],
    ['before a checkpoint', (p: SegmentProgress) => p.phase === 'checkpoint' && p.checkpoint === undefined],
    ['after a checkpoint', (p: SegmentProgress) => p.phase === 'checkpoint' && p.checkpoint?.step === 2],
    ['in the epoch’s evaluation', (p: SegmentProgress) => p.phase === 'evaluate' && p.step === 3],
    ['after the epoch’s checkpoint', (p: SegmentProgress) => p.phase === 'checkpoint' && p.checkpoint?.step === 3],
  ])('%s ends the same', async (_, moment) => {
    const input = await freshRun();
    await expect(trainSegment(input, killedWhen(moment))).rejects.toThrow(Killed);
    await expectUndisturbed(await train({ ...input, attemptToken: 2000 }));
  });

  test('again and again, in both epochs, ends the same', async () => {
    const input = await freshRun();
    let attemptToken = 1000;
    for (const step of [1, 2, 3, 3]) {
      await expect(trainSegment({ ...input, attemptToken: attemptToken++ }, afterStep(step))).rejects.toThrow(Killed);
    }
    const { checkpoint: from } = await trainSegment({ ...input, attemptToken: attemptToken++ }, quiet);
    for (const step of [4, 5, 6]) {
      const attempt = { ...input, from, attemptToken: attemptToken++ };
      await expect(trainSegment(attempt, afterStep(step))).rejects.toThrow(Killed);
    }
    const run = await train({ ...input, attemptToken }, quiet, from);
    await expectUndisturbed(run);
    // Steps 4, 4 and 5, 4 and 5 and 6, then 6: seven for three.
    expect(run.results[0]).toMatchObject({ resumes: 3, resumedFrom: 5, recomputedSteps: 4 });
  });

  test('the result was lost with its worker: the next attempt reports it and computes nothing', async () => {
    const input = await freshRun();
    const lost = await trainSegment(input, quiet);
    const phases = new Set<string>();
    const found = await trainSegment(
      { ...input, attemptToken: 2000 },
      { onProgress: ({ phase }) => void phases.add(phase) },
    );
    expect(phases).toEqual(new Set(['load']));
    expect(found).toMatchObject({
      checkpoint: lost.checkpoint,
      train: lost.train,
      eval: lost.eval,
      stop: 'epoch',
      epoch: 1,
    });
    await expectUndisturbed(await train({ ...input, attemptToken: 3000 }, quiet, found.checkpoint));
  });

  test('rows that a killed attempt wrote past its last checkpoint are gone as soon as the next one begins', async () => {
    const input = await freshRun();
    await expect(trainSegment(input, afterStep(3))).rejects.toThrow(Killed);
    expect((await readMetrics(input.output)).map(({ step }) => step)).toEqual([0, 1, 2, 3]);
    const next = { ...input, attemptToken: 2000 };
    await expect(
      trainSegment(
        next,
        killedWhen(({ resumedFrom }) => resumedFrom === 2),
      ),
    ).rejects.toThrow(Killed);
    expect((await readMetrics(input.output)).map(({ step }) => step)).toEqual([0, 1, 2]);
  });
});

describe('a run whose checkpoint was harmed', () => {
  const harms: [string, (path: string) => Promise<void>][] = [
    ['deleted', (path) => rm(path, { recursive: true })],
    ['cut', (path) => truncate(join(path, 'state.safetensors'), 100)],
    [
      'changed',
      (path) => writeFile(join(path, 'state.json'), readFileSync(join(path, 'state.json'), 'utf8').replace('2', '3')),
    ],
    ['left without manifest', (path) => rm(join(path, 'manifest.json'))],
  ];

  test.each(harms)('%s in mid-epoch starts over and ends the same', async (_, harm) => {
    const input = await freshRun();
    await expect(trainSegment(input, afterStep(3))).rejects.toThrow(Killed);
    await harm(lastCheckpoint(input.output, 'step-00000002-1000'));
    await expectUndisturbed(await train({ ...input, attemptToken: 2000 }));
  });

  test('falls back within the lineage with a warning, across the epoch’s end where it must', async () => {
    const input = await freshRun();
    const first = await trainSegment(input, quiet);
    const second = { ...input, from: first.checkpoint, attemptToken: 2000 };
    await expect(trainSegment(second, afterStep(6))).rejects.toThrow(Killed);
    await truncate(join(lastCheckpoint(input.output, 'step-00000005-2000'), 'metrics.jsonl'), 10);
    await rm(join(first.checkpoint.uri, 'manifest.json'));
    const run = await train({ ...input, attemptToken: 3000 }, quiet, first.checkpoint);
    await expectUndisturbed(run);
    expect(run.results[0]?.warnings).toEqual([
      expect.stringContaining('step-00000005-2000: has 10 bytes in metrics.jsonl'),
      expect.stringContaining('step-00000003-1000: has no manifest'),
    ]);
    expect(run.results[0]).toMatchObject({ stop: 'done', resumedFrom: 2, exact: true });
  });
});

describe('asked to stop', () => {
  const asking = (step: number, answer: 'pause' | 'stop'): SegmentHooks => {
    let isAsked = false;
    return {
      onProgress: (progress) => void (isAsked ||= progress.step === step && progress.phase === 'step'),
      stopRequest: () => (isAsked ? answer : null),
    };
  };

  test.each([
    ['pause', 'paused'],
    ['stop', 'stopped'],
  ] as const)('%s finishes the step, writes a checkpoint and says so', async (answer, stop) => {
    const input = await freshRun();
    const result = await trainSegment(input, asking(1, answer));
    expect(result).toMatchObject({ stop, step: 1, epoch: 0, eval: null, checkpoint: { step: 1 } });
    expect(result.train['train_loss']).toBe((await readMetrics(input.output))[1]?.['loss']);
    await expectUndisturbed(await train({ ...input, attemptToken: 2000 }, quiet, result.checkpoint));
  });

  test('before anything was trained there is a checkpoint of step 0', async () => {
    const input = await freshRun();
    const result = await trainSegment(input, { ...quiet, stopRequest: () => 'pause' });
    expect(result).toMatchObject({ stop: 'paused', step: 0, checkpoint: { step: 0 } });
    await expectUndisturbed(await train({ ...input, attemptToken: 2000 }, quiet, result.checkpoint));
  });

  test('at the epoch’s last step the evaluation is left to the next attempt', async () => {
    const input = await freshRun();
    const result = await trainSegment(input, asking(3, 'pause'));
    expect(result).toMatchObject({ stop: 'paused', step: 3, epoch: 0, eval: null });
    await expectUndisturbed(await train({ ...input, attemptToken: 2000 }, quiet, result.checkpoint));
  });

  test('paused twice at the same step nothing is written twice or lost', async () => {
    const input = await freshRun();
    const first = await trainSegment(input, asking(2, 'pause'));
    const second = await trainSegment(
      { ...input, from: first.checkpoint, attemptToken: 2000 },
      { ...quiet, stopRequest: () => 'pause' },
    );
    expect(second.checkpoint).toEqual(first.checkpoint);
    await expectUndisturbed(await train({ ...input, attemptToken: 3000 }, quiet, second.checkpoint));
  });

  test('an aborted signal throws Preempted once the checkpoint is written', async () => {
    const input = await freshRun();
    const control = new AbortController();
    const hooks: SegmentHooks = {
      onProgress: ({ phase, step }) => (phase === 'step' && step === 1 ? control.abort() : undefined),
      signal: control.signal,
    };
    const left = trainSegment(input, hooks);
    await expect(left).rejects.toThrow(Preempted);
    await expect(left).rejects.toThrow(/asked to leave after step 1; checkpoint .*step-00000001-1000 is written/);
    await expectUndisturbed(await train({ ...input, attemptToken: 2000 }));
  });
});

describe('an attempt that was given up', () => {
  test('ends without writing once a newer one has begun, and the newer one’s files are as if it had not been', async () => {
    const input = await freshRun();
    // The newer one begins while the first is still at work, as after a partition.
    const [stale, newer] = await Promise.all([
      trainSegment(input, quiet).catch((error: unknown) => error),
      train({ ...input, attemptToken: 5000 }),
    ]);
    expect(stale).toBeInstanceOf(AttemptSuperseded);
    await expectUndisturbed(newer);
    const kept = await readdir(join(input.output, 'checkpoints', 'main'));
    expect(kept.filter((name) => name.endsWith('-1000'))).toEqual([]);
  });

  test('its checkpoint of a later step is not taken, even if it was written', async () => {
    const input = await freshRun();
    await expect(trainSegment(input, afterStep(3))).rejects.toThrow(Killed);
    await expect(trainSegment({ ...input, attemptToken: 2000 }, afterStep(3))).rejects.toThrow(Killed);
    const stray = await loadCheckpoint(lastCheckpoint(input.output, 'step-00000002-1000'));
    stray.meta.position = { step: 3, epoch: 1, cursor: 0 };
    await saveCheckpoint(input.output, stray);
    const run = await train({ ...input, attemptToken: 3000 });
    await expectUndisturbed(run);
    expect((await listAttempts(input.output, 'main')).find(({ token }) => token === 3000)?.adopted).toBe(
      'step-00000002-1000',
    );
  });
});

describe('a run is itself', () => {
  test('a checkpoint of another base, method or training is refused, and nothing is computed', async () => {
    const input = await freshRun();
    const { checkpoint } = await trainSegment(input, quiet);
    const next = { ...input, from: checkpoint, attemptToken: 2000 };
    const { config, model } = input;
    const others: [SegmentInput, string][] = [
      [{ ...next, model: { ...model, weightsSha256: 'other' } }, 'base weights: ba5e there, other here'],
      [{ ...next, config: { ...config, training: { ...config.training, seed: 1 } } }, 'training options: '],
      [{ ...next, config: { ...config, method: { kind: 'full' } } }, 'method: '],
    ];
    for (const [other, message] of others) {
      await expect(trainSegment(other, quiet)).rejects.toThrow(CheckpointIncompatible);
      await expect(trainSegment(other, quiet)).rejects.toThrow(message);
    }
  });

  test('a corrected run goes on from the old one’s checkpoint in a lineage of its own, with the rates of its own', async () => {
    const input = await freshRun();
    const { checkpoint } = await trainSegment(input, quiet);
    const training = { ...input.config.training, learningRate: 1e-4, batchSize: 2 };
    const corrected = { ...input, config: { ...input.config, training }, lineage: 'second', attemptToken: 2000 };
    const { results } = await train(corrected, quiet, checkpoint);
    // 5 batches of 2 in the second epoch.
    expect(results.at(-1)).toMatchObject({ stop: 'done', step: 8, totalSteps: 8 });
    const rows = await readMetrics(input.output);
    expect(rows.map(({ step }) => step)).toEqual([0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 8]);
    expect(rows[5]?.['learning_rate']).toBeCloseTo((1e-4 * 5) / 8, 12);
  });

  test('tokens that changed since they were made are refused', async () => {
    const input = await makeTinyRun(await mkdtemp(join(tmpdir(), 'orpo-segment-')));
    const { train: split } = input.tokens.splits;
    await writeFile(split.uri, Buffer.concat([await readFile(split.uri), Buffer.from('x')]));
    await expect(trainSegment(input, quiet)).rejects.toThrow(DatasetInvalid);
    await expect(trainSegment(input, quiet)).rejects.toThrow(/train\.parquet: has changed since it was tokenised/);
  });

  test('another engine goes on, and says that the bits may differ', async () => {
    const input = await freshRun();
    const { checkpoint } = await trainSegment(input, quiet);
    const model = { ...input.model, engine: { ...input.model.engine, cpuModel: 'another' } };
    const result = await trainSegment({ ...input, model, from: checkpoint, attemptToken: 2000 }, quiet);
    expect(result.exact).toBe(false);
    expect(result.warnings).toEqual([
      "this resume may not repeat the undisturbed run's bits: engine cpuModel was test, is another",
    ]);
  });
});
