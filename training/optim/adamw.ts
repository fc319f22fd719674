/**
 * AdamW (arXiv 1711.05101) in the form of torch.optim.AdamW (torch/optim/adamw.py, _single_tensor_adamw): decoupled
 * decay, ε outside the square root and after the bias correction. Adam of TensorFlow and TensorFlow.js differ in both.
 * A pair of pure functions; state is keyed by parameter name.
 */
import { tf, tidy, type Tensor } from '../tf.ts';

export interface AdamWOptions {
  beta1: number;
  beta2: number;
  epsilon: number;
}

/** torch's defaults. */
export const ADAMW_DEFAULTS: AdamWOptions = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

/** Running means of gradients and of their squares, under the parameters' names. */
export interface AdamWState {
  first: Record<string, Tensor>;
  second: Record<string, Tensor>;
}

/** Moments of zero for each parameter; the caller owns them. */
export function adamwInit(weights: Record<string, Tensor>): AdamWState {
  const zeros = () => Object.fromEntries(Object.entries(weights).map(([name, weight]) => [name, tf.zerosLike(weight)]));
  return { first: zeros(), second: zeros() };
}

/** One parameter's next value and moments.
 *  @param step - 1 at the first update  @param gradient - same shape as the weight
 *  @returns new tensors; the caller frees the old ones */
export function adamwUpdate(
  { weight, gradient, first, second }: { weight: Tensor; gradient: Tensor; first: Tensor; second: Tensor },
  { learningRate, weightDecay, step }: { learningRate: number; weightDecay: number; step: number },
  { beta1, beta2, epsilon }: AdamWOptions = ADAMW_DEFAULTS,
): { weight: Tensor; first: Tensor; second: Tensor } {
  return tidy(() => {
    const nextFirst = tf.add(first, tf.mul(tf.sub(gradient, first), 1 - beta1));
    const nextSecond = tf.add(tf.mul(second, beta2), tf.mul(tf.square(gradient), 1 - beta2));
    const deviation = tf.add(tf.div(tf.sqrt(nextSecond), Math.sqrt(1 - beta2 ** step)), epsilon);
    const decayed = weightDecay === 0 ? weight : tf.mul(weight, 1 - learningRate * weightDecay);
    const stepSize = learningRate / (1 - beta1 ** step);
    return {
      weight: tf.sub(decayed, tf.mul(tf.div(nextFirst, deviation), stepSize)),
      first: nextFirst,
      second: nextSecond,
    };
  });
}

/** Names that weight decay leaves alone, as transformers' Trainer does: biases and norms. */
export function isDecayed(name: string): boolean {
  return !/bias|layernorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)/i.test(name);
}
