/**
 * Every op of the table, value and gradient: what the compiled graph computes is what eager TensorFlow.js computes.
 */
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { OPS } from '../../../training/compile/ops.ts';
import { createProgram, type Program, type Tensors, type Traced } from '../../../training/compile/program.ts';
import { dispose, tf, tidy, type Tensor } from '../../../training/tf.ts';
import { OP_CASES, type OpCase } from './op-cases.ts';

const inputs = Object.fromEntries(
  OP_CASES.flatMap(({ operands }, index) => operands.map((operand, k) => [`${index}/${k}`, operand])),
);

function listed(result: Tensor | Tensor[]): Tensor[] {
  return Array.isArray(result) ? result : [result];
}

/** Σ of the results, each element weighted differently. */
function weightedSum(results: Tensor[]): Tensor {
  const parts = results.map((y) =>
    tf.sum(
      tf.mul(
        y,
        tf.tensor(
          Array.from({ length: y.size }, (_, i) => 1 + i / 7),
          y.shape,
        ),
      ),
    ),
  );
  return tf.addN(parts);
}

/** Values and gradients of one case. */
function results({ compute, differentiable }: OpCase, operands: Tensor[]): Tensor[] {
  const values = listed(compute(...operands));
  if (!differentiable) return values;
  return [...values, ...tf.grads((...xs: Tensor[]) => weightedSum(listed(compute(...xs))) as never)(operands)];
}

/** All cases as one function. */
function allCases(given: Tensors): Tensors {
  return Object.fromEntries(
    OP_CASES.flatMap((each, index) => {
      const operands = each.operands.map((_, k) => given[`${index}/${k}`] as Tensor);
      return results(each, operands).map((y, k) => [`${index}/${k}`, y]);
    }),
  );
}

interface Plain {
  shape: number[];
  dtype: string;
  values: number[];
}

function plain(tensors: Tensors): Record<string, Plain> {
  const entries = Object.entries(tensors).map(([key, y]) => [
    key,
    { shape: y.shape, dtype: y.dtype, values: Array.from(y.dataSync()) },
  ]);
  dispose(tensors);
  return Object.fromEntries(entries) as Record<string, Plain>;
}

function maxError(got: number[], want: number[]): number {
  return Math.max(
    0,
    ...want.map((value, i) => {
      const other = got[i] ?? Number.NaN;
      if (Object.is(value, other)) return 0;
      return Math.abs(other - value) / Math.max(1, Math.abs(value));
    }),
  );
}

describe('every op', () => {
  let program: Program;
  let traced: Traced;
  let eager: Record<string, Plain>;

  beforeAll(() => {
    program = createProgram({ variables: {} });
    traced = program.define('all', { inputs }, (_variables, given) => ({ outputs: allCases(given) }));
    eager = plain(
      tidy(() =>
        allCases(
          Object.fromEntries(
            Object.entries(inputs).map(([key, { values, shape, dtype }]) => [key, tf.tensor(values, shape, dtype)]),
          ),
        ),
      ),
    );
  });

  it('is in the graph of its case, and every op of the table has a case', () => {
    const present = new Set(traced.definition.nodes.map(({ op }) => op));
    expect(OP_CASES.flatMap(({ ops }) => ops.split(' ')).filter((op) => !present.has(op))).toEqual([]);
    expect(Object.keys(OPS).filter((op) => !present.has(op))).toEqual([]);
  });

  it('is named in docs/compile.md', () => {
    const page = readFileSync(new URL('../../../docs/compile.md', import.meta.url), 'utf8');
    const listed = new Set((/## Ops\s+([^,]*?)\n\n/.exec(page)?.[1] ?? '').split(/\s+/));
    expect([...listed].sort()).toEqual(Object.keys(OPS).sort());
  });

  it('has the shape and type that were inferred', () => {
    for (const [key, { shape, dtype }] of Object.entries(eager)) {
      const spec = traced.outputs[key];
      expect({ key, shape: spec?.shape, dtype: spec?.dtype }).toEqual({ key, shape, dtype });
    }
  });

  it.each([
    { xla: false, bound: 1e-6 },
    { xla: true, bound: 2e-6 },
  ])('computes what eager TensorFlow.js does, gradients included (xla: $xla)', async ({ xla, bound }) => {
    const session = await program.load({ xla });
    const feeds = Object.fromEntries(Object.entries(inputs).map(([key, { values }]) => [key, values]));
    const compiled = plain(session.run('all', feeds));
    session.dispose();
    const wrong = Object.entries(eager).flatMap(([key, { values, shape }]) => {
      const got = compiled[key];
      const error = maxError(got?.values ?? [], values);
      if (got?.shape.join() === shape.join() && error <= bound) return [];
      return [{ ops: OP_CASES[Number(key.split('/')[0])]?.ops, key, error, got: got?.values, values }];
    });
    expect(wrong).toEqual([]);
  });
});
