/**
 * Causal self-attention with grouped queries (arXiv 2305.13245) over sequences of unequal length, with its gradient in
 * closed form. Right padding needs no mask of its own: a pad stands after every real token, so the causal mask hides it,
 * and a pad's output is never read.
 * Shapes: N sequences, T longest, M tokens, H query heads, K key/value heads, G = H/K queries a group, E head size.
 */
import { tf, tidy, type Tensor } from '../tf.ts';
import type { SequenceLayout } from '../step/batch.ts';
import { applyRope, applyRopeBackward, type RopeTables } from './rope.ts';

export interface HeadCounts {
  queryHeads: number;
  keyValueHeads: number;
  headSize: number;
}

/** What one forward or backward pass over a micro-batch shares between layers. */
export interface AttentionContext extends HeadCounts {
  layout: SequenceLayout;
  /** Queries' tables carry the factor 1/√E. */
  queryRope: RopeTables;
  keyRope: RopeTables;
  /** float32 [T, T]: 0 where a query sees a key, a large negative number elsewhere. */
  causalMask: Tensor;
}

/** Kept from forward for backward, and for a cache: queries and keys rotated, queries scaled. */
export interface AttentionSaved {
  q: Tensor; // [N, H, T, E]
  k: Tensor; // [N, K, T, E]
  v: Tensor; // [N, K, T, E]
  probs: Tensor; // [N, K, G·T, T]
}

/** Large enough to vanish in softmax, small enough to stay finite in sums. */
const MASKED = -1e9;

/** @returns float32 [T, T] */
export function causalMask(positions: number): Tensor {
  const values = new Float32Array(positions * positions);
  for (let query = 0; query < positions; query++)
    values.fill(MASKED, query * positions + query + 1, (query + 1) * positions);
  return tf.tensor2d(values, [positions, positions]);
}

/** @param q - float32 [M, H·E]  @param k - float32 [M, K·E]  @param v - float32 [M, K·E]
 *  @returns out float32 [M, H·E] */
export function attentionForward(q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) {
  const { queryHeads, keyValueHeads } = context;
  const rotatedQ = applyRope(toHeads(q, queryHeads, context), context.queryRope);
  const rotatedK = applyRope(toHeads(k, keyValueHeads, context), context.keyRope);
  const headsV = toHeads(v, keyValueHeads, context);
  const probs = attentionWeights(rotatedQ, rotatedK, context);
  const out = fromHeads(tf.matMul(probs, headsV), queryHeads, context);
  return { out, saved: { q: rotatedQ, k: rotatedK, v: headsV, probs } };
}

/** softmax(q·kᵀ + mask) @returns float32 [N, K, G·T, T] */
function attentionWeights(q: Tensor, k: Tensor, context: AttentionContext): Tensor {
  const scores = tf.matMul(grouped(q, context), k, false, true); // [N, K, G·T, T]
  const { longest, sequences } = context.layout;
  const byHead = tf.reshape(scores, [sequences * context.queryHeads, longest, longest]);
  return tf.reshape(tf.softmax(tf.add(byHead, context.causalMask)), scores.shape);
}

/** Cotangents of attentionForward's inputs. With P = probs: dV = Pᵀ·dO, dS = P∘(dP − rowsum(P∘dP)), dQ = dS·K, dK = dSᵀ·Q.
 *  @param dOut - float32 [M, H·E] */
export function attentionBackward(dOut: Tensor, saved: AttentionSaved, context: AttentionContext) {
  const { queryHeads, keyValueHeads } = context;
  const { k, v, probs } = saved;
  const dHeads = grouped(toHeads(dOut, queryHeads, context), context); // [N, K, G·T, E]
  const dV = tf.matMul(probs, dHeads, true, false); // [N, K, T, E]
  const dScores = tidy(() => {
    const weighted = tf.mul(tf.matMul(dHeads, v, false, true), probs); // [N, K, G·T, T]
    return tf.sub(weighted, tf.mul(probs, tf.sum(weighted, -1, true)));
  });
  const dQ = tf.reshape(tf.matMul(dScores, k), saved.q.shape); // [N, H, T, E]
  const dK = tf.matMul(dScores, grouped(saved.q, context), true, false); // [N, K, T, E]
  return {
    dq: fromHeads(applyRopeBackward(dQ, context.queryRope), queryHeads, context),
    dk: fromHeads(applyRopeBackward(dK, context.keyRope), keyValueHeads, context),
    dv: fromHeads(dV, keyValueHeads, context),
  };
}

/** Queries of one group side by side: [N, H, T, E] → [N, K, G·T, E]. */
function grouped(x: Tensor, { layout, queryHeads, keyValueHeads, headSize }: AttentionContext): Tensor {
  return tf.reshape(x, [layout.sequences, keyValueHeads, (queryHeads / keyValueHeads) * layout.longest, headSize]);
}

/** Tokens to padded heads, pads 0: [M, heads·E] → [N, heads, T, E]. */
function toHeads(x: Tensor, heads: number, { layout, headSize }: AttentionContext): Tensor {
  const padded = isDense(layout) ? x : tf.gather(tf.concat([x, tf.zeros([1, heads * headSize])]), layout.padIndex);
  return tf.transpose(tf.reshape(padded, [layout.sequences, layout.longest, heads, headSize]), [0, 2, 1, 3]);
}

/** Padded heads to tokens: [N, heads, T, E] (or its grouped view) → [M, heads·E]. */
function fromHeads(x: Tensor, heads: number, { layout, headSize }: AttentionContext): Tensor {
  const byHead = tf.reshape(x, [layout.sequences, heads, layout.longest, headSize]);
  const rows = tf.reshape(tf.transpose(byHead, [0, 2, 1, 3]), [-1, heads * headSize]); // [N·T, heads·E]
  return isDense(layout) ? rows : tf.gather(rows, layout.unpadIndex);
}

/** No sequence is padded. */
function isDense(layout: SequenceLayout): boolean {
  return layout.tokens === layout.sequences * layout.longest;
}
