import { describe, expect, test } from 'vitest';
import { ModelInvalid, NonFiniteLoss } from '../../shared/errors.ts';
import { epochOrder } from '../../training/data/order.ts';
import { epochFraction, START, totalStepsOf, type Position } from '../../training/position.ts';
import { trainEpoch, type LoopOptions, type StepReport } from '../../training/train.ts';
import { createPlainStep } from '../helpers/plain-step.ts';
import { tinyPairs } from '../helpers/tiny-run.ts';

const pairs = tinyPairs(10);
const options: LoopOptions = {
  seed: 7,
  batchSize: 4,
  epochs: 2,
  maxSteps: null,
  learningRate: 1,
  schedule: 'linear',
  warmupSteps: 2,
};

async function run(start: Position, over: Partial<LoopOptions> = {}, engine = createPlainStep()) {
  const reports: StepReport[] = [];
  const end = await trainEpoch(engine, pairs, start, { ...options, ...over }, { onStep: (r) => void reports.push(r) });
  return { end, reports, engine };
}

describe('position', () => {
  test('total steps are those done and those still to come, the smaller last batch counted', () => {
    expect(totalStepsOf(START, 10, options)).toBe(6);
    expect(totalStepsOf({ step: 2, epoch: 0, cursor: 8 }, 10, options)).toBe(6);
    expect(totalStepsOf({ step: 6, epoch: 2, cursor: 0 }, 10, options)).toBe(6);
    expect(totalStepsOf(START, 10, { ...options, maxSteps: 5 })).toBe(5);
    // Two steps of 4 done, then the batch size is halved: 1 step for the last two pairs, 5 in the second epoch.
    expect(totalStepsOf({ step: 2, epoch: 0, cursor: 8 }, 10, { ...options, batchSize: 2 })).toBe(8);
  });

  test('the epoch fraction counts batches, as Hugging Face does', () => {
    expect(epochFraction({ step: 1, epoch: 0, cursor: 4 }, 10, 4)).toBe(1 / 3);
    expect(epochFraction({ step: 3, epoch: 0, cursor: 10 }, 10, 4)).toBe(1);
    expect(epochFraction({ step: 5, epoch: 1, cursor: 8 }, 10, 4)).toBe(1 + 2 / 3);
  });
});

describe('trainEpoch', () => {
  test('sees every pair once an epoch, in the order of (seed, epoch), in batches', async () => {
    const { end, engine } = await run(START);
    const order = epochOrder(10, 7, 0).map((index) => index + 1);
    expect(engine.seen.map(({ rows }) => rows)).toEqual([order.slice(0, 4), order.slice(4, 8), order.slice(8)]);
    expect(end).toEqual({ step: 3, epoch: 0, cursor: 10 });
  });

  test('from the middle of an epoch it takes the batches that were left', async () => {
    const whole = await run(START);
    const rest = await run({ step: 1, epoch: 0, cursor: 4 });
    expect(rest.engine.seen).toEqual(whole.engine.seen.slice(1));
    expect(rest.reports.map(({ row }) => row['step'])).toEqual([2, 3]);
  });

  test('the learning rate follows the schedule over the whole run: warm-up 0, 1/2, then 1, 3/4, 1/2, 1/4', async () => {
    const first = await run(START);
    const second = await run({ step: 3, epoch: 1, cursor: 0 });
    const rates = [...first.engine.seen, ...second.engine.seen].map(({ learningRate }) => learningRate);
    expect(rates).toEqual([0, 0.5, 1, 0.75, 0.5, 0.25]);
  });

  test('a row has step, epoch, pairs and the step’s metrics; the last step is marked', async () => {
    const { reports } = await run(START);
    expect(reports.map(({ row }) => [row['step'], row.epoch, row['pairs']])).toEqual([
      [1, 1 / 3, 4],
      [2, 2 / 3, 4],
      [3, 1, 2],
    ]);
    expect(reports.map(({ isLast }) => isLast)).toEqual([false, false, true]);
    expect(reports[0]?.row).toMatchObject({ type: 'step', grad_norm: 1, nll_loss: expect.any(Number) });
  });

  test('stops at maxSteps in the middle of an epoch', async () => {
    const { end, reports } = await run(START, { maxSteps: 2 });
    expect(end).toEqual({ step: 2, epoch: 0, cursor: 8 });
    expect(reports.at(-1)?.isLast).toBe(true);
  });

  test('an abort ends it between two steps', async () => {
    const control = new AbortController();
    const engine = createPlainStep();
    const onStep = ({ position }: StepReport) => (position.step === 2 ? control.abort() : undefined);
    const end = await trainEpoch(engine, pairs, START, options, { onStep, signal: control.signal });
    expect(end).toEqual({ step: 2, epoch: 0, cursor: 8 });
    expect(engine.seen).toHaveLength(2);
  });

  test('gives way to the event loop between steps', async () => {
    let turns = 0;
    let isOver = false;
    const tick = (): void => {
      turns += 1;
      if (!isOver) setImmediate(tick);
    };
    setImmediate(tick);
    await run(START);
    isOver = true;
    expect(turns).toBeGreaterThanOrEqual(3);
  });

  test('a first step without any gradient is a failure that says nothing would be learnt', async () => {
    const dead = createPlainStep({ metrics: () => ({ grad_norm: 0 }) });
    await expect(run(START, {}, dead)).rejects.toThrow(ModelInvalid);
    await expect(run(START, {}, dead)).rejects.toThrow(
      'the first step has a gradient of exactly 0 over 1 trained values: nothing would be learnt',
    );
    // Later steps may be flat: a clamped pair, a finished fit.
    const later = createPlainStep({ metrics: (index) => ({ grad_norm: index === 1 ? 0 : 1 }) });
    await expect(run(START, {}, later)).resolves.toMatchObject({ end: { step: 3 } });
  });

  test.each([
    ['loss', { loss: NaN }, 'loss NaN and gradient norm 1'],
    ['gradient', { grad_norm: Infinity }, 'gradient norm Infinity'],
  ])('a %s that is not finite stops the run, naming step and rows', async (_, metrics, message) => {
    const broken = createPlainStep({ metrics: (index) => (index === 1 ? metrics : {}) });
    const rows = epochOrder(10, 7, 0)
      .slice(4, 8)
      .map((index) => index + 1);
    const failed = run(START, {}, broken);
    await expect(failed).rejects.toThrow(NonFiniteLoss);
    await expect(failed).rejects.toThrow(message);
    await expect(failed).rejects.toThrow(`step 2 has`);
    await expect(failed).rejects.toThrow(`on rows ${rows.join(', ')}`);
  });
});
