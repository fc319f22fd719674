/**
 * A segment at work: what it reads at its start, what it keeps in memory, how it is saved and what it reports at its end.
 * The order of training stands in train-segment.ts.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { TrainerPhase } from '../../shared/contract.ts';
import { DatasetInvalid } from '../../shared/errors.ts';
import type { ArtifactRef, CheckpointRef, SegmentResult } from '../../shared/records.ts';
import {
  CHECKPOINT_FORMAT,
  referenceTo,
  saveCheckpoint,
  type CheckpointMeta,
  type RunIdentity,
} from '../checkpoint/checkpoint.ts';
import { identityOf, inexactBecause, mustBelong } from '../checkpoint/identity.ts';
import { adopt, mustBeNewest, prune, type Adoption } from '../checkpoint/lineage.ts';
import type { EncodedPair } from '../data/encoded.ts';
import { readTokens } from '../data/split-files.ts';
import { NOTHING_YET, type StoppingState } from '../early-stopping.ts';
import { epochFraction, START, totalStepsOf, type Position } from '../position.ts';
import { epochMeans, metricsWith, prefixed, type TrainerStateInfo } from '../report/metrics.ts';
import type { TrainStep } from '../step/index.ts';
import { openSegmentLog, recomputedSteps, type SegmentLog } from './segment-log.ts';

import type { SegmentDeps, SegmentHooks, SegmentInput, SegmentProgress } from './train-segment.ts';

/** Checkpoints kept beside the best one and the one that the segment began with. */
const KEPT_CHECKPOINTS = 3;

export interface Segment {
  input: SegmentInput;
  hooks: SegmentHooks;
  deps: SegmentDeps;
  /** Training split and validation split (empty where there is none). */
  pairs: EncodedPair[];
  held: EncodedPair[];
  identity: RunIdentity;
  engine: TrainStep;
  log: SegmentLog;
  /** What it does now. */
  phase: TrainerPhase;
  /** Epoch to finish, from 0. */
  epoch: number;
  totalSteps: number;
  adoption: Adoption;
  position: Position;
  stopping: StoppingState;
  over: CheckpointMeta['over'];
  saved: { ref: CheckpointRef | null; step: number; atMs: number };
  steppedAtMs: number;
  stepSeconds: number;
  stepsHere: number;
  tokens: number;
}

export interface SegmentEnd {
  stop: SegmentResult['stop'];
  checkpoint: CheckpointRef;
}

/** A segment whose checkpoint has been adopted; the engine is not yet loaded. */
export type PreparedSegment = Omit<Segment, 'engine'>;

/** Adopts a checkpoint and opens the log.
 *  @throws AttemptSuperseded, CheckpointIncompatible; DatasetInvalid where a split's file is not the one tokenised */
export async function prepareSegment(
  input: SegmentInput,
  hooks: SegmentHooks,
  deps: SegmentDeps,
): Promise<PreparedSegment> {
  const { config, output, lineage, attemptToken: token, worker, tokens } = input;
  const pairs = await readSplit(tokens.splits.train);
  const held = tokens.splits.validation ? await readSplit(tokens.splits.validation) : [];
  const identity = identityOf(config, input.model, pairs);
  const adoption = await adopt({ output, lineage, token, worker, from: input.from, epoch: input.epoch });
  const { checkpoint } = adoption;
  if (checkpoint) mustBelong(checkpoint.meta, checkpoint.ref.uri, { lineage, identity });
  const position = checkpoint?.meta.position ?? START;
  const progress = {
    position,
    totalSteps: totalStepsOf(position, pairs.length, config.training),
    stopping: checkpoint?.meta.stopping ?? NOTHING_YET,
  };
  const log = await openSegmentLog(
    { output, lineage, attempt: token, worker, nowMs: () => deps.nowMs() },
    checkpoint?.rows ?? [],
    trainerInfo({ input, pairs, ...progress }),
  );
  return {
    ...{ input, hooks, deps, pairs, held, identity, log, adoption, ...progress },
    phase: 'load',
    epoch: adoption.epoch,
    over: checkpoint?.meta.over ?? null,
    saved: { ref: checkpoint?.ref ?? null, step: position.step, atMs: deps.nowMs() },
    ...{ steppedAtMs: deps.nowMs(), stepSeconds: 0, stepsHere: 0, tokens: 0 },
  };
}

/** Loads the engine at the adopted checkpoint's weights. */
export async function startEngine(segment: PreparedSegment): Promise<Segment> {
  const { input, adoption, deps } = segment;
  const { config, model } = input;
  const engine = await deps.createStep({
    baseFolder: model.folder,
    method: config.method,
    orpo: config.orpo,
    weightDecay: config.training.weightDecay,
    maxGradNorm: config.training.maxGradNorm,
    seed: config.training.seed,
    microBatch: model.engine.microBatch,
    onProgress: () => report(segment, { phase: segment.phase }),
  });
  if (adoption.checkpoint) await engine.writeState(adoption.checkpoint.state);
  segment.steppedAtMs = deps.nowMs();
  segment.saved.atMs = deps.nowMs();
  return Object.assign(segment, { engine });
}

/** Hands figures on, with the position filled in. */
export function report(segment: PreparedSegment, progress: SegmentProgress): void {
  segment.phase = progress.phase;
  const { position, totalSteps, saved, hooks } = segment;
  const checkpoint = saved.ref ? { checkpoint: saved.ref } : {};
  hooks.onProgress({ epoch: position.epoch, step: position.step, totalSteps, ...checkpoint, ...progress });
}

/** Writes a checkpoint of this moment, thins out older ones and puts the metrics in place.
 *  @throws AttemptSuperseded where a newer attempt has begun, DiskFull */
export async function saveSegment(segment: Segment): Promise<CheckpointRef> {
  const { input, engine, log, deps, position } = segment;
  const owner = { output: input.output, lineage: input.lineage, token: input.attemptToken };
  const startedMs = deps.nowMs();
  report(segment, { phase: 'checkpoint' });
  await mustBeNewest(owner.output, owner.lineage, owner.token);
  const state = await engine.readState();
  const { ref, bytes } = await saveCheckpoint(input.output, { meta: metaOf(segment), state, rows: [...log.rows] });
  segment.saved = { ref, step: position.step, atMs: deps.nowMs() };
  await prune(owner, { newest: KEPT_CHECKPOINTS, names: keptNames(segment) });
  await log.publish(trainerInfo(segment));
  await log.timing({ event: 'checkpoint', step: position.step, seconds: (deps.nowMs() - startedMs) / 1000, bytes });
  report(segment, { phase: 'checkpoint' });
  return ref;
}

function keptNames({ input, stopping }: Segment): string[] {
  return [input.from?.uri, stopping.best?.checkpoint].flatMap((path) => (path ? basename(path) : []));
}

function metaOf({ input, position, totalSteps, over, stopping, identity }: Segment): CheckpointMeta {
  return {
    checkpointFormat: CHECKPOINT_FORMAT,
    lineage: input.lineage,
    token: input.attemptToken,
    configHash: input.configHash,
    position,
    totalSteps,
    seed: input.config.training.seed,
    over,
    stopping,
    identity,
    engine: input.model.engine,
  };
}

function trainerInfo(
  segment: Pick<Segment, 'input' | 'pairs' | 'position' | 'totalSteps' | 'stopping'>,
): TrainerStateInfo {
  const { input, pairs, position, totalSteps, stopping } = segment;
  const { batchSize, epochs, checkpointEverySteps } = input.config.training;
  const best = stopping.best && { ...stopping.best, checkpoint: `checkpoints/${stopping.best.checkpoint}` };
  const epoch = epochFraction(position, pairs.length, batchSize);
  return { step: position.step, epoch, totalSteps, epochs, batchSize, checkpointEverySteps, best };
}

/** What the workflow learns of a segment. */
export async function segmentResult(
  segment: PreparedSegment,
  { stop, checkpoint }: SegmentEnd,
): Promise<SegmentResult> {
  const { input, position, totalSteps, adoption, log, stopping } = segment;
  const lastEpochRow = log.rows.findLast((row) => row.type === 'epoch');
  const isAtRow = lastEpochRow !== undefined && lastEpochRow.step === position.step && stop !== 'paused';
  const train = isAtRow
    ? metricsWith('train_', lastEpochRow)
    : prefixed('train_', epochMeans(log.rows, position.epoch));
  // An attempt that found all of its steps done took nothing up again.
  const resumes = segment.stepsHere > 0 ? adoption.earlierAttempts : 0;
  const reasons = adoption.checkpoint ? inexactBecause(adoption.checkpoint.meta.engine, input.model.engine) : [];
  const wasDisturbed = resumes > 0 || adoption.warnings.length > 0 || reasons.some((why) => why.startsWith('engine '));
  const inexact = wasDisturbed ? reasons : [];
  return {
    checkpoint,
    epoch: position.epoch,
    step: position.step,
    totalSteps,
    train: train ?? {},
    eval: isAtRow ? metricsWith('eval_', lastEpochRow) : null,
    stop,
    resumedFrom: resumes > 0 ? (adoption.checkpoint?.meta.position.step ?? 0) : null,
    recomputedSteps: await recomputedSteps(input.output, input.lineage, {
      after: input.from?.step ?? 0,
      upTo: position.step,
    }),
    resumes,
    best: stopping.best && (await referenceTo(join(input.output, 'checkpoints', stopping.best.checkpoint))),
    exact: inexact.length === 0,
    tokensPerSecond: segment.tokens / Math.max(segment.stepSeconds, 1e-3),
    worker: input.worker,
    warnings: [
      ...adoption.warnings,
      ...inexact.map((why) => `this resume may not repeat the undisturbed run's bits: ${why}`),
    ],
  };
}

/** A split's encoded pairs. @throws DatasetInvalid where the file is not the one that was tokenised */
export async function readSplit({ uri, sha256 }: ArtifactRef): Promise<EncodedPair[]> {
  const found = createHash('sha256')
    .update(await readFile(uri))
    .digest('hex');
  if (found === sha256) return readTokens(uri);
  throw new DatasetInvalid(
    `${uri}: has changed since it was tokenised (sha256 ${found.slice(0, 12)}, expected ${sha256.slice(0, 12)}); ` +
      'restore it, or start the run again so that the data is tokenised anew',
  );
}
