/**
 * A model's weights in a Hugging Face folder: one model.safetensors or several shards with their index
 * (model.safetensors.index.json, `weight_map`). Opening checks names and shapes of all tensors against the config and
 * reports everything that does not fit at once; values are read one tensor at a time, as float32.
 */
import { readFile, readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { ModelInvalid, ModelNotFound } from '../../shared/errors.ts';
import { openSafetensors, type SafetensorsFile } from '../checkpoint/safetensors.ts';
import { readModelConfig, type ModelConfig } from './config.ts';

export interface Weights {
  config: ModelConfig;
  /** The model's tensors, sorted; what a tied head repeats is left out. */
  names: string[];
  shapeOf(name: string): number[];
  /** dtype on disk. */
  dtypeOf(name: string): string;
  /** Values as float32, row-major. @throws ModelInvalid for a name that is not there */
  read(name: string): Promise<Float32Array>;
}

const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';

/** Names and shapes of a Llama model's tensors ([out, in] for projections). */
export function expectedTensors(config: ModelConfig): Record<string, number[]> {
  const { hidden_size: hidden, intermediate_size: inner, vocab_size: vocab } = config;
  const queries = config.num_attention_heads * config.head_dim;
  const keys = config.num_key_value_heads * config.head_dim;
  const shapes: Record<string, number[]> = {
    'model.embed_tokens.weight': [vocab, hidden],
    'model.norm.weight': [hidden],
  };
  if (!config.tie_word_embeddings) shapes['lm_head.weight'] = [vocab, hidden];
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const at = `model.layers.${layer}`;
    shapes[`${at}.input_layernorm.weight`] = [hidden];
    shapes[`${at}.self_attn.q_proj.weight`] = [queries, hidden];
    shapes[`${at}.self_attn.k_proj.weight`] = [keys, hidden];
    shapes[`${at}.self_attn.v_proj.weight`] = [keys, hidden];
    shapes[`${at}.self_attn.o_proj.weight`] = [hidden, queries];
    shapes[`${at}.post_attention_layernorm.weight`] = [hidden];
    shapes[`${at}.mlp.gate_proj.weight`] = [inner, hidden];
    shapes[`${at}.mlp.up_proj.weight`] = [inner, hidden];
    shapes[`${at}.mlp.down_proj.weight`] = [hidden, inner];
  }
  return shapes;
}

/** Opens all weight files of a folder and checks them against its config.
 *  @param config - read from the folder when not given
 *  @throws ModelNotFound without weight files; ModelInvalid listing every missing, unexpected or wrongly shaped tensor */
export async function openWeights(folder: string, config?: ModelConfig): Promise<Weights> {
  const known = config ?? (await readModelConfig(folder));
  const fileOf = await openFiles(folder);
  const expected = expectedTensors(known);
  checkTensors(folder, expected, fileOf, known);
  const names = Object.keys(expected).sort();
  const entry = (name: string) => {
    const file = Object.hasOwn(expected, name) ? fileOf.get(name) : undefined;
    const found = file?.entries.get(name);
    if (!file || !found) throw new ModelInvalid(`${folder}: no tensor named "${name}" among its ${names.length}`);
    return { file, ...found };
  };
  return {
    config: known,
    names,
    shapeOf: (name) => [...entry(name).shape],
    dtypeOf: (name) => entry(name).dtype,
    read: async (name) => entry(name).file.readFloat32(name),
  };
}

/** The file of each tensor. */
async function openFiles(folder: string): Promise<Map<string, SafetensorsFile>> {
  if (await isFile(join(folder, SINGLE))) {
    const file = await openSafetensors(join(folder, SINGLE));
    return new Map(file.names.map((name) => [name, file]));
  }
  if (await isFile(join(folder, INDEX))) return openShards(folder);
  const others = await readdir(folder).catch(() => []);
  const torch = others.find((name) => /^pytorch_model.*\.bin$/.test(name));
  if (torch) {
    throw new ModelInvalid(
      `${folder}: has ${torch} but no ${SINGLE}; only safetensors are read. Save the model again with safe_serialization`,
    );
  }
  throw new ModelNotFound(`${folder}: neither ${SINGLE} nor ${INDEX}; expected a Hugging Face folder with its weights`);
}

async function openShards(folder: string): Promise<Map<string, SafetensorsFile>> {
  const map = await readIndex(join(folder, INDEX));
  const shardNames = [...new Set(map.values())].sort();
  const missing: string[] = [];
  for (const name of shardNames) if (!(await isFile(join(folder, name)))) missing.push(name);
  if (missing.length > 0) {
    throw new ModelInvalid(
      `${folder}: ${INDEX} names ${shardNames.length} files, of which these are missing: ${missing.join(', ')}. Fetch the model again`,
      { problems: missing },
    );
  }
  const shards = new Map<string, SafetensorsFile>();
  for (const name of shardNames) shards.set(name, await openSafetensors(join(folder, name)));
  const fileOf = new Map<string, SafetensorsFile>();
  for (const [tensor, shardName] of map) {
    const shard = shards.get(shardName);
    if (!shard?.entries.has(tensor)) {
      throw new ModelInvalid(
        `${folder}: ${INDEX} says that "${tensor}" is in ${shardName}, but it is not. Fetch the model again`,
      );
    }
    fileOf.set(tensor, shard);
  }
  return fileOf;
}

/** Tensor name → shard file name. */
async function readIndex(path: string): Promise<Map<string, string>> {
  let map: unknown;
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'));
    map = typeof value === 'object' && value !== null && 'weight_map' in value ? value.weight_map : undefined;
  } catch (cause) {
    throw new ModelInvalid(`${path}: not JSON; the file is damaged, fetch it again`, { cause });
  }
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw new ModelInvalid(`${path}: has no "weight_map" object; the file is damaged, fetch it again`);
  }
  const entries = Object.entries(map);
  for (const [tensor, file] of entries) {
    if (typeof file !== 'string' || basename(file) !== file || !file.endsWith('.safetensors')) {
      throw new ModelInvalid(
        `${path}: weight_map of "${tensor}" is ${JSON.stringify(file)}; expected the name of a .safetensors file beside it`,
      );
    }
  }
  return new Map(entries as [string, string][]);
}

function checkTensors(
  folder: string,
  expected: Record<string, number[]>,
  fileOf: Map<string, SafetensorsFile>,
  config: ModelConfig,
): void {
  const problems: string[] = [];
  for (const [name, shape] of Object.entries(expected)) {
    const entry = fileOf.get(name)?.entries.get(name);
    if (!entry) problems.push(`missing: ${name} [${shape.join(', ')}]`);
    else if (entry.shape.join() !== shape.join()) {
      problems.push(`wrong shape: ${name} is [${entry.shape.join(', ')}], config.json says [${shape.join(', ')}]`);
    } else if (!['F32', 'F16', 'BF16', 'F64'].includes(entry.dtype)) {
      problems.push(`not floating point: ${name} is ${entry.dtype}; supported are F32, F16, BF16 and F64`);
    }
  }
  for (const name of fileOf.keys()) {
    if (!Object.hasOwn(expected, name) && !isIgnored(name, config)) problems.push(`unexpected: ${name}`);
  }
  if (problems.length === 0) return;
  const shown = problems.slice(0, 20).map((p) => `  - ${p}`);
  if (problems.length > 20) shown.push(`  - and ${problems.length - 20} more`);
  throw new ModelInvalid(
    `${folder}: its weights do not fit its config.json (${problems.length} of ${Object.keys(expected).length} tensors)\n${shown.join('\n')}`,
    { problems },
  );
}

/** Tensors that carry nothing of their own: a tied head saved twice, and rotary tables of old transformers versions. */
function isIgnored(name: string, config: ModelConfig): boolean {
  return (name === 'lm_head.weight' && config.tie_word_embeddings) || name.endsWith('.rotary_emb.inv_freq');
}

async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
}
