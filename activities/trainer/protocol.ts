/**
 * What a worker and its trainer child say to each other over Node's IPC channel. Plain JSON, a `type` each.
 */
import type { EvaluateInput } from '../../training/steps/evaluate.ts';
import type { SegmentInput } from '../../training/steps/train-segment.ts';
import type { EvaluationResult, SegmentResult } from '../../shared/records.ts';
import type { TrainerPhase } from '../../shared/contract.ts';

export type TrainerTask = { kind: 'segment'; input: SegmentInput } | { kind: 'evaluate'; input: EvaluateInput };

export interface TaskResults {
  segment: SegmentResult;
  evaluate: EvaluationResult | null;
}

/** A trainer's figures at this moment; every message restarts its phase's deadline. */
export interface TrainerProgress {
  phase: TrainerPhase;
  epoch?: number;
  step?: number;
  totalSteps?: number;
  loss?: number;
  tokensPerSecond?: number;
  etaSeconds?: number;
  checkpoint?: { uri: string; step: number; sha256: string };
  /** Pairs done of a split while evaluating. */
  done?: number;
  total?: number;
  /** Set once, when training resumes: the checkpoint's step. */
  resumedFrom?: number;
}

export type ToTrainer = { type: 'run'; task: TrainerTask } | { type: 'stop' };

export type FromTrainer =
  | { type: 'progress'; progress: TrainerProgress }
  | { type: 'result'; value: unknown }
  | { type: 'error'; name: string; message: string; problems: string[]; stack: string | undefined };
