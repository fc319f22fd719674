import { execFile } from 'node:child_process';
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeEach, describe, expect, test } from 'vitest';
import { CheckpointIncompatible, DiskFull } from '../../../shared/errors.ts';
import { diskFullOr, writeFileAtomic } from '../../../training/checkpoint/atomic.ts';
import {
  checkpointName,
  entryOf,
  lineageFolder,
  listCheckpoints,
  loadCheckpoint,
  referenceTo,
  saveCheckpoint,
} from '../../../training/checkpoint/checkpoint.ts';
import { smallCheckpoint } from '../../helpers/checkpoints.ts';
import { scratchFolder } from '../../helpers/scratch.ts';

const scratch = scratchFolder();

let output: string;
beforeEach(async () => {
  output = await mkdtemp(join(scratch, 'orpo-checkpoint-'));
});

const save = (step: number, token: number) => saveCheckpoint(output, smallCheckpoint(step, token));

describe('a checkpoint', () => {
  test('comes back bit for bit, state, position and rows', async () => {
    const made = smallCheckpoint(3, 1000);
    const { ref, bytes } = await saveCheckpoint(output, made);
    const { ref: again, ...loaded } = await loadCheckpoint(ref.uri, ref.sha256);
    expect(loaded).toEqual(made);
    expect(again).toEqual(ref);
    expect(await referenceTo(ref.uri)).toEqual(ref);
    const sizes = await Promise.all((await readdir(ref.uri)).map((name) => readFile(join(ref.uri, name))));
    expect(bytes).toBe(sizes.reduce((sum, file) => sum + file.length, 0));
  });

  test('lies under its lineage, step and token, and leaves no temporary name', async () => {
    const { ref } = await save(50, 1763890000000);
    expect(ref.uri).toBe(join(output, 'checkpoints', 'main', 'step-00000050-1763890000000'));
    expect(await readdir(join(output, 'checkpoints', 'main'))).toEqual(['step-00000050-1763890000000']);
    expect((await readdir(ref.uri)).sort()).toEqual([
      'manifest.json',
      'metrics.jsonl',
      'state.json',
      'state.safetensors',
    ]);
  });

  test('written twice by one attempt at one step, the later one stands', async () => {
    const first = await save(3, 1000);
    const changed = smallCheckpoint(3, 1000);
    changed.meta.over = 'done';
    const second = await saveCheckpoint(output, changed);
    expect(second.ref.sha256).not.toBe(first.ref.sha256);
    expect((await loadCheckpoint(second.ref.uri)).meta.over).toBe('done');
    expect(await readdir(join(output, 'checkpoints', 'main'))).toHaveLength(1);
  });

  test('equal content has an equal reference hash: nothing in it depends on the time of writing', async () => {
    const first = await save(3, 1000);
    const other = await mkdtemp(join(scratch, 'orpo-checkpoint-'));
    const second = await saveCheckpoint(other, smallCheckpoint(3, 1000));
    expect(second.ref.sha256).toBe(first.ref.sha256);
  });

  test('lists by step and then token, newest first, and passes over all else', async () => {
    for (const [step, token] of [
      [2, 1000],
      [10, 1000],
      [9, 2000],
      [10, 2000],
    ] as const)
      await save(step, token);
    const folder = join(output, 'checkpoints', 'main');
    await mkdir(join(folder, '.tmp-step-00000099-1'));
    await mkdir(join(folder, 'attempts'));
    expect((await listCheckpoints(output, 'main')).map(({ step, token }) => [step, token])).toEqual([
      [10, 2000],
      [10, 1000],
      [9, 2000],
      [2, 1000],
    ]);
    expect(await listCheckpoints(output, 'other')).toEqual([]);
  });

  test('names go to hundreds of millions of steps and back', () => {
    expect(entryOf(`/x/${checkpointName(123456789, 5)}`)).toMatchObject({ step: 123456789, token: 5 });
    expect(entryOf('/x/step-12-5')).toBeNull();
    expect(entryOf('/x/.tmp-step-00000012-5')).toBeNull();
  });

  test.each(['../up', 'a/b', '', '.hidden', 'x'.repeat(200)])(
    'a lineage %j that is no plain name is refused',
    (lineage) => {
      expect(() => lineageFolder(output, lineage)).toThrow(CheckpointIncompatible);
      expect(() => lineageFolder(output, lineage)).toThrow('is no plain name');
    },
  );
});

describe('a checkpoint is not trusted', () => {
  const damage: [string, (path: string) => Promise<void>, string][] = [
    ['without its manifest', (path) => rm(join(path, 'manifest.json')), 'has no manifest: it was never finished'],
    ['with a cut file', (path) => truncate(join(path, 'state.safetensors'), 40), 'has 40 bytes in state.safetensors'],
    ['with a missing file', (path) => rm(join(path, 'metrics.jsonl')), 'lacks metrics.jsonl'],
    ['with a longer file', (path) => appendFile(join(path, 'metrics.jsonl'), '\n'), 'bytes in metrics.jsonl, expected'],
    [
      'with a changed bit',
      (path) => flipLastBit(join(path, 'state.safetensors')),
      'has other bytes in state.safetensors',
    ],
    ['with a cut manifest', (path) => truncate(join(path, 'manifest.json'), 30), 'has a manifest that is not JSON'],
    [
      'with an empty manifest',
      (path) => writeFile(join(path, 'manifest.json'), '{"checkpointFormat":1,"files":[]}'),
      'has a manifest that lists nothing',
    ],
    [
      'of another format',
      (path) => writeFile(join(path, 'manifest.json'), '{"checkpointFormat":2,"files":[]}'),
      'has format 2; this version reads format 1',
    ],
    ['whose manifest is null', (path) => writeFile(join(path, 'manifest.json'), 'null'), 'has format undefined'],
  ];

  test.each(damage)('%s', async (_, harm, message) => {
    const { ref } = await save(3, 1000);
    await harm(ref.uri);
    await expect(loadCheckpoint(ref.uri)).rejects.toThrow(CheckpointIncompatible);
    await expect(loadCheckpoint(ref.uri)).rejects.toThrow(message);
  });

  test('whose manifest is not the one that was referred to', async () => {
    const { ref } = await save(3, 1000);
    await expect(loadCheckpoint(ref.uri, 'ab'.repeat(32))).rejects.toThrow(
      /has a manifest with hash \w{12}, expected abababababab/,
    );
  });

  test('whose tensors have names of no known part', async () => {
    const { writeSafetensors } = await import('../../../training/checkpoint/safetensors.ts');
    const { ref } = await save(3, 1000);
    const path = join(ref.uri, 'state.safetensors');
    await writeSafetensors(path, [{ name: 'stray', dtype: 'F32', shape: [1], data: Float32Array.of(1) }]);
    await reseal(ref.uri);
    await expect(loadCheckpoint(ref.uri)).rejects.toThrow('holds a tensor "stray" of no known part');
  });
});

describe('a full disk', () => {
  test('fails the save, keeps the older checkpoint and leaves nothing half-written', async () => {
    const { ref } = await save(3, 1000);
    const { stdout } = await saveWithLimit(output, 64);
    expect(stdout).toContain('DiskFull');
    expect(stdout).toContain('step-00000004-1000: could not be written, no space left (EFBIG)');
    expect(stdout).toContain('what was there before is kept');
    expect(await readdir(join(output, 'checkpoints', 'main'))).toEqual(['step-00000003-1000']);
    await expect(loadCheckpoint(ref.uri, ref.sha256)).resolves.toBeDefined();
  });

  test.each(['ENOSPC', 'EDQUOT', 'EFBIG'])('%s is DiskFull with the path and what to do', (code) => {
    const error = diskFullOr(Object.assign(new Error('write'), { code }), '/run/x');
    expect(error).toBeInstanceOf(DiskFull);
    expect(String(error)).toContain(`/run/x: could not be written, no space left (${code})`);
    expect(String(error)).toContain('start the same run again');
  });

  test('another failure stays what it is', async () => {
    const error = new Error('write');
    expect(diskFullOr(error, '/run/x')).toBe(error);
    await writeFile(join(output, 'file'), '');
    await expect(writeFileAtomic(join(output, 'file', 'below'), 'x')).rejects.toThrow(/ENOTDIR|EEXIST/);
  });
});

describe('writeFileAtomic', () => {
  test('replaces the whole file and leaves nothing beside it', async () => {
    const path = join(output, 'new', 'file.json');
    await writeFileAtomic(path, 'a much longer first text');
    await writeFileAtomic(path, 'short');
    expect(await readFile(path, 'utf8')).toBe('short');
    expect(await readdir(join(output, 'new'))).toEqual(['file.json']);
  });

  test('a failed write keeps the old file', async () => {
    await mkdir(join(output, 'taken', 'full'), { recursive: true });
    await expect(writeFileAtomic(join(output, 'taken'), 'x')).rejects.toThrow(/EISDIR|ENOTEMPTY/);
    expect(await readdir(output)).toEqual(['taken']);
  });
});

async function flipLastBit(path: string): Promise<void> {
  const bytes = await readFile(path);
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  await writeFile(path, bytes);
}

/** Writes a manifest that fits the files as they are. */
async function reseal(path: string): Promise<void> {
  const { createHash } = await import('node:crypto');
  const files = [];
  for (const name of ['state.safetensors', 'state.json', 'metrics.jsonl']) {
    const bytes = await readFile(join(path, name));
    files.push({ name, bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') });
  }
  await writeFile(join(path, 'manifest.json'), JSON.stringify({ checkpointFormat: 1, files }));
}

/** Saves step 4 in a process whose files may not grow beyond a limit, as on a disk that has just so much left. */
function saveWithLimit(folder: string, kilobytes: number): Promise<{ stdout: string }> {
  const root = new URL('../../../', import.meta.url).pathname;
  const program = `
    import { saveCheckpoint } from '${root}training/checkpoint/checkpoint.ts';
    import { smallCheckpoint } from '${root}test/helpers/checkpoints.ts';
    const checkpoint = smallCheckpoint(4, 1000);
    checkpoint.state.weights = { big: { shape: [100000], data: new Float32Array(100000) } };
    saveCheckpoint(process.argv[1], checkpoint).catch((error) => console.log(error.name + ': ' + error.message));`;
  // The signal that goes with the limit is ignored, so that the write itself fails, as on a full disk.
  const command = `trap '' XFSZ; ulimit -f ${kilobytes}; exec "$@"`;
  const node = [process.execPath, '--import', 'tsx', '--input-type=module', '-e', program, folder];
  return promisify(execFile)('bash', ['-c', command, 'bash', ...node], { cwd: root });
}
