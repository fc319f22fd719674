import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { differences, loraMethod, readReference, replay, worstShare } from '../helpers/parity.ts';

const FIXTURES = new URL('../fixtures/trainer/', import.meta.url).pathname;
const lora = loraMethod({ initFrom: `${FIXTURES}adapter` });

describe('five optimiser steps on ten pairs, every metric against TRL 1.16.0', () => {
  it.each([
    ['LoRA, plain text', 'trl-lora-plain.json', 'tiny', lora],
    ['LoRA, chat', 'trl-lora-chat.json', 'tiny', lora],
    ['LoRA, two micro-batches as a mean of means, β 0.5', 'trl-lora-accumulated.json', 'tiny', lora],
    ['all weights, tied head', 'trl-full-tied.json', 'tiny', { kind: 'full' as const }],
    [
      'all weights, own head, weight decay, clipping at 0.5',
      'trl-full-untied.json',
      'tiny-untied',
      { kind: 'full' as const },
    ],
  ])('%s', async (_title, file, base, method) => {
    const reference = await readReference(FIXTURES + file);
    const ours = await replay(reference, FIXTURES + base, method);
    expect(differences(reference, ours)).toEqual([]);
  });

  it('tells a wrong adapter scale from the right one', async () => {
    const reference = await readReference(`${FIXTURES}trl-lora-plain.json`);
    const ours = await replay(reference, `${FIXTURES}tiny`, loraMethod({ rank: 4, alpha: 8 }));
    expect(worstShare(reference, ours)).toBeGreaterThan(5);
  });

  it('is the same with fewer pairs at once and with layers computed again', async () => {
    const reference = await readReference(`${FIXTURES}trl-lora-plain.json`);
    for (const overrides of [{ microBatch: 1 }, { microBatch: 3 }, { recompute: true }]) {
      expect(differences(reference, await replay(reference, `${FIXTURES}tiny`, lora, overrides))).toEqual([]);
    }
  });
});

it('the adapter that PEFT wrote names its modules in full, and all of them are read', async () => {
  const config = JSON.parse(await readFile(`${FIXTURES}adapter/adapter_config.json`, 'utf8')) as {
    target_modules: string[];
  };
  expect(config.target_modules).toContain('model.layers.1.mlp.down_proj');
});
