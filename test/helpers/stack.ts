/**
 * A real server and real workers for end-to-end tests, over a folder of the test's own, and the real `temporal` binary.
 */
import { execFile, type ChildProcess } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Client, Connection } from '@temporalio/client';
import { stopProcess } from '../../cli/processes.ts';
import { startServer, type DevServer } from '../../cli/server.ts';
import { startWorker } from '../../cli/stack.ts';
import { makeTinyModel } from './tiny-model.ts';

export const ORPO = fileURLToPath(new URL('../../orpo', import.meta.url));
export const PREFERENCES = fileURLToPath(new URL('../../examples/preferences.csv', import.meta.url));

/** Set by `./orpo test`, which finds or fetches it. */
export const TEMPORAL = process.env['TEMPORAL_CLI_PATH'];

export interface TestStack {
  folder: string;
  server: DevServer;
  client: Client;
  workers: ChildProcess[];
  /** Starts one more worker process. */
  worker(options?: { role?: string; device?: string }): Promise<ChildProcess>;
  /** Runs the `temporal` binary against this server. */
  temporal(...args: string[]): Promise<CommandResult>;
  /** Runs `./orpo` against this server. */
  orpo(...args: string[]): Promise<CommandResult>;
  stop(): Promise<void>;
}

export interface CommandResult {
  code: number;
  stdout: string;
  stderr: string;
}

/** Starts server and client; workers are the test's to start. */
export async function startTestStack(): Promise<TestStack> {
  if (!TEMPORAL) throw new Error('TEMPORAL_CLI_PATH is not set; run ./orpo test');
  const folder = await mkdtemp(join(tmpdir(), 'orpo-e2e-'));
  const server = await startServer({
    cli: TEMPORAL,
    database: join(folder, 'temporal.db'),
    logFile: join(folder, 'server.log'),
  });
  const connection = await Connection.connect({ address: server.address });
  const workers: ChildProcess[] = [];
  const env = { ...process.env, TEMPORAL_ADDRESS: server.address, ORPO_HOME: folder };
  await makeTinyModel(join(folder, 'tiny'), { vocab: 600 });
  return {
    folder,
    server,
    client: new Client({ connection }),
    workers,
    async worker(options = {}) {
      const logFile = join(folder, `worker-${workers.length}.log`);
      const child = await startWorker({ address: server.address, home: folder, logFile, device: 'cpu', ...options });
      workers.push(child);
      return child;
    },
    temporal: (...args) => run(TEMPORAL, [...args, '--address', server.address], { cwd: folder, env }),
    orpo: (...args) => run(ORPO, args, { cwd: folder, env }),
    async stop() {
      await Promise.all(workers.map((child) => stopProcess(child, 20_000)));
      await connection.close();
      await server.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Runs a program to its end; never throws for its exit code. */
export function run(
  program: string,
  args: string[],
  options: { cwd: string; env: NodeJS.ProcessEnv },
): Promise<CommandResult> {
  return new Promise((resolve) => {
    execFile(program, args, { ...options, maxBuffer: 64e6 }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : 1;
      resolve({ code, stdout, stderr });
    });
  });
}

/** A run of the tiny model that takes some seconds. Threads are fixed to one: then TensorFlow's eager kernels repeat bit for bit. */
export function tinyRun(overrides: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    model: './tiny',
    data: { source: PREFERENCES, testFraction: 0.2 },
    method: { kind: 'lora', rank: 4 },
    training: { epochs: 2, batchSize: 4, learningRate: 1e-3, checkpointEverySteps: 5 },
    engine: { threads: 1 },
    limits: { heartbeatSeconds: 6 },
    ...overrides,
  };
}

/** Waits until a run's metrics hold a step beyond the given one. */
export async function untilStep(output: string, step: number, timeoutMs = 120_000): Promise<void> {
  await until(async () => {
    const text = await readFile(join(output, 'metrics.jsonl'), 'utf8').catch(() => '');
    const rows = text.trim().split('\n').filter(Boolean);
    const last = rows.length > 0 ? (JSON.parse(rows.at(-1) ?? '{}') as { step?: number }) : {};
    return (last.step ?? 0) > step;
  }, timeoutMs);
}

/** Polls a condition. @throws when it does not hold in time */
export async function until(condition: () => Promise<boolean>, timeoutMs: number): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`condition did not hold within ${timeoutMs / 1000} s: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Process ids of the trainers below a worker. */
export async function trainersOf(worker: ChildProcess): Promise<number[]> {
  const { stdout } = await run('ps', ['-eo', 'pid=,ppid=,args='], { cwd: '/', env: process.env });
  const processes = stdout
    .trim()
    .split('\n')
    .map((line) => /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line))
    .filter((match) => match !== null)
    .map(([, pid, parent, args]) => ({ pid: Number(pid), parent: Number(parent), args: args ?? '' }));
  return processes.filter((p) => p.parent === worker.pid && p.args.includes('trainer/child')).map((p) => p.pid);
}
