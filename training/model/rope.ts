/**
 * Rotary position embedding (arXiv 2104.09864) in the half-split form of transformers' Llama: element e of the first
 * half of a head is rotated with element e of the second half. The rotation's transpose is the rotation by −angle.
 * Shapes: N sequences, H heads, T positions, E head size.
 */
import { tf, type Tensor } from '../tf.ts';

/** Tables for positions 0 … T−1: cosines, and sines with the first half negated. */
export interface RopeTables {
  /** float32 [T, E] */
  cos: Tensor;
  /** float32 [T, E]: −sin in the first half, +sin in the second. */
  signedSin: Tensor;
}

/** @param scale - multiplies both tables, so that queries take 1/√E on the way
 *  @param firstPosition - position of the first row */
export function ropeTables(
  positions: number,
  headSize: number,
  theta: number,
  scale = 1,
  firstPosition = 0,
): RopeTables {
  const half = headSize / 2;
  const cos = new Float32Array(positions * headSize);
  const signedSin = new Float32Array(positions * headSize);
  for (let row = 0; row < positions; row++) {
    for (let e = 0; e < half; e++) {
      // transformers keeps the inverse frequency and the angle in float32; so does this.
      const inverseFrequency = Math.fround(1 / Math.fround(theta ** Math.fround((2 * e) / headSize)));
      const angle = Math.fround((firstPosition + row) * inverseFrequency);
      const first = row * headSize + e;
      cos[first] = cos[first + half] = Math.fround(Math.cos(angle)) * scale;
      const sin = Math.fround(Math.sin(angle)) * scale;
      signedSin[first] = -sin;
      signedSin[first + half] = sin;
    }
  }
  return {
    cos: tf.tensor2d(cos, [positions, headSize]),
    signedSin: tf.tensor2d(signedSin, [positions, headSize]),
  };
}

/** Rotates each head by its position: x·cos + swapHalves(x)·signedSin.
 *  @param x - float32 [N, H, T, E]  @returns the same shape */
export function applyRope(x: Tensor, { cos, signedSin }: RopeTables): Tensor {
  return tf.add(tf.mul(x, cos), tf.mul(swapHalves(x), signedSin));
}

/** Cotangent of applyRope: rotates back (and scales again).
 *  @param dy - float32 [N, H, T, E]  @returns the same shape */
export function applyRopeBackward(dy: Tensor, { cos, signedSin }: RopeTables): Tensor {
  return tf.sub(tf.mul(dy, cos), tf.mul(swapHalves(dy), signedSin));
}

function swapHalves(x: Tensor): Tensor {
  const headSize = x.shape.at(-1) ?? 0;
  return tf.reshape(tf.reverse(tf.reshape(x, [-1, 2, headSize / 2]), 1), x.shape);
}
