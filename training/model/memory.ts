/**
 * How much memory a training step takes, by arithmetic: what step/eager.ts keeps, tensor by tensor, in float32.
 * Shapes: N = 2·pairs sequences, T tokens of the longest, M = N·T (no padding saved: an upper bound), D hidden, F feed-forward, H
 * and K query and key/value heads of size E, V vocabulary, L layers, R rank.
 *
 *   base        4·parameters
 *   trained     adapter: 4·5·trainable (weights, two moments, the step's gradient and a micro-batch's own)
 *               full: 26·trainable (the same without the weights, and what tied embeddings and the update need at once)
 *   activations 4·L·(M·(2D + 2HE + 2KE + 2F + 7R) + N·H·T²)   kept for backward
 *   working     4·(M·(4F + 4D) + 4·N·H·T²)                    of the layer at work
 *   logits      4·4·256·V                                     chunks of the output layer
 *   runtime     0.6 GB                                        Node and libtensorflow themselves
 *
 * Peak of resident memory measured on SmolLM2-135M, two steps, against this estimate (GB): LoRA r 16, pairs × tokens
 * 1 × 128: 1.60 (1.67), 4 × 256: 3.73 (3.59), 8 × 128: 3.37 (3.27), 1 × 768: 3.93 (4.02); full 1 × 128: 4.98 (5.06).
 */
import type { ModelConfig } from './config.ts';

/** Node and libtensorflow with nothing loaded. */
const RUNTIME_BYTES = 600e6;
/** Positions whose logits stand at once in model/head.ts, and how many arrays of that size. */
const LOGIT_POSITIONS = 256;
const LOGIT_COPIES = 4;

export interface StepSize {
  parameters: number;
  trainable: number;
  /** 0 without an adapter. */
  rank: number;
  method: 'lora' | 'full';
  /** Pairs computed at once. */
  microBatch: number;
  /** Tokens of the longest sequence. */
  longest: number;
}

/** Peak memory of one eager training step in bytes. */
export function stepMemoryBytes(config: ModelConfig, size: StepSize): number {
  const { hidden_size: hidden, intermediate_size: inner, head_dim: headSize } = config;
  const queries = config.num_attention_heads * headSize;
  const keys = config.num_key_value_heads * headSize;
  const sequences = 2 * size.microBatch;
  const tokens = sequences * size.longest;
  const attention = sequences * config.num_attention_heads * size.longest ** 2;
  const trained = size.trainable * (size.method === 'full' ? 26 : 20);
  const keptOfLayer = tokens * (2 * hidden + 2 * queries + 2 * keys + 2 * inner + 7 * size.rank) + attention;
  const working = tokens * (4 * inner + 4 * hidden) + 4 * attention;
  const logits = LOGIT_COPIES * LOGIT_POSITIONS * config.vocab_size;
  const values = size.parameters + config.num_hidden_layers * keptOfLayer + working + logits;
  return RUNTIME_BYTES + trained + 4 * values;
}
