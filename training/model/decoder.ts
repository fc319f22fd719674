/**
 * A Llama-family decoder (arXiv 2302.13971; transformers' modeling_llama.py): embedding, layers, final norm, output
 * layer. Weights keep their Hugging Face names. Forward keeps what backward needs and no more: the layers' inputs alone
 * (`keep: 'inputs'`, everything else is computed again), or the values that are dear to recompute as well (`'all'`).
 * Shapes: M tokens, D hidden, V vocabulary.
 */
import { dispose, tf, tidy, type Tensor, type Tensor1D } from '../tf.ts';
import type { SequenceLayout } from '../step/batch.ts';
import { causalMask } from './attention.ts';
import type { ModelConfig } from './config.ts';
import {
  layerBackward,
  layerForward,
  weightOf,
  type Decoder,
  type LayerValues,
  type PassContext,
} from './decoder-layer.ts';
import type { Gradients } from './layers.ts';
import type { DropoutSource } from './lora.ts';
import { linearModules, loraName, PROJECTIONS } from './lora-names.ts';
import { ropeTables } from './rope.ts';

export type { Decoder, PassContext } from './decoder-layer.ts';

export const EMBEDDING = 'model.embed_tokens.weight';
export const FINAL_NORM = 'model.norm.weight';

/** Name of the output layer's weights. */
export function headName(config: ModelConfig): string {
  return config.tie_word_embeddings ? EMBEDDING : 'lm_head.weight';
}

/** Tables and masks of one micro-batch. The caller owns them (`disposeContext`). */
export function passContext(
  config: ModelConfig,
  layout: SequenceLayout,
  dropout: DropoutSource | null = null,
): PassContext {
  const { head_dim: headSize, rope_theta: ropeTheta } = config;
  return {
    layout,
    queryHeads: config.num_attention_heads,
    keyValueHeads: config.num_key_value_heads,
    headSize,
    queryRope: ropeTables(layout.longest, headSize, ropeTheta, 1 / Math.sqrt(headSize)),
    keyRope: ropeTables(layout.longest, headSize, ropeTheta),
    causalMask: causalMask(layout.longest),
    dropout,
  };
}

/** Frees what passContext made; the layout stays. */
export function disposeContext({ queryRope, keyRope, causalMask: mask }: PassContext): void {
  dispose([queryRope.cos, queryRope.signedSin, keyRope.cos, keyRope.signedSin, mask]);
}

/** What forward keeps for backward; `'none'` when there will be none. */
export type Keep = 'all' | 'inputs' | 'none';

interface LayerSaved {
  x: Tensor; // [M, D]
  values: LayerValues | null;
}

export interface DecoderPass {
  /** Before the final norm. */
  hidden: Tensor; // [M, D]
  /** By layer; null below the first layer that trains, and where nothing is kept. */
  saved: (LayerSaved | null)[];
}

/** Ids to hidden states before the final norm.
 *  @param ids - int32 [M]  @returns a pass that the caller owns: free it by decoderBackward or disposePass */
export function decoderForward(decoder: Decoder, ids: Tensor, context: PassContext, keep: Keep): DecoderPass {
  const layerCount = decoder.config.num_hidden_layers;
  const firstKept = keep === 'none' ? layerCount : firstTrainedLayer(decoder);
  const saved: (LayerSaved | null)[] = [];
  let x = tf.gather(weightOf(decoder, EMBEDDING), ids); // [M, D]
  for (let layer = 0; layer < layerCount; layer++) {
    const keepValues = keep === 'all' && layer >= firstKept;
    const { y, values } = tidy(() => {
      const result = layerForward(decoder, layer, x, context);
      return { y: result.y, values: keepValues ? result.values : null };
    });
    if (layer >= firstKept) {
      saved.push({ x, values });
    } else {
      saved.push(null);
      x.dispose();
    }
    x = y;
  }
  return { hidden: x, saved };
}

/** Gradients of what trains, and of nothing else. Frees the pass on its way down.
 *  @param ids - int32 [M]  @param dHidden - float32 [M, D], freed too */
export function decoderBackward(
  decoder: Decoder,
  ids: Tensor,
  context: PassContext,
  pass: DecoderPass,
  dHidden: Tensor,
): Gradients {
  const gradients: Gradients = {};
  let dy = dHidden;
  pass.hidden.dispose();
  for (const [layer, saved] of [...pass.saved.entries()].reverse()) {
    if (!saved) break;
    const result = tidy(() => {
      const values = saved.values ?? layerForward(decoder, layer, saved.x, context).values;
      const { dx, gradients: ofLayer } = layerBackward(decoder, layer, dy, saved.x, values, context);
      return { dx, ofLayer };
    });
    dispose([dy, saved.x]);
    if (saved.values) dispose(saved.values);
    Object.assign(gradients, result.ofLayer);
    dy = result.dx;
  }
  if (decoder.trainsBase) {
    gradients[EMBEDDING] = tf.unsortedSegmentSum(dy, ids as Tensor1D, decoder.config.vocab_size); // [V, D]
  }
  dy.dispose();
  return gradients;
}

/** Frees a pass that is not followed by backward. */
export function disposePass(pass: DecoderPass): void {
  pass.hidden.dispose();
  for (const saved of pass.saved) {
    saved?.x.dispose();
    if (saved?.values) dispose(saved.values);
  }
}

/** Below this layer nothing trains, so that backward ends there. */
function firstTrainedLayer(decoder: Decoder): number {
  if (decoder.trainsBase) return 0;
  const layerCount = decoder.config.num_hidden_layers;
  const trained = linearModules(layerCount).find((module) => decoder.adapter?.weights[loraName(module, 'A')]);
  return trained ? Math.floor(linearModules(layerCount).indexOf(trained) / PROJECTIONS.length) : layerCount;
}
