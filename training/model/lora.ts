/**
 * LoRA (arXiv 2106.09685) as PEFT computes, names and initialises it (peft 0.21, tuners/lora/layer.py):
 * y = W·x + s·B·A·drop(x) with s = α/r, or α/√r (rsLoRA, arXiv 2312.03732). Gradients in closed form.
 * Shapes: M tokens, D features in, F features out, R rank.
 */
import { matMul, statelessUniform, tf, tidy, type Tensor } from '../tf.ts';
import { createRandom, stableHash } from '../random.ts';

/** The factors of one projection, ready to compute with. */
export interface LoraFactors {
  a: Tensor; // [R, D]
  b: Tensor; // [F, R]
  scale: number;
  /** Names in the adapter file. */
  nameA: string;
  nameB: string;
  /** Mask of 0 and 1/(1 − rate) on the input, made anew at each call from the same seed; null is no dropout. */
  dropoutMask: (() => Tensor) | null; // [M, D]
}

/** @param x - float32 [M, D]  @returns delta float32 [M, F] = s·B·A·drop(x); u float32 [M, R] = A·drop(x) */
export function loraForward(x: Tensor, { a, b, scale, dropoutMask }: LoraFactors): { delta: Tensor; u: Tensor } {
  const input = dropoutMask ? tf.mul(x, dropoutMask()) : x;
  const u = matMul(input, a, false, true);
  return { delta: matMul(u, tf.mul(b, scale), false, true), u };
}

/** Cotangents: with v = s·dy·B: dA = vᵀ·drop(x), dB = s·dyᵀ·u, dx = drop(v·A).
 *  @param dy - float32 [M, F] */
export function loraBackward(dy: Tensor, x: Tensor, u: Tensor, { a, b, scale, dropoutMask }: LoraFactors) {
  const mask = dropoutMask ? dropoutMask() : null;
  const v = matMul(dy, tf.mul(b, scale)); // [M, R]
  const back = matMul(v, a); // [M, D]
  return {
    dx: mask ? tf.mul(back, mask) : back,
    dA: matMul(v, mask ? tf.mul(x, mask) : x, true, false),
    dB: tf.mul(matMul(dy, u, true, false), scale),
  };
}

/** A fresh A, uniform in ±1/√D (kaiming with a = √5, PEFT's default), a function of seed and name alone.
 *  @returns float32 [R·D] */
export function initialFactorA(rank: number, inFeatures: number, seed: number, name: string): Float32Array {
  const random = createRandom('lora', seed, name);
  const bound = 1 / Math.sqrt(inFeatures);
  return Float32Array.from({ length: rank * inFeatures }, () => (2 * random.uniform() - 1) * bound);
}

/** Where a step's dropout masks come from. */
export interface DropoutSource {
  rate: number;
  seed: number;
  stepIndex: number;
}

/** Mask of one module's input. Each sequence has its own stream, so that a pair's mask is the same in every micro-batch.
 *  @param keys - identities of the sequences  @param lengths - their tokens
 *  @returns float32 [M, D] of 0 and 1/(1 − rate) */
export function dropoutMask(
  source: DropoutSource,
  module: string,
  keys: string[],
  lengths: number[],
  features: number,
) {
  return tidy(() => {
    const uniform = lengths.map((length, sequence) =>
      statelessUniform([length, features], seedWords(source, module, keys[sequence] ?? '')),
    );
    const kept = tf.greaterEqual(tf.concat(uniform, 0), source.rate);
    return tf.mul(tf.cast(kept, 'float32'), 1 / (1 - source.rate));
  });
}

function seedWords({ seed, stepIndex }: DropoutSource, module: string, key: string): [number, number] {
  const hash = stableHash('dropout', seed, stepIndex, module, key);
  return [Number.parseInt(hash.slice(0, 8), 16) | 0, Number.parseInt(hash.slice(8, 16), 16) | 0];
}
