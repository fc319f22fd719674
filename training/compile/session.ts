/**
 * A loaded program: variables in native memory, and graphs that run on them. The SavedModel's top graph is small: handles
 * of the variables, one call of each traced function, an assignment and a read of each variable. XLA compiles a function
 * when its call carries `_XlaMustCompile` (tensorflow/compiler/jit/xla_kernel_creator.cc), at the first run.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { tf, type Tensor } from '../tf.ts';
import { DTYPES, savedModelBytes, type AttrValue, type NodeDef, type TensorSpec } from './graph-def.ts';
import type { Specs, Traced } from './program.ts';
import { callSite, sizeBytes, type TypedArray } from './recorder.ts';
import { isTracing, nativeBackend } from './tracer.ts';

export interface LoadOptions {
  /** Whether XLA compiles the functions: faster, and repeats bit for bit at a fixed number of threads. */
  xla: boolean;
  /** Where the SavedModel is written and stays; otherwise a temporary folder that is removed. */
  dir?: string;
}

/** What a call may be fed with: a tensor of TensorFlow.js, values in row-major order, or one number. */
export type Feed = Tensor | TypedArray | number[] | number;

export interface Session {
  /** Sets variables; a subset of them will do. @throws Error for unknown names and wrong sizes */
  set(values: Record<string, Feed>): void;
  /** Values of variables, row-major. @throws Error for unknown names and variables without value */
  read(names: string[]): Record<string, TypedArray>;
  /** Runs a function. @returns its outputs, which the caller disposes of
   *  @throws Error for missing or wrong inputs, and while variables that it reads have no value */
  run(name: string, inputs: Record<string, Feed>): Record<string, Tensor>;
  dispose(): void;
}

/** Bytes set or read at once: TensorFlow's messages end at 2 GB. */
const CALL_BYTES = 2 ** 30;

/** What XLA compiles, TensorFlow's graph optimiser need not: this mark keeps it off a function (grappler's
 *  IsTFDataFunction, core/grappler/optimizers/meta_optimizer.cc), which saves a quarter of the start-up. */
const UNTOUCHED: Record<string, AttrValue> = { _tf_data_function: { bool: true } };

interface Loaded {
  id: number;
  variables: Specs;
  /** Place of each variable, which its nodes are named after. */
  places: Map<string, number>;
  functions: Map<string, Traced>;
  /** Variables that have values. */
  set: Set<string>;
}

/** @throws Error where TensorFlow does not take the graph */
export async function loadSession(variables: Specs, functions: Traced[], options: LoadOptions): Promise<Session> {
  const nodes = [...variableNodes(variables), ...functions.flatMap((each) => callNodes(each, options.xla))];
  const attrs = options.xla ? UNTOUCHED : {};
  const definitions = functions.map(({ definition }) => ({ ...definition, attrs }));
  const folder = options.dir ?? (await mkdtemp(join(tmpdir(), 'compiled-')));
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'saved_model.pb'), savedModelBytes(nodes, definitions));
  const id = nativeBackend().binding.loadSavedModel(folder, 'serve');
  if (!options.dir) await rm(folder, { recursive: true });
  const loaded: Loaded = {
    id,
    variables,
    places: new Map(Object.keys(variables).map((name, index) => [name, index])),
    functions: new Map(functions.map((each) => [each.name, each])),
    set: new Set(),
  };
  return {
    set: (values) => setVariables(loaded, values),
    read: (names) => readVariables(loaded, names),
    run: (name, inputs) => runFunction(loaded, name, inputs),
    dispose: () => nativeBackend().binding.deleteSavedModel(id),
  };
}

/** Handle, assignment and read of each variable. An assignment has no output: a constant behind it is fetched. */
function variableNodes(variables: Specs): NodeDef[] {
  return Object.entries(variables).flatMap(([name, { shape, dtype }], index) => {
    const type = { type: dtype };
    return [
      {
        name: `variable_${index}`,
        op: 'VarHandleOp',
        inputs: [],
        attrs: { dtype: type, shape: { shape }, shared_name: { text: name }, container: { text: '' } },
      },
      placeholder(`set_${index}/value`, { shape, dtype }),
      {
        name: `set_${index}/assign`,
        op: 'AssignVariableOp',
        inputs: [`variable_${index}`, `set_${index}/value`],
        attrs: { dtype: type },
      },
      doneAfter(`set_${index}`, `set_${index}/assign`),
      { name: `read_${index}`, op: 'ReadVariableOp', inputs: [`variable_${index}`], attrs: { dtype: type } },
    ];
  });
}

function placeholder(name: string, { shape, dtype }: TensorSpec): NodeDef {
  return { name, op: 'Placeholder', inputs: [], attrs: { dtype: { type: dtype }, shape: { shape } } };
}

/** A constant that can be fetched when a node has run. */
function doneAfter(name: string, node: string): NodeDef {
  const tensor = { dtype: 'int32' as const, shape: [], content: new Uint8Array(4), uniform: false };
  return {
    name: `${name}/done`,
    op: 'Const',
    inputs: [`^${node}`],
    attrs: { dtype: { type: 'int32' }, value: { tensor } },
  };
}

function callNodes({ name, inputs, outputs, definition }: Traced, xla: boolean): NodeDef[] {
  const placeholders = Object.values(inputs).map((spec, index) => placeholder(`${name}/input_${index}`, spec));
  const call: NodeDef = {
    name: `${name}/call`,
    op: 'StatefulPartitionedCall',
    inputs: definition.inputs.map((argument) => argument.name.replace(/^input_/, `${name}/input_`)),
    attrs: {
      Tin: { types: definition.inputs.map(({ dtype }) => dtype) },
      Tout: { types: Object.values(outputs).map(({ dtype }) => dtype) },
      f: { func: definition.name },
      ...(xla ? { _XlaMustCompile: { bool: true } } : {}),
    },
  };
  return [...placeholders, call, doneAfter(name, call.name)];
}

function setVariables(loaded: Loaded, values: Record<string, Feed>): void {
  const names = Object.keys(values);
  for (const name of names) specOf(loaded, name);
  for (const group of groups(loaded, names)) {
    const { feeds, free } = feedIds(group.map((name) => [name, specOf(loaded, name), values[name] ?? 0]));
    const indices = group.map((name) => indexOf(loaded, name));
    try {
      const fetched = nativeBackend().binding.runSavedModel(
        loaded.id,
        feeds,
        indices.map((index) => `set_${index}/value:0`).join(),
        indices.map((index) => `set_${index}/done:0`).join(),
      );
      for (const { id } of fetched) nativeBackend().binding.deleteTensor(id);
    } finally {
      free();
    }
    for (const name of group) loaded.set.add(name);
  }
}

function readVariables(loaded: Loaded, names: string[]): Record<string, TypedArray> {
  for (const name of names) specOf(loaded, name);
  mustBeSet(loaded, names, 'read');
  const { binding } = nativeBackend();
  const result: Record<string, TypedArray> = {};
  for (const group of groups(loaded, names)) {
    const fetches = group.map((name) => `read_${indexOf(loaded, name)}:0`).join();
    for (const [index, { id }] of binding.runSavedModel(loaded.id, [], '', fetches).entries()) {
      result[group[index] ?? ''] = binding.tensorDataSync(id);
      binding.deleteTensor(id);
    }
  }
  return result;
}

function runFunction(loaded: Loaded, name: string, inputs: Record<string, Feed>): Record<string, Tensor> {
  if (isTracing()) {
    throw new Error(`compile: run "${name}" was called ${callSite()}, inside a traced function; run it outside`);
  }
  const traced = loaded.functions.get(name);
  if (!traced) {
    const known = [...loaded.functions.keys()].join(', ');
    throw new Error(`compile: the program has no function "${name}"; it has: ${known}`);
  }
  mustHaveInputs(traced, inputs);
  mustBeSet(loaded, traced.reads, `run "${name}"`);
  const outputs = Object.keys(traced.outputs);
  const entries = Object.entries(traced.inputs);
  const { feeds, free } = feedIds(entries.map(([key, spec]) => [key, spec, inputs[key] ?? 0]));
  try {
    const fetched = nativeBackend().binding.runSavedModel(
      loaded.id,
      feeds,
      entries.map((_, index) => `${name}/input_${index}:0`).join(),
      outputs.length > 0 ? outputs.map((_, index) => `${name}/call:${index}`).join() : `${name}/done:0`,
    );
    for (const key of traced.writes) loaded.set.add(key);
    return namedOutputs(outputs, fetched);
  } finally {
    free();
  }
}

function namedOutputs(names: string[], fetched: { id: number; shape: number[]; dtype: number }[]) {
  const backend = nativeBackend();
  if (names.length === 0) {
    for (const { id } of fetched) backend.binding.deleteTensor(id);
    return {};
  }
  const tensors = fetched.map((metadata) => backend.createOutputTensor(metadata));
  return Object.fromEntries(names.map((name, index) => [name, tensors[index]])) as Record<string, Tensor>;
}

/** Native tensors of what is fed, and how to free those made here. Arrays are copied: TensorFlow keeps what it is given. */
function feedIds(entries: [string, TensorSpec, Feed][]): { feeds: number[]; free: () => void } {
  const { binding } = nativeBackend();
  const made: number[] = [];
  const free = (): void => made.forEach((id) => binding.deleteTensor(id));
  try {
    const feeds = entries.map(([name, spec, value]) => {
      if (value instanceof tf.Tensor) return tensorId(name, spec, value);
      const id = binding.createTensor(spec.shape, DTYPES[spec.dtype], arrayFor(name, spec, value));
      made.push(id);
      return id;
    });
    return { feeds, free };
  } catch (error) {
    free();
    throw error;
  }
}

function tensorId(name: string, spec: TensorSpec, tensor: Tensor): number {
  if (tensor.dtype !== spec.dtype || tensor.shape.join() !== spec.shape.join()) {
    const expected = `${spec.dtype} [${spec.shape.join(', ')}]`;
    throw new Error(`compile: "${name}" got ${tensor.dtype} [${tensor.shape.join(', ')}]; it takes ${expected}`);
  }
  return nativeBackend().getInputTensorIds([tensor])[0] ?? -1;
}

function arrayFor(name: string, { shape, dtype }: TensorSpec, value: TypedArray | number[] | number): TypedArray {
  const values = typeof value === 'number' ? [value] : value;
  const size = shape.reduce((product, length) => product * length, 1);
  if (values.length !== size) {
    throw new Error(`compile: "${name}" got ${values.length} values; ${dtype} [${shape.join(', ')}] takes ${size}`);
  }
  if (dtype === 'float32') return new Float32Array(values);
  if (dtype === 'int32') return new Int32Array(values);
  if (dtype === 'bool') return new Uint8Array(values);
  throw new Error(`compile: "${name}" is ${dtype}, which cannot be fed; cast it inside the graph`);
}

function mustHaveInputs({ name, inputs }: Traced, given: Record<string, Feed>): void {
  const missing = Object.keys(inputs).filter((key) => given[key] === undefined);
  const unexpected = Object.keys(given).filter((key) => !Object.hasOwn(inputs, key));
  if (missing.length === 0 && unexpected.length === 0) return;
  throw new Error(
    `compile: run "${name}": missing inputs [${missing.join(', ')}], unexpected [${unexpected.join(', ')}]; it takes [${Object.keys(inputs).join(', ')}]`,
  );
}

function mustBeSet(loaded: Loaded, names: string[], action: string): void {
  const unset = names.filter((name) => !loaded.set.has(name));
  if (unset.length === 0) return;
  const shown = unset.slice(0, 5).join(', ') + (unset.length > 5 ? `, … (${unset.length} in all)` : '');
  throw new Error(`compile: cannot ${action}: these variables have no value yet: ${shown}; call set first`);
}

function specOf({ variables }: Loaded, name: string): TensorSpec {
  const spec = Object.hasOwn(variables, name) ? variables[name] : undefined;
  if (!spec) throw new Error(`compile: the program has no variable "${name}"`);
  return spec;
}

function indexOf({ places }: Loaded, name: string): number {
  return places.get(name) ?? -1;
}

/** Names in groups of at most CALL_BYTES, larger variables alone. */
function groups(loaded: Loaded, names: string[]): string[][] {
  const result: string[][] = [];
  let room = 0;
  for (const name of names) {
    const size = sizeBytes(specOf(loaded, name));
    if (size > room) {
      result.push([]);
      room = CALL_BYTES;
    }
    result.at(-1)?.push(name);
    room -= size;
  }
  return result;
}
