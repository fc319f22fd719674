/**
 * A loaded program: variables that live between graphs, random numbers, training, memory.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createProgram, type Session } from '../../../training/compile/program.ts';
import { keyedDropoutMask, keyedUniform } from '../../../training/compile/random.ts';
import { dispose, tf, tidy, type Tensor } from '../../../training/tf.ts';

const SCALAR = { shape: [], dtype: 'float32' as const };
const COUNTER = { shape: [], dtype: 'int32' as const };
const VECTOR = { shape: [3], dtype: 'float32' as const };

/** Values of a run's outputs. */
function values(outputs: Record<string, Tensor>): Record<string, number[]> {
  const result = Object.fromEntries(Object.entries(outputs).map(([name, y]) => [name, Array.from(y.dataSync())]));
  dispose(outputs);
  return result;
}

function counting() {
  const program = createProgram({ variables: { w: VECTOR, n: COUNTER, unused: VECTOR } });
  program.define('step', { inputs: { rate: SCALAR } }, ({ w, n }, { rate }) => ({
    outputs: { before: tf.sum(w as Tensor) },
    updates: { w: tf.add(w as Tensor, rate as Tensor), n: tf.add(n as Tensor, tf.scalar(1, 'int32')) },
  }));
  program.define('evaluate', {}, ({ w }) => ({ outputs: { total: tf.sum(w as Tensor) } }));
  program.define('reset', {}, ({ w }) => ({ outputs: {}, updates: { w: tf.zerosLike(w as Tensor) } }));
  program.define('fill', {}, () => ({ outputs: {}, updates: { w: tf.fill([3], 4) } }));
  return program;
}

describe.each([{ xla: false }, { xla: true }])('a session (xla: $xla)', ({ xla }) => {
  let session: Session;
  beforeAll(async () => {
    session = await counting().load({ xla });
  });
  afterAll(() => session.dispose());

  it('says which variables have no value', () => {
    expect(() => session.run('evaluate', {})).toThrow('cannot run "evaluate": these variables have no value yet: w');
    expect(() => session.read(['w', 'n'])).toThrow('cannot read: these variables have no value yet: w, n');
  });

  it('keeps variables between its graphs, and apart from the arrays they came from', () => {
    const w = new Float32Array([1, 2, 3]);
    session.set({ w, n: 0 });
    w.fill(100);
    expect(values(session.run('step', { rate: 0.5 }))).toEqual({ before: [6] });
    expect(values(session.run('evaluate', {}))).toEqual({ total: [7.5] });
    expect(session.read(['n', 'w'])).toEqual({ n: new Int32Array([1]), w: new Float32Array([1.5, 2.5, 3.5]) });
  });

  it('gives read values that later steps leave alone', () => {
    session.set({ w: [1, 1, 1], n: 0 });
    const { w } = session.read(['w']);
    values(session.run('step', { rate: 1 }));
    expect(w).toEqual(new Float32Array([1, 1, 1]));
  });

  it("runs functions that only update, from a tensor that stays its owner's", () => {
    const tensor = tf.tensor1d([7, 8, 9]);
    session.set({ w: tensor });
    expect(session.run('reset', {})).toEqual({});
    expect(session.read(['w'])).toEqual({ w: new Float32Array(3) });
    expect([...tensor.dataSync()]).toEqual([7, 8, 9]);
    tensor.dispose();
  });

  it('refuses unknown names, wrong inputs and wrong sizes', () => {
    expect(() => session.run('train', {})).toThrow('no function "train"; it has: step, evaluate, reset, fill');
    expect(() => session.run('step', { speed: 1 })).toThrow(
      'missing inputs [rate], unexpected [speed]; it takes [rate]',
    );
    expect(() => session.set({ v: 1 })).toThrow('no variable "v"');
    expect(() => session.set({ w: [1, 2] })).toThrow('"w" got 2 values; float32 [3] takes 3');
    const wrong = tf.tensor1d([1, 2], 'int32');
    expect(() => session.set({ w: wrong })).toThrow('"w" got int32 [2]; it takes float32 [3]');
    wrong.dispose();
  });

  it('gives a variable its first value by an update', async () => {
    const fresh = await counting().load({ xla });
    fresh.run('fill', {});
    expect(fresh.read(['w'])).toEqual({ w: new Float32Array([4, 4, 4]) });
    fresh.dispose();
  });

  it('leaks neither tensors nor memory over 200 calls', () => {
    session.set({ w: [1, 2, 3], n: 0 });
    values(session.run('step', { rate: 1 }));
    const { numTensors } = tf.memory();
    const native = (tf.backend() as unknown as { getNumOfTFTensors(): number }).getNumOfTFTensors();
    const rss = process.memoryUsage.rss();
    for (let call = 0; call < 200; call++) {
      values(session.run('step', { rate: 1 }));
      session.read(['w']);
    }
    expect(tf.memory().numTensors).toBe(numTensors);
    expect((tf.backend() as unknown as { getNumOfTFTensors(): number }).getNumOfTFTensors()).toBe(native);
    expect(process.memoryUsage.rss() - rss).toBeLessThan(20e6);
  });
});

describe('the SavedModel', () => {
  it('stays where a folder is given', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'program-'));
    const session = await counting().load({ xla: false, dir });
    expect(readdirSync(dir)).toEqual(['saved_model.pb']);
    session.dispose();
    rmSync(dir, { recursive: true });
  });
});

describe('what cannot be fed', () => {
  it('is refused with its type', async () => {
    const program = createProgram({ variables: { half: { shape: [2], dtype: 'bfloat16' } } });
    const session = await program.load({ xla: false });
    expect(() => session.set({ half: [1, 2] })).toThrow(
      '"half" is bfloat16, which cannot be fed; cast it inside the graph',
    );
    session.dispose();
  });
});

describe('keyed random numbers', () => {
  const stream = (seed: Tensor | number, step: Tensor | number, name: string) => ({ seed, step, name });

  it.each([{ xla: false }, { xla: true }])(
    'are the eager ones bit for bit (xla: $xla), new at each step',
    async ({ xla }) => {
      const program = createProgram({ variables: {} });
      program.define('draw', { inputs: { seed: COUNTER, step: COUNTER } }, (_variables, { seed, step }) => {
        const at = (name: string) => stream(seed as Tensor, step as Tensor, name);
        return { outputs: { a: keyedUniform([50], at('a')), b: keyedDropoutMask([5, 10], 0.25, at('b')) } };
      });
      const session = await program.load({ xla });
      const drawn = [1, 2].map((step) => values(session.run('draw', { seed: 42, step })));
      const eager = [1, 2].map((step) =>
        values(
          tidy(() => ({
            a: keyedUniform([50], stream(42, step, 'a')),
            b: keyedDropoutMask([5, 10], 0.25, stream(42, step, 'b')),
          })),
        ),
      );
      session.dispose();
      expect(drawn).toEqual(eager);
      expect(drawn[0]).not.toEqual(drawn[1]);
    },
  );

  it('are uniform, and independent of each other by seed, step and name', () => {
    const draw = (seed: number, step: number, name: string) =>
      values(tidy(() => ({ u: keyedUniform([20_000], stream(seed, step, name)) })))['u'] ?? [];
    const base = draw(1, 1, 'a');
    const mean = base.reduce((sum, u) => sum + u, 0) / base.length;
    expect(Math.abs(mean - 0.5)).toBeLessThan(0.01);
    expect(base.every((u) => u >= 0 && u < 1)).toBe(true);
    for (const other of [draw(2, 1, 'a'), draw(1, 2, 'a'), draw(1, 1, 'b'), draw(2, 0, 'a')]) {
      const covariance = other.reduce((sum, u, i) => sum + (u - 0.5) * ((base[i] ?? 0) - 0.5), 0) / base.length;
      expect(Math.abs(covariance * 12)).toBeLessThan(0.03);
    }
  });

  it('drop the share that was asked for, and refuse what is no share or no whole number', () => {
    const [kept = 0] =
      values(tidy(() => ({ m: tf.mean(keyedDropoutMask([20_000], 0.25, stream(1, 1, 'm'))) })))['m'] ?? [];
    expect(Math.abs(kept - 1)).toBeLessThan(0.02);
    expect(() => keyedDropoutMask([1], 1, stream(1, 1, 'm'))).toThrow('rate is 1; it must be in [0, 1)');
    expect(() => keyedUniform([1], stream(0.5, 1, 'm'))).toThrow('0.5 is no whole number');
  });
});
