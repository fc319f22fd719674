/**
 * Resume is a law, not a claim: a run disturbed in any way ends with the same weights, bit for bit, and the same
 * metrics.jsonl as an undisturbed one. On the tiny model, real engine, one thread (on which op-by-op execution repeats).
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import type { SegmentResult } from '../../../shared/records.ts';
import { readMetrics } from '../../../training/report/metrics.ts';
import { trainSegment, type SegmentInput, type SegmentProgress } from '../../../training/steps/train-segment.ts';
import {
  checkpointPath,
  freshOutput,
  Killed,
  killedAfterStep,
  killedWhen,
  outcomeOf,
  quiet,
  trainAll,
  type FinishedRun,
} from '../../helpers/segments.ts';
import { makeTinyRun } from '../../helpers/tiny-run.ts';
import { scratchFolder } from '../../helpers/scratch.ts';

const scratch = scratchFolder();

vi.hoisted(() => {
  process.env['TF_NUM_INTRAOP_THREADS'] = '1';
  process.env['TF_NUM_INTEROP_THREADS'] = '1';
  process.env['TF_CPP_MIN_LOG_LEVEL'] = '2';
});

let templateInput: SegmentInput;
let reference: { digest: string; metrics: string; results: SegmentResult[] };

const freshRun = () => freshOutput(templateInput);

beforeAll(async () => {
  const folder = await mkdtemp(join(scratch, 'orpo-segment-'));
  // 10 pairs in batches of 4: steps 1–3, 4–6; a checkpoint after steps 2 and 5, and at the end of each epoch.
  templateInput = await makeTinyRun(folder, { training: { checkpointEverySteps: 2, learningRate: 2e-2 } });
  const run = await trainAll(templateInput);
  reference = { ...(await outcomeOf(run)), results: run.results };
}, 60_000);

async function expectUndisturbed(run: FinishedRun): Promise<void> {
  const { digest, metrics } = await outcomeOf(run);
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
    const other = await trainAll({ ...again, worker: 'host-b', attemptToken: 777_000 });
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
    await expect(trainSegment(input, killedAfterStep(step))).rejects.toThrow(Killed);
    const run = await trainAll({ ...input, attemptToken: 2000 });
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
    await expectUndisturbed(await trainAll({ ...input, attemptToken: 2000 }));
  });

  test('again and again, in both epochs, ends the same', async () => {
    const input = await freshRun();
    let attemptToken = 1000;
    for (const step of [1, 2, 3, 3]) {
      await expect(trainSegment({ ...input, attemptToken: attemptToken++ }, killedAfterStep(step))).rejects.toThrow(
        Killed,
      );
    }
    const { checkpoint: from } = await trainSegment({ ...input, attemptToken: attemptToken++ }, quiet);
    for (const step of [4, 5, 6]) {
      const attempt = { ...input, from, attemptToken: attemptToken++ };
      await expect(trainSegment(attempt, killedAfterStep(step))).rejects.toThrow(Killed);
    }
    const run = await trainAll({ ...input, attemptToken }, { from });
    await expectUndisturbed(run);
    // Steps 4, 4 and 5, 4 and 5 and 6, then 6: seven for three.
    expect(run.results[0]).toMatchObject({ resumes: 3, resumedFrom: 5, recomputedSteps: 4 });
  });

  test('with all weights trained, ends the same too', async () => {
    const training = { checkpointEverySteps: 2, epochs: 1 };
    const input = await makeTinyRun(join(scratch, 'full'), { training, method: { kind: 'full' } });
    const whole = await outcomeOf(await trainAll(input));
    const killed = await freshOutput(input);
    await expect(trainSegment(killed, killedAfterStep(3))).rejects.toThrow(Killed);
    expect(await outcomeOf(await trainAll({ ...killed, attemptToken: 2000 }))).toEqual(whole);
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
    await expectUndisturbed(await trainAll({ ...input, attemptToken: 3000 }, { from: found.checkpoint }));
  });

  test('rows that a killed attempt wrote past its last checkpoint are gone as soon as the next one begins', async () => {
    const input = await freshRun();
    await expect(trainSegment(input, killedAfterStep(3))).rejects.toThrow(Killed);
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
    await expect(trainSegment(input, killedAfterStep(3))).rejects.toThrow(Killed);
    await harm(checkpointPath(input, 'step-00000002-1000'));
    await expectUndisturbed(await trainAll({ ...input, attemptToken: 2000 }));
  });

  test('falls back within the lineage with a warning, across the epoch’s end where it must', async () => {
    const input = await freshRun();
    const first = await trainSegment(input, quiet);
    const second = { ...input, from: first.checkpoint, attemptToken: 2000 };
    await expect(trainSegment(second, killedAfterStep(6))).rejects.toThrow(Killed);
    await truncate(join(checkpointPath(input, 'step-00000005-2000'), 'metrics.jsonl'), 10);
    await rm(join(first.checkpoint.uri, 'manifest.json'));
    const run = await trainAll({ ...input, attemptToken: 3000 }, { from: first.checkpoint });
    await expectUndisturbed(run);
    expect(run.results[0]?.warnings).toEqual([
      expect.stringContaining('step-00000005-2000: has 10 bytes in metrics.jsonl'),
      expect.stringContaining('step-00000003-1000: has no manifest'),
    ]);
    expect(run.results[0]).toMatchObject({ stop: 'done', resumedFrom: 2, exact: true });
  });
});

describe('a real kill', () => {
  test.each([6, 13])('SIGKILL after %i lines of progress, whatever it was at, ends the same', async (lines) => {
    const input = await freshRun();
    expect(await killTrainerAfter(input, lines)).toBe('SIGKILL');
    await expectUndisturbed(await trainAll({ ...input, attemptToken: 2000 }));
  });
});

/** Trains in a process of its own and kills it from outside. @returns the signal that ended it */
function killTrainerAfter(input: SegmentInput, lines: number): Promise<string | null> {
  const root = new URL('../../../', import.meta.url).pathname;
  const program = `
    import { trainSegment } from '${root}training/steps/train-segment.ts';
    await trainSegment(JSON.parse(process.argv[1]), { onProgress: ({ phase }) => console.log('progress ' + phase) });`;
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '-e', program, JSON.stringify(input)],
    {
      cwd: root,
      stdio: ['ignore', 'pipe', 'ignore'],
    },
  );
  let seen = 0;
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    seen += text.split('progress ').length - 1;
    if (seen >= lines) child.kill('SIGKILL');
  });
  return new Promise((resolve) => child.on('close', (_code, signal) => resolve(signal)));
}
