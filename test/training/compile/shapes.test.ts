/**
 * Shape functions where operands do not fit; where they do, ops.test.ts compares them with TensorFlow's.
 */
import { describe, expect, it } from 'vitest';
import * as shapes from '../../../training/compile/shapes.ts';

const computed = (...shape: number[]) => ({ shape, constant: null });
const known = (...constant: number[]) => ({ shape: [constant.length], constant });

describe('shape functions refuse', () => {
  it.each([
    ['shapes that do not broadcast', () => shapes.broadcasting([computed(2, 3), computed(2)], {}, 1), 'shapes [2,3] and [2] do not broadcast'],
    ['matrices of unequal inner size', () => shapes.matrixProduct('a', 'b')([computed(2, 3), computed(2, 3)], {}, 1), 'inner sizes 3 and 2 differ'],
    ['a reshape to another size', () => shapes.reshape([computed(2, 3), known(4, 2)], {}, 1), '[2,3] cannot take the shape [4,2]'],
    ['a shape that is computed', () => shapes.reshape([computed(2, 3), computed(2)], {}, 1), 'operand 1 decides the result\'s shape and must be known while tracing'],
    ['too few operands', () => shapes.reshape([computed(2, 3)], {}, 1), 'got 1 operands, needs at least 2'],
  ])('%s', (_name, infer, message) => expect(infer).toThrow(message)); // prettier-ignore
});

describe('shape functions', () => {
  it('transpose either matrix and broadcast what stands before it', () => {
    const product = shapes.matrixProduct('ta', 'tb');
    expect(product([computed(5, 1, 2, 3), computed(4, 2, 7)], { ta: true }, 1)).toEqual([[5, 4, 3, 7]]);
    expect(product([computed(2, 3), computed(7, 3)], { tb: true }, 1)).toEqual([[2, 7]]);
  });

  it('resolve −1 in reshapes and slices', () => {
    expect(shapes.reshape([computed(2, 6), known(3, -1)], {}, 1)).toEqual([[3, 4]]);
    expect(shapes.slice([computed(5, 6), known(1, 2), known(-1, 3)], {}, 1)).toEqual([[4, 3]]);
  });
});
