/**
 * The decoder's building blocks, each a forward function with its gradient in closed form beside it. Nothing is taped:
 * forward returns what backward needs, so that memory holds exactly what is listed. Checked against TensorFlow.js's own
 * gradients and against torch (test/training/model).
 * Shapes: M tokens, D features in, F features out, R rank.
 */
import { matMul, sigmoidGradient, tf, tidy, type Tensor } from '../tf.ts';
import { loraBackward, loraForward, type LoraFactors } from './lora.ts';

/** Gradients under the names of what trains. */
export type Gradients = Record<string, Tensor>;

/** Root-mean-square norm (arXiv 1910.07467): w ∘ x / √(mean(x²) + ε).
 *  @param x - float32 [M, D]  @param weight - float32 [D] */
export function rmsNorm(x: Tensor, weight: Tensor, epsilon: number): Tensor {
  return tidy(() => tf.mul(tf.mul(x, inverseRms(x, epsilon)), weight));
}

/** Cotangents of rmsNorm. With r = 1/rms and s = dy∘w: dx = r·s − x·r³·mean(s∘x), dw = Σ dy∘x·r.
 *  @param dy - float32 [M, D]  @returns dx float32 [M, D]; dWeight float32 [D] where asked for, else null */
export function rmsNormBackward(dy: Tensor, x: Tensor, weight: Tensor, epsilon: number, needsWeight: boolean) {
  return tidy(() => {
    const r = inverseRms(x, epsilon); // [M, 1]
    const normed = tf.mul(x, r);
    const scaled = tf.mul(dy, weight);
    const projection = tf.mean(tf.mul(scaled, normed), -1, true); // [M, 1]
    const dx = tf.mul(tf.sub(scaled, tf.mul(normed, projection)), r);
    return { dx, dWeight: needsWeight ? tf.sum(tf.mul(dy, normed), 0) : null };
  });
}

function inverseRms(x: Tensor, epsilon: number): Tensor {
  return tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), epsilon)); // [M, 1]
}

/** Gated unit (SwiGLU, arXiv 2002.05202): silu(gate) ∘ up, silu(g) = g·σ(g).
 *  @param gate - float32 [M, F]  @param up - float32 [M, F] */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  return tidy(() => tf.mul(tf.mul(gate, tf.sigmoid(gate)), up));
}

/** Cotangents of swiglu, and its value again. @param dy - float32 [M, F] */
export function swigluBackward(dy: Tensor, gate: Tensor, up: Tensor) {
  return tidy(() => {
    const sigmoid = tf.sigmoid(gate);
    const dSilu = tf.mul(dy, up);
    const dGate = tf.add(tf.mul(dSilu, sigmoid), sigmoidGradient(sigmoid, tf.mul(dSilu, gate)));
    return { dGate, dUp: tf.mul(dy, tf.mul(gate, sigmoid)) };
  });
}

/** A projection: frozen or trained weights, an optional low-rank update beside them. */
export interface Linear {
  /** Hugging Face name of the module: `model.layers.0.self_attn.q_proj`. */
  module: string;
  weight: Tensor; // [F, D]
  trained: boolean;
  lora: LoraFactors | null;
}

/** x·Wᵀ (+ LoRA's s·B·A·drop(x)).
 *  @param x - float32 [M, D]  @returns y float32 [M, F]; u, LoRA's inner value, for backward */
export function linear(x: Tensor, projection: Linear): { y: Tensor; u: Tensor | null } {
  return tidy(() => {
    const base = matMul(x, projection.weight, false, true);
    if (!projection.lora) return { y: base, u: null };
    const { delta, u } = loraForward(x, projection.lora);
    return { y: tf.add(base, delta), u };
  });
}

/** Cotangents of linear.
 *  @param dy - float32 [M, F]  @param x - the forward input  @param u - what forward returned
 *  @returns dx float32 [M, D]; gradients of what trains in this projection */
export function linearBackward(dy: Tensor, x: Tensor, u: Tensor | null, projection: Linear) {
  return tidy((): { dx: Tensor; gradients: Gradients } => {
    const dx = matMul(dy, projection.weight);
    const gradients: Gradients = {};
    if (projection.trained) gradients[`${projection.module}.weight`] = matMul(dy, x, true, false); // [F, D]
    if (!projection.lora || !u) return { dx, gradients };
    const low = loraBackward(dy, x, u, projection.lora);
    return {
      dx: tf.add(dx, low.dx),
      gradients: { ...gradients, [projection.lora.nameA]: low.dA, [projection.lora.nameB]: low.dB },
    };
  });
}
