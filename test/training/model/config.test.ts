import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ModelInvalid, ModelNotFound } from '../../../shared/errors.ts';
import { readModelConfig } from '../../../training/model/config.ts';
import { rejection, scratchFolder } from '../../helpers/scratch.ts';

const scratch = scratchFolder();
// SmolLM2-135M-Instruct's, as its repository has it.
const SMOLLM2 = {
  architectures: ['LlamaForCausalLM'],
  attention_bias: false,
  bos_token_id: 1,
  eos_token_id: 2,
  hidden_act: 'silu',
  hidden_size: 576,
  intermediate_size: 1536,
  max_position_embeddings: 8192,
  mlp_bias: false,
  model_type: 'llama',
  num_attention_heads: 9,
  num_hidden_layers: 30,
  num_key_value_heads: 3,
  pad_token_id: 2,
  rms_norm_eps: 1e-5,
  rope_scaling: null,
  rope_theta: 100000,
  tie_word_embeddings: true,
  vocab_size: 49152,
};

let count = 0;
async function folderWith(config: unknown): Promise<string> {
  const folder = join(scratch, String(count++));
  await mkdir(folder);
  await writeFile(join(folder, 'config.json'), typeof config === 'string' ? config : JSON.stringify(config));
  return folder;
}

async function problemsOf(change: object): Promise<string> {
  const folder = await folderWith({ ...SMOLLM2, ...change });
  const error = await rejection(readModelConfig(folder));
  expect(error).toBeInstanceOf(ModelInvalid);
  expect(error.message.startsWith(`${join(folder, 'config.json')}: `)).toBe(true);
  return error.message.slice(join(folder, 'config.json').length + 2);
}

describe('reading config.json', () => {
  it('gives the fields under their Hugging Face names', async () => {
    expect(await readModelConfig(await folderWith(SMOLLM2))).toEqual({
      model_type: 'llama',
      vocab_size: 49152,
      hidden_size: 576,
      intermediate_size: 1536,
      num_hidden_layers: 30,
      num_attention_heads: 9,
      num_key_value_heads: 3,
      head_dim: 64,
      max_position_embeddings: 8192,
      rms_norm_eps: 1e-5,
      rope_theta: 100000,
      tie_word_embeddings: true,
      bos_token_id: 1,
      eos_token_id: 2,
      pad_token_id: 2,
    });
  });

  it('reads the RoPE base where transformers 5 writes it', async () => {
    const { rope_theta: _, rope_scaling: __, ...rest } = SMOLLM2;
    const folder = await folderWith({ ...rest, rope_parameters: { rope_theta: 500000, rope_type: 'default' } });
    expect((await readModelConfig(folder)).rope_theta).toBe(500000);
  });

  it('takes the defaults of LlamaConfig for what is left out', async () => {
    const { model_type, hidden_size, intermediate_size, num_attention_heads, num_hidden_layers, vocab_size } = SMOLLM2;
    const sizes = { hidden_size, intermediate_size, num_attention_heads, num_hidden_layers, vocab_size };
    const config = await readModelConfig(
      await folderWith({ model_type, ...sizes, eos_token_id: [2, 0], head_dim: null }),
    );
    expect(config).toMatchObject({
      num_key_value_heads: 9,
      head_dim: 64,
      rms_norm_eps: 1e-6,
      rope_theta: 10000,
      max_position_embeddings: 2048,
      tie_word_embeddings: false,
      bos_token_id: null,
      eos_token_id: [2, 0],
    });
  });
});

describe('a config that does not serve', () => {
  it('is named where it is missing or broken', async () => {
    const error = await rejection(readModelConfig('/nowhere/model'));
    expect(error).toBeInstanceOf(ModelNotFound);
    expect(error.message).toContain('/nowhere/model: no readable config.json; expected a Hugging Face folder');
    expect((await rejection(readModelConfig(await folderWith('{"model_type": "lla')))).message).toContain('not JSON');
    expect((await rejection(readModelConfig(await folderWith('[]')))).message).toContain('not a JSON object');
  });

  it('names another architecture and the one supported', async () => {
    expect(await problemsOf({ model_type: 'bert', architectures: ['BertForMaskedLM'] })).toBe(
      'the architecture is bert, BertForMaskedLM; supported is llama (LlamaForCausalLM): SmolLM2, Llama and their relatives. Choose such a model',
    );
    expect(await problemsOf({ architectures: ['LlamaForSequenceClassification'] })).toContain(
      'the architecture is llama, LlamaForSequenceClassification',
    );
    expect(await problemsOf({ model_type: undefined })).toContain(
      'the architecture is no model_type, LlamaForCausalLM',
    );
  });

  it('lists every unsupported feature and every wrong field at once', async () => {
    const message = await problemsOf({
      attention_bias: true,
      mlp_bias: true,
      hidden_act: 'gelu',
      quantization_config: { quant_method: 'gptq' },
      rope_scaling: { rope_type: 'llama3', factor: 32 },
      hidden_size: '576',
      vocab_size: undefined,
      rms_norm_eps: -1,
    });
    expect(message.split('\n')).toEqual([
      '8 problems',
      '  - attention_bias is true, which is not supported; supported is false',
      '  - mlp_bias is true, which is not supported; supported is false',
      '  - hidden_act is "gelu", which is not supported; supported is "silu"',
      '  - quantization_config is {"quant_method":"gptq"}, which is not supported; supported is plain F32, F16 or BF16 weights',
      '  - rope_scaling is {"rope_type":"llama3","factor":32}, which is not supported; supported is rope_type "default" (no scaling)',
      '  - hidden_size is "576"; expected a positive integer',
      '  - vocab_size is missing; expected a positive integer',
      '  - rms_norm_eps is -1; expected a positive number',
    ]);
    const partial = { rope_theta: 10000, rope_type: 'default', partial_rotary_factor: 0.5 };
    expect(await problemsOf({ rope_parameters: partial })).toContain('supported is partial_rotary_factor 1');
  });

  it('refuses heads that do not divide or turn', async () => {
    expect(await problemsOf({ num_key_value_heads: 4 })).toContain('num_attention_heads 9 must be a multiple of');
    expect(await problemsOf({ num_attention_heads: 7 })).toContain(
      'head_dim is 82.28571428571429; expected a positive',
    );
    expect(await problemsOf({ head_dim: 63 })).toContain('head_dim 63 must be even: RoPE turns pairs');
  });
});
