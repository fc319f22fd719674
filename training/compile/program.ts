/**
 * A program: variables, and named functions that compute with them, traced into graphs. All graphs stand in one
 * SavedModel, because variables belong to one session. See docs/compile.md.
 */
import type { Tensor } from '../tf.ts';
import type { DTypeName, FunctionDef, TensorSpec } from './graph-def.ts';
import { createRecorder, type Recorder } from './recorder.ts';
import { loadSession, type LoadOptions, type Session } from './session.ts';
import { trace, type Backend } from './tracer.ts';

export type { DTypeName, TensorSpec } from './graph-def.ts';
export type { LoadOptions, Session } from './session.ts';

export type Specs = Record<string, TensorSpec>;
export type Tensors = Record<string, Tensor>;

/** Ordinary TensorFlow.js code. Called once, with tensors that have shapes and types but no values.
 *  @param variables - all variables of the program at their values before the call  @param inputs - of this call
 *  @returns outputs of the call; updates, the next values of variables */
export type TracedFunction = (variables: Tensors, inputs: Tensors) => { outputs: Tensors; updates?: Tensors };

/** A traced function. */
export interface Traced {
  name: string;
  inputs: Specs;
  outputs: Specs;
  /** Variables it reads or writes, in the order of its last arguments. */
  variables: string[];
  /** Of these, the ones it reads: they must have values before it runs. */
  reads: string[];
  /** Of these, the ones it updates. */
  writes: string[];
  definition: FunctionDef;
}

export interface Program {
  /** Traces a function and adds it under its name.
   *  @throws Error for what cannot be traced, naming op and place */
  define(name: string, options: { inputs?: Specs }, traced: TracedFunction): Traced;
  /** Writes all graphs into one SavedModel and loads it. */
  load(options: LoadOptions): Promise<Session>;
}

const NAME = /^[A-Za-z][A-Za-z0-9_]*$/;

/** @param options.variables - shapes and types of what lives in the session between calls */
export function createProgram({ variables }: { variables: Specs }): Program {
  const functions: Traced[] = [];
  return {
    define: (name, { inputs = {} }, traced) => {
      if (!NAME.test(name)) {
        throw new Error(`compile: "${name}" cannot name a function; allowed: letters, digits and _, a letter first`);
      }
      if (functions.some((other) => other.name === name)) {
        throw new Error(`compile: this program has a function "${name}" already; give each its own name`);
      }
      const result = traceFunction(name, variables, inputs, traced);
      functions.push(result);
      return result;
    },
    load: (options) => loadSession(variables, functions, options),
  };
}

function traceFunction(name: string, variables: Specs, inputs: Specs, traced: TracedFunction): Traced {
  const recorder = createRecorder();
  const { outputs, updates } = trace(recorder, (backend) => {
    const ofVariables = Object.entries(variables).map(
      ([key, spec], index) =>
        [key, tensorOf(backend, recorder, recorder.readVariable(`variable_${index}`, spec))] as const,
    );
    const ofInputs = Object.entries(inputs).map(
      ([key, spec], index) => [key, tensorOf(backend, recorder, recorder.argument(`input_${index}`, spec))] as const,
    );
    const result: unknown = traced(Object.fromEntries(ofVariables), Object.fromEntries(ofInputs));
    if (result instanceof Promise) {
      throw new Error(`compile: the function "${name}" is async; a traced function returns its tensors at once`);
    }
    const { outputs: out, updates: next = {} } = result as ReturnType<TracedFunction>;
    return { outputs: idsOf(backend, out), updates: idsOf(backend, next) };
  });
  checkUpdates(name, recorder, variables, updates);
  return assemble(name, recorder, variables, inputs, outputs, updates);
}

function tensorOf(backend: Backend, { values }: Recorder, id: number): Tensor {
  const { shape, dtype } = values[id] ?? { shape: [], dtype: 'float32' as DTypeName };
  return backend.createOutputTensor({ id, shape, dtype: SHOWN[dtype] ?? 1 });
}

/** Type under which TensorFlow.js holds a tensor: types it lacks go by the nearest that it has. */
const SHOWN: Partial<Record<DTypeName, number>> = {
  float32: 1,
  bfloat16: 1,
  float16: 1,
  float64: 1,
  int32: 3,
  int64: 3,
  bool: 10,
};

function idsOf(backend: Backend, tensors: Tensors): Record<string, number> {
  const names = Object.keys(tensors);
  const ids = backend.getInputTensorIds(Object.values(tensors));
  return Object.fromEntries(names.map((key, index) => [key, ids[index] ?? -1]));
}

function checkUpdates(name: string, { values }: Recorder, variables: Specs, updates: Record<string, number>): void {
  for (const [key, id] of Object.entries(updates)) {
    const expected = Object.hasOwn(variables, key) ? variables[key] : undefined;
    const got = values[id];
    if (!expected) {
      throw new Error(
        `compile: "${name}" updates "${key}", which is no variable of this program; declare it in createProgram`,
      );
    }
    if (got && (got.dtype !== expected.dtype || got.shape.join() !== expected.shape.join())) {
      throw new Error(
        `compile: "${name}" updates "${key}" with ${describe(got)}, but the variable is ${describe(expected)}; they must be equal`,
      );
    }
  }
}

/** `float32 [2, 3]` */
export function describe({ dtype, shape }: TensorSpec): string {
  return `${dtype} [${shape.join(', ')}]`;
}

/** The graph function: what outputs and updates need, and nothing else. */
function assemble(
  name: string,
  recorder: Recorder,
  variables: Specs,
  inputs: Specs,
  outputs: Record<string, number>,
  updates: Record<string, number>,
): Traced {
  const needed = neededNodes(recorder, [...Object.values(outputs), ...Object.values(updates)]);
  const kept = recorder.nodes.filter((_, index) => needed.has(index)).map(({ def }) => def);
  const readers = new Map(kept.filter(({ op }) => op === 'ReadVariableOp').map((node) => [node.inputs[0], node.name]));
  const names = Object.keys(variables);
  const places = new Map(names.map((key, index) => [key, index]));
  const argument = (key: string) => `variable_${places.get(key)}`;
  const used = names.filter((key) => readers.has(argument(key)) || Object.hasOwn(updates, key));
  const assigns = Object.entries(updates).map(([key, id]) => {
    const reader = readers.get(argument(key));
    const value = recorder.values[id];
    return {
      name: `assign_${places.get(key)}`,
      op: 'AssignVariableOp',
      inputs: [argument(key), value?.ref ?? '', ...(reader ? [`^${reader}`] : [])],
      attrs: { dtype: { type: value?.dtype ?? 'float32' } },
    };
  });
  const results = Object.entries(outputs).map(([key, id]) => ({ key, value: recorder.values[id] }));
  const definition: FunctionDef = {
    name: `compiled_${name}`,
    inputs: [
      ...Object.values(inputs).map(({ dtype }, index) => ({ name: `input_${index}`, dtype })),
      ...used.map((key) => ({ name: argument(key), dtype: 'resource' as const })),
    ],
    outputs: results.map(({ value }, index) => ({
      name: `output_${index}`,
      dtype: value?.dtype ?? 'float32',
      ref: value?.ref ?? '',
    })),
    nodes: [...kept, ...assigns],
    control: assigns.map((node) => node.name),
  };
  const specs = results.map(({ key, value }) => [key, { shape: value?.shape ?? [], dtype: value?.dtype ?? 'float32' }]);
  return {
    name,
    inputs,
    outputs: Object.fromEntries(specs) as Specs,
    variables: used,
    reads: used.filter((key) => readers.has(argument(key))),
    writes: Object.keys(updates),
    definition,
  };
}

function neededNodes({ nodes, values }: Recorder, roots: number[]): Set<number> {
  const needed = new Set<number>();
  const open = [...roots];
  for (let id = open.pop(); id !== undefined; id = open.pop()) {
    const node = values[id]?.node;
    if (node === null || node === undefined || needed.has(node)) continue;
    needed.add(node);
    open.push(...(nodes[node]?.operands ?? []));
  }
  return needed;
}
