/**
 * A run's config, as everybody else sees it: from untrusted JSON to a full config, with presets under the given fields.
 * Fields are defined in config-schema.ts, and nowhere else.
 */
import { z } from 'zod';
import { problemLines, shown, type ConfigNode } from './config-problems.ts';
import { impossibleCombinations } from './config-rules.ts';
import { runConfigShape, type RunConfig } from './config-schema.ts';
import { ConfigInvalid } from './errors.ts';

export type { RunConfig, RunConfigInput } from './config-schema.ts';

type Plain = { [key: string]: unknown };
type Issue = z.core.$ZodIssue;

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

/** Fields and what must hold between them. */
export const runConfigSchema = runConfigShape.superRefine((config, context) => {
  for (const { fields, message } of impossibleCombinations(config)) {
    context.addIssue({ code: 'custom', path: fields[0]?.split('.') ?? [], message });
  }
});

/** Resolves untrusted JSON into a full config: preset under the given fields, defaults under both.
 *  @param input - anything; @throws ConfigInvalid listing every problem with its path, what was got and what is allowed */
export function resolveConfig(input: unknown): RunConfig {
  if (!isPlain(input)) {
    const problem = `config: got ${shown(input)}; must be one JSON object with at least data.source`;
    throw new ConfigInvalid(problem, { problems: [problem] });
  }
  const merged = withPreset(input);
  const parsed = runConfigShape.safeParse(merged);
  const issues = parsed.error?.issues ?? [];
  const problems = [
    ...issues.flatMap((issue) => problemLines(issue, annotatedSchema(), merged)),
    ...clashes(parsed.data ?? withoutWrong(merged, issues), issues),
  ];
  if (parsed.success && problems.length === 0) return parsed.data;
  const count = `${problems.length} ${problems.length === 1 ? 'problem' : 'problems'}`;
  throw new ConfigInvalid(`config: ${count}\n${problems.map((problem) => `  - ${problem}`).join('\n')}`, { problems });
}

/** Impossible combinations among the fields that are right by themselves. */
function clashes(config: RunConfig | null, issues: Issue[]): string[] {
  if (config === null) return [];
  const wrong = issues.flatMap(wrongPaths).map((path) => path.join('.'));
  const isWrong = (field: string): boolean => wrong.some((path) => field === path || field.startsWith(`${path}.`));
  return impossibleCombinations(config)
    .filter(({ fields }) => !fields.some(isWrong))
    .map(({ fields, message }) => `${fields[0]}: ${message}`);
}

/** The config with defaults in place of what is wrong; null where that leaves no config. */
function withoutWrong(merged: Plain, issues: Issue[]): RunConfig | null {
  const rest = structuredClone(merged);
  for (const path of issues.flatMap(wrongPaths)) remove(rest, path);
  return runConfigShape.safeParse(merge({ data: { source: 'missing' } }, withLoraAsKind(rest))).data ?? null;
}

function wrongPaths(issue: Issue): PropertyKey[][] {
  return issue.code === 'unrecognized_keys' ? issue.keys.map((key) => [...issue.path, key]) : [issue.path];
}

function remove(from: Plain, path: readonly PropertyKey[]): void {
  const parent = path.slice(0, -1).reduce<unknown>((node, key) => (node as Plain | undefined)?.[String(key)], from);
  const last = path.at(-1);
  if (isPlain(parent) && last !== undefined) delete parent[String(last)];
}

function withPreset(input: Plain): Plain {
  const preset = input['preset'] === undefined ? 'standard' : input['preset'];
  const under =
    typeof preset === 'string' && Object.hasOwn(PRESETS, preset) ? PRESETS[preset as RunConfig['preset']] : {};
  // Editors find the JSON Schema by this key; it says nothing about the run.
  const { $schema: _schema, ...fields } = input;
  const given = withLoraAsKind(fields);
  return merge(merge({ data: {} }, fittingPreset(under, given)), given);
}

function withLoraAsKind(input: Plain): Plain {
  const { method } = input;
  return isPlain(method) && !('kind' in method) ? { ...input, method: { kind: 'lora', ...method } } : input;
}

/** A preset without what says nothing here: LoRA fields for another method, a warm-up longer than the given maxSteps. */
function fittingPreset(preset: Plain, given: Plain): Plain {
  const { method, training, ...rest } = preset as Record<string, Plain | undefined>;
  const keepMethod = given['method'] === undefined || (isPlain(given['method']) && given['method']['kind'] === 'lora');
  const maxSteps = isPlain(given['training']) ? given['training']['maxSteps'] : null;
  const { warmupSteps, ...others } = training ?? {};
  const keepWarmup = warmupSteps !== undefined && !(typeof maxSteps === 'number' && Number(warmupSteps) > maxSteps);
  return {
    ...rest,
    ...(method && keepMethod ? { method } : {}),
    ...(training ? { training: keepWarmup ? training : others } : {}),
  };
}

function merge(under: Plain, over: Plain): Plain {
  const entries = new Map(Object.entries(under));
  for (const [key, value] of Object.entries(over)) {
    const below = entries.get(key);
    entries.set(key, isPlain(below) && isPlain(value) ? merge(below, value) : value);
  }
  return Object.fromEntries(entries);
}

function isPlain(value: unknown): value is Plain {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** JSON Schema (2020-12) of what a user may write. */
export function configJsonSchema(): object {
  const schema = z.toJSONSchema(runConfigShape, {
    io: 'input',
    override: ({ jsonSchema }) => {
      const { unit, allowed, description } = jsonSchema as ConfigNode;
      const words = [description, allowed && `Allowed: ${allowed}.`, unit && `Unit: ${unit}.`];
      const text = words.filter(Boolean).join(' ');
      if (text) jsonSchema.description = text;
      for (const annotation of ['unit', 'allowed', 'later']) delete jsonSchema[annotation];
    },
  });
  const $schema = { type: 'string', description: 'Where this schema stands, for editors.' } as const;
  return { ...schema, title: 'Run config', properties: { $schema, ...schema.properties } };
}

let annotated: ConfigNode | null = null;

/** The same with `unit`, `allowed` and `later` of each field, for messages and documentation. */
export function annotatedSchema(): ConfigNode {
  annotated ??= z.toJSONSchema(runConfigShape, { io: 'input' }) as ConfigNode;
  return annotated;
}
