import { mkdir, mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import { AttemptSuperseded, CheckpointIncompatible } from '../../../shared/errors.ts';
import type { CheckpointRef } from '../../../shared/records.ts';
import { saveCheckpoint } from '../../../training/checkpoint/checkpoint.ts';
import { adopt, listAttempts, mustBeNewest, nextToken, prune } from '../../../training/checkpoint/lineage.ts';
import { smallCheckpoint } from '../../helpers/checkpoints.ts';
import { scratchFolder } from '../../helpers/scratch.ts';

const scratch = scratchFolder();

let output: string;
beforeEach(async () => {
  output = await mkdtemp(join(scratch, 'orpo-lineage-'));
});

const save = async (step: number, token: number, lineage = 'main'): Promise<CheckpointRef> =>
  (await saveCheckpoint(output, smallCheckpoint(step, token, lineage))).ref;
const begin = (token: number, from: CheckpointRef | null = null, lineage = 'main') =>
  adopt({ output, lineage, token, worker: `host-${token}`, from });
const nameOf = (adoption: Awaited<ReturnType<typeof begin>>) =>
  adoption.checkpoint && basename(adoption.checkpoint.ref.uri);
const harm = (ref: CheckpointRef) => truncate(join(ref.uri, 'state.safetensors'), 30);
const stored = async (lineage = 'main') =>
  (await readdir(join(output, 'checkpoints', lineage))).filter((name) => name !== 'attempts').sort();

describe('adoption', () => {
  test('starts from nothing where there is nothing, and records it', async () => {
    expect(await begin(1)).toEqual({ checkpoint: null, epoch: 0, earlierAttempts: 0, warnings: [] });
    expect(await listAttempts(output, 'main')).toEqual([
      { token: 1, worker: 'host-1', from: null, epoch: 0, adopted: null, trusted: [] },
    ]);
  });

  test('takes the newest past what the workflow recorded', async () => {
    await begin(1);
    const from = await save(5, 1);
    await save(7, 1);
    await save(9, 1);
    const adoption = await begin(2, from);
    expect(nameOf(adoption)).toBe('step-00000009-1');
    expect(adoption.checkpoint?.state.weights['layer.a']?.data[0]).toBe(9);
    expect((await listAttempts(output, 'main')).at(-1)).toMatchObject({
      from: 'step-00000005-1',
      adopted: 'step-00000009-1',
      trusted: ['step-00000009-1', 'step-00000007-1', 'step-00000005-1'],
    });
  });

  test('takes what the workflow recorded where nothing is past it', async () => {
    await begin(1);
    const from = await save(5, 1);
    expect(nameOf(await begin(2, from))).toBe('step-00000005-1');
  });

  test('counts the earlier attempts of the same segment', async () => {
    await begin(1);
    await begin(2);
    const from = await save(5, 2);
    expect((await begin(3, from)).earlierAttempts).toBe(0);
    expect((await begin(4, from)).earlierAttempts).toBe(1);
  });

  test('a damaged newest one is passed over with a warning, down to the start', async () => {
    await begin(1);
    const refs = [await save(3, 1), await save(5, 1), await save(7, 1)] as const;
    await harm(refs[2]);
    const second = await begin(2);
    expect(nameOf(second)).toBe('step-00000005-1');
    expect(second.warnings).toEqual([
      expect.stringMatching(/step-00000007-1: has 30 bytes in state\.safetensors.*an older one is used/),
    ]);
    await harm(refs[1]);
    await rm(join(refs[0].uri, 'manifest.json'));
    const third = await begin(3);
    expect(third.checkpoint).toBeNull();
    expect(third.warnings).toHaveLength(2);
  });

  test('where what the workflow recorded is damaged too, an older one of the lineage serves', async () => {
    await begin(1);
    await save(3, 1);
    const from = await save(5, 1);
    await harm(from);
    const adoption = await begin(2, from);
    expect(nameOf(adoption)).toBe('step-00000003-1');
    expect(adoption.warnings).toHaveLength(1);
  });

  test('the output may have moved: what the workflow recorded is found by its place in the run', async () => {
    await begin(1);
    const from = await save(5, 1);
    expect(nameOf(await begin(2, { ...from, uri: `/elsewhere/run/checkpoints/main/${basename(from.uri)}` }))).toBe(
      'step-00000005-1',
    );
  });

  test('another lineage’s checkpoint is taken as it stands, and refused where it is damaged', async () => {
    await begin(1);
    const from = await save(5, 1);
    await save(9, 1);
    const corrected = await begin(2, from, 'second');
    expect(nameOf(corrected)).toBe('step-00000005-1');
    await save(6, 2, 'second');
    expect(nameOf(await begin(3, from, 'second'))).toBe('step-00000006-2');
    await harm(from);
    await expect(begin(4, from, 'third')).rejects.toThrow(CheckpointIncompatible);
    await expect(begin(4, from, 'third')).rejects.toThrow('it is damaged and cannot be used');
  });

  test('clears away what earlier attempts left half-written', async () => {
    await begin(1);
    const folder = join(output, 'checkpoints', 'main');
    await mkdir(join(folder, '.tmp-step-00000009-1'));
    await mkdir(join(folder, '.tmp-step-00000009-3'));
    await begin(2);
    expect(await stored()).toEqual(['.tmp-step-00000009-3']);
  });

  test('a record that was damaged still fences, and nothing older than it is trusted', async () => {
    await save(3, 1);
    await begin(2);
    await writeFile(join(output, 'checkpoints', 'main', 'attempts', '2.json'), '{"tok');
    await expect(begin(1)).rejects.toThrow(AttemptSuperseded);
    expect((await begin(3)).checkpoint).toBeNull();
  });
});

describe('fencing', () => {
  test('an attempt that was given up cannot begin again over a newer one', async () => {
    await begin(2);
    await expect(begin(1)).rejects.toThrow(AttemptSuperseded);
    await expect(begin(1)).rejects.toThrow('attempt 2 has begun since and owns the checkpoints now');
  });

  test('it learns of the newer one before it writes', async () => {
    await begin(1);
    await expect(mustBeNewest(output, 'main', 1)).resolves.toBeUndefined();
    await begin(2);
    await expect(mustBeNewest(output, 'main', 1)).rejects.toThrow(AttemptSuperseded);
  });

  test('what it writes all the same is never adopted, however new its step', async () => {
    await begin(1);
    await save(5, 1);
    expect(nameOf(await begin(2))).toBe('step-00000005-1');
    // Stopped between its check and its write, then continued.
    await save(8, 1);
    await save(6, 2);
    expect(nameOf(await begin(3))).toBe('step-00000006-2');
    expect(nameOf(await begin(4))).toBe('step-00000006-2');
  });

  test('not even where the newer attempt has written nothing yet', async () => {
    await begin(1);
    await save(5, 1);
    await begin(2);
    await save(8, 1);
    expect(nameOf(await begin(3))).toBe('step-00000005-1');
  });

  test('an attempt does not trust what a newer one wrote', async () => {
    await save(5, 9);
    expect(nameOf(await begin(2))).toBeNull();
  });

  test('tokens without a server’s clock grow even where this clock goes back', async () => {
    expect(await nextToken(output, 'main', 500)).toBe(500);
    await begin(500);
    expect(await nextToken(output, 'main', 400)).toBe(501);
    expect(await nextToken(output, 'main', 900)).toBe(900);
  });
});

describe('pruning', () => {
  test('keeps the newest three, the best and what the segment began with', async () => {
    await begin(1);
    for (const step of [1, 2, 3, 4, 5, 6, 7]) await save(step, 1);
    await prune({ output, lineage: 'main', token: 1 }, { newest: 3, names: ['step-00000002-1', 'step-00000001-1'] });
    expect(await stored()).toEqual([1, 2, 5, 6, 7].map((step) => `step-0000000${step}-1`));
  });

  test('what a given-up attempt wrote does not take the place of a trusted one, and goes', async () => {
    await begin(1);
    await save(5, 1);
    await begin(2);
    await save(8, 1);
    await save(9, 1);
    await save(6, 2);
    await prune({ output, lineage: 'main', token: 2 }, { newest: 3, names: [] });
    expect(await stored()).toEqual(['step-00000005-1', 'step-00000006-2']);
  });

  test('never touches what a newer attempt wrote', async () => {
    await begin(1);
    await save(5, 2);
    await save(3, 1);
    await prune({ output, lineage: 'main', token: 1 }, { newest: 1, names: [] });
    expect(await stored()).toEqual(['step-00000003-1', 'step-00000005-2']);
  });
});
