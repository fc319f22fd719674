/**
 * A small training loop to compile: a 2-layer perceptron with dropout, gradients by TensorFlow.js's autodiff, clipping and
 * AdamW in plain ops. The same step function runs eagerly.
 */
import { createProgram, type Program, type TensorSpec, type Tensors } from '../../../training/compile/program.ts';
import { keyedDropoutMask } from '../../../training/compile/random.ts';
import { dispose, tf, tidy, type Tensor } from '../../../training/tf.ts';

export const ROWS = 32;
const INNER = 24;
const FEATURES = 8;

const float = (...shape: number[]): TensorSpec => ({ shape, dtype: 'float32' });
const WEIGHTS = { w1: float(FEATURES, INNER), b1: float(INNER), w2: float(INNER, 1) };
const INPUTS = {
  x: float(ROWS, FEATURES),
  y: float(ROWS, 1),
  learningRate: float(),
  step: { shape: [], dtype: 'int32' as const },
};

export const VARIABLES = Object.fromEntries(
  Object.entries(WEIGHTS).flatMap(([name, spec]) => [
    [name, spec],
    [`first/${name}`, spec],
    [`second/${name}`, spec],
  ]),
);

/** Tensors of a record by name; the compiler only knows that they may be missing. */
function at(tensors: Tensors, name: string): Tensor {
  const tensor = tensors[name];
  if (!tensor) throw new Error(`no tensor "${name}"`);
  return tensor;
}

function loss(x: Tensor, y: Tensor, mask: Tensor, [w1, b1, w2]: Tensor[]): Tensor {
  const inner = tf.mul(tf.tanh(tf.add(tf.matMul(x, w1 as Tensor), b1 as Tensor)), mask);
  return tf.mean(tf.square(tf.sub(tf.matMul(inner, w2 as Tensor), y)));
}

/** One step: outputs and the next values of all variables. */
export function mlpStep(variables: Tensors, inputs: Tensors) {
  const [x, y, step, learningRate] = ['x', 'y', 'step', 'learningRate'].map((name) => at(inputs, name)) as [Tensor, Tensor, Tensor, Tensor]; // prettier-ignore
  const mask = keyedDropoutMask([ROWS, INNER], 0.2, { seed: 7, step, name: 'inner' });
  const names = Object.keys(WEIGHTS);
  const objective = (...weights: Tensor[]) => loss(x, y, mask, weights) as never;
  const { value, grads } = tf.valueAndGrads(objective)(names.map((name) => at(variables, name)));
  const norm = tf.sqrt(tf.addN(grads.map((gradient) => tf.sum(tf.square(gradient)))));
  const factor = tf.minimum(1, tf.div(1, norm));
  const updates: Tensors = {};
  for (const [index, name] of names.entries()) {
    const gradient = tf.mul(grads[index] as Tensor, factor);
    Object.assign(updates, adamw(variables, name, gradient, learningRate, tf.cast(step, 'float32')));
  }
  return { outputs: { loss: value as Tensor, norm, kept: tf.sum(tf.cast(tf.greater(mask, 0), 'float32')) }, updates };
}

function adamw(variables: Tensors, name: string, gradient: Tensor, rate: Tensor, step: Tensor): Tensors {
  const first = tf.add(tf.mul(at(variables, `first/${name}`), 0.9), tf.mul(gradient, 0.1));
  const second = tf.add(tf.mul(at(variables, `second/${name}`), 0.999), tf.mul(tf.square(gradient), 0.001));
  const corrected = tf.div(first, tf.sub(1, tf.pow(0.9, step)));
  const deviation = tf.add(tf.sqrt(tf.div(second, tf.sub(1, tf.pow(0.999, step)))), 1e-8);
  const decayed = tf.mul(at(variables, name), tf.sub(1, tf.mul(rate, 0.01)));
  return {
    [name]: tf.sub(decayed, tf.mul(tf.div(corrected, deviation), rate)),
    [`first/${name}`]: first,
    [`second/${name}`]: second,
  };
}

export function mlpProgram(): Program {
  const program = createProgram({ variables: VARIABLES });
  program.define('step', { inputs: INPUTS }, mlpStep);
  return program;
}

/** Values for every variable: weights spread over (−0.5, 0.5), moments 0. */
export function initialValues(): Record<string, Float32Array> {
  return Object.fromEntries(
    Object.entries(VARIABLES).map(([name, { shape }]) => {
      const size = shape.reduce((product, length) => product * length, 1);
      return [name, Float32Array.from({ length: size }, (_, i) => (name.includes('/') ? 0 : ((i * 37 + 11) % 100) / 100 - 0.5))]; // prettier-ignore
    }),
  );
}

/** Inputs of a step, which learns the sum of the features. */
export function feedsOf(step: number, learningRate: number) {
  const x = Float32Array.from({ length: ROWS * FEATURES }, (_, i) => Math.sin(i * 1.7 + step));
  const y = Float32Array.from({ length: ROWS }, (_, row) =>
    x.slice(row * FEATURES, (row + 1) * FEATURES).reduce((sum, value) => sum + value, 0),
  );
  return { x, y, step, learningRate };
}

/** The loop without compiling. @returns outputs of each step and the last variables */
export function trainEagerly(rates: number[]) {
  let variables: Tensors = Object.fromEntries(
    Object.entries(initialValues()).map(([name, data]) => [name, tf.tensor(data, specOf(name).shape)]),
  );
  const outputs = rates.map((rate, index) => {
    const feeds = feedsOf(index + 1, rate);
    const result = tidy(() =>
      mlpStep(variables, {
        x: tf.tensor(feeds.x, INPUTS.x.shape),
        y: tf.tensor(feeds.y, INPUTS.y.shape),
        learningRate: tf.scalar(rate),
        step: tf.scalar(feeds.step, 'int32'),
      }),
    );
    dispose(variables);
    variables = result.updates;
    return numbers(result.outputs);
  });
  const last = Object.fromEntries(Object.entries(variables).map(([name, tensor]) => [name, tensor.dataSync() as Float32Array])); // prettier-ignore
  dispose(variables);
  return { outputs, variables: last };
}

function specOf(name: string): TensorSpec {
  const spec = VARIABLES[name];
  if (!spec) throw new Error(`no variable "${name}"`);
  return spec;
}

/** Scalars as numbers; frees them. */
export function numbers(tensors: Tensors): Record<string, number> {
  const result = Object.fromEntries(Object.entries(tensors).map(([name, y]) => [name, y.dataSync()[0] ?? Number.NaN]));
  dispose(tensors);
  return result;
}
