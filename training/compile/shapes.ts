/**
 * Shapes of results from shapes of operands: pure functions that the table of ops (ops.ts) is made of. All shapes are
 * static. A shape that depends on values (a reshape's target, a reduction's axes) needs them known while tracing.
 */

/** What shape functions see of an operand. */
export interface Operand {
  shape: number[];
  /** Values, where known while tracing; null where computed. */
  constant: ArrayLike<number> | null;
}

/** Attributes that bear on shapes, as TensorFlow.js hands them over. */
export type Attributes = Record<string, unknown>;

/** Result shapes of an op. @throws Error where operands do not fit */
export type ShapeFunction = (operands: Operand[], attributes: Attributes, outputs: number) => number[][];

/** An operand that must be there. */
export function operandAt(operands: Operand[], index: number): Operand {
  const operand = operands[index];
  if (!operand) throw new Error(`got ${operands.length} operands, needs at least ${index + 1}`);
  return operand;
}

/** Values of an operand that must be known while tracing. */
export function constantAt(operands: Operand[], index: number): number[] {
  const { constant } = operandAt(operands, index);
  if (!constant) {
    throw new Error(`operand ${index} decides the result's shape and must be known while tracing, but it is computed`);
  }
  return Array.from(constant);
}

/** Shape under NumPy's broadcasting rules. */
export function broadcast(a: number[], b: number[]): number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, index) => {
    const x = a[index - rank + a.length] ?? 1;
    const y = b[index - rank + b.length] ?? 1;
    if (x !== y && x !== 1 && y !== 1) throw new Error(`shapes [${a.join()}] and [${b.join()}] do not broadcast`);
    return x === 1 ? y : x;
  });
}

const size = (shape: number[]): number => shape.reduce((product, length) => product * length, 1);
const axisOf = (axis: number, rank: number): number => (axis < 0 ? axis + rank : axis);

/** As the first operand. */
export const same: ShapeFunction = (operands) => [operandAt(operands, 0).shape];

/** As the operand at an index. */
export function like(index: number): ShapeFunction {
  return (operands) => [operandAt(operands, index).shape];
}

/** All operands broadcast. */
export const broadcasting: ShapeFunction = (operands) => [
  operands.map(({ shape }) => shape).reduce((total, shape) => broadcast(total, shape), []),
];

/** Axes from operand 1. */
export const reduction: ShapeFunction = (operands, { keep_dims: keep }) => {
  const { shape } = operandAt(operands, 0);
  const axes = new Set(constantAt(operands, 1).map((axis) => axisOf(axis, shape.length)));
  return [shape.map((length, axis) => (axes.has(axis) ? 1 : length)).filter((_, axis) => keep || !axes.has(axis))];
};

/** Axis from operand 1, taken out. */
export const argReduction: ShapeFunction = (operands) => {
  const { shape } = operandAt(operands, 0);
  const [axis = 0] = constantAt(operands, 1);
  return [shape.filter((_, index) => index !== axisOf(axis, shape.length))];
};

/** Matrices with optional transposition; leading axes broadcast. */
export function matrixProduct(transposeA: string, transposeB: string): ShapeFunction {
  return (operands, attributes) => {
    const a = operandAt(operands, 0).shape;
    const b = operandAt(operands, 1).shape;
    const [aRows = 0, aColumns = 0] = attributes[transposeA] ? a.slice(-2).reverse() : a.slice(-2);
    const [bRows = 0, bColumns = 0] = attributes[transposeB] ? b.slice(-2).reverse() : b.slice(-2);
    if (aColumns !== bRows) {
      throw new Error(`inner sizes ${aColumns} and ${bRows} differ (shapes [${a.join()}] and [${b.join()}])`);
    }
    return [[...broadcast(a.slice(0, -2), b.slice(0, -2)), aRows, bColumns]];
  };
}

/** Target shape in operand 1, one size may be −1. */
export const reshape: ShapeFunction = (operands) => {
  const { shape } = operandAt(operands, 0);
  const target = constantAt(operands, 1);
  const known = size(target.filter((length) => length !== -1));
  const result = target.map((length) => (length === -1 ? size(shape) / known : length));
  if (size(result) !== size(shape)) throw new Error(`[${shape.join()}] cannot take the shape [${target.join()}]`);
  return [result];
};

/** Shape in the operand at an index. */
export function shapeFrom(index: number): ShapeFunction {
  return (operands) => [constantAt(operands, index)];
}

export const transpose: ShapeFunction = (operands) => {
  const { shape } = operandAt(operands, 0);
  return [constantAt(operands, 1).map((axis) => shape[axis] ?? 0)];
};

export const slice: ShapeFunction = (operands) => {
  const { shape } = operandAt(operands, 0);
  const begin = constantAt(operands, 1);
  return [
    constantAt(operands, 2).map((length, axis) => (length === -1 ? (shape[axis] ?? 0) - (begin[axis] ?? 0) : length)),
  ];
};

/** Operands along the axis that the last one gives. */
export const concat: ShapeFunction = (operands) => {
  const parts = operands.slice(0, -1).map(({ shape }) => shape);
  const [first = []] = parts;
  const axis = axisOf(constantAt(operands, operands.length - 1)[0] ?? 0, first.length);
  return [
    first.map((length, index) => (index === axis ? parts.reduce((sum, part) => sum + (part[axis] ?? 0), 0) : length)),
  ];
};

/** Sizes in operand 1, axis in operand 2. */
export const splitSizes: ShapeFunction = (operands) => {
  const { shape } = operandAt(operands, 0);
  const axis = axisOf(constantAt(operands, 2)[0] ?? 0, shape.length);
  return constantAt(operands, 1).map((part) => shape.map((length, index) => (index === axis ? part : length)));
};

export const pack: ShapeFunction = (operands, { axis = 0 }) => {
  const { shape } = operandAt(operands, 0);
  return [shape.toSpliced(axisOf(Number(axis), shape.length + 1), 0, operands.length)];
};

export const unpack: ShapeFunction = (operands, { axis = 0 }, outputs) => {
  const { shape } = operandAt(operands, 0);
  const part = shape.toSpliced(axisOf(Number(axis), shape.length), 1);
  return Array.from({ length: outputs }, () => part);
};

export const tile: ShapeFunction = (operands) => {
  const times = constantAt(operands, 1);
  return [operandAt(operands, 0).shape.map((length, axis) => length * (times[axis] ?? 1))];
};

export const pad: ShapeFunction = (operands) => {
  const paddings = constantAt(operands, 1);
  return [
    operandAt(operands, 0).shape.map(
      (length, axis) => length + (paddings[2 * axis] ?? 0) + (paddings[2 * axis + 1] ?? 0),
    ),
  ];
};

/** params, indices, axis. */
export const gather: ShapeFunction = (operands, { batch_dims: batch = 0 }) => {
  const { shape } = operandAt(operands, 0);
  const indices = operandAt(operands, 1).shape;
  const axis = axisOf(constantAt(operands, 2)[0] ?? 0, shape.length);
  return [[...shape.slice(0, axis), ...indices.slice(Number(batch)), ...shape.slice(axis + 1)]];
};

export const gatherNd: ShapeFunction = (operands) => {
  const indices = operandAt(operands, 1).shape;
  return [[...indices.slice(0, -1), ...operandAt(operands, 0).shape.slice(indices.at(-1) ?? 0)]];
};

/** data, segment ids, number of segments. */
export const segments: ShapeFunction = (operands) => {
  const ids = operandAt(operands, 1).shape;
  return [[constantAt(operands, 2)[0] ?? 0, ...operandAt(operands, 0).shape.slice(ids.length)]];
};

export const expandDims: ShapeFunction = (operands) => {
  const { shape } = operandAt(operands, 0);
  return [shape.toSpliced(axisOf(constantAt(operands, 1)[0] ?? 0, shape.length + 1), 0, 1)];
};

/** indices, depth, on, off; axis −1. */
export const oneHot: ShapeFunction = (operands) => [[...operandAt(operands, 0).shape, constantAt(operands, 1)[0] ?? 0]];

/** start, limit, delta. */
export const range: ShapeFunction = (operands) => {
  const [start = 0, limit = 0, delta = 1] = [0, 1, 2].map((index) => constantAt(operands, index)[0] ?? 0);
  return [[Math.max(0, Math.ceil((limit - start) / delta))]];
};

/** start, stop, number. */
export const linSpace: ShapeFunction = (operands) => [constantAt(operands, 2)];

/** Values and indices of the k largest of the last axis; k in operand 1. */
export const topK: ShapeFunction = (operands) => {
  const shape = [...operandAt(operands, 0).shape.slice(0, -1), constantAt(operands, 1)[0] ?? 0];
  return [shape, shape];
};

/** Losses of rows and the gradient of the logits. */
export const crossEntropy: ShapeFunction = (operands) => [
  operandAt(operands, 0).shape.slice(0, -1),
  operandAt(operands, 0).shape,
];

/** Lengths by letter, from an equation with an explicit result. */
export const einsum: ShapeFunction = (operands, { equation }) => {
  const [left = '', right = ''] = String(equation).replaceAll(' ', '').split('->');
  const lengths = new Map<string, number>();
  for (const [index, letters] of left.split(',').entries()) {
    for (const [axis, letter] of [...letters].entries())
      lengths.set(letter, operandAt(operands, index).shape[axis] ?? 0);
  }
  return [[...right].map((letter) => lengths.get(letter) ?? 0)];
};
