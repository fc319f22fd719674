/**
 * A second backend of TensorFlow.js over a recorder: the kernels of the native one, re-registered, so that ordinary code,
 * gradients included, writes a graph and executes nothing. One function is traced at a time.
 */
import { tf, tidy, type Tensor } from '../tf.ts';
import { callSite, type OpAttribute, type Recorder, type TensorMetadata, type TypedArray } from './recorder.ts';

/** Name under which the tracing backend stands in TensorFlow.js. */
const TRACER = 'graph-tracer';
export const NATIVE = 'tensorflow';

/** TensorFlow.js's native binding (its tfjs_binding.d.ts), as far as it is used here. */
export interface Binding {
  TF_ATTR_INT: number;
  TF_ATTR_TYPE: number;
  TF_INT32: number;
  createTensor(shape: number[], dtype: number, values: ArrayLike<number>): number;
  deleteTensor(id: number): void;
  tensorDataSync(id: number): TypedArray;
  executeOp(name: string, attributes: OpAttribute[], operands: number[], outputs: number): TensorMetadata[];
  loadSavedModel(folder: string, tags: string): number;
  deleteSavedModel(id: number): void;
  runSavedModel(id: number, operands: number[], inputs: string, outputs: string): TensorMetadata[];
}

/** NodeJSKernelBackend of tfjs-node (dist/nodejs_kernel_backend.js), as far as it is used here. */
export interface Backend {
  binding: Binding;
  tensorMap: unknown;
  createOutputTensor(metadata: TensorMetadata): Tensor;
  getInputTensorIds(tensors: Tensor[]): number[];
  executeSingleOutput(op: string, attributes: OpAttribute[], inputs: Tensor[]): Tensor;
  write(values: unknown, shape: number[], dtype: string): object;
}

/** Scopes that TensorFlow.js opens around functions whose numbers come from JavaScript. */
const RANDOM = /^(?:rand|random[A-Z]\w*|truncatedNormal|multinomial|dropout)__op$/;

let active: Recorder | null = null;

/** Whether a function is being traced. */
export function isTracing(): boolean {
  return active !== null;
}

/** The native backend, traced or not. */
export function nativeBackend(): Backend {
  return tf.findBackend(NATIVE) as unknown as Backend;
}

/** Runs a function whose ops the recorder takes. Every tensor made in it is freed at the end.
 *  @throws Error where a trace runs already, and whatever the function throws */
export function trace<T>(recorder: Recorder, traced: (backend: Backend) => T): T {
  if (active) throw new Error('compile: a function is being traced already; traced functions do not define others');
  if (!tf.findBackend(TRACER)) registerTracer();
  const before = tf.getBackend();
  active = recorder;
  useBackend(TRACER);
  try {
    let result: { value: T } | null = null;
    tidy(() => {
      result = { value: traced(tf.backend() as unknown as Backend) };
    });
    return (result as unknown as { value: T }).value;
  } finally {
    useBackend(before);
    active = null;
  }
}

/** Neither backend starts asynchronously, so that the switch has happened when the call returns. */
function useBackend(name: string): void {
  void tf.setBackend(name);
  if (tf.getBackend() !== name) throw new Error(`compile: TensorFlow.js did not switch to its backend "${name}"`);
}

function registerTracer(): void {
  for (const kernel of tf.getKernelsForBackend(NATIVE)) tf.registerKernel({ ...kernel, backendName: TRACER });
  // The native kernel reads the indices to check them.
  tf.unregisterKernel('GatherV2', TRACER);
  tf.registerKernel({ kernelName: 'GatherV2', backendName: TRACER, kernelFunc: gather as never });
  const backend = createTracingBackend();
  tf.registerBackend(TRACER, () => backend as never, 0);
  if (!tf.findBackend(TRACER)) throw new Error('compile: TensorFlow.js did not take the tracing backend');
}

function createTracingBackend(): Backend {
  const native = nativeBackend();
  const Backend = native.constructor as new (binding: Binding, packageName: string) => Backend;
  const backend = new Backend(recordingBinding(native.binding), '@tensorflow/tfjs-node-gpu');
  backend.tensorMap = new tf.DataStorage(backend as never, { moveData: refuseOutside });
  const { write } = backend;
  backend.write = (values, shape, dtype) => {
    mustNotBeRandom();
    return write.call(backend, values, shape, dtype);
  };
  return backend;
}

/** The native binding with what creates, computes, reads and frees replaced; its own properties cannot be assigned. */
function recordingBinding(native: Binding): Binding {
  const replaced: Partial<Binding> = {
    createTensor: (shape, dtype, values) => recorder().createTensor(shape, dtype, values),
    executeOp: (name, attributes, operands, outputs) => recorder().executeOp(name, attributes, operands, outputs),
    tensorDataSync: (id) => recorder().valuesOf(id),
    deleteTensor: () => undefined,
  };
  const binding = Object.create(native) as Binding;
  for (const [name, value] of Object.entries(replaced)) Object.defineProperty(binding, name, { value });
  return binding;
}

function recorder(): Recorder {
  if (!active)
    throw new Error('compile: a traced tensor was used after its function had been traced; return it instead');
  return active;
}

function refuseOutside(): never {
  throw new Error(
    `compile: a tensor from outside the traced function was used ${callSite()}; its values would be frozen into the graph. ` +
      'Make it a variable or an input, or create it inside the function if it never changes',
  );
}

function mustNotBeRandom(): void {
  const scopes = tf.engine().state.scopeStack as { name: string }[];
  const random = scopes.find(({ name }) => RANDOM.test(name));
  if (!random) return;
  const name = random.name.replace('__op', '');
  throw new Error(
    `compile: tf.${name} (called ${callSite()}) makes its numbers while tracing, so that every run would repeat them; ` +
      'use keyedUniform or keyedDropoutMask (training/compile/random.ts), whose step is an input',
  );
}

function gather({
  inputs,
  backend,
  attrs,
}: {
  inputs: { x: Tensor; indices: Tensor };
  backend: Backend;
  attrs: object;
}) {
  const { axis, batchDims } = attrs as { axis: number; batchDims: number };
  const attributes = [{ name: 'batch_dims', type: backend.binding.TF_ATTR_INT, value: batchDims }];
  return backend.executeSingleOutput('GatherV2', attributes, [inputs.x, inputs.indices, tf.scalar(axis, 'int32')]);
}
