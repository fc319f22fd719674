/**
 * A GGUF model as a Hugging Face folder: config.json, generation_config.json, tokenizer.json, tokenizer_config.json and
 * model.safetensors in float32 under Hugging Face names. Only the Llama architecture. llama.cpp stores the rows of the
 * query and key projections permuted, so that rotary pairs are neighbours (convert_hf_to_gguf.py, LlamaModel.permute);
 * they are put back.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ModelInvalid } from '../../shared/errors.ts';
import { writeFileSynced } from '../checkpoint/atomic.ts';
import { writeSafetensors, type TensorSource } from '../checkpoint/safetensors.ts';
import { openGguf, type GgufFile } from './gguf.ts';
import { tokenizerFromGguf, type GgufTokenizer } from './gguf-tokenizer.ts';

export interface ConversionOptions {
  /** Called after each tensor. */
  onProgress?: (done: number, total: number) => void;
  signal?: AbortSignal;
}

export interface Conversion {
  /** How the weights were stored: the block format of most tensors that are matrices, such as `Q4_1`. */
  quantisation: string;
  tensors: number;
}

/** Writes the folder, whose name should be a temporary one that the caller renames when this has returned.
 *  @param folder - created when missing  @throws ModelNotFound, ModelInvalid, DiskFull */
export async function convertGgufToFolder(
  path: string,
  folder: string,
  options: ConversionOptions = {},
): Promise<Conversion> {
  const gguf = await openGguf(path);
  const fields = llamaFields(gguf);
  const tokenizer = tokenizerFromGguf(gguf);
  if (tokenizer.size !== fields.vocabSize) {
    throw new ModelInvalid(
      `${path}: the tokenizer has ${tokenizer.size} tokens but the embedding has ${fields.vocabSize} rows; the file is inconsistent`,
    );
  }
  const sources = tensorSources(gguf, fields, options);
  await mkdir(folder, { recursive: true });
  await writeJson(join(folder, 'config.json'), configJson(fields, tokenizer));
  await writeJson(join(folder, 'generation_config.json'), specialIds(tokenizer));
  await writeJson(join(folder, 'tokenizer.json'), tokenizer.tokenizerJson);
  await writeJson(join(folder, 'tokenizer_config.json'), tokenizer.tokenizerConfig);
  await writeSafetensors(join(folder, 'model.safetensors'), sources, { format: 'pt' });
  return { quantisation: quantisationOf(gguf), tensors: sources.length };
}

interface LlamaFields {
  layers: number;
  hidden: number;
  intermediate: number;
  heads: number;
  kvHeads: number;
  headSize: number;
  vocabSize: number;
  context: number;
  epsilon: number;
  ropeTheta: number;
  tied: boolean;
}

function llamaFields(gguf: GgufFile): LlamaFields {
  const { path, metadata, tensors } = gguf;
  const architecture = metadata.get('general.architecture');
  if (architecture !== 'llama') {
    throw new ModelInvalid(
      `${path}: general.architecture is ${JSON.stringify(architecture ?? null)}; only "llama" is supported (SmolLM2, Llama and their relatives)`,
    );
  }
  refuseUnsupported(gguf);
  const number = (key: string, fallback?: number): number => {
    const value = metadata.get(`llama.${key}`) ?? fallback;
    if (typeof value === 'number' && value > 0) return value;
    throw new ModelInvalid(`${path}: llama.${key} is ${String(value ?? 'missing')}; expected a positive number`);
  };
  const heads = number('attention.head_count');
  const hidden = number('embedding_length');
  const headSize = number('attention.key_length', hidden / heads);
  if (number('rope.dimension_count', headSize) !== headSize) {
    throw new ModelInvalid(`${path}: llama.rope.dimension_count differs from the head size ${headSize}; not supported`);
  }
  return {
    layers: number('block_count'),
    hidden,
    intermediate: number('feed_forward_length'),
    heads,
    kvHeads: number('attention.head_count_kv', heads),
    headSize,
    vocabSize: tensors.get('token_embd.weight')?.shape[0] ?? number('vocab_size'),
    context: number('context_length'),
    epsilon: shortest(number('attention.layer_norm_rms_epsilon')),
    ropeTheta: shortest(number('rope.freq_base', 10000)),
    tied: !tensors.has('output.weight'),
  };
}

/** Features of the architecture that the decoder does not compute. */
function refuseUnsupported({ path, metadata, tensors }: GgufFile): void {
  const problems: string[] = [];
  if ((metadata.get('llama.expert_count') ?? 0) !== 0) problems.push('experts (llama.expert_count)');
  const scaling = metadata.get('llama.rope.scaling.type');
  if (scaling !== undefined && scaling !== 'none') problems.push(`RoPE scaling "${String(scaling)}"`);
  if (tensors.has('rope_freqs.weight')) problems.push('RoPE scaling (tensor rope_freqs.weight)');
  const bias = [...tensors.keys()].find((name) => name.endsWith('.bias'));
  if (bias) problems.push(`biases (tensor ${bias})`);
  if (problems.length === 0) return;
  throw new ModelInvalid(`${path}: the model uses what is not supported: ${problems.join(', ')}`, { problems });
}

/** The shortest decimal that is the same float32: GGUF stores 1e-5 as 9.99999974738e-6. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === Math.fround(value)) return rounded;
  }
  return value;
}

function configJson(fields: LlamaFields, tokenizer: GgufTokenizer): Record<string, unknown> {
  return {
    architectures: ['LlamaForCausalLM'],
    attention_bias: false,
    attention_dropout: 0,
    ...specialIds(tokenizer),
    head_dim: fields.headSize,
    hidden_act: 'silu',
    hidden_size: fields.hidden,
    initializer_range: 0.02,
    intermediate_size: fields.intermediate,
    max_position_embeddings: fields.context,
    mlp_bias: false,
    model_type: 'llama',
    num_attention_heads: fields.heads,
    num_hidden_layers: fields.layers,
    num_key_value_heads: fields.kvHeads,
    pretraining_tp: 1,
    rms_norm_eps: fields.epsilon,
    rope_scaling: null,
    rope_theta: fields.ropeTheta,
    tie_word_embeddings: fields.tied,
    torch_dtype: 'float32',
    use_cache: true,
    vocab_size: fields.vocabSize,
  };
}

function specialIds({ bosId, eosId, padId }: GgufTokenizer): Record<string, number> {
  const ids = { bos_token_id: bosId, eos_token_id: eosId, pad_token_id: padId };
  return Object.fromEntries(Object.entries(ids).filter((pair): pair is [string, number] => pair[1] !== null));
}

/** GGUF's name of each tensor outside and inside a layer, and Hugging Face's. */
const MODEL_TENSORS: Record<string, string> = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
};
const LAYER_TENSORS: Record<string, string> = {
  'attn_norm.weight': 'input_layernorm.weight',
  'attn_q.weight': 'self_attn.q_proj.weight',
  'attn_k.weight': 'self_attn.k_proj.weight',
  'attn_v.weight': 'self_attn.v_proj.weight',
  'attn_output.weight': 'self_attn.o_proj.weight',
  'ffn_norm.weight': 'post_attention_layernorm.weight',
  'ffn_gate.weight': 'mlp.gate_proj.weight',
  'ffn_up.weight': 'mlp.up_proj.weight',
  'ffn_down.weight': 'mlp.down_proj.weight',
};

/** Hugging Face's name of a GGUF tensor, or null for one that the model does not know. */
function hubName(name: string, layers: number): string | null {
  const [, layer, part] = /^blk\.(\d+)\.(.+)$/.exec(name) ?? [];
  if (layer === undefined || part === undefined) return MODEL_TENSORS[name] ?? null;
  const inLayer = LAYER_TENSORS[part];
  return inLayer === undefined || Number(layer) >= layers ? null : `model.layers.${layer}.${inLayer}`;
}

function tensorSources(gguf: GgufFile, fields: LlamaFields, options: ConversionOptions): TensorSource[] {
  const unknown = [...gguf.tensors.keys()].filter((name) => hubName(name, fields.layers) === null);
  if (unknown.length > 0) {
    throw new ModelInvalid(
      `${gguf.path}: ${unknown.length} tensors are not part of a Llama model of ${fields.layers} layers: ${unknown.slice(0, 5).join(', ')}`,
      { problems: unknown },
    );
  }
  let done = 0;
  return [...gguf.tensors.values()].map(({ name, shape }) => ({
    name: hubName(name, fields.layers) ?? name,
    dtype: 'F32',
    shape,
    data: async () => {
      options.signal?.throwIfAborted();
      const values = await gguf.read(name);
      options.onProgress?.(++done, gguf.tensors.size);
      if (name.endsWith('attn_q.weight')) return unpermuteRows(values, shape, fields.heads);
      if (name.endsWith('attn_k.weight')) return unpermuteRows(values, shape, fields.kvHeads);
      return values;
    },
  }));
}

/** Puts the rows of a query or key projection back into Hugging Face's order: within each head of E rows, GGUF's row
 *  2j + i is Hugging Face's row i·E/2 + j.
 *  @param weights - [heads·E, D], row-major  @returns the same values, rows reordered */
export function unpermuteRows(weights: Float32Array, shape: number[], heads: number): Float32Array {
  const [rows = 0, columns = 0] = shape;
  const headSize = rows / heads;
  const half = headSize / 2;
  if (!Number.isInteger(half)) {
    throw new ModelInvalid(`a projection of ${rows} rows cannot be shared by ${heads} heads of even size`);
  }
  const out = new Float32Array(weights.length);
  for (let row = 0; row < rows; row++) {
    const inHead = row % headSize;
    const from = row - inHead + 2 * (inHead % half) + Math.floor(inHead / half);
    out.set(weights.subarray(from * columns, (from + 1) * columns), row * columns);
  }
  return out;
}

function quantisationOf(gguf: GgufFile): string {
  const counts = new Map<string, number>();
  for (const { typeName, shape } of gguf.tensors.values()) {
    if (shape.length > 1) counts.set(typeName, (counts.get(typeName) ?? 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0] ?? 'F32';
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFileSynced(path, `${JSON.stringify(value, null, 2)}\n`);
}
