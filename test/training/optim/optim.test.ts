import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { adamwInit, adamwUpdate, isDecayed } from '../../../training/optim/adamw.ts';
import { clipFactor, globalNorm } from '../../../training/optim/clip.ts';
import { learningRateAt, scheduleFactor, type ScheduleName } from '../../../training/optim/schedule.ts';
import { dispose, tf, type Tensor } from '../../../training/tf.ts';
import { relativeDifference } from '../../helpers/close.ts';

interface AdamWCase {
  weightDecay: number;
  initial: number[][];
  gradients: number[][][];
  learningRates: number[];
  final: number[][];
  first: number[][];
  second: number[][];
}
interface Fixture {
  adamw: AdamWCase[];
  clipping: { gradients: number[][]; maxNorm: number; norm: number; clipped: number[][] }[];
  schedules: { name: ScheduleName; warmupSteps: number; totalSteps: number; factors: number[] }[];
}
const FIXTURE = new URL('../../fixtures/trainer/optimiser.json', import.meta.url);
const fixture = JSON.parse(await readFile(FIXTURE, 'utf8')) as Fixture;

describe('AdamW', () => {
  it.each(fixture.adamw)(
    "equals torch's over 20 steps on gradients from 1e-10 to 1, weight decay $weightDecay (1e-6)",
    (reference) => {
      const finals = reference.initial.map((values, index) => {
        let weight: Tensor = tf.tensor1d(values);
        let first: Tensor = tf.zerosLike(weight);
        let second: Tensor = tf.zerosLike(weight);
        for (const [step, gradients] of reference.gradients.entries()) {
          const gradient = tf.tensor1d(gradients[index] ?? []);
          const learningRate = reference.learningRates[step] ?? 0;
          const options = { learningRate, weightDecay: reference.weightDecay, step: step + 1 };
          ({ weight, first, second } = adamwUpdate({ weight, gradient, first, second }, options));
        }
        return [weight, first, second].map((tensor) => tensor.dataSync() as Float32Array);
      });
      for (const [index, [weight = [], first = [], second = []]] of finals.entries()) {
        expect(relativeDifference(weight, reference.final[index] ?? [])).toBeLessThan(1e-6);
        expect(relativeDifference(first, reference.first[index] ?? [])).toBeLessThan(1e-6);
        expect(relativeDifference(second, reference.second[index] ?? [])).toBeLessThan(1e-6);
      }
    },
  );

  it('starts from moments of zero under the names of the weights', () => {
    const state = adamwInit({ a: tf.ones([2, 3]), b: tf.ones([4]) });
    expect(Object.keys(state.first)).toEqual(['a', 'b']);
    expect([...(state.second['a']?.dataSync() ?? [])]).toEqual([0, 0, 0, 0, 0, 0]);
  });

  it('decays neither norms nor biases', () => {
    expect(isDecayed('model.layers.0.self_attn.q_proj.weight')).toBe(true);
    expect(isDecayed('base_model.model.model.layers.0.mlp.up_proj.lora_A.weight')).toBe(true);
    expect(isDecayed('model.embed_tokens.weight')).toBe(true);
    expect(isDecayed('model.norm.weight')).toBe(false);
    expect(isDecayed('model.layers.0.input_layernorm.weight')).toBe(false);
    expect(isDecayed('model.layers.0.self_attn.q_proj.bias')).toBe(false);
  });
});

it.each(fixture.clipping)("clips gradients of norm $norm to $maxNorm as torch's clip_grad_norm_", async (reference) => {
  const gradients = Object.fromEntries(reference.gradients.map((values, index) => [`g${index}`, tf.tensor1d(values)]));
  const norm = await globalNorm(gradients);
  expect(Math.abs(norm / reference.norm - 1)).toBeLessThan(1e-6);
  const factor = clipFactor(norm, reference.maxNorm);
  const clipped = reference.gradients.flat().map((value) => value * factor);
  expect(relativeDifference(clipped, reference.clipped.flat())).toBeLessThan(1e-6);
  expect(clipFactor(norm, null)).toBe(1);
  dispose(gradients);
});

it('no gradients have norm 0', async () => {
  expect(await globalNorm({})).toBe(0);
});

it.each(fixture.schedules)("$name with $warmupSteps warm-up steps equals transformers'", (reference) => {
  for (const [step, factor] of reference.factors.entries()) {
    const ours = scheduleFactor(reference.name, step, reference.warmupSteps, reference.totalSteps);
    expect(Math.abs(ours - factor), `step ${step}`).toBeLessThan(1e-12);
  }
});

it('a learning rate is the base rate times the factor', () => {
  expect(learningRateAt(5, { learningRate: 1e-3, schedule: 'linear', warmupSteps: 0, totalSteps: 10 })).toBe(5e-4);
});
