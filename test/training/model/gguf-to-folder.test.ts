import { readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ModelInvalid } from '../../../shared/errors.ts';
import { openSafetensors } from '../../../training/checkpoint/safetensors.ts';
import { readModelConfig } from '../../../training/model/config.ts';
import { openGguf } from '../../../training/model/gguf.ts';
import { convertGgufToFolder, unpermuteRows } from '../../../training/model/gguf-to-folder.ts';
import { tokenizerFromGguf } from '../../../training/model/gguf-tokenizer.ts';
import { openWeights } from '../../../training/model/weights.ts';
import { loadTokenizer } from '../../../training/tokenizer/load.ts';
import { ARRAY, BOOL, F32, ggufBytes, STRING, U32, type GgufEntry } from '../../helpers/gguf-bytes.ts';
import { rejection, scratchFolder } from '../../helpers/scratch.ts';

const scratch = scratchFolder();
const FOLDER = 'test/fixtures/gguf';

describe('a converted model', () => {
  const folder = join(scratch, 'tiny');

  it('has the original weights under Hugging Face names, bit for bit, queries and keys in order', async () => {
    const seen: number[] = [];
    const onProgress = (done: number) => void seen.push(done);
    const result = await convertGgufToFolder(join(FOLDER, 'tokenizer-smollm.gguf'), folder, { onProgress });
    expect(result).toEqual({ quantisation: 'F32', tensors: 11 });
    expect(seen).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    const weights = await openWeights(folder);
    const expected = await openSafetensors(join(FOLDER, 'tiny-llama.expected.safetensors'));
    expect(weights.names).toEqual(expected.names);
    for (const name of expected.names) {
      expect(weights.shapeOf(name)).toEqual(expected.entries.get(name)?.shape);
      expect(await weights.read(name), name).toEqual(await expected.readFloat32(name));
    }
  });

  it('has a config, a tokenizer config with template, and nothing unfinished', async () => {
    expect((await readdir(folder)).sort()).toEqual([
      'config.json',
      'generation_config.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    expect(await readModelConfig(folder)).toEqual({
      model_type: 'llama',
      vocab_size: 340,
      hidden_size: 16,
      intermediate_size: 32,
      num_hidden_layers: 1,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      head_dim: 4,
      max_position_embeddings: 128,
      rms_norm_eps: 1e-5,
      rope_theta: 100000,
      tie_word_embeddings: true,
      bos_token_id: 1,
      eos_token_id: 2,
      pad_token_id: 2,
    });
    const tokenizer = await loadTokenizer(folder);
    expect(tokenizer.renderChat([{ role: 'user', content: 'hi' }], { addGenerationPrompt: false })).toBe('hi');
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.padId]).toEqual([1, 2, 2]);
    expect([...tokenizer.specialIds]).toEqual([0, 1, 2]);
    expect(tokenizer.encodeWithSpecials('hi')).toEqual(tokenizer.encode('hi'));
  });

  it('stops when asked to', async () => {
    const reason = new Error('enough');
    const signal = AbortSignal.abort(reason);
    const stopped = convertGgufToFolder(join(FOLDER, 'tokenizer-smollm.gguf'), join(scratch, 'stopped'), { signal });
    expect(await rejection(stopped)).toBe(reason);
  });
});

describe('tokenizers built from metadata', async () => {
  const expected = JSON.parse(await readFile(join(FOLDER, 'tokenizers.expected.json'), 'utf8')) as {
    texts: string[];
    ids: Record<string, number[][]>;
  };

  it.each(Object.keys(expected.ids))('%s gives the ids of the reference pipeline on odd strings', async (pre) => {
    const folder = join(scratch, `tokenizer-${pre}`);
    const built = tokenizerFromGguf(await openGguf(join(FOLDER, `tokenizer-${pre}.gguf`)));
    const { mkdir } = await import('node:fs/promises');
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(built.tokenizerJson));
    await writeFile(join(folder, 'tokenizer_config.json'), JSON.stringify(built.tokenizerConfig));
    const tokenizer = await loadTokenizer(folder);
    for (const [index, text] of expected.texts.entries()) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(expected.ids[pre]?.[index]);
    }
  });
});

describe('query and key rows', () => {
  it('go back to halves from neighbours, worked by hand for one head of six', () => {
    // Hugging Face rows a0 a1 a2 | b0 b1 b2 (pairs a-b); GGUF has a0 b0 a1 b1 a2 b2.
    const gguf = Float32Array.of(10, 20, 11, 21, 12, 22);
    expect([...unpermuteRows(gguf, [6, 1], 1)]).toEqual([10, 11, 12, 20, 21, 22]);
  });

  it('refuses a head of odd size', () => {
    expect(() => unpermuteRows(new Float32Array(9), [9, 1], 3)).toThrow(
      '9 rows cannot be shared by 3 heads of even size',
    );
  });
});

describe('a GGUF that is not such a model', () => {
  const architecture = { key: 'general.architecture', type: STRING, value: 'llama' };
  const sizes: GgufEntry[] = [
    ['block_count', 1],
    ['context_length', 8],
    ['embedding_length', 2],
    ['feed_forward_length', 4],
    ['attention.head_count', 1],
  ].map(([key, value]) => ({ key: `llama.${key}`, type: U32, value }));
  const epsilon = { key: 'llama.attention.layer_norm_rms_epsilon', type: F32, value: 1e-5 };
  const text = (key: string, value: string) => ({ key: `tokenizer.ggml.${key}`, type: STRING, value });
  const list = (key: string, value: unknown[], elementType = STRING) => {
    return { key: `tokenizer.ggml.${key}`, type: ARRAY, value, elementType };
  };
  const tokenizer = [
    text('model', 'gpt2'),
    text('pre', 'smollm'),
    list('tokens', ['a', 'b', 'ab']),
    list('token_type', [1, 1, 1], U32),
    list('merges', ['a b']),
  ];
  const complete = [architecture, ...sizes, epsilon, ...tokenizer];
  const embedding = { name: 'token_embd.weight', dims: [2, 3], type: 0, offset: 0, data: new Uint8Array(24) };
  const without = (...keys: string[]) => complete.filter(({ key }) => !keys.some((end) => key.endsWith(end)));
  const convert = async (metadata: GgufEntry[], tensors = [embedding]) => {
    const path = join(scratch, 'other.gguf');
    await writeFile(path, ggufBytes({ metadata, tensors }));
    const error = await rejection(convertGgufToFolder(path, join(scratch, 'other')));
    expect(error).toBeInstanceOf(ModelInvalid);
    expect(error.message.startsWith(`${path}: `), error.message).toBe(true);
    return error.message.slice(path.length + 2);
  };

  it('is refused by its architecture', async () => {
    expect(await convert([{ ...architecture, value: 'qwen2' }])).toBe(
      'general.architecture is "qwen2"; only "llama" is supported (SmolLM2, Llama and their relatives)',
    );
    expect(await convert([])).toContain('general.architecture is null');
  });

  it('is refused by missing or wrong fields', async () => {
    expect(await convert(without('block_count'))).toBe('llama.block_count is missing; expected a positive number');
    const zero = { key: 'llama.block_count', type: U32, value: 0 };
    expect(await convert([...without('block_count'), zero])).toContain('llama.block_count is 0');
    const partial = { key: 'llama.rope.dimension_count', type: U32, value: 1 };
    expect(await convert([...complete, partial])).toContain('differs from the head size 2; not supported');
  });

  it('is refused by features that are not computed, all named', async () => {
    const experts = { key: 'llama.expert_count', type: U32, value: 8 };
    const scaling = { key: 'llama.rope.scaling.type', type: STRING, value: 'yarn' };
    const extra = ['rope_freqs.weight', 'blk.0.attn_q.bias'].map((name, i) => {
      return { ...embedding, name, dims: [2], offset: 32 * (i + 1), data: new Uint8Array(8) };
    });
    expect(await convert([...complete, experts, scaling], [embedding, ...extra])).toBe(
      'the model uses what is not supported: experts (llama.expert_count), RoPE scaling "yarn", RoPE scaling (tensor rope_freqs.weight), biases (tensor blk.0.attn_q.bias)',
    );
  });

  it('is refused by tensors outside the architecture', async () => {
    const strange = { ...embedding, name: 'blk.7.attn_q.weight', offset: 32 };
    expect(await convert(complete, [embedding, strange])).toContain(
      '1 tensors are not part of a Llama model of 1 layers: blk.7.attn_q.weight',
    );
  });

  it('is refused by a tokenizer of another kind', async () => {
    expect(await convert([...without('ggml.model'), text('model', 'llama')])).toContain(
      'tokenizer.ggml.model is "llama"; only "gpt2" (byte-level BPE) is supported',
    );
    expect(await convert([...without('ggml.pre'), text('pre', 'tekken')])).toContain(
      'tokenizer.ggml.pre is "tekken"; supported are smollm, gpt-2, default, llama-bpe, qwen2',
    );
    expect(await convert(without('ggml.pre'))).toContain('tokenizer.ggml.pre is missing');
    expect(await convert([...without('ggml.pre'), text('pre', 'constructor')])).toContain('"constructor"');
  });

  it('is refused by an inconsistent tokenizer', async () => {
    expect(await convert(without('ggml.tokens'))).toContain('tokenizer.ggml.tokens is missing');
    expect(await convert([...without('ggml.tokens'), list('tokens', [1, 2], U32)])).toContain('is no list of strings');
    expect(await convert([...without('ggml.tokens'), list('tokens', ['a', 'a', 'b'])])).toContain(
      'holds 1 tokens twice',
    );
    expect(await convert([...without('token_type'), list('token_type', [1], U32)])).toContain(
      'token_type has 1 entries; expected one for each of 3 tokens',
    );
    expect(await convert([...without('merges'), list('merges', ['a c'])])).toContain(
      'merges[0] is "a c"; expected two',
    );
    expect(await convert([...without('merges'), list('merges', ['ab'])])).toContain('merges[0] is "ab"');
    const eos = { key: 'tokenizer.ggml.eos_token_id', type: U32, value: 3 };
    expect(await convert([...complete, eos])).toContain('eos_token_id is 3; expected an id below 3');
    const four = { ...embedding, dims: [2, 4], data: new Uint8Array(32) };
    expect(await convert(complete, [four])).toContain('the tokenizer has 3 tokens but the embedding has 4 rows');
  });

  it('adds BOS and EOS where the metadata says so', async () => {
    const path = join(scratch, 'bos.gguf');
    const flags = ['add_bos_token', 'add_eos_token'].map((key) => ({
      key: `tokenizer.ggml.${key}`,
      type: BOOL,
      value: 1,
    }));
    const ids = ['bos_token_id', 'eos_token_id'].map((key, value) => ({
      key: `tokenizer.ggml.${key}`,
      type: U32,
      value,
    }));
    await writeFile(path, ggufBytes({ metadata: [...complete, ...flags, ...ids], tensors: [embedding] }));
    const { tokenizerJson } = tokenizerFromGguf(await openGguf(path));
    expect(tokenizerJson['post_processor']).toEqual({
      type: 'TemplateProcessing',
      single: [
        { SpecialToken: { id: 'a', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: 'b', type_id: 0 } },
      ],
      pair: [
        { SpecialToken: { id: 'a', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: 'b', type_id: 0 } },
        { SpecialToken: { id: 'a', type_id: 1 } },
        { Sequence: { id: 'B', type_id: 1 } },
        { SpecialToken: { id: 'b', type_id: 1 } },
      ],
      special_tokens: { a: { id: 'a', ids: [0], tokens: ['a'] }, b: { id: 'b', ids: [1], tokens: ['b'] } },
    });
  });
});
