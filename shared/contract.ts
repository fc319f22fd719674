/**
 * Names and times that workflows, activities, workers and clients must agree on. Imports nothing, so that workflow code
 * (which runs in Temporal's sandbox) may use the values. Names are stable once used: add, never rename.
 */

export const WORKFLOW_QUEUE = 'orpo';
export const CPU_QUEUE = 'orpo-cpu';
export const GPU_QUEUE = 'orpo-gpu';

export const FINE_TUNE = 'orpoFineTune';

export const QUERIES = { progress: 'progress', config: 'config', artifacts: 'artifacts' } as const;
export const UPDATES = {
  pause: 'pause',
  resume: 'resume',
  stop: 'stop',
  stopAfterEpoch: 'stopAfterEpoch',
} as const;
/** Internal, at most once a minute: a running segment's figures, because a query cannot read heartbeats. */
export const REPORT_PROGRESS = 'reportProgress';

/** Search attributes and their Temporal types; runs work without them. */
export const SEARCH_ATTRIBUTES = {
  OrpoModel: 'KEYWORD',
  OrpoDataset: 'KEYWORD',
  OrpoPhase: 'KEYWORD',
  OrpoEpoch: 'INT',
  OrpoEvalLoss: 'DOUBLE',
  OrpoRewardAcc: 'DOUBLE',
} as const;

/** Failure types for which another attempt cannot help. Equal to class names in errors.ts (test/layout.test.ts). */
export const NON_RETRYABLE = [
  'ConfigInvalid',
  'DatasetInvalid',
  'TokenizerMismatch',
  'ModelNotFound',
  'ModelInvalid',
  'CheckpointIncompatible',
  'OutputInUse',
  'NonFiniteLoss',
  'NoProgress',
  'InsufficientMemory',
  'DiskFull',
] as const;

/** How long a trainer may be silent in each phase before it counts as stalled, in milliseconds. */
export const PHASE_DEADLINE_MS = {
  load: 15 * 60_000,
  compile: 15 * 60_000,
  step: 10 * 60_000,
  checkpoint: 10 * 60_000,
  evaluate: 30 * 60_000,
} as const;

export type TrainerPhase = keyof typeof PHASE_DEADLINE_MS;
