/**
 * The only definition of a run's config: fields, defaults, units, limits and one line of documentation each. The JSON
 * Schema, docs/configuration.md and the types are made from it. Hyperparameter names follow Hugging Face TRL and PEFT.
 */
import { z } from 'zod';
import { ConfigInvalid } from './errors.ts';

const fraction = z.number().min(0).lt(1);
const positiveInt = z.number().int().positive();

const data = z.strictObject({
  source: z.string().min(1).describe('File of preference pairs: .csv, .jsonl or .parquet.'),
  columns: z
    .strictObject({
      prompt: z.string().min(1).default('prompt'),
      chosen: z.string().min(1).default('chosen'),
      rejected: z.string().min(1).default('rejected'),
    })
    .prefault({})
    .describe('Names of the three columns.'),
  promptFormat: z
    .enum(['auto', 'chat', 'plain'])
    .default('auto')
    .describe(
      "`chat` renders the tokenizer's chat template, `plain` uses the text as it is; `auto` is chat where there is a template.",
    ),
  skipInvalid: z.boolean().default(false).describe('Drop bad rows (listed in the report) instead of failing.'),
  validationFraction: fraction.default(0.1).describe('Share of prompts for the metrics of every epoch.'),
  testFraction: fraction.default(0.1).describe('Share of prompts for the comparison before and after.'),
  splitSeed: z.number().int().nonnegative().default(42).describe('Seed of the split by prompt hash.'),
  maxPromptLength: positiveInt.default(512).describe('Tokens.'),
  maxCompletionLength: positiveInt.default(1024).describe('Tokens, end token included.'),
  overlength: z
    .enum(['drop', 'truncate', 'error'])
    .default('drop')
    .describe(
      'Rows past the limits: dropped and listed, cut (prompt from its start, answer from its end), or an error.',
    ),
  compat: z
    .enum(['none', 'trl'])
    .default('none')
    .describe('`trl`: token for token what TRL 1.16.0 makes of the same rows.'),
});

const targetModules = z
  .union([z.literal('all-linear'), z.array(z.string().min(1)).min(1)])
  .default('all-linear')
  .describe('Module names (`q_proj`, …) or `all-linear` (every projection but the output layer).');

const lora = z.strictObject({
  kind: z.literal('lora'),
  rank: positiveInt.default(16),
  alpha: z.number().positive().default(32),
  targetModules,
  initFrom: z.string().min(1).nullable().default(null).describe('PEFT adapter folder to start from.'),
  dropout: fraction.default(0).describe('On the adapter input; off while `orpo.disableDropout` is true.'),
  rsLora: z.boolean().default(false).describe('Scale by alpha/√rank instead of alpha/rank.'),
  bias: z.enum(['none']).default('none'),
  layers: z.array(z.number().int().nonnegative()).nullable().default(null).describe('Layer indices; null is all.'),
});

const full = z.strictObject({ kind: z.literal('full') });

const method = z.discriminatedUnion('kind', [lora, full]);

const orpo = z.strictObject({
  beta: z.number().positive().default(0.1).describe('Weight of the odds-ratio term (λ in the paper).'),
  disableDropout: z.boolean().default(true),
  nllScope: z
    .enum(['prompt+completion', 'completion'])
    .default('prompt+completion')
    .describe('Tokens of the chosen row that the NLL counts.'),
  nllReduction: z
    .enum(['token', 'micro-batch', 'sequence'])
    .default('token')
    .describe(
      "`token`: one mean over the step; `micro-batch`: TRL's mean of means; `sequence`: mean of per-row means.",
    ),
});

const training = z.strictObject({
  epochs: positiveInt.default(3),
  maxSteps: positiveInt.nullable().default(null).describe('Stop after this many optimiser steps.'),
  batchSize: positiveInt.default(8).describe('Pairs per optimiser step.'),
  learningRate: z.number().positive().default(1e-4),
  schedule: z.enum(['linear', 'cosine', 'constant', 'inverse_sqrt']).default('linear'),
  warmupSteps: z.number().int().nonnegative().default(0),
  weightDecay: z.number().nonnegative().default(0),
  maxGradNorm: z.number().positive().nullable().default(1.0).describe('Gradient clipping by global norm; null is off.'),
  seed: z.number().int().nonnegative().default(42),
  checkpointEverySteps: positiveInt.default(50),
  checkpointEverySeconds: z.number().positive().default(120),
  earlyStopping: z
    .strictObject({
      metric: z
        .string()
        .regex(/^eval_/, 'must name an eval_* metric')
        .default('eval_loss'),
      goal: z.enum(['min', 'max']).default('min'),
      patience: positiveInt.default(2).describe('Epochs without improvement.'),
      minDelta: z.number().nonnegative().default(0),
    })
    .nullable()
    .default(null),
});

const engine = z.strictObject({
  device: z
    .string()
    .regex(/^(auto|cpu|gpu|gpu:\d+)$/, 'must be auto, cpu, gpu or gpu:N')
    .default('auto'),
  step: z.enum(['auto', 'eager']).default('auto').describe('How a training step runs.'),
  precision: z.enum(['auto', 'float32']).default('auto'),
  baseDtype: z.enum(['float32']).default('float32').describe('How the frozen base is stored in memory.'),
  threads: z
    .union([z.literal('auto'), positiveInt])
    .default('auto')
    .describe("Trainer's thread count; auto is the cores."),
  microBatch: z
    .union([z.literal('auto'), positiveInt])
    .default('auto')
    .describe('Pairs computed at once.'),
});

const limits = z.strictObject({
  heartbeatSeconds: z.number().min(5).default(60).describe('A worker silent for this long is given up.'),
  retryMaxSeconds: z.number().positive().default(10).describe('Longest wait between attempts.'),
  noProgressAttempts: positiveInt.default(10).describe('Failed attempts without a new checkpoint before NoProgress.'),
});

export const runConfigSchema = z
  .strictObject({
    preset: z
      .enum(['quick', 'standard', 'thorough', 'low-memory'])
      .default('standard')
      .describe('A set of defaults; every field given overrides it.'),
    model: z.string().min(1).default('smollm2-135m-instruct').describe('Preset, hub id, folder or .gguf file.'),
    data,
    method: method.prefault({ kind: 'lora' }),
    orpo: orpo.prefault({}),
    training: training.prefault({}),
    engine: engine.prefault({}),
    limits: limits.prefault({}),
    ifExists: z
      .enum(['continue', 'new', 'error'])
      .default('continue')
      .describe('What to do when the output holds a run: continue the same one, take the next free name, or refuse.'),
    output: z.string().min(1).default('runs/{workflowId}').describe('Folder; `{workflowId}` and `{date}` expand.'),
  })
  .superRefine((config, context) => {
    const { validationFraction, testFraction } = config.data;
    if (validationFraction + testFraction >= 1) {
      context.addIssue({
        code: 'custom',
        path: ['data'],
        message: `validationFraction ${validationFraction} + testFraction ${testFraction} leaves no rows to train on; their sum must be below 1`,
      });
    }
    if (config.training.earlyStopping && validationFraction === 0) {
      context.addIssue({
        code: 'custom',
        path: ['training', 'earlyStopping'],
        message: 'needs held-out rows every epoch; set data.validationFraction above 0',
      });
    }
  });

export type RunConfig = z.output<typeof runConfigSchema>;
export type RunConfigInput = z.input<typeof runConfigSchema>;

type Plain = { [key: string]: unknown };

/** What each preset changes against the field defaults. `standard` is the defaults themselves. */
export const PRESETS: Record<RunConfig['preset'], Plain> = {
  quick: { training: { epochs: 1, learningRate: 5e-4, warmupSteps: 3 } },
  standard: {},
  thorough: {
    method: { kind: 'lora', rank: 32, alpha: 64 },
    training: { epochs: 5, learningRate: 1e-4, schedule: 'cosine', warmupSteps: 20 },
  },
  'low-memory': {
    method: { kind: 'lora', rank: 8, alpha: 16 },
    engine: { microBatch: 1 },
    data: { maxPromptLength: 256, maxCompletionLength: 256 },
  },
};

/** Resolves untrusted JSON into a full config: preset under the given fields, defaults under both.
 *  @param input - anything; @throws ConfigInvalid listing every problem with its path and, for unknown keys, the nearest known one */
export function resolveConfig(input: unknown): RunConfig {
  if (!isPlain(input)) {
    throw new ConfigInvalid(`config: expected one JSON object, got ${describe(input)}`, {
      problems: ['not an object'],
    });
  }
  const parsed = runConfigSchema.safeParse(withPreset(input));
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.flatMap((issue) => problemLines(issue));
  throw new ConfigInvalid(
    `config: ${problems.length} ${problems.length === 1 ? 'problem' : 'problems'}\n` +
      problems.map((p) => `  - ${p}`).join('\n'),
    { problems },
  );
}

function withPreset(input: Plain): Plain {
  const preset = input['preset'] === undefined ? 'standard' : input['preset'];
  const under =
    typeof preset === 'string' && Object.hasOwn(PRESETS, preset) ? PRESETS[preset as RunConfig['preset']] : {};
  const given =
    isPlain(input['method']) && !('kind' in input['method'])
      ? { ...input, method: { kind: 'lora', ...input['method'] } }
      : input;
  const givenMethod = given['method'];
  // A preset's LoRA fields say nothing about another method.
  const keepMethod = givenMethod === undefined || (isPlain(givenMethod) && givenMethod['kind'] === 'lora');
  const { method: presetMethod, ...rest } = under;
  return merge(keepMethod && presetMethod ? { ...rest, method: presetMethod } : rest, given);
}

function merge(under: Plain, over: Plain): Plain {
  const result: Plain = { ...under };
  for (const [key, value] of Object.entries(over)) {
    const below = result[key];
    result[key] = isPlain(below) && isPlain(value) ? merge(below, value) : value;
  }
  return result;
}

function isPlain(value: unknown): value is Plain {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function describe(value: unknown): string {
  return value === null ? 'null' : Array.isArray(value) ? 'an array' : typeof value;
}

function problemLines(issue: z.core.$ZodIssue): string[] {
  const at = issue.path.length > 0 ? issue.path.join('.') : 'config';
  if (issue.code === 'unrecognized_keys') {
    const known = knownKeys(issue.path);
    return issue.keys.map((key) => {
      const near = nearest(key, known);
      const path = [...issue.path, key].join('.');
      return `${path}: unknown key${near ? `; did you mean "${near}"?` : `; known keys: ${known.join(', ')}`}`;
    });
  }
  return [`${at}: ${issue.message}`];
}

/** Keys allowed at a path, read from the JSON Schema so that there is one list. */
function knownKeys(path: PropertyKey[]): string[] {
  let nodes: JsonSchema[] = [configJsonSchema() as JsonSchema];
  for (const step of path) {
    nodes = nodes.flatMap(alternatives).flatMap((node) => node.properties?.[String(step)] ?? []);
  }
  return [...new Set(nodes.flatMap(alternatives).flatMap((node) => Object.keys(node.properties ?? {})))];
}

interface JsonSchema {
  properties?: Record<string, JsonSchema>;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
}

function alternatives(node: JsonSchema): JsonSchema[] {
  const inner = [...(node.anyOf ?? []), ...(node.oneOf ?? [])];
  return inner.length > 0 ? inner.flatMap(alternatives) : [node];
}

/** JSON Schema (2020-12) of what a user may write. */
export function configJsonSchema(): object {
  return z.toJSONSchema(runConfigSchema, { io: 'input' });
}

function nearest(key: string, known: string[]): string | null {
  const ranked = known.map((name) => ({ name, distance: editDistance(key.toLowerCase(), name.toLowerCase()) }));
  ranked.sort((a, b) => a.distance - b.distance);
  const best = ranked[0];
  return best && best.distance <= Math.max(2, Math.floor(key.length / 3)) ? best.name : null;
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitution, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
