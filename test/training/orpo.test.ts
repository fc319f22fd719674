import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { log1mexp, logOdds, logSigmoid, metricsOf, oddsGradient } from '../../training/orpo.ts';
import type { PairScores } from '../../training/step/index.ts';
import { tf, tidy } from '../../training/tf.ts';

const FIXTURE = new URL('../fixtures/trainer/odds-ratio.json', import.meta.url);
type Case = [chosen: number, rejected: number, logOdds: number, ratio: number, dChosen: number, dRejected: number];
const { cases } = JSON.parse(await readFile(FIXTURE, 'utf8')) as { cases: Case[] };

const close = (got: number, expected: number, relative: number) =>
  Math.abs(got - expected) <= relative * Math.max(Math.abs(expected), 1e-3);

it("log odds and their log-sigmoid equal TRL's in float64 over a grid of log-probabilities (1e-9)", () => {
  expect(cases.length).toBe(81);
  for (const [chosen, rejected, odds, ratio] of cases) {
    expect(close(logOdds(chosen, rejected), odds, 1e-9), `${chosen} ${rejected}`).toBe(true);
    expect(close(logSigmoid(odds), ratio, 1e-9), `${chosen} ${rejected}`).toBe(true);
  }
});

it("the closed-form gradient equals torch's autograd over the grid (1e-4: float32 against float64)", () => {
  const column = (index: number) => tf.tensor1d(cases.map((values) => values[index] ?? Number.NaN));
  const { dChosen, dRejected } = tidy(() => {
    const result = oddsGradient(column(0), column(1), 0.1, 2);
    return { dChosen: result.dChosen.dataSync(), dRejected: result.dRejected.dataSync() };
  });
  for (const [index, [chosen, rejected, , , expectedChosen, expectedRejected]] of cases.entries()) {
    // Near ℓ = 0 float32 log-probabilities hold fewer digits of 1 − p.
    const tolerance = Math.max(chosen, rejected) > -0.01 ? 2e-2 : 1e-4;
    expect(close((dChosen[index] ?? 0) / 0.05, expectedChosen, tolerance), `${chosen} ${rejected}`).toBe(true);
    expect(close((dRejected[index] ?? 0) / 0.05, expectedRejected, tolerance), `${chosen} ${rejected}`).toBe(true);
  }
});

it('is finite, gradient included, where a log-probability is exactly 0', () => {
  expect(log1mexp(0)).toBeCloseTo(Math.log(1e-7), 6);
  expect(Number.isFinite(logOdds(0, 0))).toBe(true);
  const values = tidy(() => {
    const { dChosen, dRejected } = oddsGradient(tf.tensor1d([0, -1, 0]), tf.tensor1d([-1, 0, 0]), 0.1, 3);
    return [...dChosen.dataSync(), ...dRejected.dataSync()];
  });
  expect(values.every(Number.isFinite)).toBe(true);
});

const scores: PairScores[] = [
  { row: 1, logpChosen: -1, logpRejected: -2, nllSum: 10, nllCount: 10 },
  { row: 2, logpChosen: -2, logpRejected: -2, nllSum: 60, nllCount: 20 },
  { row: 3, logpChosen: -3, logpRejected: -1, nllSum: 8, nllCount: 2 },
];

it('metrics have the values worked out by hand', () => {
  const metrics = metricsOf(scores, { beta: 0.1, nllReduction: 'token' });
  // NLL = (10 + 60 + 8) / 32; a tie is not a win.
  expect(metrics['nll_loss']).toBeCloseTo(78 / 32, 12);
  expect(metrics['rewards/accuracies']).toBeCloseTo(1 / 3, 12);
  expect(metrics['logps/chosen']).toBeCloseTo(-2, 12);
  expect(metrics['logps/rejected']).toBeCloseTo(-5 / 3, 12);
  expect(metrics['rewards/chosen']).toBeCloseTo(-0.2, 12);
  expect(metrics['rewards/margins']).toBeCloseTo(-1 / 30, 12);
  // log odds by hand: ln(p/(1−p)) of each, p = e^ℓ.
  const odds = (logp: number) => Math.log(Math.exp(logp) / (1 - Math.exp(logp)));
  const z = [odds(-1) - odds(-2), 0, odds(-3) - odds(-1)];
  const ratio = z.map((value) => Math.log(1 / (1 + Math.exp(-value)))).reduce((a, b) => a + b, 0) / 3;
  expect(metrics['log_odds_chosen']).toBeCloseTo(z.reduce((a, b) => a + b, 0) / 3, 12);
  expect(metrics['log_odds_ratio']).toBeCloseTo(ratio, 12);
  expect(metrics['loss']).toBeCloseTo(78 / 32 - 0.1 * ratio, 12);
});

it('the NLL is a mean over tokens, of micro-batches, or of rows', () => {
  const nll = (options: Parameters<typeof metricsOf>[1]) => metricsOf(scores, options)['nll_loss'];
  expect(nll({ beta: 0.1, nllReduction: 'micro-batch', microBatch: 2 })).toBeCloseTo((70 / 30 + 4) / 2, 12);
  expect(nll({ beta: 0.1, nllReduction: 'micro-batch', microBatch: 3 })).toBeCloseTo(78 / 32, 12);
  expect(nll({ beta: 0.1, nllReduction: 'sequence' })).toBeCloseTo((1 + 3 + 4) / 3, 12);
});

it('refuses to average nothing', () => {
  expect(() => metricsOf([], { beta: 0.1, nllReduction: 'token' })).toThrow('metricsOf: got no pairs');
});
