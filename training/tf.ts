/**
 * The one door to TensorFlow.js: native TensorFlow through @tensorflow/tfjs-node-gpu 4.22, which also runs on a CPU.
 * Node 23 removed `util.isNullOrUndefined` and its like, which the package calls: they are defined before it loads.
 * What TensorFlow reads from the environment (threads, log level, oneDNN, devices) must be set by the process that starts
 * this one: the library reads it once, on loading. See docs/architecture.md.
 *
 * Below the door stand the few native ops that TensorFlow.js has no function for, or only a slower one.
 */
import { createRequire } from 'node:module';
import util from 'node:util';
import type * as Tfjs from '@tensorflow/tfjs';
import { EnvironmentIncomplete } from '../shared/errors.ts';

export type { Tensor, Tensor1D, Tensor2D, NamedTensorMap, TensorContainer } from '@tensorflow/tfjs';
type Tensor = Tfjs.Tensor;

/** Major and minor version of TensorFlow.js that the native ops below are written against. */
const SUPPORTED_TFJS = '4.22.';

/** Loads TensorFlow.js with its native binding.
 *  @param require - resolves packages; another one in tests
 *  @throws EnvironmentIncomplete when the binding is missing or of another version */
export function loadTensorflow(require: (name: string) => unknown): typeof Tfjs {
  defineRemovedNodeFunctions();
  let loaded: typeof Tfjs & { version: Record<string, string> };
  try {
    loaded = require('@tensorflow/tfjs-node-gpu') as typeof loaded;
  } catch (cause) {
    const reason = cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : String(cause);
    throw new EnvironmentIncomplete(
      `engine: TensorFlow's native library does not load (${reason}); run ./orpo doctor, which says what is missing and how to get it`,
      { cause },
    );
  }
  const version = String(loaded.version['tfjs-core']);
  if (!version.startsWith(SUPPORTED_TFJS)) {
    throw new EnvironmentIncomplete(
      `engine: TensorFlow.js ${version} is installed, this program needs ${SUPPORTED_TFJS}x; run npm ci, then ./orpo doctor`,
    );
  }
  return loaded;
}

function defineRemovedNodeFunctions(): void {
  const target = util as unknown as Record<string, unknown>;
  target['isNullOrUndefined'] ??= (value: unknown) => value === null || value === undefined;
  target['isArray'] ??= Array.isArray;
}

export const tf = loadTensorflow(createRequire(import.meta.url));

/** Runs f and frees every tensor it made but those in what it returns: any nesting of records, arrays and nulls. */
export function tidy<T>(f: () => T): T {
  return tf.tidy(f as () => Tfjs.TensorContainer) as T;
}

/** Frees every tensor in a nesting of records, arrays and nulls; what is free already is left alone. */
export function dispose(container: unknown): void {
  tf.dispose(container as Tfjs.TensorContainer);
}

/** What of tfjs-node's backend the native ops use. */
interface NativeBackend {
  binding: { TF_ATTR_TYPE: number; TF_ATTR_BOOL: number; TF_FLOAT: number; TF_INT32: number; TF_Version: string };
  isUsingGpuDevice: boolean;
  executeSingleOutput(op: string, attributes: OpAttribute[], inputs: Tensor[]): Tensor;
  executeMultipleOutputs(op: string, attributes: OpAttribute[], inputs: Tensor[], outputs: number): Tensor[];
}

interface OpAttribute {
  name: string;
  type: number;
  value: number | boolean;
}

// Looked up at every call: a graph tracer may stand in for the backend.
function native(): NativeBackend {
  return tf.backend() as unknown as NativeBackend;
}

/** Version of the TensorFlow library and the device it computes on. */
export function engineInfo(): { library: string; device: 'cpu' | 'gpu' } {
  const { binding, isUsingGpuDevice } = native();
  return { library: binding.TF_Version, device: isUsingGpuDevice ? 'gpu' : 'cpu' };
}

/** Product of two float32 matrices, either one transposed: op MatMul, which unlike tf.matMul needs no rank-3 reshape. */
export function matMul(a: Tensor, b: Tensor, transposeA = false, transposeB = false): Tensor {
  const { binding } = native();
  const attributes = [
    { name: 'T', type: binding.TF_ATTR_TYPE, value: binding.TF_FLOAT },
    { name: 'transpose_a', type: binding.TF_ATTR_BOOL, value: transposeA },
    { name: 'transpose_b', type: binding.TF_ATTR_BOOL, value: transposeB },
  ];
  return native().executeSingleOutput('MatMul', attributes, [a, b]);
}

/** Cross-entropy of each row with its target, and its gradient, in one op: SparseSoftmaxCrossEntropyWithLogits.
 *  @param logits - float32 [P, V]  @param targets - int32 [P]
 *  @returns loss float32 [P]; gradient float32 [P, V] = softmax − one-hot */
export function sparseCrossEntropy(logits: Tensor, targets: Tensor): { loss: Tensor; gradient: Tensor } {
  const { binding } = native();
  const attributes = [
    { name: 'T', type: binding.TF_ATTR_TYPE, value: binding.TF_FLOAT },
    { name: 'Tlabels', type: binding.TF_ATTR_TYPE, value: binding.TF_INT32 },
  ];
  const [loss, gradient] = native().executeMultipleOutputs(
    'SparseSoftmaxCrossEntropyWithLogits',
    attributes,
    [logits, targets],
    2,
  );
  if (!loss || !gradient) throw new Error('SparseSoftmaxCrossEntropyWithLogits returned fewer than two tensors');
  return { loss, gradient };
}

/** Uniform numbers in [0, 1) that are a function of shape and seed alone: op StatelessRandomUniform (Philox).
 *  @param seed - two 32-bit integers */
export function statelessUniform(shape: number[], seed: [number, number]): Tensor {
  const { binding } = native();
  const attributes = [
    { name: 'dtype', type: binding.TF_ATTR_TYPE, value: binding.TF_FLOAT },
    { name: 'T', type: binding.TF_ATTR_TYPE, value: binding.TF_INT32 },
    { name: 'Tseed', type: binding.TF_ATTR_TYPE, value: binding.TF_INT32 },
  ];
  return tidy(() =>
    native().executeSingleOutput('StatelessRandomUniform', attributes, [
      tf.tensor1d(shape, 'int32'),
      tf.tensor1d(seed, 'int32'),
    ]),
  );
}

/** Derivative of the logistic function: op SigmoidGrad, y·(1 − y)·dy in one pass.
 *  @param y - the function's value  @param dy - its cotangent, same shape */
export function sigmoidGradient(y: Tensor, dy: Tensor): Tensor {
  const { binding } = native();
  const attributes = [{ name: 'T', type: binding.TF_ATTR_TYPE, value: binding.TF_FLOAT }];
  return native().executeSingleOutput('SigmoidGrad', attributes, [y, dy]);
}

/** A float32 tensor in native memory of its own: op DeepCopy. The binding shares the JavaScript array's memory where that
 *  happens to be aligned, so that without the copy a later write to the array would change the tensor. */
export function nativeTensor(values: Float32Array, shape: number[]): Tensor {
  const { binding } = native();
  const attributes = [{ name: 'T', type: binding.TF_ATTR_TYPE, value: binding.TF_FLOAT }];
  return tidy(() => native().executeSingleOutput('DeepCopy', attributes, [tf.tensor(values, shape, 'float32')]));
}
