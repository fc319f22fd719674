/**
 * The whole of a run on a real server with real workers and a tiny real model.
 */
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RunResult } from '../../shared/records.ts';
import { startTestStack, TEMPORAL, tinyRun, trainersOf, until, untilStep, type TestStack } from '../helpers/stack.ts';

describe.skipIf(!TEMPORAL)('a run on a real server (needs the temporal CLI: ./orpo test brings it)', () => {
  let stack: TestStack;
  let undisturbed: RunResult;

  beforeAll(async () => {
    stack = await startTestStack();
  });
  afterAll(() => stack.stop());

  const resultOf = (id: string): Promise<RunResult> =>
    stack.client.workflow.getHandle(id).result() as Promise<RunResult>;

  it('starts from the Temporal CLI with a raw JSON file and leaves every artifact', async () => {
    const worker = await stack.worker();
    await writeFile(join(stack.folder, 'run.json'), JSON.stringify(tinyRun()));
    const started = await stack.temporal(
      ...['workflow', 'start', '--type', 'orpoFineTune', '--task-queue', 'orpo'],
      ...['--workflow-id', 'plain', '--input-file', join(stack.folder, 'run.json')],
    );
    expect(started.stderr).toBe('');
    expect(started.code).toBe(0);
    undisturbed = await resultOf('plain');
    expect(undisturbed).toMatchObject({ stop: 'done', resumes: 0, recomputedSteps: 0 });
    for (const file of ARTIFACTS) expect(existsSync(join(undisturbed.output, file)), file).toBe(true);
    const progress = await stack.client.workflow.getHandle('plain').query<{ phase: string; step: number }>('progress');
    expect(progress).toMatchObject({ phase: 'done', step: undisturbed.steps });
    const listed = await stack.temporal(
      'workflow',
      'list',
      '--query',
      'OrpoPhase = "done" AND OrpoEpoch = 2',
      '-o',
      'json',
    );
    expect(listed.stdout).toContain('"plain"');
    expect(JSON.stringify(undisturbed).length).toBeLessThan(4096);
    worker.kill('SIGTERM');
    await until(async () => worker.exitCode !== null || worker.signalCode !== null, 30_000);
  });

  it('ends with the same weights and metrics when its worker is killed in mid-epoch', async () => {
    const first = await stack.worker();
    const output = join(stack.folder, 'runs', 'killed-worker');
    await start('killed-worker');
    await untilStep(output, 7);
    const trainers = await trainersOf(first);
    expect(trainers.length).toBe(1);
    first.kill('SIGKILL');
    await until(async () => !trainers.some(isAlive), 5_000);
    await stack.worker();
    const result = await resultOf('killed-worker');
    expect(result.digest).toBe(undisturbed.digest);
    expect(await metricsOf(output)).toBe(await metricsOf(undisturbed.output));
    expect(result.resumes).toBeGreaterThanOrEqual(1);
    expect(result.recomputedSteps).toBeLessThanOrEqual(5);
  });

  it('goes on within the same worker when its trainer is killed', async () => {
    const output = join(stack.folder, 'runs', 'killed-trainer');
    await start('killed-trainer');
    await untilStep(output, 12);
    process.kill((await allTrainers())[0] ?? -1, 'SIGKILL');
    const result = await resultOf('killed-trainer');
    expect(result.digest).toBe(undisturbed.digest);
    expect(await metricsOf(output)).toBe(await metricsOf(undisturbed.output));
    expect(result.resumes).toBe(1);
  });

  it('pauses with a checkpoint and no trainer, resumes to the same bits', async () => {
    const output = join(stack.folder, 'runs', 'paused');
    await start('paused');
    await untilStep(output, 6);
    const paused = await stack.orpo('pause', 'paused', '--json');
    expect(JSON.parse(paused.stdout)).toMatchObject({ workflowId: 'paused' });
    expect(await allTrainers()).toEqual([]);
    const twice = await stack.orpo('resume', 'paused');
    expect(twice.code).toBe(0);
    expect((await stack.orpo('resume', 'paused')).stderr).toContain('not paused');
    const result = await resultOf('paused');
    expect(result.digest).toBe(undisturbed.digest);
    expect(await metricsOf(output)).toBe(await metricsOf(undisturbed.output));
  });

  it('saves what there is when stopped, and ends canceled with its checkpoints when canceled', async () => {
    await start('stopped');
    await untilStep(join(stack.folder, 'runs', 'stopped'), 6);
    expect((await stack.orpo('stop', 'stopped')).code).toBe(0);
    const result = await resultOf('stopped');
    expect(result.steps).toBeLessThan(undisturbed.steps);
    expect(existsSync(join(result.output, 'adapter', 'adapter_model.safetensors'))).toBe(true);

    await start('canceled');
    await untilStep(join(stack.folder, 'runs', 'canceled'), 6);
    await stack.client.workflow.getHandle('canceled').cancel();
    await expect(resultOf('canceled')).rejects.toThrow(/cancel/i);
    const { status } = await stack.client.workflow.getHandle('canceled').describe();
    expect(status.name).toBe('CANCELLED');
    await start('canceled');
    expect((await resultOf('canceled')).digest).toBe(undisturbed.digest);
  });

  it('reports a finished run instead of training it again, and refuses another config on its output', async () => {
    await start('plain');
    expect(await resultOf('plain')).toMatchObject({ alreadyFinished: true, digest: undisturbed.digest });
    await start('plain', { training: { epochs: 1 } });
    await expect(resultOf('plain')).rejects.toMatchObject({ cause: { cause: { type: 'OutputInUse' } } });
  });

  it('trains to the same bits without Temporal', async () => {
    await writeFile(join(stack.folder, 'local.json'), JSON.stringify(tinyRun({ output: 'local-out' })));
    const local = await stack.orpo('train', 'local.json', '--local', '--json');
    expect(local.code, local.stderr).toBe(0);
    const result = JSON.parse(local.stdout.trim().split('\n').at(-1) ?? '') as RunResult;
    expect(result.digest).toBe(undisturbed.digest);
    expect(await metricsOf(result.output)).toBe(await metricsOf(undisturbed.output));
  });

  async function start(id: string, overrides: Record<string, unknown> = {}): Promise<void> {
    const args = [tinyRun(overrides)];
    await stack.client.workflow.start('orpoFineTune', { taskQueue: 'orpo', workflowId: id, args });
  }

  async function allTrainers(): Promise<number[]> {
    const found = await Promise.all(stack.workers.map((worker) => trainersOf(worker)));
    return found.flat();
  }
});

const ARTIFACTS = [
  ...['run.json', 'metrics.jsonl', 'trainer_state.json', 'timings.jsonl', 'samples.md', 'report.html'],
  ...[
    'adapter/adapter_config.json',
    'adapter/adapter_model.safetensors',
    'adapter/README.md',
    'adapter/tokenizer.json',
  ],
  ...['log_odds_chosen', 'rewards_chosen', 'rewards_rejected', 'rewards_margins', 'rewards_accuracies'].flatMap(
    (name) => ['vl.json', 'svg', 'png'].map((ending) => `plots/${name}.${ending}`),
  ),
];

function metricsOf(output: string): Promise<string> {
  return readFile(join(output, 'metrics.jsonl'), 'utf8');
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
