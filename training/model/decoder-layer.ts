/**
 * One layer of the decoder, forward and backward (transformers' LlamaDecoderLayer): x + attention(norm(x)), then
 * + swiglu(norm(·)). Norms and the gated product are computed again in backward: they cost little and save a third of
 * the memory.
 * Shapes: M tokens, D hidden, F feed-forward, H·E and K·E the query and key/value projections.
 */
import { tf, tidy, type Tensor } from '../tf.ts';
import type { ModelConfig } from './config.ts';
import { attentionBackward, attentionForward, type AttentionContext, type AttentionSaved } from './attention.ts';
import {
  linear,
  linearBackward,
  rmsNorm,
  rmsNormBackward,
  swiglu,
  swigluBackward,
  type Gradients,
  type Linear,
} from './layers.ts';
import { dropoutMask, type DropoutSource } from './lora.ts';
import { loraName } from './lora-names.ts';

/** Parameters as plain records keyed by name. */
export interface Decoder {
  config: ModelConfig;
  /** Base weights under Hugging Face names. */
  weights: Record<string, Tensor>;
  /** Whether the base weights train (full fine-tuning). */
  trainsBase: boolean;
  /** Low-rank factors under PEFT's names; null without an adapter. */
  adapter: { scale: number; weights: Record<string, Tensor> } | null;
}

/** What one pass over a micro-batch shares between layers. */
export interface PassContext extends AttentionContext {
  /** Dropout on the adapter's inputs; null where there is none. */
  dropout: DropoutSource | null;
}

/** What a layer's backward reads besides its input, kept or computed again. */
export interface LayerValues {
  attention: AttentionSaved;
  attentionOut: Tensor; // [M, H·E]
  middle: Tensor; // [M, D], after the attention's residual
  gate: Tensor; // [M, F]
  up: Tensor; // [M, F]
  /** LoRA's inner values by projection. */
  inner: Record<string, Tensor | null>; // [M, R]
}

/** A weight by its Hugging Face name. */
export function weightOf(decoder: Decoder, name: string): Tensor {
  const weight = decoder.weights[name];
  if (!weight) throw new Error(`the decoder has no weight "${name}"`);
  return weight;
}

/** A projection with whatever trains in it.
 *  @param part - `self_attn.q_proj` */
export function projectionOf(decoder: Decoder, layer: number, part: string, context: PassContext | null): Linear {
  const module = `model.layers.${layer}.${part}`;
  const weight = weightOf(decoder, `${module}.weight`);
  const [nameA, nameB] = [loraName(module, 'A'), loraName(module, 'B')];
  const a = decoder.adapter?.weights[nameA];
  const b = decoder.adapter?.weights[nameB];
  const dropout = context?.dropout;
  const features = weight.shape[1] ?? 0;
  const mask =
    context && dropout
      ? () => dropoutMask(dropout, module, context.layout.keys, context.layout.lengths, features)
      : null;
  return {
    module,
    weight,
    trained: decoder.trainsBase,
    lora: decoder.adapter && a && b ? { a, b, scale: decoder.adapter.scale, nameA, nameB, dropoutMask: mask } : null,
  };
}

/** @param x - float32 [M, D]  @param attend - another attention, over a cache say
 *  @returns y float32 [M, D]; values for backward */
export function layerForward(
  decoder: Decoder,
  layer: number,
  x: Tensor,
  context: PassContext,
  attend: typeof attentionForward = attentionForward,
): { y: Tensor; values: LayerValues } {
  const inner: LayerValues['inner'] = {};
  const project = (part: string, input: Tensor): Tensor => {
    const { y, u } = linear(input, projectionOf(decoder, layer, part, context));
    inner[part] = u;
    return y;
  };
  const normed = layerNorm(decoder, layer, 'input_layernorm', x);
  const { out: attentionOut, saved: attention } = attend(
    project('self_attn.q_proj', normed),
    project('self_attn.k_proj', normed),
    project('self_attn.v_proj', normed),
    context,
  );
  const middle = tf.add(x, project('self_attn.o_proj', attentionOut));
  const normedMiddle = layerNorm(decoder, layer, 'post_attention_layernorm', middle);
  const gate = project('mlp.gate_proj', normedMiddle);
  const up = project('mlp.up_proj', normedMiddle);
  const y = tf.add(middle, project('mlp.down_proj', swiglu(gate, up)));
  return { y, values: { attention, attentionOut, middle, gate, up, inner } };
}

/** Cotangent of the layer's input and gradients of what trains in it.
 *  @param dy - float32 [M, D]  @param x - the layer's input  @param values - what forward returned */
export function layerBackward(
  decoder: Decoder,
  layer: number,
  dy: Tensor,
  x: Tensor,
  values: LayerValues,
  context: PassContext,
): BlockGradients {
  const backward = blockBackward(decoder, layer, values, context);
  const mlp = tidy(() => mlpBackward(decoder, layer, dy, values, backward));
  const attention = tidy(() => attentionBlockBackward(decoder, layer, mlp.dx, x, values, context, backward));
  return { dx: attention.dx, gradients: { ...mlp.gradients, ...attention.gradients } };
}

interface BlockGradients {
  dx: Tensor;
  gradients: Gradients;
}

/** Backward of this layer's projections and norms, by their names in the layer. */
function blockBackward(decoder: Decoder, layer: number, values: LayerValues, context: PassContext) {
  return {
    project: (part: string, dy: Tensor, input: Tensor): BlockGradients =>
      linearBackward(dy, input, values.inner[part] ?? null, projectionOf(decoder, layer, part, context)),
    norm: (name: string, dy: Tensor, input: Tensor): BlockGradients => {
      const key = `model.layers.${layer}.${name}.weight`;
      const { rms_norm_eps: epsilon } = decoder.config;
      const { dx, dWeight } = rmsNormBackward(dy, input, weightOf(decoder, key), epsilon, decoder.trainsBase);
      return { dx, gradients: dWeight ? { [key]: dWeight } : {} };
    },
  };
}

type BlockBackward = ReturnType<typeof blockBackward>;

/** Through y = m + down(swiglu(gate(norm(m)), up(norm(m)))), m the layer's middle. */
function mlpBackward(
  decoder: Decoder,
  layer: number,
  dy: Tensor,
  { middle, gate, up }: LayerValues,
  { project, norm }: BlockBackward,
): BlockGradients {
  const down = project('mlp.down_proj', dy, swiglu(gate, up));
  const { dGate, dUp } = swigluBackward(down.dx, gate, up);
  const normed = layerNorm(decoder, layer, 'post_attention_layernorm', middle);
  const ofGate = project('mlp.gate_proj', dGate, normed);
  const ofUp = project('mlp.up_proj', dUp, normed);
  const ofNorm = norm('post_attention_layernorm', tf.add(ofGate.dx, ofUp.dx), middle);
  return {
    dx: tf.add(dy, ofNorm.dx),
    gradients: { ...down.gradients, ...ofGate.gradients, ...ofUp.gradients, ...ofNorm.gradients },
  };
}

/** Through m = x + o(attention(q(norm(x)), k(norm(x)), v(norm(x)))). */
function attentionBlockBackward(
  decoder: Decoder,
  layer: number,
  dMiddle: Tensor,
  x: Tensor,
  values: LayerValues,
  context: PassContext,
  { project, norm }: BlockBackward,
): BlockGradients {
  const output = project('self_attn.o_proj', dMiddle, values.attentionOut);
  const { dq, dk, dv } = attentionBackward(output.dx, values.attention, context);
  const normed = layerNorm(decoder, layer, 'input_layernorm', x);
  const ofQ = project('self_attn.q_proj', dq, normed);
  const ofK = project('self_attn.k_proj', dk, normed);
  const ofV = project('self_attn.v_proj', dv, normed);
  const ofNorm = norm('input_layernorm', tf.addN([ofQ.dx, ofK.dx, ofV.dx]), x);
  return {
    dx: tf.add(dMiddle, ofNorm.dx),
    gradients: {
      ...output.gradients,
      ...ofQ.gradients,
      ...ofK.gradients,
      ...ofV.gradients,
      ...ofNorm.gradients,
    },
  };
}

function layerNorm(decoder: Decoder, layer: number, name: string, x: Tensor): Tensor {
  return rmsNorm(x, weightOf(decoder, `model.layers.${layer}.${name}.weight`), decoder.config.rms_norm_eps);
}
