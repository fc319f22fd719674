import { describe, expect, it } from 'vitest';
import { ConfigInvalid } from '../../../shared/errors.ts';
import { dropoutMask, initialFactorA, loraBackward, loraForward } from '../../../training/model/lora.ts';
import { linearModules, loraName, loraScale, loraTargets } from '../../../training/model/lora-names.ts';
import { tf, tidy, type Tensor } from '../../../training/tf.ts';
import { maxAbsDifference } from '../../helpers/close.ts';

const modules = linearModules(3);

describe('targets', () => {
  it('all-linear is the seven projections of every layer and not the output layer', () => {
    const targets = loraTargets(modules, 'all-linear', null);
    expect(targets).toHaveLength(21);
    expect(targets.some((name) => name.includes('lm_head'))).toBe(false);
  });

  it('names match the last part, or the whole name, and layers restrict them', () => {
    expect(loraTargets(modules, ['q_proj', 'v_proj'], [2])).toEqual([
      'model.layers.2.self_attn.q_proj',
      'model.layers.2.self_attn.v_proj',
    ]);
    expect(loraTargets(modules, ['model.layers.1.mlp.up_proj'], null)).toEqual(['model.layers.1.mlp.up_proj']);
  });

  it('names and layers that the model does not have are listed together', () => {
    const attempt = () => loraTargets(modules, ['q_proj', 'query', 'proj'], [1, 7]);
    expect(attempt).toThrow(ConfigInvalid);
    expect(attempt).toThrow('method.targetModules: the model has no projection "query"; it has q_proj, k_proj');
    expect(attempt).toThrow('the model has no projection "proj"');
    expect(attempt).toThrow('method.layers: there is no layer 7; the model has 0 to 2');
    expect(() => loraTargets(modules, 'all-linear', [])).toThrow('method.layers: is empty');
  });
});

it('the scale is α/r, and α/√r where rank-stabilised', () => {
  expect(loraScale(16, 32, false)).toBe(2);
  expect(loraScale(16, 32, true)).toBe(8);
});

it('a fresh A is uniform within ±1/√in and a function of seed and name', () => {
  const name = loraName(modules[0] ?? '', 'A');
  const a = initialFactorA(16, 400, 42, name);
  expect(Math.max(...a)).toBeLessThanOrEqual(0.05);
  expect(Math.max(...a)).toBeGreaterThan(0.0498);
  expect(Math.min(...a)).toBeLessThan(-0.0498);
  const variance = a.reduce((sum, value) => sum + value * value, 0) / a.length;
  // Of a uniform in ±b: b²/3.
  expect(Math.abs(variance / (0.0025 / 3) - 1)).toBeLessThan(0.05);
  expect(initialFactorA(16, 400, 42, name)).toEqual(a);
  expect(initialFactorA(16, 400, 43, name)).not.toEqual(a);
  expect(initialFactorA(16, 400, 42, loraName(modules[1] ?? '', 'A'))).not.toEqual(a);
});

describe('dropout masks', () => {
  const source = { rate: 0.25, seed: 1, stepIndex: 3 };
  const values = (keys: string[], lengths: number[], from = source, module = 'm') =>
    tidy(() => dropoutMask(from, module, keys, lengths, 40).dataSync() as Float32Array);

  it('keep three quarters and scale them so that the mean stays', () => {
    const mask = values(['1/chosen'], [500]);
    expect(new Set(mask)).toEqual(new Set([0, Math.fround(4 / 3)]));
    expect(Math.abs(mask.reduce((a, b) => a + b, 0) / mask.length - 1)).toBeLessThan(0.02);
  });

  it('are the same for a sequence in any company, and differ by step, module, seed and sequence', () => {
    const alone = values(['1/chosen'], [5]);
    const together = values(['2/chosen', '1/chosen'], [3, 5]);
    expect(together.subarray(3 * 40)).toEqual(alone);
    for (const other of [
      values(['2/chosen'], [5]),
      values(['1/rejected'], [5]),
      values(['1/chosen'], [5], { ...source, stepIndex: 4 }),
      values(['1/chosen'], [5], { ...source, seed: 2 }),
      values(['1/chosen'], [5], source, 'n'),
    ]) {
      expect(other).not.toEqual(alone);
    }
  });
});

it.each([false, true])("the closed-form gradients equal TensorFlow.js's own (dropout %s)", (withDropout) => {
  const random = (shape: number[], seed: number) => tf.randomNormal(shape, 0, 1, 'float32', seed);
  const [x, a, b, dy] = [random([6, 10], 1), random([3, 10], 2), random([8, 3], 3), random([6, 8], 4)] as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];
  const mask = tidy(() => dropoutMask({ rate: 0.5, seed: 1, stepIndex: 0 }, 'm', ['k'], [6], 10));
  const factors = { a, b, scale: 2, nameA: 'A', nameB: 'B', dropoutMask: withDropout ? () => tf.clone(mask) : null };
  const plain = (x: Tensor, a: Tensor, b: Tensor) =>
    tf.mul(tf.matMul(tf.matMul(withDropout ? tf.mul(x, mask) : x, a, false, true), b, false, true), 2);
  const [ex, ea, eb] = tf.grads((...t: Tensor[]) => plain(t[0] as Tensor, t[1] as Tensor, t[2] as Tensor))(
    [x, a, b],
    dy,
  );
  const { delta, u } = loraForward(x, factors);
  const { dx, dA, dB } = loraBackward(dy, x, u, factors);
  const gap = (p: Tensor, q: Tensor | undefined) => maxAbsDifference(p.dataSync(), q?.dataSync() ?? []);
  expect(gap(delta, plain(x, a, b))).toBeLessThan(1e-5);
  expect(gap(dx, ex)).toBeLessThan(1e-4);
  expect(gap(dA, ea)).toBeLessThan(1e-4);
  expect(gap(dB, eb)).toBeLessThan(1e-4);
});
