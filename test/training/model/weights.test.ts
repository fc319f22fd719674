import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ModelInvalid, ModelNotFound, OrpoError } from '../../../shared/errors.ts';
import { createTensorDigest } from '../../../training/checkpoint/digest.ts';
import { openSafetensors, writeSafetensors, type TensorSource } from '../../../training/checkpoint/safetensors.ts';
import { expectedTensors, openWeights } from '../../../training/model/weights.ts';
import { rejection, scratchFolder } from '../../helpers/scratch.ts';
import { makeTinyModel } from '../../helpers/tiny-model.ts';

const scratch = scratchFolder();
let count = 0;
const fresh = (): string => join(scratch, String(count++));

async function digestOf(folder: string): Promise<string> {
  const weights = await openWeights(folder);
  const digest = createTensorDigest();
  for (const name of weights.names) digest.add(name, weights.shapeOf(name), await weights.read(name));
  return digest.hex();
}

/** Writes the folder's single file anew with changed tensors. */
async function rewrite(folder: string, change: (tensors: TensorSource[]) => TensorSource[]): Promise<void> {
  const file = await openSafetensors(join(folder, 'model.safetensors'));
  const tensors: TensorSource[] = [];
  for (const [name, { dtype, shape }] of file.entries)
    tensors.push({ name, dtype, shape, data: await file.read(name) });
  await writeSafetensors(join(folder, 'model.safetensors'), change(tensors));
}

describe('the weights of a folder', () => {
  it('are the same from one file and from several shards', async () => {
    const [one, three] = [fresh(), fresh()];
    await makeTinyModel(one, { tied: false });
    await makeTinyModel(three, { tied: false, shards: 3 });
    expect(await digestOf(three)).toBe(await digestOf(one));
  });

  it('are read from half precision as float32', async () => {
    const [single, half] = [fresh(), fresh()];
    await makeTinyModel(single);
    await makeTinyModel(half, { dtype: 'BF16' });
    const [exact, rounded] = [await openWeights(single), await openWeights(half)];
    const name = 'model.layers.1.mlp.up_proj.weight';
    expect(rounded.dtypeOf(name)).toBe('BF16');
    const [a, b] = [await exact.read(name), await rounded.read(name)];
    for (const [i, value] of a.entries())
      expect(Math.abs((b[i] ?? NaN) - value)).toBeLessThanOrEqual(Math.abs(value) * 2 ** -8);
    expect(a).not.toEqual(b);
  });

  it('have no output layer of their own where it is tied, even if the file repeats it', async () => {
    const folder = fresh();
    const config = await makeTinyModel(folder);
    const before = await digestOf(folder);
    await rewrite(folder, (tensors) => {
      const inverse = { name: 'model.layers.0.self_attn.rotary_emb.inv_freq', dtype: 'F32' as const, shape: [4] };
      const embedding = tensors.find(({ name }) => name === 'model.embed_tokens.weight');
      if (!embedding) throw new Error('no embedding');
      return [...tensors, { ...embedding, name: 'lm_head.weight' }, { ...inverse, data: new Float32Array(4) }];
    });
    expect(await digestOf(folder)).toBe(before);
    expect((await openWeights(folder)).names).not.toContain('lm_head.weight');
    expect(expectedTensors({ ...config, tie_word_embeddings: false })['lm_head.weight']).toEqual([384, 32]);
  });

  it('number as many values as the model has parameters', async () => {
    // SmolLM2-135M: 134,515,008.
    const shapes = expectedTensors({
      ...(await makeTinyModel(fresh())),
      ...{ vocab_size: 49152, hidden_size: 576, intermediate_size: 1536, num_hidden_layers: 30 },
      ...{ num_attention_heads: 9, num_key_value_heads: 3, head_dim: 64 },
    });
    expect(Object.values(shapes).reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0)).toBe(134_515_008);
  });
});

describe('weights that do not fit', () => {
  const failure = async (folder: string): Promise<OrpoError> => {
    const error = await rejection(openWeights(folder));
    expect(error).toBeInstanceOf(OrpoError);
    return error as OrpoError;
  };

  it('are listed in one error: missing, unexpected, wrong shape, wrong type', async () => {
    const folder = fresh();
    await makeTinyModel(folder);
    await rewrite(folder, (tensors) =>
      tensors.flatMap((tensor) => {
        const { name } = tensor;
        if (name === 'model.norm.weight') return [];
        if (name.endsWith('0.self_attn.q_proj.weight')) return [{ ...tensor, shape: [16, 64] }];
        if (name.endsWith('1.mlp.up_proj.weight')) {
          return [{ ...tensor, dtype: 'I32' as const, data: new Int32Array(64 * 32) }];
        }
        return name.endsWith('1.mlp.down_proj.weight') ? [{ ...tensor, name: 'score.weight' }] : [tensor];
      }),
    );
    const error = await failure(folder);
    expect(error).toBeInstanceOf(ModelInvalid);
    expect(error.problems).toEqual([
      'missing: model.norm.weight [32]',
      'wrong shape: model.layers.0.self_attn.q_proj.weight is [16, 64], config.json says [32, 32]',
      'not floating point: model.layers.1.mlp.up_proj.weight is I32; supported are F32, F16, BF16 and F64',
      'missing: model.layers.1.mlp.down_proj.weight [32, 64]',
      'unexpected: score.weight',
    ]);
    expect(error.message).toContain(`${folder}: its weights do not fit its config.json (5 of 20 tensors)`);
    for (const problem of error.problems) expect(error.message).toContain(problem);
  });

  it('are cut short in the message, not in the list, when there are many', async () => {
    const folder = fresh();
    await makeTinyModel(folder, { layers: 6 });
    await rewrite(folder, (tensors) => tensors.filter(({ name }) => !name.includes('layers')));
    const error = await failure(folder);
    expect(error.problems.length).toBe(54);
    expect(error.message).toContain('  - and 34 more');
  });

  it('are named when a shard or the index is missing or wrong', async () => {
    const folder = fresh();
    await makeTinyModel(folder, { shards: 3 });
    const index = join(folder, 'model.safetensors.index.json');
    const text = await readFile(index, 'utf8');
    const written = async (change: (map: Record<string, string>) => void): Promise<string> => {
      const value = JSON.parse(text) as { weight_map: Record<string, string> };
      change(value.weight_map);
      await writeFile(index, JSON.stringify(value));
      return (await failure(folder)).message;
    };
    expect(await written((map) => (map['model.norm.weight'] = '../../etc/passwd'))).toContain(
      'weight_map of "model.norm.weight" is "../../etc/passwd"; expected the name of a .safetensors file beside it',
    );
    expect(await written((map) => (map['x'] = 'model-00001-of-00003.safetensors'))).toContain(
      'says that "x" is in model-00001-of-00003.safetensors, but it is not',
    );
    await writeFile(index, '{"weight_map": 3}');
    expect((await failure(folder)).message).toContain('has no "weight_map" object');
    await writeFile(index, text.slice(0, 40));
    expect((await failure(folder)).message).toContain('not JSON; the file is damaged');
    await writeFile(index, text);
    await rm(join(folder, 'model-00002-of-00003.safetensors'));
    expect((await failure(folder)).message).toBe(
      `${folder}: model.safetensors.index.json names 3 files, of which these are missing: model-00002-of-00003.safetensors. Fetch the model again`,
    );
  });

  it('are missed by name, with a hint where only a torch file is there', async () => {
    const folder = fresh();
    await makeTinyModel(folder);
    await rm(join(folder, 'model.safetensors'));
    expect(await failure(folder)).toBeInstanceOf(ModelNotFound);
    expect((await failure(folder)).message).toContain('neither model.safetensors nor model.safetensors.index.json');
    await writeFile(join(folder, 'pytorch_model.bin'), '');
    expect((await failure(folder)).message).toContain(
      'has pytorch_model.bin but no model.safetensors; only safetensors',
    );
  });

  it('are refused when the file is truncated', async () => {
    const folder = fresh();
    await makeTinyModel(folder);
    const path = join(folder, 'model.safetensors');
    const bytes = await readFile(path);
    await writeFile(path, bytes.subarray(0, bytes.length - 1));
    expect((await failure(folder)).message).toContain('it is truncated');
  });

  it('asked for by a wrong name are refused', async () => {
    const folder = fresh();
    await makeTinyModel(folder);
    const weights = await openWeights(folder);
    expect((await rejection(weights.read('lm_head.weight'))).message).toContain('no tensor named "lm_head.weight"');
  });
});
