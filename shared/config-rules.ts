/**
 * What must hold between fields of a config that are right by themselves.
 */
import type { RunConfig } from './config-schema.ts';

/** @property fields - the dotted paths that clash; the message is reported at the first */
export interface Clash {
  fields: string[];
  message: string;
}

/** @returns every combination that cannot work, with what to change */
export function impossibleCombinations(config: RunConfig): Clash[] {
  return [...columnClashes(config), ...splitClashes(config), ...stoppingClashes(config), ...stepClashes(config)];
}

function columnClashes({ data: { columns } }: RunConfig): Clash[] {
  const names = ['prompt', 'chosen', 'rejected'] as const;
  const clashes: Clash[] = [];
  names.forEach((name, i) => {
    const first = names.slice(0, i).find((other) => columns[other] === columns[name]);
    if (first === undefined) return;
    clashes.push({
      fields: [`data.columns.${name}`, `data.columns.${first}`],
      message: `got "${columns[name]}", which is data.columns.${first} too; each needs a column of its own`,
    });
  });
  return clashes;
}

function splitClashes({ data: { validationFraction, testFraction } }: RunConfig): Clash[] {
  if (validationFraction + testFraction < 1) return [];
  return [
    {
      fields: ['data.validationFraction', 'data.testFraction'],
      message: `got ${validationFraction}, which with data.testFraction ${testFraction} leaves no rows to train on; their sum must be below 1`,
    },
  ];
}

const LESS_IS_BETTER = /loss$/;
const MORE_IS_BETTER = /accuracies$|margins$|log_odds_chosen$/;

function stoppingClashes({ data, training: { earlyStopping } }: RunConfig): Clash[] {
  if (earlyStopping === null) return [];
  const { metric, goal } = earlyStopping;
  const clashes: Clash[] = [];
  if (data.validationFraction === 0) {
    clashes.push({
      fields: ['training.earlyStopping', 'data.validationFraction'],
      message:
        'needs held-out rows every epoch; set data.validationFraction above 0, or training.earlyStopping to null',
    });
  }
  const better = LESS_IS_BETTER.test(metric) ? 'min' : MORE_IS_BETTER.test(metric) ? 'max' : goal;
  if (goal !== better) {
    clashes.push({
      fields: ['training.earlyStopping.goal', 'training.earlyStopping.metric'],
      message: `got "${goal}" for ${metric}, of which ${better === 'min' ? 'less' : 'more'} is better; must be ${better}`,
    });
  }
  return clashes;
}

function stepClashes({ training: { warmupSteps, maxSteps, batchSize }, engine: { microBatch } }: RunConfig): Clash[] {
  const clashes: Clash[] = [];
  if (maxSteps !== null && warmupSteps > maxSteps) {
    clashes.push({
      fields: ['training.warmupSteps', 'training.maxSteps'],
      message: `got ${warmupSteps}, but training.maxSteps ends the run after ${maxSteps}; must be at most that`,
    });
  }
  if (microBatch !== 'auto' && microBatch > batchSize) {
    clashes.push({
      fields: ['engine.microBatch', 'training.batchSize'],
      message: `got ${microBatch}, but a step has only training.batchSize ${batchSize} pairs; must be auto or at most that`,
    });
  }
  return clashes;
}
