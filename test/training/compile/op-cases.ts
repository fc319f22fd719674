/**
 * A small use of every op that compiled graphs may hold: operands, a function, and which operands it is differentiated by.
 */
import { matMul, sigmoidGradient, sparseCrossEntropy, tf, type Tensor } from '../../../training/tf.ts';
import { foldIn } from '../../../training/compile/random.ts';

export interface OpCase {
  /** Ops of TensorFlow that the case is there for, separated by spaces. */
  ops: string;
  operands: { shape: number[]; dtype: 'float32' | 'int32' | 'bool'; values: number[] }[];
  compute: (...operands: Tensor[]) => Tensor | Tensor[];
  /** Differentiated by its float32 operands. */
  differentiable: boolean;
}

type Compute = OpCase['compute'];

/** Numbers in (low, high) in no order. */
function spread(count: number, low: number, high: number): number[] {
  return Array.from({ length: count }, (_, i) => low + ((high - low) * ((i * 7919 + 13) % 101)) / 101 + 0.001);
}

function float(shape: number[], low = -2, high = 2) {
  const size = shape.reduce((product, length) => product * length, 1);
  return { shape, dtype: 'float32' as const, values: spread(size, low, high) };
}

const int = (shape: number[], values: number[]) => ({ shape, dtype: 'int32' as const, values });
const bool = (shape: number[], values: number[]) => ({ shape, dtype: 'bool' as const, values });

/** An op that TensorFlow.js has no function for. */
function raw(op: string, ...operands: Tensor[]): Tensor {
  const backend = tf.backend() as unknown as {
    binding: { TF_ATTR_TYPE: number; TF_INT32: number };
    executeSingleOutput(name: string, attributes: object[], operands: Tensor[]): Tensor;
  };
  const { TF_ATTR_TYPE: type, TF_INT32: value } = backend.binding;
  return backend.executeSingleOutput(op, [{ name: 'T', type, value }], operands);
}

function unary(ops: string, compute: (x: Tensor) => Tensor, low = -2, high = 2, differentiable = true): OpCase {
  return { ops, operands: [float([2, 3], low, high)], compute, differentiable };
}

function binary(ops: string, compute: (a: Tensor, b: Tensor) => Tensor, differentiable = true, low = -2): OpCase {
  return { ops, operands: [float([2, 3], low), float([3], 0.5, 2)], compute: compute as Compute, differentiable };
}

function plain(ops: string, operands: OpCase['operands'], compute: Compute, differentiable = false): OpCase {
  return { ops, operands, compute, differentiable };
}

const elementwise: OpCase[] = [
  unary('Abs', tf.abs),
  unary('Acos', tf.acos, -0.9, 0.9),
  unary('Acosh', tf.acosh, 1.1, 3),
  unary('Asin', tf.asin, -0.9, 0.9),
  unary('Asinh', tf.asinh),
  unary('Atan', tf.atan),
  unary('Atanh', tf.atanh, -0.9, 0.9),
  unary('Ceil', tf.ceil),
  unary('Cos', tf.cos),
  unary('Cosh', tf.cosh),
  unary('Erf', tf.erf),
  unary('Exp', tf.exp),
  unary('Expm1', tf.expm1),
  unary('Floor', tf.floor),
  unary('Log', tf.log, 0.1, 3),
  unary('Log1p', tf.log1p, -0.5, 3),
  unary('Neg', tf.neg),
  unary('OnesLike', tf.onesLike, -2, 2, false),
  unary('Reciprocal', tf.reciprocal, 0.5, 2),
  unary('Round', tf.round, -2, 2, false),
  unary('Rsqrt', tf.rsqrt, 0.5, 3),
  unary('Sigmoid', tf.sigmoid),
  unary('Sign', tf.sign),
  unary('Sin', tf.sin),
  unary('Sinh', tf.sinh),
  unary('Sqrt', tf.sqrt, 0.5, 3),
  unary('Square', tf.square),
  unary('Tan', tf.tan, -1, 1),
  unary('Tanh', tf.tanh),
  unary('ZerosLike', tf.zerosLike, -2, 2, false),
  unary('Relu', tf.relu),
  unary('Relu6', tf.relu6),
  unary('Elu', tf.elu),
  unary('Selu', tf.selu),
  unary('Softplus', tf.softplus),
  unary('LeakyRelu', (x) => tf.leakyRelu(x, 0.1)),
  unary('IsFinite', tf.isFinite, -2, 2, false),
  unary('IsInf', (x) => tf.isInf(tf.div(x, 0)), -2, 2, false),
  unary('IsNan', tf.isNaN, -2, 2, false),
  unary('Softmax', (x) => tf.softmax(x)),
  unary('Max Exp Sum', (x) => tf.logSoftmax(x)),
  unary('Cast', (x) => tf.cast(x, 'int32'), -2, 2, false),
  binary('Add', tf.add),
  binary('Atan2', tf.atan2),
  binary('RealDiv', tf.div),
  binary('FloorDiv', tf.floorDiv, false),
  binary('FloorMod', tf.mod),
  // TensorFlow.js's gradients of these three do not broadcast.
  plain('SquaredDifference', [float([4]), float([4])], (a, b) => tf.squaredDifference(a as Tensor, b as Tensor), true),
  plain('Maximum', [float([4]), float([4], -1, 1)], (a, b) => tf.maximum(a as Tensor, b as Tensor), true),
  plain('Minimum', [float([4]), float([4], -1, 1)], (a, b) => tf.minimum(a as Tensor, b as Tensor), true),
  binary('Mul', tf.mul),
  binary('Pow', tf.pow, true, 0.5),
  binary('Sub', tf.sub),
  binary('Equal', tf.equal, false),
  binary('NotEqual', tf.notEqual, false),
  binary('Greater', tf.greater, false),
  binary('GreaterEqual', tf.greaterEqual, false),
  binary('Less', tf.less, false),
  binary('LessEqual', tf.lessEqual, false),
  binary('Mul', (a, b) => tf.prelu(a, b)),
  plain('SigmoidGrad', [float([4]), float([4])], sigmoidGradient as Compute),
  plain('AddN', [float([2]), float([2]), float([2])], (...all) => tf.addN(all), true),
  plain('BitwiseAnd', [int([2], [12, -7]), int([2], [10, 255])], (a, b) => raw('BitwiseAnd', a as Tensor, b as Tensor)),
  plain('BitwiseOr', [int([2], [12, -7]), int([2], [10, 255])], (a, b) => raw('BitwiseOr', a as Tensor, b as Tensor)),
  plain('BitwiseXor', [int([2], [12, -7]), int([2], [10, 255])], (a, b) => raw('BitwiseXor', a as Tensor, b as Tensor)),
];

const logic: OpCase[] = [
  plain('LogicalNot', [bool([2], [0, 1])], (a) => tf.logicalNot(a as Tensor)),
  plain('LogicalAnd', [bool([2], [0, 1]), bool([2], [1, 1])], (a, b) => tf.logicalAnd(a as Tensor, b as Tensor)),
  plain('LogicalOr', [bool([2], [0, 0]), bool([2], [1, 0])], (a, b) => tf.logicalOr(a as Tensor, b as Tensor)),
  plain('All', [bool([2, 2], [1, 1, 0, 1])], (a) => tf.all(a as Tensor, 1)),
  plain('Any', [bool([2, 2], [0, 0, 0, 1])], (a) => tf.any(a as Tensor, 0, true)),
  {
    ops: 'Select Tile',
    operands: [bool([2, 1], [0, 1]), float([2, 3]), float([3])],
    compute: (c, a, b) => tf.where(c as Tensor, a as Tensor, b as Tensor),
    differentiable: false,
  },
];

const reductions: OpCase[] = [
  unary('Sum', (x) => tf.sum(x, 1)),
  unary('Mean', (x) => tf.mean(x, 0, true)),
  unary('Max', (x) => tf.max(x, -1)),
  unary('Min', (x) => tf.min(x)),
  unary('Prod', (x) => tf.prod(x, 1)),
  unary('ArgMax', (x) => tf.argMax(x, -1), -2, 2, false),
  unary('ArgMin', (x) => tf.argMin(x, 0), -2, 2, false),
  unary('Cumsum', (x) => tf.cumsum(x, 1)),
  unary('Cumprod', (x) => tf.cumprod(x, 1), -2, 2, false),
  plain('TopKV2', [float([2, 5])], (x) => {
    const { values, indices } = tf.topk(x as Tensor, 3);
    return [values, indices];
  }),
  plain('SparseSoftmaxCrossEntropyWithLogits', [float([2, 4]), int([2], [3, 1])], (x, targets) => {
    const { loss, gradient } = sparseCrossEntropy(x as Tensor, targets as Tensor);
    return [loss, gradient];
  }),
];

const products: OpCase[] = [
  plain('MatMul', [float([3, 2]), float([3, 4])], (a, b) => matMul(a as Tensor, b as Tensor, true, false)),
  plain('BatchMatMulV2', [float([2, 3]), float([3, 4])], (a, b) => tf.matMul(a as Tensor, b as Tensor), true),
  plain(
    'BatchMatMulV2',
    [float([2, 3, 2]), float([2, 4, 2])],
    (a, b) => tf.matMul(a as Tensor, b as Tensor, false, true),
    true,
  ),
  plain('Einsum', [float([2, 3, 2]), float([2, 2, 4])], (a, b) => tf.einsum('bij,bjk->bki', a as Tensor, b as Tensor)),
];

const layouts: OpCase[] = [
  unary('Reshape', (x) => tf.reshape(x, [3, -1])),
  unary('ExpandDims', (x) => tf.expandDims(x, -1)),
  unary('Transpose', (x) => tf.transpose(x)),
  unary('ReverseV2', (x) => tf.reverse(x, 1)),
  unary('Slice', (x) => tf.slice(x, [0, 1], [-1, 2])),
  plain('ConcatV2', [float([2, 3]), float([2, 1])], (a, b) => tf.concat([a as Tensor, b as Tensor], -1), true),
  plain('SplitV', [float([2, 5])], (x) => tf.split(x as Tensor, [1, 3, 1], 1)),
  plain('Pack', [float([2, 3]), float([2, 3])], (a, b) => tf.stack([a as Tensor, b as Tensor], -1), true),
  plain('Unpack', [float([2, 3])], (x) => tf.unstack(x as Tensor, 1)),
  unary('Tile', (x) => tf.tile(x, [2, 3])),
  unary('PadV2', (x) => tf.pad(x as never, [[1, 0], [0, 2]], 7)), // prettier-ignore
  unary('MirrorPad', (x) => tf.mirrorPad(x, [[1, 0], [2, 1]], 'reflect'), -2, 2, false), // prettier-ignore
  plain('GatherV2', [float([4, 2])], (x) => tf.gather(x as Tensor, tf.tensor1d([3, 0, 3], 'int32')), true),
  plain('GatherV2', [float([2, 4]), int([2, 2], [3, 0, 1, 1])], (x, i) => tf.gather(x as Tensor, i as never, 1, 1)),
  plain('GatherNd', [float([3, 2]), int([2, 2], [2, 1, 0, 0])], (x, i) => tf.gatherND(x as Tensor, i as Tensor)),
  plain('ScatterNd', [int([2, 1], [3, 1]), float([2, 2])], (i, x) => tf.scatterND(i as Tensor, x as Tensor, [5, 2])),
  plain('TensorScatterUpdate', [float([4]), int([2, 1], [3, 1]), float([2])], (x, i, u) =>
    tf.tensorScatterUpdate(x as Tensor, i as Tensor, u as Tensor),
  ),
  plain('UnsortedSegmentSum', [float([4, 2]), int([4], [1, 0, 1, 2])], (x, i) =>
    tf.unsortedSegmentSum(x as Tensor, i as never, 3),
  ),
  plain('OneHot', [int([3], [2, 0, 1])], (i) => tf.oneHot(i as Tensor, 4)),
  plain('Fill', [], () => tf.fill([2, 2], 5)),
  plain('Range', [], () => tf.range(1, 8, 3)),
  plain('LinSpace', [], () => tf.linspace(0, 1, 5)),
  plain('StatelessRandomUniformFullInt', [int([2], [5, -9])], (key) => foldIn(key as Tensor, 'name')),
];

export const OP_CASES: OpCase[] = [...elementwise, ...logic, ...reductions, ...products, ...layouts];
