/**
 * The ops that a compiled graph may hold, one line each: names of its results in TensorFlow's registry
 * (tensorflow/core/ops/*.cc; functions refer to results by them), which type attributes come from which operands, the
 * results' element types and shapes. Type attributes are always taken from the operands, so that what eager TensorFlow
 * guesses is filled in, and operands of types that TensorFlow.js lacks (bfloat16) keep theirs.
 */
import type { DTypeName } from './graph-def.ts';
import * as shapes from './shapes.ts';
import type { ShapeFunction } from './shapes.ts';

export interface OpRule {
  /** Names of the results; the last stands for all that follow. */
  results: string[];
  /** Type attribute → index of the operand it is the type of. */
  types: Record<string, number>;
  /** Element type of each result: a type, the operand it is that of, or the attribute that says it. */
  dtypes: (DTypeName | number | { attribute: string })[];
  shape: ShapeFunction;
}

/** One result with the first operand's type. */
function op(result: string, shape: ShapeFunction, types: OpRule['types'] = { T: 0 }): OpRule {
  return { results: [result], types, dtypes: [0], shape };
}

/** One result of a given type. */
function opOf(result: string, dtype: OpRule['dtypes'][number], shape: ShapeFunction, types: OpRule['types']): OpRule {
  return { results: [result], types, dtypes: [dtype], shape };
}

function all(names: string, rule: OpRule): Record<string, OpRule> {
  return Object.fromEntries(names.split(' ').map((name) => [name, rule]));
}

/** By TensorFlow's op name. */
export const OPS: Record<string, OpRule> = {
  ...all(
    'Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Expm1 Floor Log Log1p Neg OnesLike Reciprocal Round ' +
      'Rsqrt Sigmoid Sign Sin Sinh Sqrt Square Tan Tanh ZerosLike',
    op('y', shapes.same),
  ),
  ...all('Relu Relu6 Elu Selu Softplus LeakyRelu', op('activations', shapes.same)),
  ...all('IsFinite IsInf IsNan', opOf('y', 'bool', shapes.same, { T: 0 })),
  LogicalNot: opOf('y', 'bool', shapes.same, {}),
  Softmax: op('softmax', shapes.same),
  Cast: opOf('y', { attribute: 'DstT' }, shapes.same, { SrcT: 0 }),

  ...all(
    'Add Atan2 BitwiseAnd BitwiseOr BitwiseXor FloorDiv FloorMod Maximum Minimum Mul Pow ' +
      'RealDiv SquaredDifference Sub',
    op('z', shapes.broadcasting),
  ),
  SigmoidGrad: op('z', shapes.same),
  EluGrad: op('backprops', shapes.same),
  ...all('Equal NotEqual Greater GreaterEqual Less LessEqual', opOf('z', 'bool', shapes.broadcasting, { T: 0 })),
  ...all('LogicalAnd LogicalOr', opOf('z', 'bool', shapes.broadcasting, {})),
  AddN: op('sum', shapes.same),
  Select: { results: ['output'], types: { T: 1 }, dtypes: [1], shape: shapes.like(1) },

  ...all('Sum Mean Max Min Prod', op('output', shapes.reduction, { T: 0, Tidx: 1 })),
  ...all('All Any', opOf('output', 'bool', shapes.reduction, { Tidx: 1 })),
  ArgMax: opOf('output', { attribute: 'output_type' }, shapes.argReduction, { T: 0, Tidx: 1 }),
  ArgMin: opOf('output', { attribute: 'output_type' }, shapes.argReduction, { T: 0, Tidx: 1 }),
  ...all('Cumsum Cumprod', op('out', shapes.same, { T: 0, Tidx: 1 })),
  TopKV2: { results: ['values', 'indices'], types: { T: 0, Tk: 1 }, dtypes: [0, 'int32'], shape: shapes.topK },

  MatMul: op('product', shapes.matrixProduct('transpose_a', 'transpose_b')),
  BatchMatMulV2: op('output', shapes.matrixProduct('adj_x', 'adj_y')),
  Einsum: op('output', shapes.einsum),
  SparseSoftmaxCrossEntropyWithLogits: {
    results: ['loss', 'backprop'],
    types: { T: 0, Tlabels: 1 },
    dtypes: [0, 0],
    shape: shapes.crossEntropy,
  },

  Reshape: op('output', shapes.reshape, { T: 0, Tshape: 1 }),
  ExpandDims: op('output', shapes.expandDims, { T: 0, Tdim: 1 }),
  Transpose: op('y', shapes.transpose, { T: 0, Tperm: 1 }),
  ReverseV2: op('output', shapes.same, { T: 0, Tidx: 1 }),
  Slice: op('output', shapes.slice, { T: 0, Index: 1 }),
  ConcatV2: { results: ['output'], types: { T: 0 }, dtypes: [0], shape: shapes.concat },
  SplitV: op('output', shapes.splitSizes, { T: 0, Tlen: 1 }),
  Pack: op('output', shapes.pack),
  Unpack: op('output', shapes.unpack),
  Tile: op('output', shapes.tile, { T: 0, Tmultiples: 1 }),
  PadV2: op('output', shapes.pad, { T: 0, Tpaddings: 1 }),
  MirrorPad: op('output', shapes.pad, { T: 0, Tpaddings: 1 }),

  GatherV2: op('output', shapes.gather, { Tparams: 0, Tindices: 1, Taxis: 2 }),
  GatherNd: op('output', shapes.gatherNd, { Tparams: 0, Tindices: 1 }),
  ScatterNd: { results: ['output'], types: { T: 1, Tindices: 0 }, dtypes: [1], shape: shapes.shapeFrom(2) },
  TensorScatterUpdate: op('output', shapes.same, { T: 0, Tindices: 1 }),
  UnsortedSegmentSum: op('output', shapes.segments, { T: 0, Tindices: 1, Tnumsegments: 2 }),
  OneHot: { results: ['output'], types: { TI: 0, T: 2 }, dtypes: [2], shape: shapes.oneHot },

  Fill: { results: ['output'], types: { index_type: 0, T: 1 }, dtypes: [1], shape: shapes.shapeFrom(0) },
  Range: op('output', shapes.range, { Tidx: 0 }),
  LinSpace: op('output', shapes.linSpace, { T: 0, Tidx: 2 }),
  StatelessRandomUniformFullInt: opOf('output', { attribute: 'dtype' }, shapes.shapeFrom(0), { T: 0, Tseed: 1 }),
};
