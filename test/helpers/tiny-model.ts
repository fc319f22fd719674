/**
 * A tiny Llama with random weights and a small real tokenizer (byte-level BPE, ChatML template), made on the spot: tests
 * need no download. The same options give the same bytes on every machine.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { f32ToBf16, f32ToF16 } from '../../training/checkpoint/float16.ts';
import { writeSafetensors, type TensorSource } from '../../training/checkpoint/safetensors.ts';
import type { ModelConfig } from '../../training/model/config.ts';
import { expectedTensors } from '../../training/model/weights.ts';
import { createRandom } from '../../training/random.ts';
import { tinyTokenizer, TINY_SPECIALS } from './tiny-tokenizer.ts';

export interface TinyModelOptions {
  /** @default 1 */
  seed?: number;
  /** @default 32 */
  hidden?: number;
  /** @default 2 */
  layers?: number;
  /** @default 4 */
  heads?: number;
  /** @default 2 */
  kvHeads?: number;
  /** @default hidden / heads */
  headSize?: number;
  /** @default 64 */
  intermediate?: number;
  /** Tokens, at least 259 (3 special, 256 bytes); at most 640; the rest are merges. @default 384 */
  vocab?: number;
  /** Output layer tied to the embedding. @default true */
  tied?: boolean;
  /** @default 512 */
  maxPositions?: number;
  /** @default 10000 */
  ropeTheta?: number;
  /** How weights are stored. @default 'F32' */
  dtype?: 'F32' | 'F16' | 'BF16';
  /** Weight files; more than one writes an index. @default 1 */
  shards?: number;
  /** Jinja source; null writes a tokenizer without template. @default ChatML */
  chatTemplate?: string | null;
}

/** Writes config.json, generation_config.json, tokenizer.json, tokenizer_config.json and the weights.
 *  @param folder - created when missing  @returns the config that was written */
export async function makeTinyModel(folder: string, options: TinyModelOptions = {}): Promise<ModelConfig> {
  const config = tinyConfig(options);
  await mkdir(folder, { recursive: true });
  const { tokenizerJson, tokenizerConfig } = tinyTokenizer(config.vocab_size, options.chatTemplate);
  const ids = {
    bos_token_id: config.bos_token_id,
    eos_token_id: config.eos_token_id,
    pad_token_id: config.pad_token_id,
  };
  const extra = { architectures: ['LlamaForCausalLM'], hidden_act: 'silu', attention_bias: false, mlp_bias: false };
  await writeJson(folder, 'config.json', { ...extra, ...config, torch_dtype: TORCH_DTYPE[options.dtype ?? 'F32'] });
  await writeJson(folder, 'generation_config.json', ids);
  await writeJson(folder, 'tokenizer.json', tokenizerJson);
  await writeJson(folder, 'tokenizer_config.json', {
    ...tokenizerConfig,
    model_max_length: config.max_position_embeddings,
  });
  await writeWeights(folder, config, options);
  return config;
}

const TORCH_DTYPE = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' };

function tinyConfig(options: TinyModelOptions): ModelConfig {
  const hidden = options.hidden ?? 32;
  const heads = options.heads ?? 4;
  return {
    model_type: 'llama',
    vocab_size: options.vocab ?? 384,
    hidden_size: hidden,
    intermediate_size: options.intermediate ?? 64,
    num_hidden_layers: options.layers ?? 2,
    num_attention_heads: heads,
    num_key_value_heads: options.kvHeads ?? 2,
    head_dim: options.headSize ?? hidden / heads,
    max_position_embeddings: options.maxPositions ?? 512,
    rms_norm_eps: 1e-5,
    rope_theta: options.ropeTheta ?? 10000,
    tie_word_embeddings: options.tied ?? true,
    bos_token_id: TINY_SPECIALS.bos,
    eos_token_id: TINY_SPECIALS.eos,
    pad_token_id: TINY_SPECIALS.pad,
  };
}

async function writeWeights(folder: string, config: ModelConfig, options: TinyModelOptions): Promise<void> {
  const sources = Object.entries(expectedTensors(config)).map(([name, shape]) =>
    source(name, shape, options.dtype ?? 'F32', options.seed ?? 1),
  );
  const shards = options.shards ?? 1;
  if (shards === 1) {
    await writeSafetensors(join(folder, 'model.safetensors'), sources, { format: 'pt' });
    return;
  }
  const map: Record<string, string> = {};
  let totalSize = 0;
  for (let shard = 0; shard < shards; shard++) {
    const file = `model-${number(shard + 1)}-of-${number(shards)}.safetensors`;
    const own = sources.filter((_, index) => index % shards === shard);
    for (const { name } of own) map[name] = file;
    totalSize += await writeSafetensors(join(folder, file), own, { format: 'pt' });
  }
  await writeJson(folder, 'model.safetensors.index.json', { metadata: { total_size: totalSize }, weight_map: map });
}

/** Matrices are normal with variance 1/inputs, so that logits are about normal; norm weights lie near 1. Each tensor has
 *  its own stream: other options do not change it. */
function source(name: string, shape: number[], dtype: 'F32' | 'F16' | 'BF16', seed: number): TensorSource {
  const random = createRandom('tiny-model', seed, name);
  const inputs = shape.at(-1) ?? 1;
  const isNorm = shape.length === 1;
  const scale = isNorm ? 0.05 : 1 / Math.sqrt(inputs);
  const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => {
    return (isNorm ? 1 : 0) + scale * random.normal();
  });
  const data = dtype === 'F32' ? values : dtype === 'F16' ? f32ToF16(values) : f32ToBf16(values);
  return { name, dtype, shape, data };
}

function number(shard: number): string {
  return String(shard).padStart(5, '0');
}

async function writeJson(folder: string, name: string, value: unknown): Promise<void> {
  await writeFile(join(folder, name), `${JSON.stringify(value, null, 2)}\n`);
}
