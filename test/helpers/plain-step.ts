/**
 * An engine of plain arithmetic behind TrainStep: it learns nothing, but its state depends on every pair, their order and
 * the learning rate, so that a step left out, repeated or taken with another rate shows. For laws of the loop and of
 * checkpoints that need no TensorFlow.
 */
import type { MetricRow } from '../../shared/records.ts';
import { metricsOf } from '../../training/orpo.ts';
import type { PairScores, StepResult, TrainState, TrainStep } from '../../training/step/index.ts';

export interface PlainStepOptions {
  /** Replaces what a step says. @param stepIndex - from 0 */
  metrics?: (stepIndex: number) => MetricRow;
  /** Scores of a pair by its row; the default makes chosen the likelier of even rows. */
  scores?: (row: number, state: number) => PairScores;
}

export interface PlainStep extends TrainStep {
  /** Rows and learning rate of every step, in order. */
  seen: { rows: number[]; learningRate: number }[];
  isDisposed: boolean;
}

export function createPlainStep(options: PlainStepOptions = {}): PlainStep {
  let value = 1;
  let moment = 0;
  let done = 0;
  const scoresOf = options.scores ?? ((row) => ({ ...plainScores(row), nllSum: 6 - Math.tanh(value / 100) }));
  const one = (data: number) => ({ w: { shape: [1], data: Float32Array.of(data) } });
  const engine: PlainStep = {
    seen: [],
    isDisposed: false,
    trainableCount: 1,
    step: async (pairs, { learningRate, stepIndex }): Promise<StepResult> => {
      const rows = pairs.map((pair) => pair.row);
      engine.seen.push({ rows, learningRate });
      for (const row of rows) {
        moment = Math.fround(0.9 * moment + 0.1 * Math.sin(row + value));
        value = Math.fround(value + learningRate * (1 + moment));
      }
      done += 1;
      const metrics = metricsOf(
        rows.map((row) => scoresOf(row, value)),
        { beta: 0.1, nllReduction: 'token' },
      );
      return {
        metrics: { ...metrics, grad_norm: 1, learning_rate: learningRate, ...options.metrics?.(stepIndex) },
        tokens: 10,
      };
    },
    evaluate: async (pairs) => pairs.map((pair) => scoresOf(pair.row, value)),
    generate: async () => [100, 101],
    readState: async (): Promise<TrainState> => ({
      weights: one(value),
      firstMoments: one(moment),
      secondMoments: one(0),
      step: done,
    }),
    writeState: async (state) => {
      value = state.weights['w']?.data[0] ?? NaN;
      moment = state.firstMoments['w']?.data[0] ?? NaN;
      done = state.step;
    },
    dispose: () => {
      engine.isDisposed = true;
    },
  };
  return engine;
}

export function plainScores(row: number): PairScores {
  const isWon = row % 2 === 0;
  return { row, logpChosen: isWon ? -1 : -2, logpRejected: isWon ? -2 : -1, nllSum: 6, nllCount: 3 };
}
