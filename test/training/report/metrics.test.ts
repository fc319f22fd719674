import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { DatasetInvalid } from '../../../shared/errors.ts';
import {
  epochMeans,
  epochRow,
  metricsWith,
  parseRows,
  readMetrics,
  serializeRows,
  stepRow,
  trainerState,
  writeMetrics,
} from '../../../training/report/metrics.ts';
import { scratchFolder } from '../../helpers/scratch.ts';

const scratch = scratchFolder();

const rows = [
  epochRow({ step: 0, epoch: 0 }, {}, { eval_loss: 3 }),
  stepRow({ step: 1, epoch: 0.5, pairs: 4 }, { loss: 2, 'rewards/margins': 0.1, grad_norm: 1, learning_rate: 1e-4 }),
  stepRow({ step: 2, epoch: 1, pairs: 1 }, { loss: 1, 'rewards/margins': -0.4, grad_norm: 2, learning_rate: 5e-5 }),
  epochRow({ step: 2, epoch: 1 }, { loss: 1.8 }, { eval_loss: 2.5, 'eval_rewards/accuracies': 0.75 }),
  stepRow({ step: 3, epoch: 1.5, pairs: 4 }, { loss: 9, 'rewards/margins': 9, grad_norm: 9, learning_rate: 9 }),
];
const info = {
  step: 2,
  epoch: 1,
  totalSteps: 6,
  epochs: 3,
  batchSize: 4,
  checkpointEverySteps: 50,
  best: { value: 2.5, step: 2, checkpoint: 'checkpoints/main/step-00000002-1' },
};

describe('rows', () => {
  test('epoch means weigh a step by its pairs and take no step of another epoch', () => {
    // loss (2·4 + 1·1) / 5, margins (0.1·4 − 0.4·1) / 5
    const means = epochMeans(rows, 0);
    expect(means['loss']).toBeCloseTo(1.8, 12);
    expect(means['rewards/margins']).toBeCloseTo(0, 12);
    expect(Object.keys(means)).toEqual(['loss', 'rewards/margins']);
    expect(epochMeans(rows, 2)).toEqual({});
  });

  test('text and back again is the same, line for line', () => {
    const text = serializeRows(rows);
    expect(parseRows(text, 'm')).toEqual(rows);
    expect(serializeRows(parseRows(text, 'm'))).toBe(text);
    expect(text.split('\n')[1]).toBe(
      '{"type":"step","step":1,"epoch":0.5,"pairs":4,"loss":2,"rewards/margins":0.1,"grad_norm":1,"learning_rate":0.0001}',
    );
  });

  test('a value that is not finite is null, so that the line stays JSON', () => {
    const row = stepRow({ step: 1, epoch: 1, pairs: 1 }, { loss: NaN, grad_norm: Infinity });
    expect(row).toMatchObject({ loss: null, grad_norm: null });
    expect(epochRow({ step: 1, epoch: 1 }, { loss: NaN }, { eval_loss: -Infinity })).toMatchObject({
      train_loss: null,
      eval_loss: null,
    });
  });

  test('an epoch row keeps train and held-out apart', () => {
    expect(metricsWith('train_', rows[3])).toEqual({ train_loss: 1.8 });
    expect(metricsWith('eval_', rows[3])).toEqual({ eval_loss: 2.5, 'eval_rewards/accuracies': 0.75 });
    expect(metricsWith('eval_', rows[1])).toBeNull();
    expect(metricsWith('eval_', undefined)).toBeNull();
  });

  test('a last line that was cut is left out; another broken one is named', () => {
    const text = serializeRows(rows);
    expect(parseRows(text.slice(0, -20), 'm')).toEqual(rows.slice(0, -1));
    const broken = text.replace('{"type":"step","step":2', '{"type":"sto","step":2');
    expect(() => parseRows(broken, 'run/metrics.jsonl')).toThrow(DatasetInvalid);
    expect(() => parseRows(broken, 'run/metrics.jsonl')).toThrow('run/metrics.jsonl:3: not a row of metrics (got "{');
    expect(() => parseRows('not json\n', 'm')).toThrow('m:1: not a row of metrics');
    expect(() => parseRows('null\n', 'm')).toThrow('m:1: not a row of metrics');
  });
});

describe('files', () => {
  test('trainer_state.json has Hugging Face’s shape: a row every step, held-out rows every epoch', () => {
    const state = trainerState(rows.slice(0, 4), info) as { log_history: object[] };
    expect(state).toMatchObject({
      best_metric: 2.5,
      best_global_step: 2,
      best_model_checkpoint: 'checkpoints/main/step-00000002-1',
      global_step: 2,
      max_steps: 6,
      num_train_epochs: 3,
      epoch: 1,
      logging_steps: 1,
      train_batch_size: 4,
    });
    expect(state.log_history).toEqual([
      { epoch: 0, eval_loss: 3, step: 0 },
      { epoch: 0.5, loss: 2, 'rewards/margins': 0.1, grad_norm: 1, learning_rate: 1e-4, step: 1 },
      { epoch: 1, loss: 1, 'rewards/margins': -0.4, grad_norm: 2, learning_rate: 5e-5, step: 2 },
      { epoch: 1, eval_loss: 2.5, 'eval_rewards/accuracies': 0.75, step: 2 },
    ]);
  });

  test('an epoch without held-out pairs leaves no row in log_history', () => {
    const state = trainerState([epochRow({ step: 2, epoch: 1 }, { loss: 1 }, null)], { ...info, best: null });
    expect(state).toMatchObject({ log_history: [], best_metric: null, best_model_checkpoint: null });
  });

  test('writing and reading an output folder', async () => {
    const output = await mkdtemp(join(scratch, 'orpo-metrics-'));
    await writeMetrics(output, rows, info);
    expect(await readMetrics(output)).toEqual(rows);
    expect(JSON.parse(await readFile(join(output, 'trainer_state.json'), 'utf8'))).toEqual(trainerState(rows, info));
    await writeFile(join(output, 'metrics.jsonl'), '{}\n');
    await expect(readMetrics(output)).rejects.toThrow('not a row of metrics');
  });
});
