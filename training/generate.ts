/**
 * Greedy continuation with a key/value cache: the prompt in one pass, then one token at a time.
 * Shapes: S positions so far, H query heads, K key/value heads, G = H/K, E head size, D hidden, V vocabulary.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ConfigInvalid } from '../shared/errors.ts';
import { attentionForward } from './model/attention.ts';
import { disposeContext, EMBEDDING, FINAL_NORM, headName, passContext, type Decoder } from './model/decoder.ts';
import { layerForward, weightOf, type PassContext } from './model/decoder-layer.ts';
import { rmsNorm } from './model/layers.ts';
import { applyRope, ropeTables } from './model/rope.ts';
import { sequenceLayout } from './step/batch.ts';
import { dispose, matMul, tf, tidy, type Tensor } from './tf.ts';

/** Rotated keys and values of one layer: [1, K, S, E] each. */
interface LayerCache {
  k: Tensor;
  v: Tensor;
}

/** @param promptIds - at least one  @returns the new ids, without the end id
 *  @throws ConfigInvalid for an empty prompt; the signal's reason where aborted */
export async function generateGreedy(
  decoder: Decoder,
  promptIds: number[],
  { maxNewTokens, endIds }: { maxNewTokens: number; endIds: number[] },
  signal?: AbortSignal,
): Promise<number[]> {
  if (promptIds.length === 0) throw new ConfigInvalid('generate: the prompt has no tokens; give at least one');
  const generated: number[] = [];
  const caches: LayerCache[] = [];
  try {
    let next = advance(decoder, promptIds, caches, 0);
    while (generated.length < maxNewTokens && !endIds.includes(next)) {
      generated.push(next);
      signal?.throwIfAborted();
      if (generated.length === maxNewTokens) break;
      next = advance(decoder, [next], caches, promptIds.length + generated.length - 1);
      await nextTurn();
    }
    return generated;
  } finally {
    dispose(caches);
  }
}

/** Runs ids through the decoder and adds them to the caches.
 *  @param position - of the first id; 0 fills empty caches, later calls take one id each
 *  @returns the likeliest next id */
function advance(decoder: Decoder, ids: number[], caches: LayerCache[], position: number): number {
  const layout = sequenceLayout([ids.length]);
  const base = passContext(decoder.config, layout);
  const context = position === 0 ? base : { ...base, ...ropeAt(decoder, position) };
  let x = tidy(() => tf.gather(weightOf(decoder, EMBEDDING), tf.tensor1d(ids, 'int32'))); // [M, D]
  for (let layer = 0; layer < decoder.config.num_hidden_layers; layer++) {
    const old = caches[layer];
    const { y, cache } = tidy(() => {
      const attend = old ? cachedAttention(old) : attentionForward;
      const result = layerForward(decoder, layer, x, context, attend);
      return { y: result.y, cache: { k: result.values.attention.k, v: result.values.attention.v } };
    });
    dispose([x, old]);
    caches[layer] = cache;
    x = y;
  }
  const id = likeliest(decoder, x);
  dispose(x);
  disposeContext(base);
  if (context !== base) disposeContext(context);
  dispose(layout);
  return id;
}

function ropeAt(decoder: Decoder, position: number): Pick<PassContext, 'queryRope' | 'keyRope'> {
  const { head_dim: headSize, rope_theta: theta } = decoder.config;
  return {
    queryRope: ropeTables(1, headSize, theta, 1 / Math.sqrt(headSize), position),
    keyRope: ropeTables(1, headSize, theta, 1, position),
  };
}

/** Attention of one new token over the cache and itself: nothing lies ahead of it, so there is no mask. */
function cachedAttention(cache: LayerCache): typeof attentionForward {
  return (q, k, v, context) => {
    const { queryHeads, keyValueHeads, headSize } = context;
    const heads = (x: Tensor, count: number) => tf.reshape(x, [1, count, 1, headSize]);
    const rotatedQ = applyRope(heads(q, queryHeads), context.queryRope);
    const keys = tf.concat([cache.k, applyRope(heads(k, keyValueHeads), context.keyRope)], 2); // [1, K, S, E]
    const values = tf.concat([cache.v, heads(v, keyValueHeads)], 2); // [1, K, S, E]
    const grouped = tf.reshape(rotatedQ, [1, keyValueHeads, queryHeads / keyValueHeads, headSize]); // [1, K, G, E]
    const probs = tf.softmax(tf.matMul(grouped, keys, false, true)); // [1, K, G, S]
    const out = tf.reshape(tf.matMul(probs, values), [1, queryHeads * headSize]);
    return { out, saved: { q: rotatedQ, k: keys, v: values, probs } };
  };
}

/** Greatest logit after the last position. */
function likeliest(decoder: Decoder, hidden: Tensor): number {
  const id = tidy(() => {
    const last = tf.slice(hidden, [(hidden.shape[0] ?? 1) - 1, 0], [1, -1]);
    const normed = rmsNorm(last, weightOf(decoder, FINAL_NORM), decoder.config.rms_norm_eps);
    const logits = matMul(normed, weightOf(decoder, headName(decoder.config)), false, true); // [1, V]
    return tf.argMax(logits, 1);
  });
  const value = id.dataSync()[0];
  id.dispose();
  if (value === undefined) throw new Error('argMax returned nothing');
  return value;
}
