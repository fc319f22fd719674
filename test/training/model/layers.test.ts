import { describe, expect, it } from 'vitest';
import {
  attentionBackward,
  attentionForward,
  causalMask,
  type AttentionContext,
} from '../../../training/model/attention.ts';
import { headGradient, tokenLosses } from '../../../training/model/head.ts';
import { rmsNorm, rmsNormBackward, swiglu, swigluBackward } from '../../../training/model/layers.ts';
import { applyRope, ropeTables } from '../../../training/model/rope.ts';
import { sequenceLayout } from '../../../training/step/batch.ts';
import { tf, type Tensor } from '../../../training/tf.ts';
import { maxAbsDifference } from '../../helpers/close.ts';

const random = (shape: number[], seed: number): Tensor => tf.randomNormal(shape, 0, 1, 'float32', seed);
const gap = (a: Tensor, b: Tensor | undefined) => maxAbsDifference(a.dataSync(), b?.dataSync() ?? []);

/** TensorFlow.js's own gradients of f. */
function gradientsOf(f: (...inputs: Tensor[]) => Tensor, inputs: Tensor[], dy: Tensor): Tensor[] {
  return tf.grads(f)(inputs, dy);
}

describe("closed-form gradients equal TensorFlow.js's own (1e-5)", () => {
  it('of the norm', () => {
    const [x, w, dy] = [random([5, 8], 1), random([8], 2), random([5, 8], 3)] as [Tensor, Tensor, Tensor];
    const plain = (x: Tensor, w: Tensor) =>
      tf.mul(tf.mul(x, tf.rsqrt(tf.add(tf.mean(tf.mul(x, x), -1, true), 1e-5))), w);
    const [ex, ew] = gradientsOf((...t) => plain(t[0] as Tensor, t[1] as Tensor), [x, w], dy);
    const { dx, dWeight } = rmsNormBackward(dy, x, w, 1e-5, true);
    expect(gap(rmsNorm(x, w, 1e-5), plain(x, w))).toBeLessThan(1e-6);
    expect(gap(dx, ex)).toBeLessThan(1e-5);
    expect(gap(dWeight as Tensor, ew)).toBeLessThan(1e-5);
    expect(rmsNormBackward(dy, x, w, 1e-5, false).dWeight).toBeNull();
  });

  it('of the gated unit', () => {
    const [gate, up, dy] = [random([4, 6], 1), random([4, 6], 2), random([4, 6], 3)] as [Tensor, Tensor, Tensor];
    const plain = (g: Tensor, u: Tensor) => tf.mul(tf.mul(g, tf.sigmoid(g)), u);
    const [eg, eu] = gradientsOf((...t) => plain(t[0] as Tensor, t[1] as Tensor), [gate, up], dy);
    const { dGate, dUp } = swigluBackward(dy, gate, up);
    expect(gap(swiglu(gate, up), plain(gate, up))).toBeLessThan(1e-6);
    expect(gap(dGate, eg)).toBeLessThan(1e-5);
    expect(gap(dUp, eu)).toBeLessThan(1e-5);
  });

  it.each([
    ['padded', [3, 5]],
    ['of equal lengths', [4, 4]],
  ])('of attention over sequences %s, against one sequence and one head after the other', (_title, lengths) => {
    const context = attentionContext(lengths);
    const tokens = lengths.reduce((a, b) => a + b, 0);
    const inputs = [random([tokens, 32], 1), random([tokens, 16], 2), random([tokens, 16], 3)];
    const dy = random([tokens, 32], 4);
    const plain = (...t: Tensor[]) => plainAttention(t[0] as Tensor, t[1] as Tensor, t[2] as Tensor, lengths, context);
    const [eq, ek, ev] = gradientsOf(plain, inputs, dy);
    const { out, saved } = attentionForward(inputs[0] as Tensor, inputs[1] as Tensor, inputs[2] as Tensor, context);
    expect(gap(out, plain(...inputs))).toBeLessThan(1e-5);
    const { dq, dk, dv } = attentionBackward(dy, saved, context);
    expect(gap(dq, eq)).toBeLessThan(1e-5);
    expect(gap(dk, ek)).toBeLessThan(1e-5);
    expect(gap(dv, ev)).toBeLessThan(1e-5);
  });

  it('of the output layer in chunks', () => {
    const [positions, hidden, vocab] = [300, 6, 11];
    const [h, w, weights] = [random([positions, hidden], 1), random([vocab, hidden], 2), random([positions], 3)] as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const targets = tf.tensor1d(
      Array.from({ length: positions }, (_, i) => (i * 7) % vocab),
      'int32',
    );
    const plain = (...t: Tensor[]) => {
      const logProbs = tf.logSoftmax(tf.matMul(t[0] as never, t[1] as never, false, true));
      return tf.neg(tf.sum(tf.mul(logProbs, tf.oneHot(targets, vocab)), -1));
    };
    const [eh, ew] = gradientsOf(plain, [h, w], weights);
    const { nll, gradient } = tokenLosses(h, w, targets, true);
    expect(gap(nll, plain(h, w))).toBeLessThan(1e-5);
    expect(gap(tf.mul(gradient as Tensor, tf.reshape(weights, [-1, 1])), eh)).toBeLessThan(1e-5);
    expect(gap(headGradient(h, w, targets, weights), ew)).toBeLessThan(1e-4);
    expect(tokenLosses(h, w, targets, false).gradient).toBeNull();
  });
});

function attentionContext(lengths: number[]): AttentionContext {
  const longest = Math.max(...lengths);
  return {
    layout: sequenceLayout(lengths),
    queryHeads: 4,
    keyValueHeads: 2,
    headSize: 8,
    queryRope: ropeTables(longest, 8, 10000, 1 / Math.sqrt(8)),
    keyRope: ropeTables(longest, 8, 10000),
    causalMask: causalMask(longest),
  };
}

function plainAttention(q: Tensor, k: Tensor, v: Tensor, lengths: number[], context: AttentionContext): Tensor {
  let start = 0;
  const rows = lengths.map((length) => {
    const part = (x: Tensor, head: number) => tf.slice(x, [start, head * 8], [length, 8]);
    const heads = [0, 1, 2, 3].map((head) => {
      const shared = Math.floor(head / 2);
      const keys = rotate(part(k, shared), length);
      const queries = tf.mul(rotate(part(q, head), length), 1 / Math.sqrt(8));
      const mask = tf.slice(context.causalMask, [0, 0], [length, length]);
      return tf.matMul(
        tf.softmax(tf.add(tf.matMul(queries as never, keys as never, false, true), mask)),
        part(v, shared) as never,
      );
    });
    start += length;
    return tf.concat(heads, 1);
  });
  return tf.concat(rows, 0);
}

/** Element e and e + E/2 as a complex number, turned by position·θ^(−2e/E). @param x - float32 [T, 8] */
function rotate(x: Tensor, length: number): Tensor {
  const angles = Array.from({ length }, (_, t) => Array.from({ length: 4 }, (_, e) => t * 10000 ** (-e / 4)));
  const [re, im] = tf.split(x, 2, 1) as [Tensor, Tensor];
  const [cos, sin] = [tf.cos(tf.tensor2d(angles)), tf.sin(tf.tensor2d(angles))];
  return tf.concat([tf.sub(tf.mul(re, cos), tf.mul(im, sin)), tf.add(tf.mul(re, sin), tf.mul(im, cos))], 1);
}

describe('rotary positions', () => {
  it('leave position 0 as it is and keep lengths', () => {
    const x = random([1, 1, 3, 8], 5);
    const turned = applyRope(x, ropeTables(3, 8, 10000));
    const norms = (t: Tensor) => tf.sum(tf.square(t), -1);
    expect(gap(tf.slice(turned, [0, 0, 0, 0], [1, 1, 1, 8]), tf.slice(x, [0, 0, 0, 0], [1, 1, 1, 8]))).toBe(0);
    expect(gap(norms(turned), norms(x))).toBeLessThan(1e-5);
  });

  it('make products of queries and keys depend on their distance alone', () => {
    const [q, k] = [random([1, 1, 1, 8], 6), random([1, 1, 1, 8], 7)] as [Tensor, Tensor];
    const product = (i: number, j: number) =>
      tf
        .sum(tf.mul(applyRope(q, ropeTables(1, 8, 10000, 1, i)), applyRope(k, ropeTables(1, 8, 10000, 1, j))))
        .dataSync()[0] ?? 0;
    expect(product(9, 4)).toBeCloseTo(product(105, 100), 3);
    expect(Math.abs(product(9, 4) - product(9, 3))).toBeGreaterThan(1e-3);
  });
});
