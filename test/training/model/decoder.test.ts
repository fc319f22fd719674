import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openSafetensors, type SafetensorsFile } from '../../../training/checkpoint/safetensors.ts';
import {
  decoderBackward,
  decoderForward,
  disposeContext,
  disposePass,
  FINAL_NORM,
  headName,
  passContext,
  type Decoder,
  type Keep,
} from '../../../training/model/decoder.ts';
import { weightOf } from '../../../training/model/decoder-layer.ts';
import { headGradient, tokenLosses } from '../../../training/model/head.ts';
import { rmsNorm, rmsNormBackward, type Gradients } from '../../../training/model/layers.ts';
import { disposeDecoder, loadDecoder } from '../../../training/model/load.ts';
import { sequenceLayout } from '../../../training/step/batch.ts';
import { dispose, matMul, tf, tidy } from '../../../training/tf.ts';
import { maxAbsDifference, relativeDifference } from '../../helpers/close.ts';

const FIXTURES = new URL('../../fixtures/trainer/', import.meta.url).pathname;

async function referenceIds(file: SafetensorsFile): Promise<number[][]> {
  return Promise.all([0, 1, 2].map(async (index) => [...((await file.read(`ids.${index}`)) as Int32Array)]));
}

/** Logits of all tokens of all sequences: [M, V]. */
function logitsOf(decoder: Decoder, sequences: number[][]): Float32Array {
  return tidy(() => {
    const context = passContext(decoder.config, sequenceLayout(sequences.map((ids) => ids.length)));
    const { hidden } = decoderForward(decoder, tf.tensor1d(sequences.flat(), 'int32'), context, 'none');
    const normed = rmsNorm(hidden, weightOf(decoder, FINAL_NORM), decoder.config.rms_norm_eps);
    return matMul(normed, weightOf(decoder, headName(decoder.config)), false, true).dataSync() as Float32Array;
  });
}

/** Gradients of the mean negative log-likelihood of all next tokens. */
function meanNllGradients(decoder: Decoder, sequences: number[][], keep: Keep): Gradients {
  const layout = sequenceLayout(sequences.map((ids) => ids.length));
  const context = passContext(decoder.config, layout);
  const ids = tf.tensor1d(sequences.flat(), 'int32');
  const targets = tf.tensor1d(
    sequences.flatMap((row) => [...row.slice(1), 0]),
    'int32',
  );
  const count = layout.tokens - layout.sequences;
  const weights = tf.tensor1d(sequences.flatMap((row) => row.map((_, i) => (i < row.length - 1 ? 1 / count : 0))));
  const head = weightOf(decoder, headName(decoder.config));
  const pass = decoderForward(decoder, ids, context, keep);
  const part = tidy(() => {
    const normed = rmsNorm(pass.hidden, weightOf(decoder, FINAL_NORM), decoder.config.rms_norm_eps);
    const { gradient } = tokenLosses(normed, head, targets, true);
    if (!gradient) throw new Error('no gradient');
    const dNormed = tf.mul(gradient, tf.reshape(weights, [-1, 1]));
    const norm = weightOf(decoder, FINAL_NORM);
    const { dx, dWeight } = rmsNormBackward(dNormed, pass.hidden, norm, decoder.config.rms_norm_eps, true);
    return { dx, dWeight, dHead: headGradient(normed, head, targets, weights) };
  });
  const gradients = decoderBackward(decoder, ids, context, pass, part.dx);
  disposeContext(context);
  dispose([layout, ids, targets, weights]);
  if (part.dWeight) gradients[FINAL_NORM] = part.dWeight;
  gradients['lm_head.weight'] = part.dHead;
  return gradients;
}

describe.each(['tiny', 'tiny-untied'])('the decoder on the %s random model', (name) => {
  let decoder: Decoder;
  let file: SafetensorsFile;
  beforeAll(async () => {
    decoder = await loadDecoder(FIXTURES + name, { kind: 'full' }, 0);
    file = await openSafetensors(`${FIXTURES}${name}/reference.safetensors`);
  });
  afterAll(() => disposeDecoder(decoder));

  it("computes transformers' logits for sequences of unequal length side by side (1e-4, of magnitude 10)", async () => {
    const sequences = await referenceIds(file);
    const expected = await Promise.all(sequences.map((_, index) => file.readFloat32(`logits.${index}`)));
    const all = Float32Array.from(expected.flatMap((values) => [...values]));
    expect(Math.max(...all)).toBeGreaterThan(1);
    expect(maxAbsDifference(logitsOf(decoder, sequences), all)).toBeLessThan(1e-4);
  });

  it('computes a sequence alone as it does beside others', async () => {
    const sequences = await referenceIds(file);
    const alone = Float32Array.from(sequences.flatMap((ids) => [...logitsOf(decoder, [ids])]));
    expect(maxAbsDifference(alone, logitsOf(decoder, sequences))).toBeLessThan(1e-5);
  });
});

describe('gradients of every parameter', () => {
  it.each(['all', 'inputs'] as const)("equal torch's to 1e-3 of each tensor's largest, keeping %s", async (keep) => {
    const decoder = await loadDecoder(`${FIXTURES}tiny-untied`, { kind: 'full' }, 0);
    const file = await openSafetensors(`${FIXTURES}tiny-untied/reference.safetensors`);
    const gradients = meanNllGradients(decoder, await referenceIds(file), keep);
    const names = file.names.filter((name) => name.startsWith('gradient.'));
    expect(Object.keys(gradients).sort()).toEqual(names.map((name) => name.slice('gradient.'.length)).sort());
    for (const name of names) {
      const ours = gradients[name.slice('gradient.'.length)]?.dataSync() ?? [];
      expect(relativeDifference(ours as Float32Array, await file.readFloat32(name)), name).toBeLessThan(1e-4);
    }
    dispose(gradients);
    disposeDecoder(decoder);
  });

  it('leave no tensor behind, nor does a forward pass alone', async () => {
    const before = tf.memory().numTensors;
    const decoder = await loadDecoder(`${FIXTURES}tiny-untied`, { kind: 'full' }, 0);
    const sequences = [
      [5, 6, 7],
      [8, 9],
    ];
    const loaded = tf.memory().numTensors;
    dispose(meanNllGradients(decoder, sequences, 'all'));
    dispose(meanNllGradients(decoder, sequences, 'inputs'));
    expect(tf.memory().numTensors).toBe(loaded);
    const layout = sequenceLayout([3, 2]);
    const context = passContext(decoder.config, layout);
    const ids = tf.tensor1d(sequences.flat(), 'int32');
    disposePass(decoderForward(decoder, ids, context, 'all'));
    disposeContext(context);
    dispose([layout, ids]);
    expect(tf.memory().numTensors).toBe(loaded);
    disposeDecoder(decoder);
    expect(tf.memory().numTensors).toBe(before);
  });
});
