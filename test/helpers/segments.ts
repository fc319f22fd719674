/** Runs segments as the workflow does, ends them as a kill does, and says what came of a run. */
import { mkdtemp, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CheckpointRef, SegmentResult } from '../../shared/records.ts';
import { loadCheckpoint } from '../../training/checkpoint/checkpoint.ts';
import { digestOf } from '../../training/checkpoint/digest.ts';
import {
  trainSegment,
  type SegmentDeps,
  type SegmentHooks,
  type SegmentInput,
  type SegmentProgress,
} from '../../training/steps/train-segment.ts';
import { createPlainStep, type PlainStepOptions } from './plain-step.ts';

export class Killed extends Error {}

export const quiet: SegmentHooks = { onProgress: () => {} };

export interface FinishedRun {
  input: SegmentInput;
  results: SegmentResult[];
}

/** The same run with an output of its own beside the first; base and tokens are shared. */
export async function freshOutput(input: SegmentInput): Promise<SegmentInput> {
  return { ...input, output: await mkdtemp(`${input.output}-`) };
}

/** Segments in turn until the run is over. */
export async function trainAll(
  input: SegmentInput,
  {
    hooks = quiet,
    from = input.from,
    deps,
  }: { hooks?: SegmentHooks; from?: CheckpointRef | null; deps?: SegmentDeps } = {},
): Promise<FinishedRun> {
  const results: SegmentResult[] = [];
  let attemptToken = input.attemptToken;
  do {
    const checkpoint: CheckpointRef | null = results.at(-1)?.checkpoint ?? from;
    results.push(await trainSegment({ ...input, from: checkpoint, attemptToken: attemptToken++ }, hooks, deps));
  } while (results.at(-1)?.stop === 'epoch');
  return { input, results };
}

/** What must be equal for two runs to be the same: all trained bits and moments, and the metrics' text. */
export async function outcomeOf({ input, results }: FinishedRun): Promise<{ digest: string; metrics: string }> {
  const { state } = await loadCheckpoint(results.at(-1)?.checkpoint.uri ?? '');
  const digests = [state.weights, state.firstMoments, state.secondMoments].map(digestOf);
  return { digest: digests.join(' '), metrics: await readFile(join(input.output, 'metrics.jsonl'), 'utf8') };
}

/** Ends as by a kill in the moment that this progress is reported. */
export function killedWhen(moment: (progress: SegmentProgress) => boolean): SegmentHooks {
  return {
    onProgress: (progress) => {
      if (moment(progress)) throw new Killed(`at ${JSON.stringify(progress)}`);
    },
  };
}

export function killedAfterStep(step: number): SegmentHooks {
  return killedWhen((progress) => progress.phase === 'step' && progress.step === step && progress.loss !== undefined);
}

/** Asks to pause or stop from this step on. */
export function asking(step: number, answer: 'pause' | 'stop'): SegmentHooks {
  let isAsked = false;
  return {
    onProgress: (progress) => {
      isAsked ||= progress.step === step && progress.phase === 'step';
    },
    stopRequest: () => (isAsked ? answer : null),
  };
}

/** An engine of plain arithmetic and a clock that moves a second at each look. */
export function plainDeps(options: PlainStepOptions = {}): SegmentDeps {
  let seconds = 0;
  return { createStep: async () => createPlainStep(options), nowMs: () => 1000 * seconds++ };
}

/** One segment on the plain engine. */
export function beginPlain(
  input: SegmentInput,
  hooks: SegmentHooks = quiet,
  engine: PlainStepOptions = {},
): Promise<SegmentResult> {
  return trainSegment(input, hooks, plainDeps(engine));
}

/** The rest of a run on the plain engine. */
export function finishPlain(
  input: SegmentInput,
  from: CheckpointRef | null = null,
  engine: PlainStepOptions = {},
): Promise<FinishedRun> {
  return trainAll(input, { from, deps: plainDeps(engine) });
}

/** The run with other training options. */
export function withTraining(input: SegmentInput, training: Partial<SegmentInput['config']['training']>): SegmentInput {
  return { ...input, config: { ...input.config, training: { ...input.config.training, ...training } } };
}

/** Path of a checkpoint of the lineage `main`. */
export function checkpointPath({ output }: SegmentInput, name: string): string {
  return join(output, 'checkpoints', 'main', name);
}
