/**
 * Writes down the ops of a traced function instead of executing them. Stands where TensorFlow.js expects its native
 * binding: `createTensor` adds a constant, `executeOp` a node, and both answer with the number of a value whose shape and
 * type are inferred (ops.ts). What is written twice is kept once: constants by their bytes, nodes by op, attributes and
 * operands.
 */
import {
  DTYPES,
  DTYPE_BYTES,
  dtypeName,
  type AttrValue,
  type DTypeName,
  type NodeDef,
  type TensorSpec,
  type TensorValue,
} from './graph-def.ts';
import { OPS, type OpRule } from './ops.ts';
import type { Attributes, Operand } from './shapes.ts';

/** An attribute as TensorFlow.js hands it to its binding. */
export interface OpAttribute {
  name: string;
  type: number;
  value: unknown;
}

/** What the binding answers for a tensor. */
export interface TensorMetadata {
  id: number;
  shape: number[];
  dtype: number;
}

/** A tensor of the traced function. */
export interface Value extends Operand, TensorSpec {
  /** How nodes of the function refer to it. */
  ref: string;
  /** Index of the node that makes it; null for an argument. */
  node: number | null;
  constant: TypedArray | null;
}

/** A node with the values and nodes that must come before it. */
export interface RecordedNode {
  def: NodeDef;
  operands: number[];
}

export type TypedArray = Float32Array | Int32Array | Uint8Array;

export interface Recorder {
  values: Value[];
  nodes: RecordedNode[];
  createTensor(shape: number[], dtype: number, values: ArrayLike<number>): number;
  executeOp(name: string, attributes: OpAttribute[], operands: number[], outputs: number): TensorMetadata[];
  /** An argument of the function. @returns its value's number */
  argument(name: string, spec: TensorSpec): number;
  /** The value of a variable when the function is called. @param argument - name of the resource argument */
  readVariable(argument: string, spec: TensorSpec): number;
  /** Values of a constant. @throws Error for a tensor that is computed */
  valuesOf(id: number): TypedArray;
}

/** Numbers of attribute kinds in TensorFlow's C API (c_api.h, TF_AttrType). */
const ATTRIBUTE = { text: 0, int: 1, float: 2, bool: 3, type: 4, shape: 5 };

interface State {
  values: Value[];
  nodes: RecordedNode[];
  /** Result numbers by what makes them. */
  known: Map<string, number[]>;
}

export function createRecorder(): Recorder {
  const state: State = { values: [], nodes: [], known: new Map() };
  return {
    values: state.values,
    nodes: state.nodes,
    createTensor: (shape, dtype, values) => recordConstant(state, shape, dtypeName(dtype), values),
    executeOp: (name, attributes, operands, outputs) => recordOp(state, name, attributes, operands, outputs),
    argument: (name, spec) => addValue(state, { ...spec, ref: name, node: null, constant: null }),
    readVariable: (argument, spec) => recordRead(state, argument, spec),
    valuesOf: (id) => constantValues(state, id),
  };
}

function addValue(state: State, value: Value): number {
  return state.values.push(value) - 1;
}

function valueAt(state: State, id: number): Value {
  const value = state.values[id];
  if (!value) throw new Error(`compile: tensor ${id} does not belong to the function being traced`);
  return value;
}

function recordConstant(state: State, shape: number[], dtype: DTypeName, given: ArrayLike<number>): number {
  const values = typedArray(dtype, given);
  const uniform = values.length > 1 && values.every((value) => Object.is(value, values[0]));
  const kept = uniform ? values.subarray(0, 1) : values;
  const content = new Uint8Array(kept.buffer, kept.byteOffset, kept.byteLength);
  const key = `Const|${dtype}|${shape.join()}|${uniform}|${Buffer.from(content).toString('latin1')}`;
  const before = state.known.get(key)?.[0];
  if (before !== undefined) return before;
  const tensor: TensorValue = { dtype, shape, content, uniform };
  const node = addNode(state, 'Const', [], { dtype: { type: dtype }, value: { tensor } });
  const id = addValue(state, { dtype, shape, ref: refOf(state, node, 'output', 0), node, constant: values });
  state.known.set(key, [id]);
  return id;
}

/** A copy: the caller may change its array. */
function typedArray(dtype: DTypeName, values: ArrayLike<number>): TypedArray {
  if (dtype === 'float32') return new Float32Array(values);
  if (dtype === 'int32') return new Int32Array(values);
  if (dtype === 'bool') return new Uint8Array(values);
  throw new Error(`compile: a constant of type ${dtype}; allowed: float32, int32, bool`);
}

function addNode(state: State, op: string, operands: number[], attrs: Record<string, AttrValue>): number {
  const inputs = operands.map((id) => valueAt(state, id).ref);
  return state.nodes.push({ def: { name: `n${state.nodes.length}`, op, inputs, attrs }, operands }) - 1;
}

function refOf(state: State, node: number, result: string, index: number): string {
  return `${state.nodes[node]?.def.name}:${result}:${index}`;
}

function recordOp(
  state: State,
  name: string,
  attributes: OpAttribute[],
  operands: number[],
  outputs: number,
): TensorMetadata[] {
  const rule = Object.hasOwn(OPS, name) ? OPS[name] : undefined;
  if (!rule) {
    throw new Error(
      `compile: the op ${name} cannot be compiled (called ${callSite()}); write it with ops that can (docs/compile.md lists them)`,
    );
  }
  const attrs = attributesOf(state, rule, attributes, operands);
  const key = `${name}|${operands.join()}|${outputs}|${JSON.stringify(attrs)}`;
  const ids = state.known.get(key) ?? recordNew(state, name, rule, attributes, attrs, operands, outputs);
  state.known.set(key, ids);
  return ids.map((id) => metadata(state, id));
}

function recordNew(
  state: State,
  name: string,
  rule: OpRule,
  attributes: OpAttribute[],
  attrs: Record<string, AttrValue>,
  operands: number[],
  outputs: number,
): number[] {
  const shapes = inferShapes(state, name, rule, attributes, operands, outputs);
  const node = addNode(state, name, operands, attrs);
  return shapes.map((shape, index) => {
    const last = rule.results.length - 1;
    const ref = refOf(state, node, rule.results[Math.min(index, last)] ?? 'output', Math.max(0, index - last));
    const dtype = resultType(state, name, rule, attrs, operands, index);
    return addValue(state, { dtype, shape, ref, node, constant: null });
  });
}

function inferShapes(
  state: State,
  name: string,
  rule: OpRule,
  attributes: OpAttribute[],
  operands: number[],
  outputs: number,
): number[][] {
  const plain: Attributes = Object.fromEntries(attributes.map((attribute) => [attribute.name, attribute.value]));
  try {
    const shapes = rule.shape(
      operands.map((id) => valueAt(state, id)),
      plain,
      outputs,
    );
    if (shapes.length !== outputs) throw new Error(`has ${shapes.length} results, ${outputs} were asked for`);
    return shapes;
  } catch (cause) {
    throw new Error(
      `compile: ${name} (called ${callSite()}): ${cause instanceof Error ? cause.message : String(cause)}`,
      { cause },
    );
  }
}

function resultType(
  state: State,
  name: string,
  rule: OpRule,
  attrs: Record<string, AttrValue>,
  operands: number[],
  index: number,
): DTypeName {
  const rules = rule.dtypes[Math.min(index, rule.dtypes.length - 1)] ?? 0;
  if (typeof rules === 'string') return rules;
  if (typeof rules === 'number') return valueAt(state, operands[rules] ?? -1).dtype;
  const attr = attrs[rules.attribute];
  if (attr && 'type' in attr) return attr.type;
  throw new Error(`compile: ${name} was called without its attribute ${rules.attribute}`);
}

/** The caller's attributes, with types from the operands. */
function attributesOf(
  state: State,
  rule: OpRule,
  attributes: OpAttribute[],
  operands: number[],
): Record<string, AttrValue> {
  const attrs = Object.fromEntries(attributes.map((attribute) => [attribute.name, attrValue(attribute)]));
  for (const [name, operand] of Object.entries(rule.types)) {
    attrs[name] = { type: valueAt(state, operands[operand] ?? -1).dtype };
  }
  return attrs;
}

function attrValue({ name, type, value }: OpAttribute): AttrValue {
  if (type === ATTRIBUTE.type) return { type: dtypeName(Number(value)) };
  if (type === ATTRIBUTE.bool) return { bool: Boolean(value) };
  if (type === ATTRIBUTE.float) return { float: Number(value) };
  if (type === ATTRIBUTE.text) return { text: String(value) };
  if (type === ATTRIBUTE.shape && Array.isArray(value)) return { shape: value.map(Number) };
  if (type === ATTRIBUTE.int) return Array.isArray(value) ? { ints: value.map(Number) } : { int: Number(value) };
  throw new Error(`compile: the attribute ${name} has kind ${type}, which a compiled graph does not hold`);
}

function recordRead(state: State, argument: string, spec: TensorSpec): number {
  const node = addNode(state, 'ReadVariableOp', [], { dtype: { type: spec.dtype } });
  state.nodes[node]?.def.inputs.push(argument);
  return addValue(state, { ...spec, ref: refOf(state, node, 'value', 0), node, constant: null });
}

/** Types that TensorFlow.js lacks go by the nearest that it has. */
function metadata(state: State, id: number): TensorMetadata {
  const { shape, dtype } = valueAt(state, id);
  const shown = dtype === 'bfloat16' || dtype === 'float16' || dtype === 'float64' ? 'float32' : dtype;
  return { id, shape, dtype: DTYPES[shown === 'int64' ? 'int32' : shown] };
}

function constantValues(state: State, id: number): TypedArray {
  const { constant, shape, dtype } = valueAt(state, id);
  if (constant) return constant.slice();
  throw new Error(
    `compile: the values of a traced tensor (${dtype} [${shape.join(', ')}]) were read ${callSite()}; they do not exist ` +
      'before the graph runs. Return the tensor among the outputs, or compute with it by ops',
  );
}

/** This folder and the door to TensorFlow.js: their frames are not the traced code's. */
const OWN = [new URL('.', import.meta.url).pathname, new URL('../tf.ts', import.meta.url).pathname];
const STACK_FRAMES = 100;

/** Where the traced code stands, outside TensorFlow.js and this folder: `at file:line:column`. */
export function callSite(): string {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = STACK_FRAMES;
  const frames = (new Error('call site').stack ?? '').split('\n').slice(1);
  Error.stackTraceLimit = limit;
  const isForeign = (frame: string) => /node_modules|node:|[\\/]tfjs-\w+[\\/]src/.test(frame);
  const caller = frames.find((frame) => !isForeign(frame) && !OWN.some((path) => frame.includes(path)));
  const place = /\(?([^()\s]+:\d+:\d+)\)?\s*$/.exec(caller ?? '')?.[1];
  return place ? `at ${place.replace('file://', '')}` : 'by TensorFlow.js';
}

/** Bytes of a tensor. */
export function sizeBytes({ shape, dtype }: TensorSpec): number {
  return shape.reduce((product, length) => product * length, DTYPE_BYTES[dtype]);
}
