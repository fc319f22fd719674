/**
 * Random numbers that are a function of a key alone: the same eagerly, in a graph op by op, and under XLA, bit for bit.
 * A key is two 32-bit words; keys come from (seed, step, name) and other words by Philox (Salmon and others, "Parallel
 * random numbers: as easy as 1, 2, 3", SC 2011), as in JAX's `fold_in`. TensorFlow.js's own random functions make their
 * numbers in JavaScript, which a graph would repeat for ever.
 */
import { createHash } from 'node:crypto';
import { tf, tidy, type Tensor } from '../tf.ts';
import { isTracing, type Backend } from './tracer.ts';

/** A whole number, taken modulo 2^32, or an int32 scalar. */
export type Word = number | Tensor;

/** What tells one stream of numbers from another. */
export interface StreamKey {
  seed: Word;
  /** Changes from call to call: while tracing it must be an input. */
  step: Word;
  /** Of the use: no two uses in one step share it. */
  name: string;
}

/** int32 [2] for a seed and a step. @throws Error for a step that tracing would freeze */
export function randomKey(seed: Word, step: Word): Tensor {
  if (typeof step === 'number' && isTracing()) {
    throw new Error(
      `compile: randomKey got the step as the number ${step} while tracing, so that every run would repeat it; pass a traced int32 input`,
    );
  }
  return tidy(() => fullInt(tf.stack([wordOf(seed), wordOf(step)])));
}

/** The key of a name, or of further words, under a key.
 *  @param key - int32 [2]  @param words - a name, or int32 [2]  @returns int32 [2] */
export function foldIn(key: Tensor, words: string | Tensor): Tensor {
  return tidy(() => fullInt(binary('BitwiseXor', key, typeof words === 'string' ? nameWords(words) : words)));
}

/** Uniform in [0, 1): the low 23 of 32 random bits, which are what eager TensorFlow's StatelessRandomUniform takes. XLA's
 *  takes the high ones, so that op is no use here. @param key - int32 [2]  @returns float32 of the shape */
export function uniformOf(key: Tensor, shape: number[]): Tensor {
  return tidy(() => {
    const low = binary('BitwiseAnd', fullInt(key, shape), tf.scalar(2 ** 23 - 1, 'int32'));
    return tf.mul(tf.cast(low, 'float32'), 2 ** -23);
  });
}

/** Uniform in [0, 1) for a seed, a step and a name. */
export function keyedUniform(shape: number[], { seed, step, name }: StreamKey): Tensor {
  return tidy(() => uniformOf(foldIn(randomKey(seed, step), name), shape));
}

/** Mask of 0, with probability rate, and 1/(1 − rate). @param rate - in [0, 1) */
export function keyedDropoutMask(shape: number[], rate: number, stream: StreamKey): Tensor {
  if (!(rate >= 0 && rate < 1)) throw new RangeError(`keyedDropoutMask: rate is ${rate}; it must be in [0, 1)`);
  return tidy(() => tf.mul(tf.cast(tf.greaterEqual(keyedUniform(shape, stream), rate), 'float32'), 1 / (1 - rate)));
}

function wordOf(word: Word): Tensor {
  if (typeof word !== 'number') return word;
  if (!Number.isSafeInteger(word)) throw new RangeError(`randomKey: ${word} is no whole number`);
  return tf.scalar(word | 0, 'int32');
}

function nameWords(name: string): Tensor {
  const digest = createHash('sha256').update(name).digest();
  return tf.tensor1d([digest.readInt32LE(0), digest.readInt32LE(4)], 'int32');
}

/** The op extends negative words by their sign eagerly and by zeros under XLA: without the sign bit both agree. */
const WITHOUT_SIGN = 2 ** 31 - 1;

/** All 32 bits random, from 62 of the key's. @param key - int32 [2]  @returns int32 of the shape; by default a key */
function fullInt(key: Tensor, shape = [2]): Tensor {
  const backend = tf.backend() as unknown as Backend;
  const { TF_ATTR_TYPE: type, TF_INT32: value } = backend.binding;
  const attributes = ['dtype', 'T', 'Tseed'].map((name) => ({ name, type, value }));
  const words = binary('BitwiseAnd', key, tf.scalar(WITHOUT_SIGN, 'int32'));
  return backend.executeSingleOutput('StatelessRandomUniformFullInt', attributes, [tf.tensor1d(shape, 'int32'), words]);
}

function binary(op: string, a: Tensor, b: Tensor): Tensor {
  const backend = tf.backend() as unknown as Backend;
  const attributes = [{ name: 'T', type: backend.binding.TF_ATTR_TYPE, value: backend.binding.TF_INT32 }];
  return backend.executeSingleOutput(op, attributes, [a, b]);
}
