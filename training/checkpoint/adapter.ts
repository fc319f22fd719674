/**
 * Adapters in PEFT's file format (peft 0.21, utils/save_and_load.py): adapter_model.safetensors with names
 * `base_model.model.<module>.lora_A.weight` [R, in] and `…lora_B.weight` [out, R], and adapter_config.json with sorted
 * keys. Loading is strict: every tensor is used, none is missing, and what we do not compute (DoRA, rank patterns,
 * trained biases, …) is refused by name.
 */
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { RunConfig } from '../../shared/config.ts';
import { ModelInvalid, ModelNotFound } from '../../shared/errors.ts';
import type { ModelConfig } from '../model/config.ts';
import { linearModules, loraName, loraTargets } from '../model/lora-names.ts';
import { expectedTensors } from '../model/weights.ts';
import type { NamedArray, TrainState } from '../step/index.ts';
import { writeFileAtomic } from './atomic.ts';
import { openSafetensors, writeSafetensors } from './safetensors.ts';

export type LoraMethod = Extract<RunConfig['method'], { kind: 'lora' }>;

/** What of a run's method the adapter's files fix. */
export type AdapterShape = Pick<LoraMethod, 'rank' | 'alpha' | 'rsLora' | 'targetModules' | 'layers'>;

const WEIGHTS_FILE = 'adapter_model.safetensors';
const CONFIG_FILE = 'adapter_config.json';
const BASE_SHA256 = 'base_sha256';

/** The PEFT release whose format the files have. */
const PEFT_VERSION = '0.21.2';

/** PEFT's LoraConfig fields that we neither vary nor compute, at the only value that we read and write. */
const FIXED_FIELDS: Record<string, unknown> = {
  alora_invocation_tokens: null,
  alpha_pattern: {},
  arrow_config: null,
  auto_mapping: null,
  bias: 'none',
  corda_config: null,
  ensure_weight_tying: false,
  eva_config: null,
  exclude_modules: null,
  fan_in_fan_out: false,
  init_lora_weights: true,
  layer_replication: null,
  layers_pattern: null,
  loftq_config: {},
  lora_bias: false,
  megatron_config: null,
  megatron_core: 'megatron.core',
  modules_to_save: null,
  peft_type: 'LORA',
  qalora_group_size: 16,
  rank_pattern: {},
  target_parameters: null,
  task_type: 'CAUSAL_LM',
  trainable_token_indices: null,
  use_bdlora: null,
  use_dora: false,
  use_qalora: false,
};

/** Fields that, at another value than ours, would make the adapter compute something else. */
const REFUSED_FIELDS = [
  'alora_invocation_tokens',
  'alpha_pattern',
  'bias',
  'exclude_modules',
  'fan_in_fan_out',
  'layer_replication',
  'lora_bias',
  'modules_to_save',
  'peft_type',
  'rank_pattern',
  'target_parameters',
  'trainable_token_indices',
  'use_bdlora',
  'use_dora',
  'use_qalora',
];

/** Ways to start that leave the base's weights as they are; PiSSA, OLoRA, CorDA and LoftQ change them. */
const KNOWN_INITS: unknown[] = [undefined, null, true, false, 'gaussian', 'eva', 'orthogonal'];

/** Writes an adapter folder that PEFT loads.
 *  @param state - trained tensors under PEFT's names
 *  @param baseName - folder or hub id written as base_model_name_or_path
 *  @param baseSha256 - digest of the base's weights, kept in the file's metadata (PEFT passes over it) */
export async function saveAdapter(
  folder: string,
  {
    state,
    method,
    baseName,
    baseSha256,
  }: { state: Pick<TrainState, 'weights'>; method: LoraMethod; baseName: string; baseSha256?: string },
): Promise<void> {
  const shape = method.initFrom === null ? method : { ...method, ...(await readAdapterShape(method.initFrom)) };
  const config: Record<string, unknown> = {
    ...FIXED_FIELDS,
    base_model_name_or_path: baseName,
    inference_mode: true,
    layers_to_transform: shape.layers,
    lora_alpha: shape.alpha,
    lora_dropout: method.dropout,
    peft_version: PEFT_VERSION,
    r: shape.rank,
    revision: null,
    target_modules: Array.isArray(shape.targetModules) ? [...shape.targetModules].sort() : targetNames(state.weights),
    use_rslora: shape.rsLora,
  };
  const sorted = Object.fromEntries(Object.entries(config).sort(([a], [b]) => (a < b ? -1 : 1)));
  await mkdir(folder, { recursive: true });
  await writeSafetensors(
    join(folder, WEIGHTS_FILE),
    Object.entries(state.weights).map(([name, { shape: dims, data }]) => ({ name, dtype: 'F32', shape: dims, data })),
    { format: 'pt', ...(baseSha256 === undefined ? {} : { [BASE_SHA256]: baseSha256 }) },
  );
  await writeFileAtomic(join(folder, CONFIG_FILE), `${JSON.stringify(sorted, null, 2)}\n`);
}

/** Refuses an adapter that was trained on other base weights; one that does not say (PEFT's own) passes.
 *  @throws ModelInvalid with both digests */
export async function mustFitBase(folder: string, baseSha256: string): Promise<void> {
  const { metadata } = await openSafetensors(join(folder, WEIGHTS_FILE));
  const trainedOn = metadata[BASE_SHA256];
  if (trainedOn === undefined || trainedOn === baseSha256) return;
  throw new ModelInvalid(
    `${folder}: this adapter was trained on other base weights (sha256 ${trainedOn.slice(0, 12)}) than the run's model (${baseSha256.slice(0, 12)}); give the model it was trained on, or start without method.initFrom`,
  );
}

/** Last parts of the adapted modules' names, as PEFT writes them. */
function targetNames(weights: Record<string, NamedArray>): string[] {
  const names = Object.keys(weights).map((name) => /\.(\w+)\.lora_[AB]\.weight$/.exec(name)?.[1] ?? name);
  return [...new Set(names)].sort();
}

/** Rank, alpha and targets of an adapter folder, which hold when a run starts from it.
 *  @throws ModelNotFound, ModelInvalid naming every field that is not supported */
export async function readAdapterShape(folder: string): Promise<AdapterShape> {
  const path = join(folder, CONFIG_FILE);
  const fields = await readFields(path, folder);
  const problems: string[] = [];
  for (const name of REFUSED_FIELDS) {
    const value = fields[name];
    if (value === undefined || isUnset(value, FIXED_FIELDS[name])) continue;
    problems.push(`${name} is ${JSON.stringify(value)}; supported is ${JSON.stringify(FIXED_FIELDS[name])}`);
  }
  if (!KNOWN_INITS.includes(fields['init_lora_weights'])) {
    const value = JSON.stringify(fields['init_lora_weights']);
    problems.push(`init_lora_weights is ${value}, which changes the base's weights too; supported is true`);
  }
  const number = (name: string, integer: boolean): number => {
    const value = fields[name];
    if (typeof value === 'number' && value > 0 && (!integer || Number.isInteger(value))) return value;
    problems.push(`${name} is ${JSON.stringify(value) ?? 'missing'}; expected a positive number`);
    return 1;
  };
  const shape: AdapterShape = {
    rank: number('r', true),
    alpha: number('lora_alpha', false),
    rsLora: fields['use_rslora'] === true,
    targetModules: targetsOf(fields['target_modules'], problems),
    layers: layersOf(fields['layers_to_transform'], problems),
  };
  if (problems.length > 0) {
    throw new ModelInvalid(`${path}: not an adapter we compute\n${problems.map((p) => `  - ${p}`).join('\n')}`, {
      problems,
    });
  }
  return shape;
}

async function readFields(path: string, folder: string): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw new ModelNotFound(`${folder}: no readable ${CONFIG_FILE}; expected a PEFT adapter folder`, { cause });
  }
  try {
    const fields: unknown = JSON.parse(text);
    if (typeof fields === 'object' && fields !== null && !Array.isArray(fields))
      return fields as Record<string, unknown>;
  } catch (cause) {
    throw new ModelInvalid(`${path}: not JSON; the file is damaged, save the adapter again`, { cause });
  }
  throw new ModelInvalid(`${path}: not a JSON object; the file is damaged, save the adapter again`);
}

/** Equal to ours, or one of the ways in which releases of PEFT write "not set". */
function isUnset(value: unknown, ours: unknown): boolean {
  if (JSON.stringify(value) === JSON.stringify(ours)) return true;
  if (typeof ours === 'string') return false;
  return value === null || (typeof value === 'object' && Object.keys(value).length === 0);
}

function targetsOf(value: unknown, problems: string[]): AdapterShape['targetModules'] {
  if (value === 'all-linear') return value;
  if (Array.isArray(value) && value.length > 0 && value.every((name) => typeof name === 'string')) return value;
  problems.push(
    `target_modules is ${JSON.stringify(value) ?? 'missing'}; supported are "all-linear" and a list of names`,
  );
  return 'all-linear';
}

function layersOf(value: unknown, problems: string[]): number[] | null {
  if (value === null || value === undefined) return null;
  const layers: unknown[] = Array.isArray(value) ? value : [value];
  if (layers.every((layer) => Number.isInteger(layer))) return layers as number[];
  problems.push(`layers_to_transform is ${JSON.stringify(value)}; expected layer indices`);
  return null;
}

/** Reads an adapter's tensors, all of them and no others.
 *  @returns its shape and its tensors under PEFT's names
 *  @throws ModelNotFound, ModelInvalid listing every tensor that is missing, unexpected or of another shape */
export async function loadAdapter(
  folder: string,
  modelConfig: ModelConfig,
): Promise<{ shape: AdapterShape; weights: Record<string, NamedArray> }> {
  const shape = await readAdapterShape(folder);
  const file = await openSafetensors(join(folder, WEIGHTS_FILE));
  const expected = adapterTensors(shape, modelConfig);
  const problems = Object.entries(expected).flatMap(([name, dims]) => {
    const found = file.entries.get(name)?.shape;
    if (!found) return [`missing: ${name} [${dims.join(', ')}]`];
    return found.join() === dims.join()
      ? []
      : [`wrong shape: ${name} is [${found.join(', ')}], the base and ${CONFIG_FILE} ask for [${dims.join(', ')}]`];
  });
  problems.push(...file.names.filter((name) => !Object.hasOwn(expected, name)).map((name) => `unexpected: ${name}`));
  if (problems.length > 0) {
    const shown = problems.slice(0, 20).map((p) => `  - ${p}`);
    if (problems.length > 20) shown.push(`  - and ${problems.length - 20} more`);
    throw new ModelInvalid(
      `${file.path}: does not fit the base model and ${CONFIG_FILE}; every tensor must be used and none missing\n${shown.join('\n')}`,
      { problems },
    );
  }
  const weights: Record<string, NamedArray> = {};
  for (const [name, dims] of Object.entries(expected)) {
    weights[name] = { shape: dims, data: await file.readFloat32(name) };
  }
  return { shape, weights };
}

/** Names and shapes of an adapter's tensors.
 *  @throws ConfigInvalid for targets or layers that the model does not have */
export function adapterTensors(shape: AdapterShape, modelConfig: ModelConfig): Record<string, number[]> {
  const base = expectedTensors(modelConfig);
  const modules = loraTargets(linearModules(modelConfig.num_hidden_layers), shape.targetModules, shape.layers);
  return Object.fromEntries(
    modules.flatMap((module): [string, number[]][] => {
      const [outFeatures = 0, inFeatures = 0] = base[`${module}.weight`] ?? [];
      return [
        [loraName(module, 'A'), [shape.rank, inFeatures]],
        [loraName(module, 'B'), [outFeatures, shape.rank]],
      ];
    }),
  );
}
