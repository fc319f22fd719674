/**
 * Loss and gradient of one micro-batch. The loss's normalisers (pairs and tokens of the whole step) are given, and a
 * pair's part of the gradient depends on that pair alone, so that the sum over micro-batches is the whole step's gradient
 * exactly. One pass suffices: per-token gradients of the likelihoods are taken at once and weighted when the loss is known.
 * Shapes: B pairs, N = 2B sequences, M tokens, P positions that count, D hidden.
 */
import type { RunConfig } from '../../shared/config.ts';
import { dispose, matMul, tf, tidy, type Tensor } from '../tf.ts';
import {
  decoderBackward,
  decoderForward,
  disposeContext,
  FINAL_NORM,
  headName,
  passContext,
  type Decoder,
  type DecoderPass,
  type Keep,
} from '../model/decoder.ts';
import { weightOf } from '../model/decoder-layer.ts';
import { headGradient, tokenLosses } from '../model/head.ts';
import { rmsNorm, rmsNormBackward, type Gradients } from '../model/layers.ts';
import type { DropoutSource } from '../model/lora.ts';
import { oddsGradient } from '../orpo.ts';
import type { MicroBatch } from './batch.ts';
import type { PairScores } from './index.ts';

export interface LossScale {
  beta: number;
  nllReduction: RunConfig['orpo']['nllReduction'];
  /** Pairs, NLL tokens and micro-batches of the whole step. */
  pairCount: number;
  nllTokens: number;
  microBatches: number;
}

/** Scores of a micro-batch's pairs at the present weights; forward only. */
export function scoreMicroBatch(decoder: Decoder, batch: MicroBatch): PairScores[] {
  const context = passContext(decoder.config, batch.layout);
  const pass = decoderForward(decoder, batch.ids, context, 'none');
  const sums = tidy(() => {
    const { normed } = countedHidden(decoder, batch, pass.hidden);
    const { nll } = tokenLosses(normed, weightOf(decoder, headName(decoder.config)), batch.targets, false);
    return sequenceSums(batch, nll);
  });
  pass.hidden.dispose();
  disposeContext(context);
  return readScores(batch, sums);
}

/** Gradients of this micro-batch's part of the step's loss, and its pairs' scores.
 *  @returns gradients, owned by the caller */
export function microBatchGradients(
  decoder: Decoder,
  batch: MicroBatch,
  scale: LossScale,
  dropout: DropoutSource | null,
  keep: Exclude<Keep, 'none'>,
): { gradients: Gradients; scores: PairScores[] } {
  const context = passContext(decoder.config, batch.layout, dropout);
  const pass = decoderForward(decoder, batch.ids, context, keep);
  const { dHidden, ofHead, sums } = lossBackward(decoder, batch, scale, pass);
  const gradients = decoderBackward(decoder, batch.ids, context, pass, dHidden);
  disposeContext(context);
  for (const [name, gradient] of Object.entries(ofHead)) {
    const other = gradients[name];
    // A tied output layer and the embedding are one parameter.
    gradients[name] = other ? tf.add(other, gradient) : gradient;
    if (other) dispose([other, gradient]);
  }
  return { gradients, scores: readScores(batch, sums) };
}

/** From the decoder's hidden states through the loss and back to them. */
function lossBackward(decoder: Decoder, batch: MicroBatch, scale: LossScale, pass: DecoderPass) {
  return tidy(() => {
    const head = weightOf(decoder, headName(decoder.config));
    const norm = weightOf(decoder, FINAL_NORM);
    const { counted, normed } = countedHidden(decoder, batch, pass.hidden);
    const { nll, gradient } = tokenLosses(normed, head, batch.targets, true);
    if (!gradient) throw new Error('tokenLosses returned no gradient');
    const sums = sequenceSums(batch, nll);
    const weights = tokenWeights(batch, sums, scale); // [P]
    const dNormed = tf.mul(gradient, tf.reshape(weights, [-1, 1])); // [P, D]
    const { dx, dWeight } = rmsNormBackward(dNormed, counted, norm, decoder.config.rms_norm_eps, decoder.trainsBase);
    const ofHead: Gradients = {};
    if (dWeight) {
      ofHead[FINAL_NORM] = dWeight;
      ofHead[headName(decoder.config)] = headGradient(normed, head, batch.targets, weights);
    }
    const dHidden = tf.scatterND(tf.reshape(batch.positions, [-1, 1]), dx, [
      batch.layout.tokens,
      decoder.config.hidden_size,
    ]);
    return { dHidden, ofHead, sums };
  });
}

/** Hidden states of the positions that count, before and after the final norm: [P, D] each. */
function countedHidden(decoder: Decoder, batch: MicroBatch, hidden: Tensor) {
  const counted = tf.gather(hidden, batch.positions);
  return { counted, normed: rmsNorm(counted, weightOf(decoder, FINAL_NORM), decoder.config.rms_norm_eps) };
}

/** Mean log-probability of each sequence's answer, and summed NLL of each chosen row's counted tokens. */
function sequenceSums({ answerMean, nllMask }: MicroBatch, nll: Tensor) {
  const column = tf.reshape(nll, [-1, 1]); // [P, 1]
  return {
    logps: tf.reshape(tf.neg(matMul(answerMean, column)), [-1]),
    nllSums: tf.reshape(matMul(nllMask, column), [-1]),
  };
}

/** ∂L/∂nll of each position: its share of the NLL, and of its sequence's mean log-probability. @returns float32 [P] */
function tokenWeights(batch: MicroBatch, { logps }: { logps: Tensor }, scale: LossScale): Tensor {
  const pairs = batch.pairs.length;
  const odds = oddsGradient(
    tf.slice(logps, 0, pairs),
    tf.slice(logps, pairs, pairs),
    scale.beta,
    meanOver(pairs, scale),
  );
  const dNll = tf.neg(tf.concat([odds.dChosen, odds.dRejected], 0)); // [N]
  const fromOdds = matMul(batch.answerMean, tf.reshape(dNll, [-1, 1]), true, false); // [P, 1]
  const shares = tf.tensor2d(nllShares(batch, scale), [pairs, 1]);
  return tf.reshape(tf.add(fromOdds, matMul(batch.nllMask, shares, true, false)), [-1]);
}

/** Pairs that the odds term is a mean over: all of the step, or this micro-batch's, whose means are averaged. */
function meanOver(ownPairs: number, { nllReduction, microBatches, pairCount }: LossScale): number {
  return nllReduction === 'micro-batch' ? ownPairs * microBatches : pairCount;
}

/** Weight of one NLL token of each pair. */
function nllShares({ nllCounts }: MicroBatch, scale: LossScale): number[] {
  const own = nllCounts.reduce((sum, count) => sum + count, 0);
  switch (scale.nllReduction) {
    case 'token':
      return nllCounts.map(() => 1 / scale.nllTokens);
    case 'micro-batch':
      return nllCounts.map(() => 1 / (own * scale.microBatches));
    case 'sequence':
      return nllCounts.map((count) => 1 / (count * scale.pairCount));
  }
}

/** Moves the scores to plain data and frees their tensors. */
function readScores(batch: MicroBatch, sums: { logps: Tensor; nllSums: Tensor }): PairScores[] {
  const logps = sums.logps.dataSync();
  const nllSums = sums.nllSums.dataSync();
  dispose(sums);
  return batch.pairs.map(({ row }, pair) => ({
    row,
    logpChosen: logps[pair] ?? Number.NaN,
    logpRejected: logps[pair + batch.pairs.length] ?? Number.NaN,
    nllSum: nllSums[pair] ?? Number.NaN,
    nllCount: batch.nllCounts[pair] ?? 0,
  }));
}
