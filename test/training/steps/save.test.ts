import { access, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { RunResult } from '../../../shared/records.ts';
import { digestOf } from '../../../training/checkpoint/digest.ts';
import { openSafetensors } from '../../../training/checkpoint/safetensors.ts';
import { RESULT_LIMIT_BYTES, type RunOutcome } from '../../../training/report/run-record.ts';
import { readRun, saveRun } from '../../../training/steps/save.ts';
import { EVALUATION, finishedRun, loraWeights } from '../report/finished-run.ts';

const read = (path: string): Promise<string> => readFile(path, 'utf8');

/** Every file under a folder with its bytes. */
async function contents(folder: string): Promise<Record<string, string>> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return Object.fromEntries(
    await Promise.all(files.sort().map(async (file) => [file, await readFile(file, 'base64')])),
  );
}

/** One saved run for the tests that only look. */
let outcome: RunOutcome;
let result: RunResult;
beforeAll(async () => {
  outcome = await finishedRun({ plotless: true });
  result = await saveRun(outcome);
});

describe('saveRun', () => {
  it('writes adapter, tokenizer, card with its images, page and record', async () => {
    const { output } = outcome.run;
    expect((await readdir(join(output, 'adapter'))).sort()).toEqual([
      'README.md',
      'adapter_config.json',
      'adapter_model.safetensors',
      'plots',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    const card = await read(join(output, 'adapter/README.md'));
    const images = [...card.matchAll(/\]\((plots\/[^)]+)\)/g)].map(([, path = '']) => path);
    expect(images.length).toBe(6);
    for (const image of images) await access(join(output, 'adapter', image));
    for (const path of Object.values(result.artifacts).filter((path) => path !== 'samples.md'))
      await access(join(output, path));
  });

  it('writes the checkpoint’s tensors bit for bit, and their digest', async () => {
    const file = await openSafetensors(join(outcome.run.output, 'adapter/adapter_model.safetensors'));
    const weights = loraWeights();
    expect([...file.names].sort()).toEqual(Object.keys(weights).sort());
    for (const [name, { data }] of Object.entries(weights)) expect(await file.readFloat32(name)).toEqual(data);
    expect(result.digest).toBe(digestOf(weights));
  });

  it('writes the same bytes when run again', async () => {
    const outcome = await finishedRun();
    const first = await saveRun(outcome);
    const before = await contents(outcome.run.output);
    expect(await saveRun(outcome)).toEqual(first);
    expect(await contents(outcome.run.output)).toEqual(before);
  });

  it('records what the run was, and reads it back as finished', async () => {
    const run = await readRun(outcome.run.output);
    expect(run).toMatchObject({
      status: 'completed',
      configHash: outcome.run.configHash,
      dataSha256: outcome.run.dataSha256,
      baseSha256: outcome.model.weightsSha256,
      exact: false,
      inexactBecause: ['the eager step on 2 threads does not repeat its bits'],
      config: outcome.run.config,
      metrics: EVALUATION,
      data: { rows: 132, dropped: 2, counts: { train: 48, validation: 10, test: 72 } },
      training: { steps: 12, totalSteps: 12, epochs: 2, stop: 'done', resumes: 1, recomputedSteps: 1 },
      timings: { trainingSeconds: 30, tokens: 8400, workers: ['host-a'] },
      warnings: ['3 prompts appear twice'],
      result,
    });
    expect(run?.versions['node']).toBe(process.versions.node);
    expect(run?.training.perEpoch.map(({ epoch, step }) => [epoch, step])).toEqual([
      [0, 0],
      [1, 6],
      [2, 12],
    ]);
  });

  it('promises the same bits only where the step repeats them: one thread, and no change of engine', async () => {
    const steady = await finishedRun({ threads: 1 });
    expect(await saveRun(steady)).toMatchObject({ exact: true });
    const moved = { ...steady, segments: steady.segments.map((segment) => ({ ...segment, exact: false })) };
    expect(await saveRun(moved)).toMatchObject({ exact: false });
    expect((await readRun(steady.run.output))?.inexactBecause).toEqual([
      'it went on from a checkpoint of another engine (see warnings)',
    ]);
  });

  it('writes run.json last: what fails before it leaves the run unfinished', async () => {
    const outcome = await finishedRun();
    const { output } = outcome.run;
    await saveRun(outcome);
    await rm(join(output, 'run.json'));
    const blocked = join(output, 'report.html');
    await rm(blocked);
    await writeFile(join(output, 'metrics.jsonl'), 'rubbish\n');
    await expect(saveRun(outcome)).rejects.toThrow('metrics.jsonl:1: not a row of metrics');
    expect(await readRun(output)).toBeNull();
  });

  it('leaves run.json unwritten where the page cannot be', async () => {
    const outcome = await finishedRun();
    await mkdir(join(outcome.run.output, 'report.html', 'in-the-way'), { recursive: true });
    await expect(saveRun(outcome)).rejects.toThrow(/report\.html/);
    expect(await readRun(outcome.run.output)).toBeNull();
    await access(join(outcome.run.output, 'adapter/README.md'));
  });

  it('saves a fully tuned model as a Hugging Face folder', async () => {
    const outcome = await finishedRun({ method: { kind: 'full' } });
    const result = await saveRun(outcome);
    expect(result.artifacts['model']).toBe('model');
    expect((await readdir(join(outcome.run.output, 'model'))).sort()).toEqual([
      'README.md',
      'config.json',
      'model.safetensors',
      'plots',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
  });

  it('returns at most 4 KiB, however long the output’s name and however many the metrics', async () => {
    const many = Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`eval_something/else_${i}`, Math.PI * i]));
    const before = { ...EVALUATION.before, ...many };
    const long = join(await mkdtemp(join(tmpdir(), 'long-')), ...Array.from({ length: 9 }, () => 'x'.repeat(100)));
    const outcome = await finishedRun({ output: long, evaluation: { ...EVALUATION, before, after: before } });
    const result = await saveRun(outcome);
    expect(Buffer.byteLength(JSON.stringify(result))).toBeLessThanOrEqual(RESULT_LIMIT_BYTES);
    expect(result.evaluation?.before).toEqual(EVALUATION.before);
    expect((await readRun(long))?.metrics?.before).toEqual(before);
  });

  it('saves a run without held-out pairs and samples', async () => {
    const outcome = await finishedRun({ evaluation: null, samples: [] });
    const result = await saveRun(outcome);
    expect(result.evaluation).toBeNull();
    expect(Object.keys(result.artifacts)).not.toContain('samples');
  });

  it('takes the licence from the base’s own card', async () => {
    const outcome = await finishedRun();
    await writeFile(
      join(outcome.model.folder, 'README.md'),
      '---\nlicense: llama3.2\nlanguage: en\n---\n# Base\nlicense: no\n',
    );
    await saveRun(outcome);
    expect(await read(join(outcome.run.output, 'adapter/README.md'))).toContain('\nlicense: llama3.2\n');
  });

  it.each<[string, (outcome: RunOutcome) => Promise<RunOutcome>, RegExp]>([
    [
      'no segment',
      async (o) => ({ ...o, segments: [] }),
      /save: no segment was trained, so there is nothing to save; train at least one step/,
    ],
    [
      'no trainer state',
      async (o) => (await rm(join(o.run.output, 'trainer_state.json')), o),
      /save: .*trainer_state\.json is not there; start the same run again/,
    ],
    [
      'no tokenizer in the base folder',
      async (o) => (
        await Promise.all(['tokenizer.json', 'tokenizer_config.json'].map((f) => rm(join(o.model.folder, f)))),
        o
      ),
      /save: .*base has none of tokenizer\.json, .*; it was complete when the run began, so restore it/,
    ],
    [
      'a damaged checkpoint',
      async (o) => (await writeFile(join(o.segments.at(-1)?.checkpoint.uri ?? '', 'state.safetensors'), 'x'), o),
      /checkpoint .*: has 1 bytes in state\.safetensors/,
    ],
  ])('says what to do about %s', async (_, spoil, message) => {
    const outcome = await spoil(await finishedRun());
    await expect(saveRun(outcome)).rejects.toThrow(message);
    expect(await readRun(outcome.run.output)).toBeNull();
  });
});

describe('readRun', () => {
  it('trusts only a complete run.json of a known form', async () => {
    const path = join(outcome.run.output, 'run.json');
    const whole = await read(path);
    const parsed = JSON.parse(whole) as Record<string, unknown>;
    const { digest: _digest, ...lacking } = parsed;
    const broken = [
      '',
      whole.slice(0, whole.length / 2),
      'null',
      '[]',
      JSON.stringify({ ...parsed, status: 'running' }),
      JSON.stringify({ ...parsed, runFormat: 2 }),
      JSON.stringify({ ...parsed, baseSha256: 'short' }),
      JSON.stringify({ ...parsed, result: null }),
      JSON.stringify(lacking),
    ];
    for (const text of broken) {
      await writeFile(path, text);
      expect(await readRun(outcome.run.output)).toBeNull();
    }
    await writeFile(path, whole);
    expect(await readRun(outcome.run.output)).toEqual(parsed);
  });

  it('finds nothing where there is no folder, and does not mistake an unreadable file for an unfinished run', async () => {
    expect(await readRun(join(tmpdir(), 'no-such-run'))).toBeNull();
    const output = await mkdtemp(join(tmpdir(), 'unreadable-'));
    await mkdir(join(output, 'run.json'));
    await expect(readRun(output)).rejects.toThrow(/EISDIR/);
  });
});
