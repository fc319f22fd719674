/**
 * The fields of a run's config: defaults, units, limits and one line of documentation each. Types, the JSON Schema,
 * docs/configuration.md and every message are made from these. Hyperparameter names follow Hugging Face TRL and PEFT.
 * In `meta`, `unit` is what a number counts, `allowed` words what a bare type cannot say, and `later` names values that
 * are planned and refused so far (true: every value but the default).
 */
import { z } from 'zod';

const fraction = z.number().min(0).lt(1);
const positiveInt = z.number().int().positive();
const wholeNumber = z.number().int().nonnegative();
const name = z.string().min(1);

const columns = z.strictObject({
  prompt: name.default('prompt').meta({ description: 'Column of the prompts.' }),
  chosen: name.default('chosen').meta({ description: 'Column of the preferred answers.' }),
  rejected: name.default('rejected').meta({ description: 'Column of the other answers.' }),
});

const data = z.strictObject({
  source: name.meta({
    description: 'File of preference pairs.',
    allowed: 'the path of a .csv, .jsonl or .parquet file',
  }),
  columns: columns.prefault({}).meta({ description: 'Names of the three columns.' }),
  promptFormat: z.enum(['auto', 'chat', 'plain']).default('auto').meta({
    description:
      "`chat` renders the tokenizer's chat template, `plain` uses the text as it is; `auto` is chat where there is a template.",
  }),
  skipInvalid: z
    .boolean()
    .default(false)
    .meta({ description: 'Drop bad rows (listed in the report) instead of failing.' }),
  validationFraction: fraction.default(0.1).meta({ description: 'Share of prompts for the metrics of every epoch.' }),
  testFraction: fraction.default(0.1).meta({ description: 'Share of prompts for the comparison before and after.' }),
  splitSeed: wholeNumber.default(42).meta({ description: 'Seed of the split by prompt hash.' }),
  maxPromptLength: positiveInt.default(512).meta({ description: 'Longest prompt.', unit: 'tokens' }),
  maxCompletionLength: positiveInt
    .default(1024)
    .meta({ description: 'Longest answer, its end token included.', unit: 'tokens' }),
  overlength: z.enum(['drop', 'truncate', 'error']).default('drop').meta({
    description:
      'Rows past the limits: dropped and listed, cut (prompt from its start, answer from its end), or an error.',
  }),
  compat: z
    .enum(['none', 'trl'])
    .default('none')
    .meta({ description: '`trl`: token for token what TRL 1.16.0 makes of the same rows.' }),
});

const lora = z.strictObject({
  kind: z.literal('lora').meta({
    description: '`lora` trains adapters beside frozen weights; `full` trains all weights.',
    later: ['vblora'],
  }),
  rank: positiveInt.default(16).meta({ description: "Inner size of an adapter's two matrices." }),
  alpha: z.number().positive().default(32).meta({ description: 'Numerator of the adapter scale, alpha/rank.' }),
  targetModules: z
    .union([z.literal('all-linear'), z.array(name).min(1)])
    .default('all-linear')
    .meta({
      description: 'Projections that get an adapter; `all-linear` is every one but the output layer.',
      allowed: 'all-linear, or a list of module names such as ["q_proj", "v_proj"]',
    }),
  initFrom: name
    .nullable()
    .default(null)
    .meta({ description: 'Adapter to start from.', allowed: 'the path of a PEFT adapter folder, or null' }),
  dropout: fraction
    .default(0)
    .meta({ description: "On the adapter's input; off while `orpo.disableDropout` is true." }),
  rsLora: z.boolean().default(false).meta({ description: 'Scale by alpha/√rank instead of alpha/rank.' }),
  bias: z
    .enum(['none'])
    .default('none')
    .meta({ description: 'Which bias vectors train.', later: ['all', 'lora_only'] }),
  layers: z.array(wholeNumber).min(1).nullable().default(null).meta({
    description: 'Decoder layers that get adapters; null is all of them.',
    allowed: 'a list of layer indices such as [28, 29], or null',
  }),
});

const full = z.strictObject({ kind: z.literal('full') });

const method = z.discriminatedUnion('kind', [lora, full]);

const orpo = z.strictObject({
  beta: z.number().positive().default(0.1).meta({ description: 'Weight of the odds-ratio term (λ in the paper).' }),
  disableDropout: z.boolean().default(true).meta({ description: 'Train without dropout, as TRL does by default.' }),
  nllScope: z
    .enum(['prompt+completion', 'completion'])
    .default('prompt+completion')
    .meta({ description: 'Tokens of the chosen row that the NLL counts.' }),
  nllReduction: z.enum(['token', 'micro-batch', 'sequence']).default('token').meta({
    description:
      "`token`: one mean over the step; `micro-batch`: TRL's mean of means; `sequence`: mean of per-row means.",
  }),
});

const earlyStopping = z.strictObject({
  metric: z
    .string()
    .regex(/^eval_/)
    .default('eval_loss')
    .meta({
      description: 'Held-out metric to watch.',
      allowed: 'an eval_* metric such as eval_loss or eval_rewards/accuracies',
    }),
  goal: z.enum(['min', 'max']).default('min').meta({ description: 'Whether less or more of it is better.' }),
  patience: positiveInt
    .default(2)
    .meta({ description: 'Evaluations without improvement before training stops.', unit: 'epochs' }),
  minDelta: z.number().nonnegative().default(0).meta({ description: 'Smaller changes do not count as improvement.' }),
});

const training = z.strictObject({
  epochs: positiveInt.default(3).meta({ description: 'Passes over the training split.', unit: 'epochs' }),
  maxSteps: positiveInt
    .nullable()
    .default(null)
    .meta({ description: 'End after this many steps.', unit: 'optimiser steps' }),
  batchSize: positiveInt.default(8).meta({ description: 'Pairs of one optimiser step.', unit: 'pairs' }),
  learningRate: z
    .number()
    .positive()
    .default(1e-4)
    .meta({ description: 'Highest learning rate, reached after warm-up.' }),
  schedule: z
    .enum(['linear', 'cosine', 'constant', 'inverse_sqrt'])
    .default('linear')
    .meta({ description: 'How the learning rate falls after warm-up.' }),
  warmupSteps: wholeNumber
    .default(0)
    .meta({ description: 'Steps over which the learning rate rises from 0.', unit: 'optimiser steps' }),
  weightDecay: z.number().nonnegative().default(0).meta({ description: "AdamW's decoupled weight decay." }),
  maxGradNorm: z
    .number()
    .positive()
    .nullable()
    .default(1.0)
    .meta({ description: 'Gradient clipping by global norm; null is off.' }),
  seed: wholeNumber.default(42).meta({ description: 'Seed of initial adapters, data order and dropout.' }),
  checkpointEverySteps: positiveInt
    .default(50)
    .meta({ description: 'Checkpoint after this many steps …', unit: 'optimiser steps' }),
  checkpointEverySeconds: z
    .number()
    .positive()
    .default(120)
    .meta({ description: '… or this much time, whichever comes first.', unit: 'seconds' }),
  earlyStopping: earlyStopping
    .nullable()
    .default(null)
    .meta({ description: 'Stop when a held-out metric no longer improves; null trains all epochs.' }),
});

const engine = z.strictObject({
  device: z
    .string()
    .regex(/^(auto|cpu|gpu|gpu:\d+)$/)
    .default('auto')
    .meta({
      description: 'Where training runs; `auto` is the GPU where there is one.',
      allowed: 'auto, cpu, gpu or gpu:N',
    }),
  step: z
    .enum(['auto', 'eager'])
    .default('auto')
    .meta({ description: 'How a training step runs.', later: ['graph', 'xla'] }),
  precision: z
    .enum(['auto', 'float32'])
    .default('auto')
    .meta({ description: 'Number format of the computation.', later: ['bfloat16', 'float16'] }),
  baseDtype: z
    .enum(['float32'])
    .default('float32')
    .meta({ description: 'How the frozen base is stored in memory.', later: ['bfloat16', 'int8', 'int4'] }),
  threads: z
    .union([z.literal('auto'), positiveInt])
    .default('auto')
    .meta({ description: "The trainer's threads; `auto` is the worker's cores.", unit: 'threads' }),
  microBatch: z
    .union([z.literal('auto'), positiveInt])
    .default('auto')
    .meta({
      description:
        'Pairs computed at once; changes memory and speed, and the result only with `nllReduction` `micro-batch`.',
      unit: 'pairs',
    }),
  memoryLimit: z
    .null()
    .default(null)
    .meta({ description: 'Most memory a trainer may take; null is no limit.', later: true }),
  requireExact: z.literal(false).default(false).meta({
    description: 'Refuse to resume where the result could differ from that of an undisturbed run.',
    later: true,
  }),
});

const limits = z.strictObject({
  heartbeatSeconds: z
    .number()
    .min(5)
    .default(60)
    .meta({ description: 'A worker silent for this long is given up.', unit: 'seconds' }),
  retryMaxSeconds: z
    .number()
    .positive()
    .default(10)
    .meta({ description: 'Longest wait between attempts.', unit: 'seconds' }),
  noProgressAttempts: positiveInt
    .default(10)
    .meta({ description: 'Attempts that may fail in a row without a new checkpoint.', unit: 'attempts' }),
  awaitInputHours: z
    .literal(0)
    .default(0)
    .meta({ description: 'How long a failed run waits for a decision; 0 fails at once.', unit: 'hours', later: true }),
  maxHours: z.null().default(null).meta({ description: 'Longest run; null is no limit.', unit: 'hours', later: true }),
});

/** All fields by themselves; config-rules.ts has what must hold between them. */
export const runConfigShape = z.strictObject({
  preset: z
    .enum(['quick', 'standard', 'thorough', 'low-memory'])
    .default('standard')
    .meta({ description: 'A set of defaults; every field given overrides it.' }),
  model: name.default('smollm2-135m-instruct').meta({
    description: 'The base model.',
    allowed: 'a preset such as smollm2-135m-instruct, a hub id, the path of a Hugging Face folder or of a .gguf file',
  }),
  data: data.meta({ description: 'Where the pairs come from and how they become tokens.' }),
  method: method.prefault({ kind: 'lora' }).meta({
    description: 'Which weights train: adapters beside frozen ones (LoRA), or all of them.',
    allowed: 'an object whose kind is lora or full',
  }),
  orpo: orpo.prefault({}).meta({ description: 'The loss.' }),
  training: training.prefault({}).meta({ description: 'The loop: steps, learning rate, checkpoints.' }),
  engine: engine.prefault({}).meta({ description: 'How the computation is done on the machine.' }),
  limits: limits.prefault({}).meta({ description: 'Patience with workers and failures.' }),
  ifExists: z.enum(['continue', 'new', 'error']).default('continue').meta({
    description: 'What to do when the output holds a run: continue the same one, take the next free name, or refuse.',
  }),
  output: name.default('runs/{workflowId}').meta({
    description: "Folder of the run's files; `{workflowId}` and `{date}` expand.",
    allowed: 'the path of a folder',
  }),
});

export type RunConfig = z.output<typeof runConfigShape>;
export type RunConfigInput = z.input<typeof runConfigShape>;
