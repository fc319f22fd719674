/**
 * What tracing refuses, with the message that says why and where; and what it shares.
 */
import { describe, expect, it } from 'vitest';
import { createProgram, type TracedFunction } from '../../../training/compile/program.ts';
import { keyedUniform } from '../../../training/compile/random.ts';
import { tf, type Tensor } from '../../../training/tf.ts';

const SPEC = { shape: [2, 3], dtype: 'float32' as const };

function define(traced: TracedFunction) {
  return createProgram({ variables: { w: SPEC } }).define('f', { inputs: { x: SPEC } }, traced);
}

/** Traces a function of one input. */
function of(compute: (x: Tensor) => Tensor) {
  return define((_variables, { x }) => ({ outputs: { y: compute(x as Tensor) } }));
}

describe('tracing refuses', () => {
  it('an op without a rule, naming it and the place', () => {
    expect(() => of((x) => tf.stridedSlice(x, [0, 0], [1, 1], [1, 1]))).toThrow(
      /op StridedSlice cannot be compiled \(called at .*trace\.test\.ts:\d+:\d+\)/,
    );
  });

  it.each([
    ['dataSync', (x: Tensor) => x.dataSync()],
    ['arraySync', (x: Tensor) => x.arraySync()],
  ])('reading a traced tensor by %s', (_name, read) => {
    expect(() =>
      of((x) => {
        read(tf.square(x));
        return x;
      }),
    ).toThrow(/values of a traced tensor \(float32 \[2, 3\]\) were read at .*trace\.test\.ts/);
  });

  it('reading a traced tensor by data()', async () => {
    let read: Promise<unknown> = Promise.resolve();
    of((x) => {
      read = tf.square(x).data();
      read.catch(() => undefined);
      return x;
    });
    await expect(read).rejects.toThrow(/values of a traced tensor/);
  });

  it.each([
    ['randomUniform', (x: Tensor) => tf.add(x, tf.randomUniform([2, 3]))],
    ['randomNormal', (x: Tensor) => tf.add(x, tf.randomNormal([2, 3], 0, 1, 'float32', 7))],
    ['truncatedNormal', (x: Tensor) => tf.add(x, tf.truncatedNormal([2, 3]))],
    ['dropout', (x: Tensor) => tf.dropout(x, 0.5)],
  ])('random numbers of tf.%s', (name, compute) => {
    expect(() => of(compute)).toThrow(
      new RegExp(`tf\\.${name} \\(called at .*makes its numbers while tracing.*keyedUniform`),
    );
  });

  it('a keyed stream whose step is a plain number', () => {
    expect(() => of((x) => tf.add(x, keyedUniform([2, 3], { seed: 1, step: 3, name: 'a' })))).toThrow(
      /got the step as the number 3 while tracing.*pass a traced int32 input/,
    );
  });

  it('a tensor from outside, and leaves it as it was', () => {
    const outside = tf.tensor1d([1, 2, 3]);
    expect(() => of((x) => tf.add(x, outside))).toThrow(
      /a tensor from outside the traced function was used at .*trace\.test/,
    );
    expect([...outside.dataSync()]).toEqual([1, 2, 3]);
    outside.dispose();
  });

  it('an async function, a second definition inside, and names that are taken or not allowed', () => {
    expect(() => define((async () => ({ outputs: {} })) as never)).toThrow('"f" is async');
    expect(() => of((x) => (of(tf.neg), x))).toThrow('a function is being traced already');
    const program = createProgram({ variables: {} });
    program.define('f', {}, () => ({ outputs: {} }));
    expect(() => program.define('f', {}, () => ({ outputs: {} }))).toThrow('has a function "f" already');
    expect(() => program.define('f 2', {}, () => ({ outputs: {} }))).toThrow('"f 2" cannot name a function');
  });

  it('updates of what is no variable, or of another shape', () => {
    expect(() => define((_, { x }) => ({ outputs: {}, updates: { v: x as Tensor } }))).toThrow(
      'updates "v", which is no variable',
    );
    expect(() => define((_, { x }) => ({ outputs: {}, updates: { w: tf.sum(x as Tensor) } }))).toThrow(
      '"f" updates "w" with float32 [], but the variable is float32 [2, 3]',
    );
  });

  it('shapes that values decide, and types that graphs do not hold', () => {
    expect(() => of((x) => tf.complex(x, x))).toThrow('Complex cannot be compiled');
    expect(() => of((x) => (tf.concat([tf.tensor1d(['a']), tf.tensor1d(['b'])]), x))).toThrow('element type number 7');
  });

  it('a traced tensor after its function, and a session inside it', async () => {
    let leaked: Tensor | null = null;
    of((x) => (leaked = tf.keep(tf.neg(x))));
    expect(() => (leaked as unknown as Tensor).dataSync()).toThrow('used after its function had been traced');
    const program = createProgram({ variables: {} });
    program.define('one', {}, () => ({ outputs: { y: tf.scalar(1) } }));
    const session = await program.load({ xla: false });
    expect(() => of((x) => tf.mul(x, session.run('one', {})['y'] as Tensor))).toThrow(/inside a traced function/);
    session.dispose();
  });

  it('nothing after an error: eager code goes on', () => {
    expect(() => of(() => { throw new Error('inside'); })).toThrow('inside'); // prettier-ignore
    expect([...tf.add(1, 2).dataSync()]).toEqual([3]);
    expect(tf.getBackend()).toBe('tensorflow');
  });
});

describe('the graph', () => {
  const count = (nodes: { op: string }[], op: string) => nodes.filter((node) => node.op === op).length;

  it('shares constants and common subexpressions', () => {
    const { definition } = of((x) => tf.add(tf.mul(tf.exp(x), 2), tf.mul(tf.exp(x), 2)));
    expect(count(definition.nodes, 'Exp')).toBe(1);
    expect(count(definition.nodes, 'Const')).toBe(1);
    expect(count(definition.nodes, 'Mul')).toBe(1);
  });

  it('holds nothing that no output needs', () => {
    const { definition, variables } = of((x) => {
      tf.log(x);
      return tf.neg(x);
    });
    expect(definition.nodes.map(({ op }) => op)).toEqual(['Neg']);
    expect(variables).toEqual([]);
  });

  it('keeps one element of a uniform constant, and tells 0 from −0', () => {
    const { definition } = of((x) => tf.concat([x, tf.ones([100, 3]), tf.fill([1, 3], 0), tf.tensor2d([[-0, 0, -0]])]));
    const sizes = definition.nodes.flatMap(({ attrs }) =>
      attrs['value'] && 'tensor' in attrs['value'] ? [attrs['value'].tensor] : [],
    );
    expect(sizes.find(({ shape }) => shape[0] === 100)?.content.length).toBe(4);
    expect(sizes.find(({ shape, uniform }) => shape.join() === '1,3' && !uniform)?.content.length).toBe(12);
  });

  it('lets constants be read while tracing', () => {
    const { definition } = of((x) => tf.mul(x, tf.tensor1d([1, 2, 3]).dataSync()[2] ?? 0));
    expect(count(definition.nodes, 'Mul')).toBe(1);
  });
});
