/**
 * TensorFlow's graph as plain data, and as bytes of a SavedModel (tensorflow/core/protobuf/saved_model.proto,
 * core/framework/{graph,node_def,function,op_def,attr_value,tensor}.proto, whose field numbers stand below).
 */
import { boolean, bytes, float, integer, map, message, nested, serialize, text, type Message } from './wire.ts';

/** Element types by TensorFlow's enum (core/framework/types.proto). */
export const DTYPES = {
  float32: 1,
  float64: 2,
  int32: 3,
  int64: 9,
  bool: 10,
  bfloat16: 14,
  float16: 19,
  resource: 20,
} as const;

export type DTypeName = keyof typeof DTYPES;

/** Bytes of one element. */
export const DTYPE_BYTES: Record<DTypeName, number> = {
  float32: 4,
  float64: 8,
  int32: 4,
  int64: 8,
  bool: 1,
  bfloat16: 2,
  float16: 2,
  resource: 0,
};

/** @throws Error for a type that graphs here do not hold */
export function dtypeName(dtype: number): DTypeName {
  const found = (Object.keys(DTYPES) as DTypeName[]).find((name) => DTYPES[name] === dtype);
  if (!found) {
    throw new Error(
      `compile: element type number ${dtype} (core/framework/types.proto) has no place in a compiled graph; allowed: ${Object.keys(DTYPES).join(', ')}`,
    );
  }
  return found;
}

export interface TensorSpec {
  shape: number[];
  dtype: DTypeName;
}

/** A tensor written into the graph: its bytes, or one element that fills it. */
export interface TensorValue extends TensorSpec {
  content: Uint8Array;
  /** The content is one element, repeated. */
  uniform: boolean;
}

export type AttrValue =
  | { type: DTypeName }
  | { types: DTypeName[] }
  | { int: number }
  | { ints: number[] }
  | { float: number }
  | { bool: boolean }
  | { text: string }
  | { shape: number[] }
  | { tensor: TensorValue }
  | { func: string };

export interface NodeDef {
  name: string;
  op: string;
  /** `name:output:index` in a function, `name:index` outside, `^name` for control. */
  inputs: string[];
  attrs: Record<string, AttrValue>;
}

export interface ArgDef {
  name: string;
  dtype: DTypeName;
}

export interface FunctionDef {
  name: string;
  inputs: ArgDef[];
  outputs: (ArgDef & { ref: string })[];
  nodes: NodeDef[];
  /** Names of nodes that run although nothing reads them. */
  control: string[];
  attrs?: Record<string, AttrValue>;
}

/** TensorFlow's producer version: 1,000 and above is what releases since 2.8 read and write. */
const GRAPH_VERSION = 1000;

/** Bytes of `saved_model.pb`: one graph, tagged `serve`. */
export function savedModelBytes(nodes: NodeDef[], functions: FunctionDef[]): Uint8Array {
  const graph = message(
    ...nodes.map((node) => nested(1, nodeMessage(node))),
    nested(2, message(...functions.map((definition) => nested(1, functionMessage(definition))))),
    nested(4, integer(1, GRAPH_VERSION)),
  );
  const metaGraph = message(nested(1, text(4, 'serve')), nested(2, graph));
  return serialize(message(integer(1, 1), nested(2, metaGraph)));
}

function nodeMessage({ name, op, inputs, attrs }: NodeDef): Message {
  return message(
    text(1, name),
    text(2, op),
    ...inputs.map((input) => text(3, input)),
    map(5, attrs, (attr) => nested(2, attrMessage(attr))),
  );
}

function functionMessage({ name, inputs, outputs, nodes, control, attrs = {} }: FunctionDef): Message {
  const signature = message(
    text(1, name),
    ...inputs.map((argument) => nested(2, argMessage(argument))),
    ...outputs.map((argument) => nested(3, argMessage(argument))),
    boolean(17, control.length > 0),
    ...control.map((node) => text(20, node)),
  );
  return message(
    nested(1, signature),
    ...nodes.map((node) => nested(3, nodeMessage(node))),
    map(4, Object.fromEntries(outputs.map((output) => [output.name, output.ref])), (ref) => text(2, ref)),
    map(5, attrs, (attr) => nested(2, attrMessage(attr))),
    map(6, Object.fromEntries(control.map((node) => [node, node])), (node) => text(2, node)),
  );
}

function argMessage({ name, dtype }: ArgDef): Message {
  return message(text(1, name), integer(3, DTYPES[dtype]));
}

function attrMessage(attr: AttrValue): Message {
  if ('type' in attr) return integer(6, DTYPES[attr.type]);
  if ('types' in attr) return nested(1, message(...attr.types.map((type) => integer(6, DTYPES[type]))));
  if ('int' in attr) return integer(3, attr.int);
  if ('ints' in attr) return nested(1, message(...attr.ints.map((value) => integer(3, value))));
  if ('float' in attr) return float(4, attr.float);
  if ('bool' in attr) return boolean(5, attr.bool);
  if ('text' in attr) return text(2, attr.text);
  if ('shape' in attr) return nested(7, shapeMessage(attr.shape));
  if ('func' in attr) return nested(10, text(1, attr.func));
  return nested(8, tensorMessage(attr.tensor));
}

function shapeMessage(shape: number[]): Message {
  return message(...shape.map((size) => nested(2, integer(1, size))));
}

/** A uniform tensor gives one element in its typed field, which TensorFlow repeats. */
function tensorMessage({ dtype, shape, content, uniform }: TensorValue): Message {
  const head = message(integer(1, DTYPES[dtype]), nested(2, shapeMessage(shape)));
  if (!uniform) return message(head, bytes(4, content));
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  if (dtype === 'float32') return message(head, float(5, view.getFloat32(0, true)));
  if (dtype === 'int32') return message(head, integer(7, view.getInt32(0, true)));
  return message(head, boolean(11, view.getUint8(0) !== 0));
}
