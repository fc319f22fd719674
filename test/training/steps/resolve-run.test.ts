import { mkdir, readFile, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { processRuns, resolveRun, type Owner, type ResolveRunInput } from '../../../training/steps/resolve-run.ts';
import type { ResolvedRun } from '../../../shared/records.ts';
import { scratchFolder } from '../../helpers/scratch.ts';

describe('resolveRun', () => {
  let home: string;
  let alive: string[];

  beforeEach(async () => {
    home = await scratchFolder();
    alive = [];
    await writeFile(join(home, 'pairs.csv'), 'prompt,chosen,rejected\na,b,c\n');
  });

  const request = (input: unknown, overrides: Partial<ResolveRunInput> = {}): ResolveRunInput => ({
    input,
    workflowId: 'run-1',
    runId: 'first',
    home,
    root: null,
    searchAttributes: false,
    isRunning: (owner: Owner) => Promise.resolve(alive.includes(owner.workflowId)),
    ...overrides,
  });
  const config = { data: { source: 'pairs.csv' } };

  it('resolves paths against home and expands the output name', async () => {
    const run = await resolveRun(request({ ...config, output: 'out/{workflowId}-{date}' }));
    expect(run.config.data.source).toBe(join(home, 'pairs.csv'));
    expect(run.output).toMatch(/\/out\/run-1-\d{4}-\d\d-\d\d$/);
    expect(run.config.model).toBe('smollm2-135m-instruct');
    expect(run.lineage).toBe('first');
    expect(run.dataSha256).toMatch(/^[0-9a-f]{64}$/);
  });

  it('keeps a workflow id from naming a folder outside the output', async () => {
    const run = await resolveRun(request(config, { workflowId: '../../etc/x' }));
    expect(run.output).toBe(join(home, 'runs', '.._.._etc_x'));
  });

  it('continues an unfinished output under the same lineage, by the same config and data only', async () => {
    await mkdir((await resolveRun(request(config))).output + '/checkpoints');
    const again = await resolveRun(request(config, { runId: 'second' }));
    expect(again.lineage).toBe('first');
    const other = { ...config, training: { epochs: 9 } };
    await expect(resolveRun(request(other, { runId: 'third' }))).rejects.toThrow(/another config/);
    await writeFile(join(home, 'pairs.csv'), 'prompt,chosen,rejected\na,b,d\n');
    await expect(resolveRun(request(config, { runId: 'fourth' }))).rejects.toThrow(/another data/);
  });

  it('lets a run that failed before any training be corrected in place, under a lineage of its own', async () => {
    await resolveRun(request(config));
    const corrected = await resolveRun(request({ ...config, training: { epochs: 9 } }, { runId: 'second' }));
    expect(corrected.lineage).toBe('second');
  });

  it('takes a bare name as a preset or nothing', async () => {
    const start = (model: string): Promise<unknown> => resolveRun(request({ ...config, model }));
    await expect(start('smolm2-135m-instruct')).rejects.toThrow(/no preset; did you mean "smollm2-135m-instruct"/);
    await mkdir(join(home, 'tiny'));
    await expect(start('tiny')).rejects.toThrow(/a path \(\.\/folder/);
  });

  it('does not count output, limits and ifExists as another config', async () => {
    const first = await resolveRun(request({ ...config, output: 'a' }));
    const second = await resolveRun(
      request({ ...config, output: 'b', limits: { heartbeatSeconds: 9 }, ifExists: 'new' }),
    );
    expect(second.configHash).toBe(first.configHash);
  });

  it('refuses an output whose owner runs, and takes the next free name where asked to', async () => {
    await resolveRun(request({ ...config, output: 'out' }));
    alive = ['run-1'];
    const shared = { ...config, output: 'out' };
    await expect(resolveRun(request(shared, { workflowId: 'run-2' }))).rejects.toThrow(
      /belongs to the running workflow run-1/,
    );
    const next = await resolveRun(request({ ...shared, ifExists: 'new' }, { workflowId: 'run-2' }));
    expect(next.output).toBe(join(home, 'out-2'));
    const third = await resolveRun(request({ ...shared, ifExists: 'new' }, { workflowId: 'run-3' }));
    expect(third.output).toBe(join(home, 'out-3'));
    alive = [];
    await expect(resolveRun(request({ ...shared, ifExists: 'error' }, { workflowId: 'run-4' }))).rejects.toThrow(
      /ifExists is "error"/,
    );
  });

  it('gives the same answer when its own attempt is repeated', async () => {
    const shared = { ...config, output: 'out', ifExists: 'new' };
    expect(await resolveRun(request(shared))).toEqual(await resolveRun(request(shared)));
    expect(await readdir(home)).toEqual(['out', 'pairs.csv']);
    const owner = JSON.parse(await readFile(join(home, 'out', 'owner.json'), 'utf8')) as Owner;
    expect(owner).toMatchObject({ workflowId: 'run-1', runId: 'first', lineage: 'first' });
  });

  it('keeps every path inside ORPO_ROOT, links included', async () => {
    await mkdir(join(home, 'inside'));
    await symlink('/', join(home, 'inside', 'link'));
    await writeFile(join(home, 'inside', 'pairs.csv'), 'prompt,chosen,rejected\na,b,c\n');
    const root = join(home, 'inside');
    const inside = { data: { source: 'inside/pairs.csv' }, output: 'inside/out' };
    expect((await resolveRun(request(inside, { root }))).output).toBe(join(root, 'out'));
    await expect(resolveRun(request({ ...inside, output: 'inside/../out' }, { root }))).rejects.toThrow(
      /output: .*out/,
    );
    await expect(resolveRun(request({ ...inside, output: 'inside/link/tmp/x' }, { root }))).rejects.toThrow(
      /ORPO_ROOT/,
    );
    await expect(resolveRun(request({ data: { source: 'pairs.csv' } }, { root }))).rejects.toThrow(/data\.source/);
  });

  it('says on which host a path is missing', async () => {
    await expect(resolveRun(request({ data: { source: 'no.csv' } }))).rejects.toThrow(join(home, 'no.csv'));
    await expect(resolveRun(request({ data: { source: '.' } }))).rejects.toThrow(/a folder/);
    await expect(resolveRun(request({ ...config, model: './none' }))).rejects.toThrow(/model: .*none on host/);
    const method = { initFrom: 'none' };
    await expect(resolveRun(request({ ...config, method }))).rejects.toThrow(/method\.initFrom: .*none on host/);
    await expect(resolveRun(request({ ...config, output: 's3://bucket/x' }))).rejects.toThrow(/only folders/);
    for (const output of ['pairs.csv/x', 'pairs.csv', '/proc/orpo/x']) {
      await expect(resolveRun(request({ ...config, output }))).rejects.toThrow(/cannot make the folder/);
    }
  });

  it('refuses explicit LoRA fields that contradict the adapter it starts from', async () => {
    const adapter = join(home, 'adapter');
    await mkdir(adapter);
    const fields = { peft_type: 'LORA', r: 8, lora_alpha: 16, target_modules: ['v_proj', 'q_proj'] };
    await writeFile(join(adapter, 'adapter_config.json'), JSON.stringify(fields));
    const start = (method: object): Promise<unknown> =>
      resolveRun(request({ ...config, method: { ...method, initFrom: 'adapter' } }));
    const run = (await start({})) as ResolvedRun;
    expect(run.config.method).toMatchObject({ rank: 8, alpha: 16, targetModules: ['v_proj', 'q_proj'] });
    await start({ rank: 8, targetModules: ['q_proj', 'v_proj'] });
    await expect(start({ rank: 4, alpha: 16 })).rejects.toThrow(
      'method.rank: got 4; the adapter in method.initFrom has 8; leave it out',
    );
  });

  it('takes a process as running while it lives, on this host', () => {
    const owner = { workflowId: 'local', runId: 'r', configHash: '', dataSha256: '', lineage: '' };
    expect(processRuns({ ...owner, pid: process.pid, host: 'elsewhere' })).toBe(true);
    expect(processRuns({ ...owner, host: 'here' })).toBe(false);
  });
});
