/**
 * One optimiser step behind an interface. `eager.ts` is the definition; any faster implementation must equal it.
 */
import type { EncodedPair } from '../data/encoded.ts';
import type { MetricRow } from '../../shared/records.ts';

/** A named tensor as plain data, float32, row-major. */
export interface NamedArray {
  shape: number[];
  data: Float32Array;
}

/** Everything that changes while training, keyed by parameter name: never by position. */
export interface TrainState {
  /** Trained tensors under their file names (PEFT's for adapters, Hugging Face's for full fine-tuning). */
  weights: Record<string, NamedArray>;
  /** AdamW first and second moments under the same names. */
  firstMoments: Record<string, NamedArray>;
  secondMoments: Record<string, NamedArray>;
  /** Optimiser steps done. */
  step: number;
}

/** What the loss says of one pair; enough to recompute every metric of a split. */
export interface PairScores {
  row: number;
  /** Mean log-probability of the answer's tokens. */
  logpChosen: number;
  logpRejected: number;
  /** Sum and count of negative log-likelihood over the chosen row's tokens in the NLL's scope. */
  nllSum: number;
  nllCount: number;
}

export interface StepResult {
  /** TRL's train names: loss, nll_loss, log_odds_ratio, log_odds_chosen, rewards/*, logps/*, grad_norm, learning_rate. */
  metrics: MetricRow;
  /** Real tokens computed (both sequences, without padding). */
  tokens: number;
}

export interface TrainStep {
  /** Forward, backward and update on these pairs. @throws NonFiniteLoss naming rows; the state is then unchanged */
  step(pairs: EncodedPair[], options: { learningRate: number; stepIndex: number }): Promise<StepResult>;
  /** Forward only, at the present weights. */
  evaluate(pairs: EncodedPair[]): Promise<PairScores[]>;
  /** Greedy continuation of a prompt, until an end id or the limit; end ids are not returned. */
  generate(promptIds: number[], options: { maxNewTokens: number; endIds: number[] }): Promise<number[]>;
  readState(): Promise<TrainState>;
  writeState(state: TrainState): Promise<void>;
  trainableCount: number;
  dispose(): void;
}
