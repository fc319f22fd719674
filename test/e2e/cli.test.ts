/**
 * The command line and plain Temporal as a user meets them, wrong inputs above all: one clear message, the right exit
 * code, and nothing left behind that a next run would trust.
 */
import { existsSync } from 'node:fs';
import { cp, mkdir, readFile, readdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { WorkflowFailedError } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { failureOf } from '../../cli/train.ts';
import type { RunResult } from '../../shared/records.ts';
import { PREFERENCES, startTestStack, TEMPORAL, tinyRun, until, type TestStack } from '../helpers/stack.ts';

describe.skipIf(!TEMPORAL)('commands against a real server (needs the temporal CLI: ./orpo test brings it)', () => {
  let stack: TestStack;

  beforeAll(async () => {
    stack = await startTestStack();
  });
  afterAll(() => stack.stop());

  const short = { training: { epochs: 1, maxSteps: 2 } };

  async function configFile(name: string, config: unknown): Promise<string> {
    const path = join(stack.folder, name);
    await writeFile(path, typeof config === 'string' ? config : JSON.stringify(config));
    return path;
  }

  it('names every queue that has no worker, with the command that starts one', async () => {
    const answer = await stack.orpo('train', await configFile('ok.json', tinyRun(short)));
    expect(answer.code).toBe(3);
    expect(answer.stderr).toContain('./orpo worker --role workflow');
    expect(answer.stderr).toContain('./orpo worker --role cpu');
    expect(answer.stderr).toContain('./orpo worker --role gpu');
  });

  it('will not train on a CPU where a GPU worker was asked for', async () => {
    const answer = await stack.orpo('worker', '--role', 'gpu');
    expect(answer.code).toBe(3);
    expect(answer.stderr).toContain('--device cpu');
  });

  it('follows a run to its end and prints what changed; --json ends with one object', async () => {
    await stack.worker();
    const config = await configFile('ok.json', tinyRun(short));
    const text = await stack.orpo('train', config, '--id', 'followed');
    expect(text.stderr).toBe('');
    expect(text.code).toBe(0);
    expect(text.stdout).toMatch(/Base weights {2}folder/);
    expect(text.stdout).toContain('adapter');
    const json = await stack.orpo('train', config, '--id', 'followed-json', '--json');
    const result = JSON.parse(json.stdout.trim().split('\n').at(-1) ?? '') as RunResult & { status: string };
    expect(result).toMatchObject({ status: 'completed', steps: 2 });
    const detached = await stack.orpo('train', config, '--id', 'detached', '--detach');
    expect(detached.stdout.trim()).toBe('detached');
    await stack.client.workflow.getHandle('detached').result();
    const listed = await stack.orpo('status', '--json');
    const ids = (JSON.parse(listed.stdout) as { runs: { id: string; status: string }[] }).runs;
    expect(ids).toContainEqual(expect.objectContaining({ id: 'detached', status: 'completed' }));
  });

  it('fires a schedule twice without colliding', async () => {
    const config = await configFile('scheduled.json', tinyRun(short));
    const made = await stack.orpo('schedule', 'create', config, '--id', 'weekly', '--cron', '0 3 * * 1', '--json');
    expect(made.stderr).toBe('');
    expect(JSON.parse(made.stdout)).toMatchObject({ scheduleId: 'weekly' });
    const twice = await stack.orpo('schedule', 'create', config, '--id', 'weekly', '--every', '7d');
    expect(twice.code).toBe(2);
    expect(twice.stderr).toContain('exists already');
    for (let firing = 0; firing < 2; firing++) {
      expect(
        (await stack.temporal('schedule', 'trigger', '--schedule-id', 'weekly', '--overlap-policy', 'BufferAll')).code,
      ).toBe(0);
      // Workflow ids of a schedule carry its firing's second.
      await new Promise((resolve) => setTimeout(resolve, 1100));
    }
    await until(async () => (await completed('weekly-')).length === 2, 120_000);
    const outputs = await Promise.all((await completed('weekly-')).map(async (id) => (await resultOf(id)).output));
    expect(new Set(outputs).size).toBe(2);
    for (const output of outputs) expect(existsSync(join(output, 'run.json'))).toBe(true);
  });

  it('takes a schedule made with the Temporal CLI alone', async () => {
    const config = await configFile('plain-scheduled.json', tinyRun(short));
    const made = await stack.temporal(
      ...['schedule', 'create', '--schedule-id', 'nightly', '--cron', '0 3 * * *', '--type', 'orpoFineTune'],
      ...['--task-queue', 'orpo', '--workflow-id', 'nightly', '--input-file', config],
    );
    expect(made.code).toBe(0);
    await stack.temporal('schedule', 'trigger', '--schedule-id', 'nightly');
    await until(async () => (await completed('nightly-')).length === 1, 60_000);
  });

  it('fails a workflow with the same message, and at once', async () => {
    const failure = await failureOfRun('typo', { modle: 'x', data: { source: PREFERENCES, valdationFraction: 0.1 } });
    expect(failure).toMatchObject({ type: 'ConfigInvalid', code: 2 });
    expect(failure.message).toContain('did you mean "model"');
    expect(failure.message).toContain('did you mean "validationFraction"');
    const file = await configFile('typo.json', { modle: 'x', data: { source: PREFERENCES, valdationFraction: 0.1 } });
    const answer = await stack.orpo('train', file);
    expect(answer.code).toBe(2);
    expect(answer.stderr).toContain('did you mean "model"');
    for (const input of [undefined, null, 'text', 7, []]) {
      expect((await failureOfRun('not-an-object', input)).type).toBe('ConfigInvalid');
    }
  });

  it('names host and full path of a file that is not there', async () => {
    const failure = await failureOfRun('missing', { model: './tiny', data: { source: 'nowhere.csv' } });
    expect(failure.type).toBe('DatasetInvalid');
    expect(failure.message).toContain(join(stack.folder, 'nowhere.csv'));
  });

  it('reports bad data: none of the columns, empty, not what the name says', async () => {
    const cases: [string, string | Buffer, RegExp][] = [
      ['columns.csv', 'question,answer\na,b\n', /question.*answer/s],
      ['empty.csv', '', /empty/],
      ['not-a.parquet', 'prompt,chosen,rejected\na,b,c\n', /parquet/i],
      ['not-a.csv', Buffer.from([0x50, 0x4b, 3, 4, 0, 0, 0, 0]), /zip|archive/i],
      ['bad-rows.csv', 'prompt,chosen,rejected\na,same,same\nb,,c\n', /bad-rows\.csv:2[\s\S]*bad-rows\.csv:3/],
    ];
    for (const [name, content, expected] of cases) {
      await writeFile(join(stack.folder, name), content);
      const answer = await stack.orpo(
        'train',
        await configFile('data.json', tinyRun({ data: { source: name } })),
        '--id',
        `data-${name}`,
      );
      expect(answer.code, name).toBe(2);
      expect(answer.stderr, name).toMatch(expected);
      expect(existsSync(join(stack.folder, 'runs', `data-${name}`, 'run.json'))).toBe(false);
    }
  });

  it('refuses a truncated model, a foreign tokenizer and a folder that is none', async () => {
    const broken = join(stack.folder, 'truncated');
    await cp(join(stack.folder, 'tiny'), broken, { recursive: true });
    await truncate(join(broken, 'model.safetensors'), 5000);
    expect(await failureOfRun('truncated', tinyRun({ model: './truncated' }))).toMatchObject({ type: 'ModelInvalid' });
    const foreign = join(stack.folder, 'foreign');
    await cp(join(stack.folder, 'tiny'), foreign, { recursive: true });
    const tokenizer = JSON.parse(await readFile(join(foreign, 'tokenizer.json'), 'utf8')) as { added_tokens: object[] };
    tokenizer.added_tokens.push({ ...tokenizer.added_tokens[0], id: 9000, content: '<foreign>' });
    await writeFile(join(foreign, 'tokenizer.json'), JSON.stringify(tokenizer));
    expect(await failureOfRun('foreign', tinyRun({ model: './foreign' }))).toMatchObject({ type: 'TokenizerMismatch' });
    await mkdir(join(stack.folder, 'nothing'));
    const none = await failureOfRun('nothing', tinyRun({ model: './nothing' }));
    expect(none.type).toMatch(/^Model/);
    expect(none.message).toContain('config.json');
  });

  it('says which server does not answer', async () => {
    const { run } = await import('../helpers/stack.ts');
    const env = { ...process.env, TEMPORAL_ADDRESS: '127.0.0.1:1' };
    const answer = await run(
      new URL('../../orpo', import.meta.url).pathname,
      ['train', await configFile('ok.json', tinyRun())],
      {
        cwd: stack.folder,
        env,
      },
    );
    expect(answer.code).toBe(3);
    expect(answer.stderr).toContain('127.0.0.1:1');
    expect(answer.stderr).not.toContain('    at ');
  });

  it('shows usage errors with exit code 2', async () => {
    expect((await stack.orpo('trian')).code).toBe(2);
    expect((await stack.orpo('train')).code).toBe(2);
    expect((await stack.orpo('watch', 'no-such-run')).code).toBe(2);
    const broken = await stack.orpo('train', await configFile('broken.json', '{ "data": '));
    expect(broken.code).toBe(2);
    expect(broken.stderr).toContain('not JSON');
  });

  async function completed(prefix: string): Promise<string[]> {
    const ids: string[] = [];
    for await (const run of stack.client.workflow.list({ query: 'ExecutionStatus = "Completed"' })) {
      if (run.workflowId.startsWith(prefix)) ids.push(run.workflowId);
    }
    return ids;
  }

  function resultOf(id: string): Promise<RunResult> {
    return stack.client.workflow.getHandle(id).result() as Promise<RunResult>;
  }

  async function failureOfRun(id: string, input: unknown): Promise<ReturnType<typeof failureOf>> {
    const args = input === undefined ? [] : [input];
    const handle = await stack.client.workflow.start('orpoFineTune', { taskQueue: 'orpo', workflowId: id, args });
    const error: unknown = await handle.result().then(
      () => new Error('it completed'),
      (reason: unknown) => reason,
    );
    if (!(error instanceof WorkflowFailedError)) throw error;
    expect(await leftovers(id)).toEqual([]);
    return failureOf(error);
  }

  /** Temporary files that a failed run left in its folder. */
  async function leftovers(id: string): Promise<string[]> {
    const names = await readdir(join(stack.folder, 'runs', id), { recursive: true }).catch(() => []);
    return names.filter((name) => /\.(tmp|partial)/.test(name));
  }
});
