import { afterEach, describe, expect, it } from 'vitest';
import { CheckpointIncompatible, NonFiniteLoss } from '../../../shared/errors.ts';
import type { EncodedPair } from '../../../training/data/encoded.ts';
import { metricsOf } from '../../../training/orpo.ts';
import { createEagerStep, type EagerStepOptions } from '../../../training/step/eager.ts';
import type { TrainState, TrainStep } from '../../../training/step/index.ts';
import { tf } from '../../../training/tf.ts';
import { relativeDifference } from '../../helpers/close.ts';
import { loraMethod } from '../../helpers/parity.ts';

const FIXTURES = new URL('../../fixtures/trainer/', import.meta.url).pathname;
const ORPO: EagerStepOptions['orpo'] = {
  beta: 0.1,
  disableDropout: true,
  nllScope: 'prompt+completion',
  nllReduction: 'token',
};

const opened: TrainStep[] = [];
afterEach(() => opened.splice(0).forEach((step) => step.dispose()));

async function engine(overrides: Partial<EagerStepOptions> = {}): Promise<TrainStep> {
  const step = await createEagerStep({
    baseFolder: `${FIXTURES}tiny`,
    method: loraMethod({ rank: 4, alpha: 8 }),
    orpo: ORPO,
    weightDecay: 0,
    maxGradNorm: 1,
    seed: 7,
    microBatch: 4,
    ...overrides,
  });
  opened.push(step);
  return step;
}

const ids = (length: number, seed: number) => Array.from({ length }, (_, i) => 3 + ((i * 37 + seed * 101) % 590));
const PAIRS: EncodedPair[] = Array.from({ length: 5 }, (_, i) => ({
  row: i + 1,
  chosen: { ids: ids(9 + 3 * i, i), promptLength: 4 + i },
  rejected: { ids: ids(14 - i, i + 20), promptLength: 4 + i },
}));

/** Weights after two steps. */
async function trained(overrides: Partial<EagerStepOptions>, pairs = PAIRS): Promise<TrainState> {
  const step = await engine(overrides);
  for (const stepIndex of [0, 1]) await step.step(pairs, { learningRate: 1e-2, stepIndex });
  return step.readState();
}

function furthest(a: TrainState, b: TrainState): number {
  const names = Object.keys(a.firstMoments);
  return Math.max(...names.map((name) => relativeDifference(arrayOf(a, name), arrayOf(b, name))));
}

function arrayOf(state: TrainState, name: string): Float32Array {
  return state.firstMoments[name]?.data ?? new Float32Array();
}

describe('micro-batches', () => {
  it("are a mean of means of every term under TRL's reduction, unequal sizes included", async () => {
    // From zero moments and without clipping, the first moment after a step is a tenth of the gradient.
    const once = async (pairs: EncodedPair[], nllReduction: 'token' | 'micro-batch') => {
      const step = await engine({ orpo: { ...ORPO, nllReduction }, microBatch: 3, maxGradNorm: null });
      const { metrics } = await step.step(pairs, { learningRate: 1e-3, stepIndex: 0 });
      return { metrics, state: await step.readState() };
    };
    const whole = await once(PAIRS, 'micro-batch');
    const [three, two] = [await once(PAIRS.slice(0, 3), 'token'), await once(PAIRS.slice(3), 'token')];
    for (const [name, value] of Object.entries(whole.metrics)) {
      if (name === 'grad_norm' || name === 'learning_rate') continue;
      expect(value, name).toBeCloseTo(((three.metrics[name] ?? NaN) + (two.metrics[name] ?? NaN)) / 2, 5);
    }
    // A fresh adapter's B is 0, and so is the gradient of its A.
    for (const name of Object.keys(whole.state.firstMoments).filter((each) => each.includes('lora_B'))) {
      const [a, b] = [arrayOf(three.state, name), arrayOf(two.state, name)];
      const mean = a.map((value, index) => (value + (b[index] ?? NaN)) / 2);
      // Both are sums of float32 products in another order.
      expect(relativeDifference(arrayOf(whole.state, name), mean), name).toBeLessThan(1e-5);
    }
  });

  it.each(['token', 'sequence'] as const)(
    'of any size give the gradients of the whole step, NLL by %s (1e-4 of each tensor)',
    async (nllReduction) => {
      const orpo = { ...ORPO, nllReduction };
      const whole = await trained({ orpo, microBatch: 5 });
      for (const microBatch of [1, 2, 3]) {
        expect(furthest(await trained({ orpo, microBatch }), whole)).toBeLessThan(1e-4);
      }
    },
  );

  it('of unequal rows change the result where the NLL is a mean of means', async () => {
    const orpo = { ...ORPO, nllReduction: 'micro-batch' as const };
    const whole = await trained({ orpo, microBatch: 5 });
    expect(furthest(await trained({ orpo, microBatch: 1 }), whole)).toBeGreaterThan(1e-2);
  });

  it('give the same gradients under dropout', async () => {
    const overrides = {
      method: loraMethod({ rank: 4, alpha: 8, dropout: 0.3 }),
      orpo: { ...ORPO, disableDropout: false },
    };
    const whole = await trained({ ...overrides, microBatch: 5 });
    expect(furthest(await trained({ ...overrides, microBatch: 2 }), whole)).toBeLessThan(1e-4);
    expect(furthest(await trained({ ...overrides, microBatch: 5, recompute: true }), whole)).toBeLessThan(1e-4);
    expect(furthest(await trained({ microBatch: 5 }), whole)).toBeGreaterThan(1e-2);
  });
});

describe('the NLL', () => {
  it('over answers alone ignores the prompt', async () => {
    const pairs: EncodedPair[] = PAIRS.slice(0, 1);
    const whole = await (await engine()).evaluate(pairs);
    const answers = await (await engine({ orpo: { ...ORPO, nllScope: 'completion' } })).evaluate(pairs);
    expect([whole[0]?.nllCount, answers[0]?.nllCount]).toEqual([8, 5]);
    // Over the answer alone the NLL is the answer's mean log-probability.
    expect((answers[0]?.nllSum ?? 0) / 5).toBeCloseTo(-(answers[0]?.logpChosen ?? 0), 4);
  });
});

describe('a step', () => {
  it('lowers its own loss, and reports what evaluation says of the weights before it', async () => {
    const step = await engine();
    const before = metricsOf(await step.evaluate(PAIRS), { beta: 0.1, nllReduction: 'token' });
    const { metrics, tokens } = await step.step(PAIRS, { learningRate: 1e-2, stepIndex: 0 });
    expect(metrics['loss']).toBeCloseTo(before['loss'] ?? 0, 4);
    expect(tokens).toBe(PAIRS.reduce((sum, pair) => sum + pair.chosen.ids.length + pair.rejected.ids.length, 0));
    await step.step(PAIRS, { learningRate: 1e-2, stepIndex: 1 });
    const after = metricsOf(await step.evaluate(PAIRS), { beta: 0.1, nllReduction: 'token' });
    expect(after['loss']).toBeLessThan(metrics['loss'] ?? 0);
  });

  it.each([
    ['LoRA', {}],
    ['LoRA with layers computed again', { recompute: true }],
    ['full fine-tuning', { method: { kind: 'full' as const } }],
    ['dropout', { method: loraMethod({ rank: 4, dropout: 0.1 }), orpo: { ...ORPO, disableDropout: false } }],
  ])('leaves no tensor behind: %s', async (_title, overrides) => {
    const before = tf.memory().numTensors;
    const step = await engine(overrides);
    await step.step(PAIRS, { learningRate: 1e-3, stepIndex: 0 });
    const counts: number[] = [];
    for (const stepIndex of [1, 2, 3]) {
      await step.step(PAIRS, { learningRate: 1e-3, stepIndex });
      await step.evaluate(PAIRS);
      await step.generate([5, 6, 7], { maxNewTokens: 3, endIds: [] });
      await step.writeState(await step.readState());
      counts.push(tf.memory().numTensors);
    }
    expect(new Set(counts).size).toBe(1);
    step.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  it('with a loss that is not finite names the rows and changes nothing', async () => {
    const step = await engine();
    const state = await step.readState();
    const broken = structuredClone(state);
    const name = Object.keys(broken.weights)[1] ?? '';
    broken.weights[name]?.data.fill(Number.NaN);
    await step.writeState(broken);
    const error = await step.step(PAIRS, { learningRate: 1e-3, stepIndex: 4 }).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(NonFiniteLoss);
    expect((error as Error).message).toContain('training: step 5 has loss NaN and gradient norm NaN');
    expect((error as Error).message).toContain('No weight was changed. Lower training.learningRate');
    expect((await step.readState()).step).toBe(0);
    expect((await step.readState()).weights).toEqual(broken.weights);
  });

  it('is ended by its signal with the state unchanged', async () => {
    const controller = new AbortController();
    const onProgress = () => controller.abort(new Error('stop now'));
    const step = await engine({ signal: controller.signal, onProgress, microBatch: 2 });
    const before = await step.readState();
    const tensors = tf.memory().numTensors;
    await expect(step.step(PAIRS, { learningRate: 1e-2, stepIndex: 0 })).rejects.toThrow('stop now');
    expect(await step.readState()).toEqual(before);
    expect(tf.memory().numTensors).toBe(tensors);
  });

  it('trains the layers it is told to and no others', async () => {
    const step = await engine({ method: loraMethod({ rank: 2, layers: [1], targetModules: ['q_proj'] }) });
    const before = await step.readState();
    await step.step(PAIRS, { learningRate: 1e-2, stepIndex: 0 });
    const after = await step.readState();
    expect(step.trainableCount).toBe(2 * 16 + 32 * 2);
    expect(Object.keys(after.weights)).toEqual([
      'base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight',
      'base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight',
    ]);
    // A's gradient is 0 while B is 0.
    const moved = Object.keys(after.weights).map(
      (name) => after.weights[name]?.data.join() !== before.weights[name]?.data.join(),
    );
    expect(moved).toEqual([false, true]);
  });
});

describe('state', () => {
  it('moved to a new step goes on to the same weights', async () => {
    const first = await engine();
    await first.step(PAIRS, { learningRate: 1e-2, stepIndex: 0 });
    const state = await first.readState();
    expect(state.step).toBe(1);
    const second = await engine({ seed: 99 });
    await second.writeState(state);
    for (const step of [first, second]) await step.step(PAIRS, { learningRate: 1e-2, stepIndex: 1 });
    expect(furthest(await second.readState(), await first.readState())).toBeLessThan(1e-6);
  });

  it('that does not fit is refused with every misfit named', async () => {
    const step = await engine();
    const state = await step.readState();
    const names = Object.keys(state.weights);
    const [first = '', second = ''] = names;
    const { [first]: _dropped, ...weights } = state.weights;
    const wrong: TrainState = {
      ...state,
      weights: { ...weights, other: { shape: [1], data: new Float32Array(1) } },
      firstMoments: { ...state.firstMoments, [second]: { shape: [3], data: new Float32Array(3) } },
    };
    const error = await step.writeState(wrong).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(CheckpointIncompatible);
    const { message } = error as Error;
    expect(message).toContain(`weights: missing ${first}`);
    expect(message).toContain('weights: unexpected other');
    expect(message).toContain(`firstMoments: ${second} is [3], expected [`);
  });
});

describe('the base model alone', () => {
  it('scores as the untrained adapter does and has nothing to train', async () => {
    const base = await engine({ method: null });
    expect(base.trainableCount).toBe(0);
    expect(await base.evaluate(PAIRS)).toEqual(await (await engine()).evaluate(PAIRS));
    await expect(base.step(PAIRS, { learningRate: 1e-3, stepIndex: 0 })).rejects.toThrow('nothing trains');
  });

  it('scores pairs in their own order', async () => {
    const base = await engine({ method: null, microBatch: 2 });
    expect((await base.evaluate(PAIRS)).map(({ row }) => row)).toEqual([1, 2, 3, 4, 5]);
  });
});

describe('generate', () => {
  /** The likeliest next id found without a cache: that id as the answer has the highest log-probability. */
  async function likeliestByScore(step: TrainStep, prompt: number[]): Promise<number> {
    const candidates = Array.from({ length: 600 }, (_, id) => ({
      row: id,
      chosen: { ids: [...prompt, id], promptLength: prompt.length },
      rejected: { ids: [...prompt, id], promptLength: prompt.length },
    }));
    const scores = await step.evaluate(candidates);
    return scores.reduce((best, score) => (score.logpChosen > best.logpChosen ? score : best)).row;
  }

  it('continues as the likeliest id of each prefix, with the cache as without', async () => {
    const step = await engine({ microBatch: 200, method: loraMethod({ initFrom: `${FIXTURES}adapter` }) });
    const prompt = [1, 55, 200, 77];
    const generated = await step.generate(prompt, { maxNewTokens: 4, endIds: [] });
    expect(generated).toHaveLength(4);
    for (const [count, id] of generated.entries()) {
      expect(await likeliestByScore(step, [...prompt, ...generated.slice(0, count)])).toBe(id);
    }
  });

  it('ends at an end id and leaves it out', async () => {
    const step = await engine({ method: null });
    const free = await step.generate([1, 55, 200, 77], { maxNewTokens: 6, endIds: [] });
    const end = free[3] ?? -1;
    const ended = await step.generate([1, 55, 200, 77], { maxNewTokens: 6, endIds: [end] });
    expect(ended).toEqual(free.slice(0, free.indexOf(end)));
  });

  it('refuses an empty prompt', async () => {
    const step = await engine({ method: null });
    await expect(step.generate([], { maxNewTokens: 1, endIds: [] })).rejects.toThrow(
      'generate: the prompt has no tokens',
    );
  });
});
