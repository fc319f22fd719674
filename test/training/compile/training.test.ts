/**
 * A compiled training loop against the same loop run eagerly, and against itself in another process.
 */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { feedsOf, initialValues, mlpProgram, numbers, trainEagerly, VARIABLES } from './mlp.ts';

const STEPS = 20;
/** Rises and falls, so that a frozen rate would show. */
const rates = Array.from({ length: STEPS }, (_, step) => 0.02 * Math.sin((Math.PI * (step + 1)) / (STEPS + 1)));

async function trainCompiled(xla: boolean, schedule: number[]) {
  const session = await mlpProgram().load({ xla });
  session.set(initialValues());
  const outputs = schedule.map((rate, index) => numbers(session.run('step', feedsOf(index + 1, rate))));
  const variables = session.read(Object.keys(VARIABLES));
  session.dispose();
  return { outputs, variables };
}

function relativeDistance(a: ArrayLike<number>, b: ArrayLike<number>, from: ArrayLike<number>): number {
  const squares = (f: (i: number) => number) =>
    Array.from({ length: b.length }, (_, i) => f(i) ** 2).reduce((x, y) => x + y, 0);
  return Math.sqrt(squares((i) => (a[i] ?? 0) - (b[i] ?? 0)) / squares((i) => (b[i] ?? 0) - (from[i] ?? 0)));
}

describe('a compiled training loop', () => {
  it.each([{ xla: false }, { xla: true }])(
    'equals the eager one over 20 steps of AdamW (xla: $xla)',
    async ({ xla }) => {
      const eager = trainEagerly(rates);
      const compiled = await trainCompiled(xla, rates);
      for (const [step, want] of eager.outputs.entries()) {
        const got = compiled.outputs[step] ?? {};
        expect(Math.abs((got['loss'] ?? 0) / (want['loss'] ?? 1) - 1)).toBeLessThan(1e-5);
        expect(Math.abs((got['norm'] ?? 0) / (want['norm'] ?? 1) - 1)).toBeLessThan(1e-4);
        expect(got['kept']).toBe(want['kept']);
      }
      const before = initialValues();
      for (const [name, want] of Object.entries(eager.variables)) {
        expect(relativeDistance(compiled.variables[name] ?? [], want, before[name] ?? [])).toBeLessThan(1e-4);
      }
      expect(compiled.outputs.at(-1)?.['loss']).toBeLessThan((compiled.outputs[0]?.['loss'] ?? 0) * 0.9);
    },
  );

  it('takes another learning rate and other masks at every step, as the eager one does', async () => {
    const { outputs, variables } = await trainCompiled(true, rates);
    const constant = await trainCompiled(
      true,
      rates.map(() => 0.01),
    );
    expect(new Set(outputs.map(({ kept }) => kept)).size).toBeGreaterThan(STEPS / 2);
    expect(constant.outputs.map(({ kept }) => kept)).toEqual(outputs.map(({ kept }) => kept));
    expect(constant.variables['w1']).not.toEqual(variables['w1']);
  });

  it('repeats bit for bit in another process at a fixed number of threads', async () => {
    const script = fileURLToPath(new URL('mlp-digest.ts', import.meta.url));
    const env = { ...process.env, TF_NUM_INTRAOP_THREADS: '2', TF_NUM_INTEROP_THREADS: '2', TF_CPP_MIN_LOG_LEVEL: '3' };
    const run = promisify(execFile);
    const digests = await Promise.all(
      [1, 2].map(async () => (await run(process.execPath, ['--import', 'tsx', script], { env })).stdout.trim()),
    );
    expect(digests[0]).toMatch(/^[0-9a-f]{64}$/);
    expect(digests[1]).toBe(digests[0]);
  });
});
