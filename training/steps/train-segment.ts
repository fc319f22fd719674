/**
 * One segment of a run: from the newest checkpoint that may be trusted to the end of an epoch, with checkpoints on the
 * way. An attempt may end at any instant; the next one goes on from what it left, and the run ends with the same weights
 * and the same metrics.jsonl as one that was never disturbed (on an engine that repeats its bits).
 */
import type { TrainerPhase } from '../../shared/contract.ts';
import type { RunConfig } from '../../shared/config.ts';
import { Preempted } from '../../shared/errors.ts';
import type { CheckpointRef, MetricRow, ModelRef, SegmentResult, TokensRef } from '../../shared/records.ts';
import { mustBeMeasured, observe, shouldStop } from '../early-stopping.ts';
import { evaluateSplit } from '../evaluate.ts';
import { checkpointName } from '../checkpoint/checkpoint.ts';
import { epochFraction } from '../position.ts';
import { epochMeans, epochRow } from '../report/metrics.ts';
import { createEagerStep } from '../step/eager.ts';
import { trainEpoch, type StepReport } from '../train.ts';
import {
  prepareSegment,
  report,
  saveSegment,
  segmentResult,
  startEngine,
  type PreparedSegment,
  type Segment,
  type SegmentEnd,
} from './segment.ts';

export interface SegmentInput {
  config: RunConfig;
  output: string;
  configHash: string;
  model: ModelRef;
  tokens: TokensRef;
  /** A run's line of checkpoints; a reset or corrected run has a new one. */
  lineage: string;
  /** The last result's checkpoint, null at the run's start. */
  from: CheckpointRef | null;
  /** Fencing token: the server's time at which this attempt was scheduled, in milliseconds. */
  attemptToken: number;
  /** Host that runs it, for timings and the receipt. */
  worker: string;
  /** Epoch to finish, from 0; without it, the one that `from` stands in. */
  epoch?: number;
}

/** The trainer's figures at this moment. */
export interface SegmentProgress {
  phase: TrainerPhase;
  /** Epochs finished. */
  epoch?: number;
  step?: number;
  totalSteps?: number;
  loss?: number;
  tokensPerSecond?: number;
  etaSeconds?: number;
  checkpoint?: CheckpointRef;
  /** Pairs of a split scored so far, and all of them. */
  done?: number;
  total?: number;
  /** Set once, when training resumes: the checkpoint's step. */
  resumedFrom?: number;
}

export interface SegmentHooks {
  onProgress(progress: SegmentProgress): void;
  /** Asked between steps: either finishes the step and writes a checkpoint; the result says which it was. */
  stopRequest?: () => 'pause' | 'stop' | null;
  /** Aborted: finishes the step, writes a checkpoint and throws Preempted. */
  signal?: AbortSignal;
}

/** What tests and faster engines put in place of the defaults. */
export interface SegmentDeps {
  createStep: typeof createEagerStep;
  nowMs(): number;
}

const DEFAULT_DEPS: SegmentDeps = { createStep: createEagerStep, nowMs: () => Date.now() };

/** Trains the rest of an epoch, evaluates the validation split and writes a checkpoint.
 *  @throws Preempted once a checkpoint is written; AttemptSuperseded, CheckpointIncompatible, NonFiniteLoss, DiskFull,
 *  ModelInvalid, ConfigInvalid and what the engine throws */
export async function trainSegment(
  input: SegmentInput,
  hooks: SegmentHooks,
  deps: SegmentDeps = DEFAULT_DEPS,
): Promise<SegmentResult> {
  const startedMs = deps.nowMs();
  hooks.onProgress({ phase: 'load' });
  const segment = await prepareSegment(input, hooks, deps);
  try {
    const { position, adoption } = segment;
    await segment.log.timing({ event: 'start', step: position.step, seconds: (deps.nowMs() - startedMs) / 1000 });
    if (adoption.checkpoint) report(segment, { phase: 'load', resumedFrom: position.step });
    const end = await runSegment(segment);
    await segment.log.timing({ event: 'end', step: segment.position.step, seconds: segment.stepSeconds });
    return await segmentResult(segment, end);
  } finally {
    await segment.log.close();
  }
}

/** An attempt whose forerunner got to the end but could not say so has nothing to compute. */
async function runSegment(prepared: PreparedSegment): Promise<SegmentEnd> {
  const { checkpoint } = prepared.adoption;
  if (checkpoint && isFinished(prepared)) return { stop: prepared.over ?? 'epoch', checkpoint: checkpoint.ref };
  const segment = await startEngine(prepared);
  try {
    return await trainEpochs(segment);
  } finally {
    segment.engine.dispose();
  }
}

function isFinished({ over, position, epoch }: PreparedSegment): boolean {
  return over !== null || position.epoch > epoch;
}

/** One epoch; more where the checkpoint of an earlier one had to be used. */
async function trainEpochs(segment: Segment): Promise<SegmentEnd> {
  if (!(await evaluateBase(segment))) return interrupt(segment);
  for (;;) {
    await trainToEpochEnd(segment);
    const { position, pairs, totalSteps } = segment;
    if (position.cursor < pairs.length && position.step < totalSteps) return interrupt(segment);
    const checkpoint = await finishEpoch(segment);
    if (checkpoint === null) return interrupt(segment);
    if (isFinished(segment)) return { stop: segment.over ?? 'epoch', checkpoint };
  }
}

/** Row of epoch 0: the validation split before the first step. @returns false where it was asked to stop meanwhile */
async function evaluateBase(segment: Segment): Promise<boolean> {
  if (segment.position.step > 0 || segment.log.rows.length > 0 || segment.held.length === 0) return true;
  const held = await evaluateHeld(segment);
  if (held === null) return false;
  mustBeMeasured(segment.input.config.training.earlyStopping, held);
  await segment.log.append(epochRow({ step: 0, epoch: 0 }, {}, held));
  return true;
}

async function trainToEpochEnd(segment: Segment): Promise<void> {
  const { input, engine, pairs, hooks } = segment;
  report(segment, { phase: 'step' });
  await trainEpoch(engine, pairs, segment.position, input.config.training, {
    onStep: (report) => afterStep(segment, report),
    shouldStop: () => isAskedToStop(segment),
    signal: hooks.signal,
  });
}

async function afterStep(segment: Segment, { position, row, tokens, isLast }: StepReport): Promise<void> {
  const { deps, log, totalSteps } = segment;
  const seconds = (deps.nowMs() - segment.steppedAtMs) / 1000;
  segment.position = position;
  segment.tokens += tokens;
  segment.stepSeconds += seconds;
  segment.stepsHere += 1;
  await log.append(row);
  await log.timing({ event: 'step', step: position.step, seconds, tokens });
  report(segment, {
    phase: 'step',
    loss: Number(row['loss']),
    tokensPerSecond: segment.tokens / Math.max(segment.stepSeconds, 1e-3),
    etaSeconds: ((totalSteps - position.step) * segment.stepSeconds) / segment.stepsHere,
  });
  if (!isLast && isCheckpointDue(segment)) await saveSegment(segment);
  segment.steppedAtMs = deps.nowMs();
}

function isCheckpointDue({ input, position, saved, deps }: Segment): boolean {
  const { checkpointEverySteps, checkpointEverySeconds } = input.config.training;
  return (
    position.step - saved.step >= checkpointEverySteps || deps.nowMs() - saved.atMs >= checkpointEverySeconds * 1000
  );
}

/** Evaluation, the epoch's row, early stopping, checkpoint. @returns null where it was asked to stop meanwhile */
async function finishEpoch(segment: Segment): Promise<CheckpointRef | null> {
  const { pairs, held, totalSteps, log, input } = segment;
  const { earlyStopping, batchSize, epochs } = input.config.training;
  const metrics = held.length > 0 ? await evaluateHeld(segment) : {};
  if (metrics === null) return null;
  const at = segment.position;
  const epoch = epochFraction(at, pairs.length, batchSize);
  await log.append(epochRow({ step: at.step, epoch }, epochMeans(log.rows, at.epoch), metrics));
  if (at.cursor >= pairs.length) segment.position = { step: at.step, epoch: at.epoch + 1, cursor: 0 };
  if (held.length > 0) {
    const checkpoint = `${input.lineage}/${checkpointName(at.step, input.attemptToken)}`;
    segment.stopping = observe(segment.stopping, metrics, earlyStopping, { step: at.step, checkpoint });
  }
  const isDone = at.step >= totalSteps || segment.position.epoch >= epochs;
  segment.over = isDone ? 'done' : shouldStop(segment.stopping, earlyStopping) ? 'earlyStop' : null;
  return saveSegment(segment);
}

async function evaluateHeld(segment: Segment): Promise<MetricRow | null> {
  const { engine, held, input, deps, log, position } = segment;
  const startedMs = deps.nowMs();
  report(segment, { phase: 'evaluate', done: 0, total: held.length });
  const evaluation = await evaluateSplit(engine, held, {
    orpo: input.config.orpo,
    batchSize: input.config.training.batchSize,
    onBatch: (done, total) => report(segment, { phase: 'evaluate', done, total }),
    shouldStop: () => isAskedToStop(segment),
  });
  if (evaluation === null) return null;
  const seconds = (deps.nowMs() - startedMs) / 1000;
  await log.timing({ event: 'evaluate', step: position.step, seconds });
  segment.steppedAtMs = deps.nowMs();
  return evaluation.metrics;
}

function isAskedToStop({ hooks }: Segment): boolean {
  return hooks.signal?.aborted === true || (hooks.stopRequest?.() ?? null) !== null;
}

/** Ends between two steps, with a checkpoint. */
async function interrupt(segment: Segment): Promise<SegmentEnd> {
  const asked = segment.hooks.stopRequest?.() ?? null;
  const { saved, position } = segment;
  const checkpoint = saved.ref && saved.step === position.step ? saved.ref : await saveSegment(segment);
  if (asked !== null) return { stop: asked === 'pause' ? 'paused' : 'stopped', checkpoint };
  throw new Preempted(
    `training: asked to leave after step ${position.step}; checkpoint ${checkpoint.uri} is written, the next attempt goes on from it`,
  );
}
