/**
 * Pause, stop, fencing and identity of segments, on an engine of plain arithmetic whose state
 * tells whether a step was left out or repeated.
 */
import { mkdtemp, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { AttemptSuperseded, CheckpointIncompatible, DatasetInvalid, Preempted } from '../../../shared/errors.ts';
import { loadCheckpoint, saveCheckpoint } from '../../../training/checkpoint/checkpoint.ts';
import { listAttempts } from '../../../training/checkpoint/lineage.ts';
import { readMetrics } from '../../../training/report/metrics.ts';
import type { SegmentHooks, SegmentInput } from '../../../training/steps/train-segment.ts';
import {
  asking,
  beginPlain as begin,
  checkpointPath,
  finishPlain as finish,
  freshOutput,
  Killed,
  killedAfterStep,
  outcomeOf,
  quiet,
  type FinishedRun,
} from '../../helpers/segments.ts';
import { makeTinyRun } from '../../helpers/tiny-run.ts';
import { scratchFolder } from '../../helpers/scratch.ts';

const scratch = scratchFolder();

let templateInput: SegmentInput;
let reference: { digest: string; metrics: string };

beforeAll(async () => {
  // 10 pairs in batches of 4: steps 1–3, 4–6; a checkpoint after steps 2 and 5, and at the end of each epoch.
  const training = { checkpointEverySteps: 2, checkpointEverySeconds: 1e6 };
  templateInput = await makeTinyRun(await mkdtemp(join(scratch, 'orpo-segment-')), { training });
  reference = await outcomeOf(await finish(templateInput));
});

const freshRun = () => freshOutput(templateInput);

async function expectUndisturbed(run: FinishedRun): Promise<void> {
  expect(await outcomeOf(run)).toEqual(reference);
}

describe('asked to stop', () => {
  test.each([
    ['pause', 'paused'],
    ['stop', 'stopped'],
  ] as const)('%s finishes the step, writes a checkpoint and says so', async (answer, stop) => {
    const input = await freshRun();
    const result = await begin(input, asking(1, answer));
    expect(result).toMatchObject({ stop, step: 1, epoch: 0, eval: null, checkpoint: { step: 1 } });
    expect(result.train['train_loss']).toBe((await readMetrics(input.output))[1]?.['loss']);
    await expectUndisturbed(await finish({ ...input, attemptToken: 2000 }, result.checkpoint));
  });

  test('before anything was trained there is a checkpoint of step 0', async () => {
    const input = await freshRun();
    const result = await begin(input, { ...quiet, stopRequest: () => 'pause' });
    expect(result).toMatchObject({ stop: 'paused', step: 0, checkpoint: { step: 0 } });
    await expectUndisturbed(await finish({ ...input, attemptToken: 2000 }, result.checkpoint));
  });

  test('at the epoch’s last step the evaluation is left to the next attempt', async () => {
    const input = await freshRun();
    const result = await begin(input, asking(3, 'pause'));
    expect(result).toMatchObject({ stop: 'paused', step: 3, epoch: 0, eval: null });
    await expectUndisturbed(await finish({ ...input, attemptToken: 2000 }, result.checkpoint));
  });

  test('paused twice at the same step nothing is written twice or lost', async () => {
    const input = await freshRun();
    const first = await begin(input, asking(2, 'pause'));
    const second = await begin(
      { ...input, from: first.checkpoint, attemptToken: 2000 },
      { ...quiet, stopRequest: () => 'pause' },
    );
    expect(second.checkpoint).toEqual(first.checkpoint);
    await expectUndisturbed(await finish({ ...input, attemptToken: 3000 }, second.checkpoint));
  });

  test('an aborted signal throws Preempted once the checkpoint is written', async () => {
    const input = await freshRun();
    const control = new AbortController();
    const hooks: SegmentHooks = {
      onProgress: ({ phase, step }) => (phase === 'step' && step === 1 ? control.abort() : undefined),
      signal: control.signal,
    };
    const left = begin(input, hooks);
    await expect(left).rejects.toThrow(Preempted);
    await expect(left).rejects.toThrow(/asked to leave after step 1; checkpoint .*step-00000001-1000 is written/);
    await expectUndisturbed(await finish({ ...input, attemptToken: 2000 }));
  });
});

describe('an attempt that was given up', () => {
  test('ends without writing once a newer one has begun, and the newer one’s files are as if it had not been', async () => {
    const input = await freshRun();
    // The newer one begins while the first is still at work, as after a partition.
    const [stale, newer] = await Promise.all([
      begin(input).catch((error: unknown) => error),
      finish({ ...input, attemptToken: 5000 }),
    ]);
    expect(stale).toBeInstanceOf(AttemptSuperseded);
    await expectUndisturbed(newer);
    const kept = await readdir(join(input.output, 'checkpoints', 'main'));
    expect(kept.filter((name) => name.endsWith('-1000'))).toEqual([]);
  });

  test('its checkpoint of a later step is not taken, even if it was written', async () => {
    const input = await freshRun();
    await expect(begin(input, killedAfterStep(3))).rejects.toThrow(Killed);
    await expect(begin({ ...input, attemptToken: 2000 }, killedAfterStep(3))).rejects.toThrow(Killed);
    const stray = await loadCheckpoint(checkpointPath(input, 'step-00000002-1000'));
    stray.meta.position = { step: 3, epoch: 1, cursor: 0 };
    await saveCheckpoint(input.output, stray);
    const run = await finish({ ...input, attemptToken: 3000 });
    await expectUndisturbed(run);
    expect((await listAttempts(input.output, 'main')).find(({ token }) => token === 3000)?.adopted).toBe(
      'step-00000002-1000',
    );
  });
});

describe('a run is itself', () => {
  test('a checkpoint of another base, method or training is refused, and nothing is computed', async () => {
    const input = await freshRun();
    const { checkpoint } = await begin(input);
    const next = { ...input, from: checkpoint, attemptToken: 2000 };
    const { config, model } = input;
    const others: [SegmentInput, string][] = [
      [{ ...next, model: { ...model, weightsSha256: 'other' } }, 'base weights: ba5e there, other here'],
      [{ ...next, config: { ...config, training: { ...config.training, seed: 1 } } }, 'training options: '],
      [{ ...next, config: { ...config, method: { kind: 'full' } } }, 'method: '],
    ];
    for (const [other, message] of others) {
      await expect(begin(other)).rejects.toThrow(CheckpointIncompatible);
      await expect(begin(other)).rejects.toThrow(message);
    }
  });

  test('a corrected run goes on from the old one’s checkpoint in a lineage of its own, with the rates of its own', async () => {
    const input = await freshRun();
    const { checkpoint } = await begin(input);
    const training = { ...input.config.training, learningRate: 1e-4, batchSize: 2 };
    const corrected = { ...input, config: { ...input.config, training }, lineage: 'second', attemptToken: 2000 };
    const { results } = await finish(corrected, checkpoint);
    // 5 batches of 2 in the second epoch.
    expect(results.at(-1)).toMatchObject({ stop: 'done', step: 8, totalSteps: 8 });
    const rows = await readMetrics(input.output);
    expect(rows.map(({ step }) => step)).toEqual([0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 8]);
    expect(rows[5]?.['learning_rate']).toBeCloseTo((1e-4 * 5) / 8, 12);
  });

  test('tokens that changed since they were made are refused', async () => {
    const input = await makeTinyRun(await mkdtemp(join(scratch, 'orpo-segment-')));
    const { train: split } = input.tokens.splits;
    await writeFile(split.uri, Buffer.concat([await readFile(split.uri), Buffer.from('x')]));
    await expect(begin(input)).rejects.toThrow(DatasetInvalid);
    await expect(begin(input)).rejects.toThrow(/train\.parquet: has changed since it was tokenised/);
  });

  test('another engine goes on, and says that the bits may differ', async () => {
    const input = await freshRun();
    const { checkpoint } = await begin(input);
    const model = { ...input.model, engine: { ...input.model.engine, cpuModel: 'another' } };
    const result = await begin({ ...input, model, from: checkpoint, attemptToken: 2000 });
    expect(result.exact).toBe(false);
    expect(result.warnings).toEqual([
      "this resume may not repeat the undisturbed run's bits: engine cpuModel was test, is another",
    ]);
  });
});
