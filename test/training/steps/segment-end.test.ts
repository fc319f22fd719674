/**
 * Early stopping, the end of a run, checkpoints by time and a full disk, on an engine of plain arithmetic whose state
 * tells whether a step was left out or repeated.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, test } from 'vitest';
import { ConfigInvalid, ModelInvalid } from '../../../shared/errors.ts';
import type { CheckpointRef, MetricRow } from '../../../shared/records.ts';
import { loadCheckpoint } from '../../../training/checkpoint/checkpoint.ts';
import { readMetrics } from '../../../training/report/metrics.ts';
import type { SegmentInput } from '../../../training/steps/train-segment.ts';
import type { PlainStepOptions } from '../../helpers/plain-step.ts';
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
  withTraining,
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

describe('the end of a run', () => {
  const earlyStopping = { metric: 'eval_loss', goal: 'min', patience: 2, minDelta: 0 } as const;
  /** Held-out loss rises and falls with the state as this says, by steps done. */
  const heldLoss = (nllOf: (state: number) => number): PlainStepOptions => ({
    scores: (row, state) => ({ row, logpChosen: -1, logpRejected: -2, nllSum: nllOf(state), nllCount: 1 }),
  });

  test('early stopping ends it after patience epochs; the best checkpoint is kept though newer ones came', async () => {
    const input = withTraining(await freshRun(), {
      epochs: 9,
      earlyStopping,
      checkpointEverySteps: 1,
      schedule: 'constant',
    });
    // The state grows with every step: the loss is least after the first epoch.
    const { results } = await finish(
      input,
      null,
      heldLoss((state) => state),
    );
    expect(results.map(({ stop }) => stop)).toEqual(['epoch', 'epoch', 'earlyStop']);
    const last = results.at(-1);
    expect(last).toMatchObject({ epoch: 3, step: 9, totalSteps: 27, best: { step: 3 } });
    const best = await loadCheckpoint(last?.best?.uri ?? '', last?.best?.sha256);
    expect(best.meta.position).toEqual({ step: 3, epoch: 1, cursor: 0 });
    const kept = await readdir(join(input.output, 'checkpoints', 'main'));
    expect(kept.filter((name) => name.startsWith('step-')).map((name) => Number(name.slice(5, 13)))).toEqual([
      3, 6, 7, 8, 9,
    ]);
  });

  test('patience survives a kill: it stands in the checkpoint', async () => {
    const input = withTraining(await freshRun(), { epochs: 9, earlyStopping, schedule: 'constant' });
    const engine = heldLoss((state) => state);
    let from: CheckpointRef | null = null;
    const stops = [];
    for (let token = 1000; stops.at(-1) !== 'earlyStop' && token < 1020; token += 2) {
      const attempt: SegmentInput = { ...input, from, attemptToken: token };
      const step: number = (from?.step ?? 0) + 1;
      await expect(begin(attempt, killedAfterStep(step), engine)).rejects.toThrow(Killed);
      const result = await begin({ ...attempt, attemptToken: token + 1 }, quiet, engine);
      stops.push(result.stop);
      from = result.checkpoint;
    }
    expect(stops).toEqual(['epoch', 'epoch', 'earlyStop']);
  });

  test('a held-out metric that is never a number has no best checkpoint and runs out of patience', async () => {
    const input = withTraining(await freshRun(), { epochs: 9, earlyStopping });
    const engine = { ...heldLoss(() => NaN), metrics: () => ({ loss: 1 }) };
    const { results } = await finish(input, null, engine);
    expect(results.map(({ stop }) => stop)).toEqual(['epoch', 'earlyStop']);
    expect(results.at(-1)?.best).toBeNull();
    expect((await readMetrics(input.output)).at(-1)?.['eval_loss']).toBeNull();
  });

  test('a metric that no evaluation makes is refused before the first step', async () => {
    const input = withTraining(await freshRun(), { earlyStopping: { ...earlyStopping, metric: 'eval_rewards' } });
    await expect(begin(input)).rejects.toThrow(ConfigInvalid);
    await expect(begin(input)).rejects.toThrow('no evaluation makes "eval_rewards"; choose one of eval_loss');
    expect((await readMetrics(input.output)).length).toBe(0);
  });

  test('maxSteps ends it in mid-epoch, with an epoch row of what there was', async () => {
    const input = withTraining(await freshRun(), { maxSteps: 5 });
    const { results } = await finish(input);
    expect(results.at(-1)).toMatchObject({ stop: 'done', epoch: 1, step: 5, totalSteps: 5 });
    const rows = await readMetrics(input.output);
    expect(rows.at(-1)).toMatchObject({ type: 'epoch', step: 5, epoch: 1 + 2 / 3 });
    expect(rows.at(-1)?.['train_loss']).toBeTypeOf('number');
    // Asked again, it is over.
    const again = await begin({ ...input, from: results.at(-1)?.checkpoint ?? null, attemptToken: 9000 });
    expect(again).toMatchObject({ stop: 'done', step: 5, checkpoint: results.at(-1)?.checkpoint });
  });

  test('without validation pairs there are epoch means and no best', async () => {
    const input = await makeTinyRun(await mkdtemp(join(scratch, 'orpo-segment-')), { validation: 0 });
    const { results } = await finish(input);
    expect(results.at(-1)).toMatchObject({ stop: 'done', eval: null, best: null });
    const rows = await readMetrics(input.output);
    expect(rows.map(({ type }) => type)).toEqual(['step', 'step', 'step', 'epoch', 'step', 'step', 'step', 'epoch']);
  });

  test('nothing to learn is a failure, and no checkpoint is left of it', async () => {
    const input = await freshRun();
    await expect(begin(input, quiet, { metrics: () => ({ grad_norm: 0 }) })).rejects.toThrow(ModelInvalid);
    expect(await readdir(join(input.output, 'checkpoints', 'main'))).toEqual(['attempts']);
  });

  test('a loss that is not finite leaves the last good checkpoint', async () => {
    const input = await freshRun();
    const engine: PlainStepOptions = { metrics: (index) => (index === 2 ? { loss: NaN } : {}) as MetricRow };
    await expect(begin(input, quiet, engine)).rejects.toThrow('step 3 has loss NaN');
    await expect(begin({ ...input, attemptToken: 2000 }, quiet, engine)).rejects.toThrow('step 3 has loss NaN');
    const { meta } = await loadCheckpoint(checkpointPath(input, 'step-00000002-1000'));
    expect(meta.position.step).toBe(2);
  });
});

describe('checkpoints on the way', () => {
  test('come by time too', async () => {
    const input = withTraining(await freshRun(), { checkpointEverySteps: 1000, checkpointEverySeconds: 10 });
    const steps = new Set<number>();
    await begin(input, { onProgress: ({ checkpoint }) => void (checkpoint && steps.add(checkpoint.step)) });
    // The clock moves a second at each look: ten of them pass within two steps.
    expect([...steps]).toEqual([2, 3]);
  });

  test('a full disk fails the segment; the checkpoint before is kept and what is left is whole', async () => {
    const input = withTraining(await freshRun(), { checkpointEverySteps: 1 });
    const first = await begin(input, asking(1, 'pause'));
    const limited = await trainWithLimit({ ...input, from: first.checkpoint, attemptToken: 2000 }, 2);
    expect(limited).toContain('DiskFull');
    expect(limited).toContain('no space left (EFBIG)');
    const kept = (await readdir(join(input.output, 'checkpoints', 'main'))).filter((name) => name !== 'attempts');
    expect(kept).toContain('step-00000001-1000');
    for (const name of kept) await expect(loadCheckpoint(checkpointPath(input, name))).resolves.toBeDefined();
    const run = await finish(
      { ...withTraining(input, { checkpointEverySteps: 2 }), attemptToken: 3000 },
      first.checkpoint,
    );
    await expectUndisturbed(run);
  });
});

/** Trains a segment in a process whose files may not grow beyond a limit, as on a disk with so much left. */
async function trainWithLimit(input: SegmentInput, kilobytes: number): Promise<string> {
  const root = new URL('../../../', import.meta.url).pathname;
  const program = `
    import { trainSegment } from '${root}training/steps/train-segment.ts';
    import { plainDeps } from '${root}test/helpers/segments.ts';
    trainSegment(JSON.parse(process.argv[1]), { onProgress: () => {} }, plainDeps())
      .catch((error) => console.log(error.name + ': ' + error.message));`;
  // The signal that goes with the limit is ignored, so that the write itself fails, as on a full disk.
  const command = `trap '' XFSZ; ulimit -f ${kilobytes}; exec "$@"`;
  const node = [process.execPath, '--import', 'tsx', '--input-type=module', '-e', program, JSON.stringify(input)];
  const { stdout } = await promisify(execFile)('bash', ['-c', command, 'bash', ...node], { cwd: root });
  return stdout;
}
