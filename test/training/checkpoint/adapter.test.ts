import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { loadAdapter, readAdapterShape, saveAdapter, mustFitBase } from '../../../training/checkpoint/adapter.ts';
import { openSafetensors, writeSafetensors } from '../../../training/checkpoint/safetensors.ts';
import { readModelConfig, type ModelConfig } from '../../../training/model/config.ts';
import { loraMethod } from '../../helpers/parity.ts';

const FIXTURES = new URL('../../fixtures/trainer/', import.meta.url).pathname;
/** Written by PEFT 0.21.2. */
const PEFT_ADAPTER = `${FIXTURES}adapter`;

let root: string;
let folder: string;
let config: ModelConfig;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'orpo-adapter-'));
  config = await readModelConfig(`${FIXTURES}tiny`);
});
afterAll(() => rm(root, { recursive: true, force: true }));
beforeEach(async () => {
  folder = await mkdtemp(join(root, 'case-'));
});

async function messageOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'no error',
    (error: unknown) => `${(error as Error).name}: ${(error as Error).message}`,
  );
}

/** PEFT's adapter with changed config fields and, where given, other tensors. */
async function changed(fields: Record<string, unknown>, tensors?: [string, number[]][]): Promise<string> {
  const original = JSON.parse(await readFile(join(PEFT_ADAPTER, 'adapter_config.json'), 'utf8')) as object;
  await writeFile(join(folder, 'adapter_config.json'), JSON.stringify({ ...original, ...fields }));
  const file = await openSafetensors(join(PEFT_ADAPTER, 'adapter_model.safetensors'));
  const given =
    tensors ?? file.names.map((name): [string, number[]] => [name, [...(file.entries.get(name)?.shape ?? [])]]);
  await writeSafetensors(
    join(folder, 'adapter_model.safetensors'),
    given.map(([name, shape]) => ({
      name,
      dtype: 'F32',
      shape,
      data: new Float32Array(shape.reduce((a, b) => a * b, 1)),
    })),
  );
  return folder;
}

describe("an adapter in PEFT's format", () => {
  it('is read with its rank, alpha and every tensor', async () => {
    const { shape, weights } = await loadAdapter(PEFT_ADAPTER, config);
    expect(shape).toMatchObject({ rank: 4, alpha: 8, rsLora: false, layers: null });
    expect(Object.keys(weights)).toHaveLength(2 * 2 * 7);
    expect(weights['base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight']?.shape).toEqual([32, 4]);
  });

  it('comes back from a save with the same bytes, the same tensors and every field of ours in sorted order', async () => {
    const { weights } = await loadAdapter(PEFT_ADAPTER, config);
    const method = loraMethod({ initFrom: PEFT_ADAPTER, rank: 99, dropout: 0.05 });
    await saveAdapter(folder, { state: { weights }, method, baseName: 'some/base' });
    expect((await loadAdapter(folder, config)).weights).toEqual(weights);
    const fields = JSON.parse(await readFile(join(folder, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;
    expect(Object.keys(fields)).toEqual(Object.keys(fields).sort());
    expect(fields).toMatchObject({
      peft_type: 'LORA',
      task_type: 'CAUSAL_LM',
      base_model_name_or_path: 'some/base',
      inference_mode: true,
      // The rank it was started from, not the config's.
      r: 4,
      lora_alpha: 8,
      lora_dropout: 0.05,
      // The targets as they were given: a shorter name could mean more modules.
      target_modules: Object.keys(weights)
        .filter((name) => name.includes('lora_A'))
        .map((name) => name.replace('base_model.model.', '').replace('.lora_A.weight', ''))
        .sort(),
    });
    const file = await openSafetensors(join(folder, 'adapter_model.safetensors'));
    expect(file.metadata).toEqual({ format: 'pt' });
  });

  it('is refused for a base other than the one it was trained on, where it says which', async () => {
    const { weights } = await loadAdapter(PEFT_ADAPTER, config);
    const [trainedOn, other] = ['a'.repeat(64), 'b'.repeat(64)];
    await saveAdapter(folder, {
      state: { weights },
      method: loraMethod({ rank: 4 }),
      baseName: 'b',
      baseSha256: trainedOn,
    });
    await mustFitBase(folder, trainedOn);
    await mustFitBase(PEFT_ADAPTER, other);
    await expect(mustFitBase(folder, other)).rejects.toThrow(
      /other base weights \(sha256 aaaaaaaaaaaa\).*bbbbbbbbbbbb/,
    );
  });

  it('writes every field that PEFT writes for LoRA, but those of later extensions', async () => {
    const { weights } = await loadAdapter(PEFT_ADAPTER, config);
    await saveAdapter(folder, { state: { weights }, method: loraMethod({ rank: 4, alpha: 8 }), baseName: 'b' });
    const read = async (path: string) =>
      JSON.parse(await readFile(join(path, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;
    const [ours, theirs] = [await read(folder), await read(PEFT_ADAPTER)];
    const differing = Object.keys(theirs).filter((key) => JSON.stringify(ours[key]) !== JSON.stringify(theirs[key]));
    expect(differing.filter((key) => theirs[key] !== null)).toEqual(['base_model_name_or_path', 'target_modules']);
  });
});

describe('what does not fit is refused by name', () => {
  it('a folder without adapter', async () => {
    expect(await messageOf(readAdapterShape(folder))).toBe(
      `ModelNotFound: ${folder}: no readable adapter_config.json; expected a PEFT adapter folder`,
    );
  });

  it('a config that is damaged', async () => {
    await writeFile(join(folder, 'adapter_config.json'), '{');
    expect(await messageOf(readAdapterShape(folder))).toContain('adapter_config.json: not JSON; the file is damaged');
    await writeFile(join(folder, 'adapter_config.json'), '[]');
    expect(await messageOf(readAdapterShape(folder))).toContain('adapter_config.json: not a JSON object');
  });

  it('methods that compute something else, all at once', async () => {
    const message = await messageOf(
      readAdapterShape(
        await changed({
          use_dora: true,
          bias: 'all',
          rank_pattern: { q_proj: 2 },
          init_lora_weights: 'pissa',
          r: 0,
          target_modules: '.*q_proj',
          layers_to_transform: ['x'],
        }),
      ),
    );
    for (const part of [
      'use_dora is true; supported is false',
      'bias is "all"; supported is "none"',
      'rank_pattern is {"q_proj":2}; supported is {}',
      'init_lora_weights is "pissa", which changes the base\'s weights too',
      'r is 0; expected a positive number',
      'target_modules is ".*q_proj"; supported are "all-linear" and a list of names',
      'layers_to_transform is ["x"]; expected layer indices',
    ]) {
      expect(message).toContain(part);
    }
    expect(message).toMatch(/^ModelInvalid: /);
  });

  it('tensors that are missing, unexpected or of another shape', async () => {
    const name = (part: string, factor: 'A' | 'B') =>
      `base_model.model.model.layers.0.self_attn.${part}.lora_${factor}.weight`;
    const path = await changed({ target_modules: ['q_proj'], layers_to_transform: 0 }, [
      [name('q_proj', 'A'), [4, 8]],
      [name('k_proj', 'A'), [4, 16]],
    ]);
    const message = await messageOf(loadAdapter(path, config));
    expect(message).toContain(`wrong shape: ${name('q_proj', 'A')} is [4, 8]`);
    expect(message).toContain('ask for [4, 16]');
    expect(message).toContain(`missing: ${name('q_proj', 'B')} [32, 4]`);
    expect(message).toContain(`unexpected: ${name('k_proj', 'A')}`);
  });

  it('a long list of misfits is cut after twenty', async () => {
    expect(await messageOf(loadAdapter(await changed({}, [['other', [1]]]), config))).toContain('and 9 more');
  });

  it('releases of PEFT that write null for what is not set are read all the same', async () => {
    const path = await changed({ use_dora: null, rank_pattern: null, layers_to_transform: [1, 0], use_rslora: true });
    expect(await readAdapterShape(path)).toMatchObject({ rank: 4, layers: [1, 0], rsLora: true });
  });
});
