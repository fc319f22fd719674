/**
 * A model's config.json: the Llama family's fields under their Hugging Face names, with transformers' defaults
 * (models/llama/configuration_llama.py). What the decoder does not compute is refused here, by name, before any weight is
 * read. Both forms of RoPE's base are read: `rope_theta` (transformers 4) and `rope_parameters.rope_theta` (5).
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ModelInvalid, ModelNotFound } from '../../shared/errors.ts';

export interface ModelConfig {
  model_type: 'llama';
  vocab_size: number;
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim: number;
  max_position_embeddings: number;
  rms_norm_eps: number;
  rope_theta: number;
  tie_word_embeddings: boolean;
  bos_token_id: number | null;
  /** Generation ends at any of these. */
  eos_token_id: number | number[] | null;
  pad_token_id: number | null;
}

type Fields = Record<string, unknown>;

/** Reads and checks `config.json` of a model folder.
 *  @throws ModelNotFound when it is not there; ModelInvalid listing every problem */
export async function readModelConfig(folder: string): Promise<ModelConfig> {
  const path = join(folder, 'config.json');
  const fields = await readFields(path, folder);
  checkArchitecture(fields, path);
  const problems = unsupported(fields);
  const config = parseFields(fields, problems);
  if (problems.length > 0) {
    const count = problems.length === 1 ? 'a problem' : `${problems.length} problems`;
    throw new ModelInvalid(`${path}: ${count}\n${problems.map((p) => `  - ${p}`).join('\n')}`, { problems });
  }
  return config;
}

async function readFields(path: string, folder: string): Promise<Fields> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw new ModelNotFound(
      `${folder}: no readable config.json; expected a Hugging Face folder (config.json, tokenizer.json, model.safetensors)`,
      { cause },
    );
  }
  try {
    const value: unknown = JSON.parse(text);
    if (isFields(value)) return value;
  } catch (cause) {
    throw new ModelInvalid(`${path}: not JSON; the file is damaged, fetch it again`, { cause });
  }
  throw new ModelInvalid(`${path}: not a JSON object; the file is damaged, fetch it again`);
}

function checkArchitecture(fields: Fields, path: string): void {
  const { model_type: type, architectures } = fields;
  const names = Array.isArray(architectures) ? architectures : [];
  if (type === 'llama' && (names.length === 0 || names.includes('LlamaForCausalLM'))) return;
  const got = [type ?? 'no model_type', ...names].map(String).join(', ');
  throw new ModelInvalid(
    `${path}: the architecture is ${got}; supported is llama (LlamaForCausalLM): SmolLM2, Llama and their relatives. Choose such a model`,
  );
}

/** Features that would change what the model computes. */
function unsupported(fields: Fields): string[] {
  const problems: string[] = [];
  const refuse = (name: string, allowed: string): void => {
    problems.push(`${name} is ${JSON.stringify(fields[name])}, which is not supported; supported is ${allowed}`);
  };
  if (fields['attention_bias'] === true) refuse('attention_bias', 'false');
  if (fields['mlp_bias'] === true) refuse('mlp_bias', 'false');
  if ((fields['hidden_act'] ?? 'silu') !== 'silu') refuse('hidden_act', '"silu"');
  if (fields['quantization_config'] !== undefined) refuse('quantization_config', 'plain F32, F16 or BF16 weights');
  for (const name of ['rope_scaling', 'rope_parameters']) {
    const value = fields[name];
    if (isFields(value) && (value['rope_type'] ?? value['type'] ?? 'default') !== 'default') {
      refuse(name, 'rope_type "default" (no scaling)');
    } else if (isFields(value) && (value['partial_rotary_factor'] ?? 1) !== 1) refuse(name, 'partial_rotary_factor 1');
  }
  return problems;
}

function parseFields(fields: Fields, problems: string[]): ModelConfig {
  const rope = isFields(fields['rope_parameters']) ? fields['rope_parameters'] : {};
  const size = (name: string, fallback?: number): number => {
    const value = fields[name] ?? fallback;
    if (typeof value === 'number' && Number.isSafeInteger(value) && value > 0) return value;
    problems.push(`${name} is ${JSON.stringify(value) ?? 'missing'}; expected a positive integer`);
    return 0;
  };
  const real = (name: string, value: unknown): number => {
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value;
    problems.push(`${name} is ${JSON.stringify(value)}; expected a positive number`);
    return 0;
  };
  const hidden = size('hidden_size');
  const heads = size('num_attention_heads');
  const config: ModelConfig = {
    model_type: 'llama',
    vocab_size: size('vocab_size'),
    hidden_size: hidden,
    intermediate_size: size('intermediate_size'),
    num_hidden_layers: size('num_hidden_layers'),
    num_attention_heads: heads,
    num_key_value_heads: size('num_key_value_heads', heads),
    head_dim: size('head_dim', hidden > 0 && heads > 0 ? hidden / heads : 1),
    max_position_embeddings: size('max_position_embeddings', 2048),
    rms_norm_eps: real('rms_norm_eps', fields['rms_norm_eps'] ?? 1e-6),
    rope_theta: real('rope_theta', rope['rope_theta'] ?? fields['rope_theta'] ?? 10000),
    tie_word_embeddings: fields['tie_word_embeddings'] === true,
    bos_token_id: idOrNull(fields['bos_token_id']),
    eos_token_id: idsOrNull(fields['eos_token_id']),
    pad_token_id: idOrNull(fields['pad_token_id']),
  };
  if (problems.length === 0) checkSizes(config, problems);
  return config;
}

function checkSizes(config: ModelConfig, problems: string[]): void {
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: headSize } = config;
  if (heads % kvHeads !== 0) {
    problems.push(`num_attention_heads ${heads} must be a multiple of num_key_value_heads ${kvHeads}`);
  }
  if (headSize % 2 !== 0) problems.push(`head_dim ${headSize} must be even: RoPE turns pairs`);
}

function idOrNull(value: unknown): number | null {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : null;
}

function idsOrNull(value: unknown): number | number[] | null {
  return Array.isArray(value) ? value.filter((id): id is number => idOrNull(id) !== null) : idOrNull(value);
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
