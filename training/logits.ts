/**
 * All logits of one sequence, for comparing models. Training and generation never hold them whole (model/head.ts).
 */
import { decoderForward, disposeContext, FINAL_NORM, headName, passContext, type Decoder } from './model/decoder.ts';
import { weightOf } from './model/decoder-layer.ts';
import { rmsNorm } from './model/layers.ts';
import { sequenceLayout } from './step/batch.ts';
import { dispose, matMul, tf, tidy } from './tf.ts';

/** @param ids - at least one  @returns float32 [T·V]: logits of the id after each position, row-major */
export function nextTokenLogits(decoder: Decoder, ids: number[]): Float32Array {
  const layout = sequenceLayout([ids.length]);
  const context = passContext(decoder.config, layout);
  const logits = tidy(() => {
    const { hidden } = decoderForward(decoder, tf.tensor1d(ids, 'int32'), context, 'none');
    const normed = rmsNorm(hidden, weightOf(decoder, FINAL_NORM), decoder.config.rms_norm_eps); // [T, D]
    return matMul(normed, weightOf(decoder, headName(decoder.config)), false, true); // [T, V]
  });
  const values = logits.dataSync() as Float32Array;
  disposeContext(context);
  dispose([layout, logits]);
  return values;
}
