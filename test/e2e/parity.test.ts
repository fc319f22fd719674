/**
 * The real model against transformers and TRL. ORPO_TEST_BASE names the folder of SmolLM2-135M-Instruct as the GGUF
 * conversion writes it; the reference numbers were made from that very folder.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openSafetensors } from '../../training/checkpoint/safetensors.ts';
import { nextTokenLogits } from '../../training/logits.ts';
import { disposeDecoder, loadDecoder } from '../../training/model/load.ts';
import { maxAbsDifference } from '../helpers/close.ts';
import { differences, loraMethod, readReference, replay, writeHashAdapter } from '../helpers/parity.ts';

const FIXTURES = new URL('../fixtures/trainer/', import.meta.url).pathname;
const base = process.env['ORPO_TEST_BASE'];

describe.skipIf(!base)('SmolLM2-135M-Instruct (needs ORPO_TEST_BASE, its folder: ./orpo model fetch)', () => {
  let folder: string;
  const baseFolder = base ?? '';
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'orpo-parity-'));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it("has transformers' fp32 logits (1e-3, where they reach 20)", async () => {
    const decoder = await loadDecoder(baseFolder, null, 0);
    const file = await openSafetensors(`${FIXTURES}smollm2-logits.safetensors`);
    const vocab = decoder.config.vocab_size;
    let largest = 0;
    for (const index of [0, 1, 2]) {
      const ids = [...((await file.read(`ids.${index}`)) as Int32Array)];
      const logits = nextTokenLogits(decoder, ids);
      const rows = ids.map((_, position) => logits.subarray(position * vocab, (position + 1) * vocab));
      const sampled = rows.flatMap((row) => [...row.filter((_, id) => id % 512 === 0)]);
      const maxima = rows.map((row) => row.reduce((a, b) => Math.max(a, b)));
      const logSums = rows.map((row, position) => {
        const top = maxima[position] ?? 0;
        return top + Math.log(row.reduce((sum, value) => sum + Math.exp(value - top), 0));
      });
      largest = Math.max(largest, ...maxima);
      expect(maxAbsDifference(sampled, await file.readFloat32(`sampled.${index}`))).toBeLessThan(1e-3);
      expect(maxAbsDifference(maxima, await file.readFloat32(`max.${index}`))).toBeLessThan(1e-3);
      expect(maxAbsDifference(logSums, await file.readFloat32(`logsumexp.${index}`))).toBeLessThan(1e-3);
    }
    expect(largest).toBeGreaterThan(15);
    disposeDecoder(decoder);
  });

  it.each([
    ['plain', 'trl-smollm2-plain.json'],
    ['chat', 'trl-smollm2-chat.json'],
  ])(
    'five optimiser steps have the metrics of TRL 1.16.0, %s',
    async (format, file) => {
      const reference = await readReference(FIXTURES + file);
      const { rank, alpha } = reference.options;
      const adapter = join(folder, `adapter-${format}`);
      await writeHashAdapter(adapter, baseFolder, rank, alpha);
      const ours = await replay(reference, baseFolder, loraMethod({ initFrom: adapter }), { microBatch: 5 });
      expect(differences(reference, ours)).toEqual([]);
    },
    // Ten forward and backward passes; minutes on a busy machine.
    600_000,
  );
});
