/**
 * From untrusted JSON to a full config: presets, messages, impossible combinations, and the published JSON Schema.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { configJsonSchema, PRESETS, resolveConfig, runConfigSchema } from '../../shared/config.ts';
import { ConfigInvalid } from '../../shared/errors.ts';

const least = { data: { source: 'pairs.csv' } };

/** The run config of the design page, comments left out. */
const everything = {
  preset: 'standard',
  model: 'smollm2-135m-instruct',
  data: {
    source: 'pairs.csv',
    columns: { prompt: 'prompt', chosen: 'chosen', rejected: 'rejected' },
    promptFormat: 'auto',
    skipInvalid: false,
    validationFraction: 0.1,
    testFraction: 0.1,
    splitSeed: 42,
    maxPromptLength: 512,
    maxCompletionLength: 1024,
    overlength: 'drop',
    compat: 'none',
  },
  method: {
    kind: 'lora',
    rank: 16,
    alpha: 32,
    targetModules: 'all-linear',
    initFrom: null,
    dropout: 0,
    rsLora: false,
    bias: 'none',
    layers: null,
  },
  orpo: { beta: 0.1, disableDropout: true, nllScope: 'prompt+completion', nllReduction: 'token' },
  training: {
    epochs: 3,
    maxSteps: null,
    batchSize: 8,
    learningRate: 1e-4,
    schedule: 'linear',
    warmupSteps: 0,
    weightDecay: 0,
    maxGradNorm: 1.0,
    seed: 42,
    checkpointEverySteps: 50,
    checkpointEverySeconds: 120,
    earlyStopping: null,
  },
  engine: {
    device: 'auto',
    step: 'auto',
    precision: 'auto',
    baseDtype: 'float32',
    threads: 'auto',
    microBatch: 'auto',
    memoryLimit: null,
    requireExact: false,
  },
  limits: { heartbeatSeconds: 60, retryMaxSeconds: 10, noProgressAttempts: 10, awaitInputHours: 0, maxHours: null },
  ifExists: 'continue',
  output: 'runs/{workflowId}',
};

function problemsOf(input: unknown): string[] {
  try {
    resolveConfig(input);
  } catch (error) {
    if (error instanceof ConfigInvalid) return error.problems;
    throw error;
  }
  return [];
}

describe('a resolved config', () => {
  it('has every field of the design, with its default, from a data source alone', () => {
    expect(resolveConfig(least)).toEqual(everything);
  });

  it('is unchanged by being resolved again', () => {
    const input = { preset: 'thorough', ...least, method: { rank: 3 }, training: { maxSteps: 7 } };
    const once = resolveConfig(input);
    expect(resolveConfig(once)).toEqual(once);
  });

  it('ignores $schema, by which editors find the schema', () => {
    expect(resolveConfig({ $schema: './run-config.schema.json', ...least })).toEqual(everything);
  });

  it('leaves the given object as it was', () => {
    const input = Object.freeze({ ...least, method: Object.freeze({ rank: 4 }) });
    expect(resolveConfig(input).method).toMatchObject({ kind: 'lora', rank: 4 });
    expect(input).toEqual({ ...least, method: { rank: 4 } });
  });

  it('takes LoRA where the method names no kind', () => {
    expect(resolveConfig({ ...least, method: { rank: 4 } }).method).toMatchObject({ kind: 'lora', rank: 4, alpha: 32 });
  });
});

describe('a preset', () => {
  it.each(Object.keys(PRESETS))('%s resolves by itself', (preset) => {
    expect(problemsOf({ preset, ...least })).toEqual([]);
  });

  it('stands under the given fields, field by field', () => {
    const { training, method } = resolveConfig({
      preset: 'thorough',
      ...least,
      method: { rank: 8 },
      training: { epochs: 2 },
    });
    expect(training).toMatchObject({ epochs: 2, schedule: 'cosine', warmupSteps: 20 });
    expect(method).toMatchObject({ kind: 'lora', rank: 8, alpha: 64 });
  });

  it('says nothing about the fields of another method', () => {
    expect(resolveConfig({ preset: 'thorough', ...least, method: { kind: 'full' } }).method).toEqual({ kind: 'full' });
  });

  it('drops its warm-up where the given maxSteps is shorter', () => {
    expect(resolveConfig({ preset: 'quick', ...least, training: { maxSteps: 2 } }).training.warmupSteps).toBe(0);
    expect(resolveConfig({ preset: 'quick', ...least, training: { maxSteps: 3 } }).training.warmupSteps).toBe(3);
  });
});

describe('an unknown key is answered with the nearest known one', () => {
  it.each([
    [{ ...least, modle: 'x' }, 'modle: unknown key; did you mean "model"?'],
    [{ data: { ...least.data, skip_invalid: true } }, 'data.skip_invalid: unknown key; did you mean "skipInvalid"?'],
    [{ data: { ...least.data, columns: { promt: 'q' } } }, 'data.columns.promt: unknown key; did you mean "prompt"?'],
    [{ ...least, method: { kind: 'lora', rnak: 4 } }, 'method.rnak: unknown key; did you mean "rank"?'],
    [{ ...least, orpo: { betta: 0.2 } }, 'orpo.betta: unknown key; did you mean "beta"?'],
    [
      { ...least, training: { earlyStopping: { patiance: 1 } } },
      'training.earlyStopping.patiance: unknown key; did you mean "patience"?',
    ],
    [{ ...least, learningRate: 1e-5 }, 'learningRate: unknown key here; did you mean "training.learningRate"?'],
    [{ ...least, training: { beta: 1 } }, 'training.beta: unknown key here; did you mean "orpo.beta"?'],
    [
      { data: { ...least.data, columns: { question: 'q' } } },
      'data.columns.question: unknown key; known keys: prompt, chosen, rejected',
    ],
  ])('%j', (input, problem) => {
    expect(problemsOf(input)).toEqual([problem]);
  });

  it('even where the key is one that JavaScript treats specially', () => {
    const input: unknown = JSON.parse('{"data": {"source": "a.csv"}, "__proto__": {"model": "other"}}');
    expect(problemsOf(input)).toEqual([expect.stringMatching(/^__proto__: unknown key; known keys: preset, model/)]);
  });
});

describe('a wrong value is answered with what was got and what is allowed', () => {
  it.each([
    [{}, 'data.source: missing; give the path of a .csv, .jsonl or .parquet file'],
    [{ ...least, preset: 'fast' }, 'preset: got "fast"; must be quick, standard, thorough or low-memory'],
    [{ data: { source: '' } }, 'data.source: got ""; must be the path of a .csv, .jsonl or .parquet file'],
    [
      { data: { ...least.data, testFraction: 1 } },
      'data.testFraction: got 1; must be a number of at least 0 and below 1',
    ],
    [{ data: { ...least.data, skipInvalid: 'no' } }, 'data.skipInvalid: got "no"; must be true or false'],
    [{ ...least, training: { epochs: 0 } }, 'training.epochs: got 0; must be a whole number above 0'],
    [{ ...least, training: { epochs: 1.5 } }, 'training.epochs: got 1.5; must be a whole number above 0'],
    [{ ...least, training: { learningRate: '1e-4' } }, 'training.learningRate: got "1e-4"; must be a number above 0'],
    [{ ...least, training: { maxSteps: -1 } }, 'training.maxSteps: got -1; must be a whole number above 0 or null'],
    [
      { ...least, training: { earlyStopping: { metric: 'loss' } } },
      'training.earlyStopping.metric: got "loss"; must be an eval_* metric such as eval_loss or eval_rewards/accuracies',
    ],
    [{ ...least, method: 'lora' }, 'method: got "lora"; must be an object whose kind is lora or full'],
    [{ ...least, method: { kind: 'dora' } }, 'method.kind: got "dora"; must be lora or full'],
    [
      { ...least, method: { targetModules: 'q_proj' } },
      'method.targetModules: got "q_proj"; must be all-linear, or a list of module names such as ["q_proj", "v_proj"]',
    ],
    [{ ...least, method: { layers: [0, -1] } }, 'method.layers.1: got -1; must be a whole number of at least 0'],
    [
      { ...least, method: { layers: [] } },
      'method.layers: got []; must be a list of layer indices such as [28, 29], or null',
    ],
    [{ ...least, engine: { threads: 0 } }, 'engine.threads: got 0; must be auto or a whole number above 0'],
    [{ ...least, engine: { device: 'tpu' } }, 'engine.device: got "tpu"; must be auto, cpu, gpu or gpu:N'],
    [
      { ...least, orpo: null },
      'orpo: got null; must be an object with beta, disableDropout, nllScope and nllReduction',
    ],
    ['pairs.csv', 'config: got "pairs.csv"; must be one JSON object with at least data.source'],
    [[least], 'config: got [{"data":{"source":"pairs.csv"}}]; must be one JSON object with at least data.source'],
  ])('%j', (input, problem) => {
    expect(problemsOf(input)).toEqual([problem]);
  });

  it('cuts a long value to a line', () => {
    expect(problemsOf({ ...least, training: { epochs: 'x'.repeat(500) } })[0]).toHaveLength(
      'training.epochs: got '.length + 60 + '…; must be a whole number above 0'.length,
    );
  });
});

describe('a value that is planned says that it is not supported yet', () => {
  it.each([
    [{ method: { kind: 'vblora' } }, 'method.kind: got "vblora"; not supported yet; must be lora or full'],
    [{ method: { bias: 'all' } }, 'method.bias: got "all"; not supported yet; must be none'],
    [{ engine: { step: 'xla' } }, 'engine.step: got "xla"; not supported yet; must be auto or eager'],
    [{ engine: { baseDtype: 'int4' } }, 'engine.baseDtype: got "int4"; not supported yet; must be float32'],
    [{ engine: { memoryLimit: '8GB' } }, 'engine.memoryLimit: got "8GB"; not supported yet; must be null'],
    [{ engine: { requireExact: true } }, 'engine.requireExact: got true; not supported yet; must be false'],
    [{ limits: { awaitInputHours: 24 } }, 'limits.awaitInputHours: got 24; not supported yet; must be 0'],
    [{ limits: { maxHours: 8 } }, 'limits.maxHours: got 8; not supported yet; must be null'],
  ])('%j', (fields, problem) => {
    expect(problemsOf({ ...least, ...fields })).toEqual([problem]);
  });
});

describe('an impossible combination names both fields', () => {
  it.each([
    [
      { data: { ...least.data, validationFraction: 0.5, testFraction: 0.5 } },
      'data.validationFraction: got 0.5, which with data.testFraction 0.5 leaves no rows to train on; their sum must be below 1',
    ],
    [
      { data: { ...least.data, columns: { prompt: 'q', chosen: 'a', rejected: 'a' } } },
      'data.columns.rejected: got "a", which is data.columns.chosen too; each needs a column of its own',
    ],
    [
      { data: { ...least.data, columns: { chosen: 'prompt' } } },
      'data.columns.chosen: got "prompt", which is data.columns.prompt too; each needs a column of its own',
    ],
    [
      { data: { ...least.data, validationFraction: 0 }, training: { earlyStopping: {} } },
      'training.earlyStopping: needs held-out rows every epoch; set data.validationFraction above 0, or training.earlyStopping to null',
    ],
    [
      { ...least, training: { earlyStopping: { metric: 'eval_rewards/accuracies' } } },
      'training.earlyStopping.goal: got "min" for eval_rewards/accuracies, of which more is better; must be max',
    ],
    [
      { ...least, training: { earlyStopping: { metric: 'eval_nll_loss', goal: 'max' } } },
      'training.earlyStopping.goal: got "max" for eval_nll_loss, of which less is better; must be min',
    ],
    [
      { ...least, training: { warmupSteps: 11, maxSteps: 10 } },
      'training.warmupSteps: got 11, but training.maxSteps ends the run after 10; must be at most that',
    ],
    [
      { ...least, training: { batchSize: 4 }, engine: { microBatch: 8 } },
      'engine.microBatch: got 8, but a step has only training.batchSize 4 pairs; must be auto or at most that',
    ],
    [
      { ...least, method: { kind: 'full', rank: 8 } },
      'method.rank: belongs to kind "lora", got kind "full"; remove it, or set method.kind to "lora"',
    ],
  ])('%j', (input, problem) => {
    expect(problemsOf(input)).toEqual([problem]);
    // All but the last are rules between fields, which the schema itself carries too.
    if (!problem.startsWith('method.')) expect(runConfigSchema.safeParse(input).success).toBe(false);
  });
});

describe('all problems are reported together', () => {
  const broken = {
    epochs: 3,
    data: { soruce: 'a.csv', columns: { prompt: 'x', chosen: 'x' } },
    method: { kind: 'vblora', rank: 4 },
    training: { epochs: 0, warmupSteps: 5, maxSteps: 3 },
  };

  it('unknown keys, wrong values, missing fields and impossible combinations', () => {
    expect(problemsOf(broken).toSorted()).toEqual(
      [
        'data.source: missing; give the path of a .csv, .jsonl or .parquet file',
        'data.soruce: unknown key; did you mean "source"?',
        'data.columns.chosen: got "x", which is data.columns.prompt too; each needs a column of its own',
        'epochs: unknown key here; did you mean "training.epochs"?',
        'method.kind: got "vblora"; not supported yet; must be lora or full',
        'training.epochs: got 0; must be a whole number above 0',
        'training.warmupSteps: got 5, but training.maxSteps ends the run after 3; must be at most that',
      ].toSorted(),
    );
  });

  it('in a message with their count and a line each', () => {
    expect(() => resolveConfig(broken)).toThrow(/^config: 7 problems\n {2}- /);
    expect(() => resolveConfig({})).toThrow(/^config: 1 problem\n {2}- data\.source: missing/);
  });

  it('but a combination only where its fields are right by themselves', () => {
    const input = { ...least, training: { warmupSteps: 5, maxSteps: 0 } };
    expect(problemsOf(input)).toEqual(['training.maxSteps: got 0; must be a whole number above 0 or null']);
  });
});

describe('the published JSON Schema', () => {
  // Read back by another implementation of the keywords than the one that wrote it.
  const published = z.fromJSONSchema(configJsonSchema() as Parameters<typeof z.fromJSONSchema>[0]);
  const accepts = (input: unknown): boolean => published.safeParse(input).success;

  it.each([
    least,
    everything,
    { $schema: './run-config.schema.json', ...least },
    { ...least, method: { kind: 'full' } },
    { ...least, method: { kind: 'lora', targetModules: ['q_proj'], layers: [0, 29] } },
    { ...least, engine: { device: 'gpu:1', threads: 4, microBatch: 2 } },
    { ...least, training: { earlyStopping: { metric: 'eval_rewards/margins', goal: 'max' } } },
  ])('accepts what a run accepts: %j', (input) => {
    expect(problemsOf(input)).toEqual([]);
    expect(accepts(input)).toBe(true);
  });

  it.each([
    {},
    { ...least, modle: 'x' },
    { ...least, method: { kind: 'full', rank: 8 } },
    { ...least, engine: { device: 'tpu' } },
    { ...least, training: { epochs: 0 } },
    { ...least, limits: { maxHours: 8 } },
  ])('refuses what a run refuses: %j', (input) => {
    expect(problemsOf(input)).not.toEqual([]);
    expect(accepts(input)).toBe(false);
  });

  it('has a description for every field', () => {
    const missing: string[] = [];
    walk(configJsonSchema() as Node, '', (at, node) => {
      if (!node.description) missing.push(at);
    });
    // A method's own kind is documented once, at LoRA.
    expect(missing.filter((at) => at !== '.method.kind')).toEqual([]);
  });
});

interface Node {
  description?: string;
  properties?: Record<string, Node>;
  anyOf?: Node[];
  oneOf?: Node[];
}

function walk(node: Node, at: string, visit: (at: string, node: Node) => void): void {
  for (const inner of [...(node.anyOf ?? []), ...(node.oneOf ?? [])]) walk(inner, at, visit);
  for (const [key, inner] of Object.entries(node.properties ?? {})) {
    visit(`${at}.${key}`, inner);
    walk(inner, `${at}.${key}`, visit);
  }
}

describe('the example configs', () => {
  const folder = new URL('../../examples/', import.meta.url);
  const files = readdirSync(folder).filter((name) => name.endsWith('.json') && !name.endsWith('.schema.json'));

  it.each(files)('%s resolves, and names data that is there', (file) => {
    const { data } = resolveConfig(JSON.parse(readFileSync(new URL(file, folder), 'utf8')));
    expect(existsSync(new URL(data.source, folder))).toBe(true);
  });
});
