/**
 * The failures this project names. A class's name is its failure type in Temporal and decides whether a retry can help
 * (contract.ts, NON_RETRYABLE). Messages say where, what was got, what is allowed and what to do. Imports nothing.
 */

/** Base of all named failures; `problems` lists every single finding where there are several. */
export class OrpoError extends Error {
  readonly problems: string[];
  constructor(message: string, options: { cause?: unknown; problems?: string[] } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.problems = options.problems ?? [];
  }
}

// What the user gave. Exit code 2.
export class ConfigInvalid extends OrpoError {}
export class DatasetInvalid extends OrpoError {}
export class TokenizerMismatch extends OrpoError {}
export class ModelNotFound extends OrpoError {}
/** A model's files are there but broken or of an unsupported kind: truncated, wrong shapes, unknown architecture. */
export class ModelInvalid extends OrpoError {}
export class CheckpointIncompatible extends OrpoError {}
export class OutputInUse extends OrpoError {}

// What happened while training. Exit code 1.
export class NonFiniteLoss extends OrpoError {}
export class NoProgress extends OrpoError {}
export class InsufficientMemory extends OrpoError {}
/** Retryable: the trainer process ended by itself or by a signal. */
export class TrainerCrashed extends OrpoError {}
/** Retryable: the trainer process reported no progress within its phase's deadline. */
export class TrainerStalled extends OrpoError {}
/** Retryable: the worker shuts down; the run goes on elsewhere from the checkpoint just written. */
export class Preempted extends OrpoError {}
/** Retryable: a newer attempt has taken over this run's checkpoints; this one writes nothing more. */
export class AttemptSuperseded extends OrpoError {}

// What the machine lacks. Exit code 3.
export class DiskFull extends OrpoError {}
export class StorageUnavailable extends OrpoError {}
export class EnvironmentIncomplete extends OrpoError {}

const USER_ERRORS = new Set([
  'ConfigInvalid',
  'DatasetInvalid',
  'TokenizerMismatch',
  'ModelNotFound',
  'ModelInvalid',
  'CheckpointIncompatible',
  'OutputInUse',
]);
const ENVIRONMENT_ERRORS = new Set(['DiskFull', 'StorageUnavailable', 'EnvironmentIncomplete']);

/** The command line's exit code for a failure type: 2 usage, config or data; 3 environment; 1 otherwise. */
export function exitCodeOf(type: string): 1 | 2 | 3 {
  if (USER_ERRORS.has(type)) return 2;
  return ENVIRONMENT_ERRORS.has(type) ? 3 : 1;
}
