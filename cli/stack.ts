/**
 * A server with workers, started together and stopped together: what `dev`, `quickstart` and the end-to-end tests use.
 */
import type { ChildProcess } from 'node:child_process';
import { openSync, closeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { EnvironmentIncomplete } from '../shared/errors.ts';
import { spawnBound, stopProcess } from './processes.ts';
import { startServer, withoutTemporal, type DevServer, type DevServerOptions } from './server.ts';

const CLI = fileURLToPath(new URL('./index.ts', import.meta.url));
const TSX = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
const WORKER_READY_MS = 120_000;
/** A worker's own grace (workers/run.ts) and a little more. */
const WORKER_STOP_MS = 130_000;

export interface Stack {
  server: DevServer;
  worker: ChildProcess;
  /** Starts a worker in the place of one that ended. */
  restartWorker(): Promise<void>;
  stop(): Promise<void>;
}

export interface StackOptions extends DevServerOptions {
  home: string;
  workerLog: string;
}

/** Starts a server and one worker process of all roles. @throws EnvironmentIncomplete when either does not come up */
export async function startStack(options: StackOptions): Promise<Stack> {
  const server = await startServer(options);
  try {
    const start = (): Promise<ChildProcess> =>
      startWorker({ address: server.address, home: options.home, logFile: options.workerLog });
    const stack: Stack = {
      server,
      worker: await start(),
      restartWorker: async () => {
        stack.worker = await start();
      },
      stop: async () => {
        await stopProcess(stack.worker, WORKER_STOP_MS);
        await server.stop();
      },
    };
    return stack;
  } catch (error) {
    await server.stop();
    throw error;
  }
}

export interface WorkerProcessOptions {
  address: string;
  home: string;
  logFile: string;
  role?: string;
  device?: string;
  env?: NodeJS.ProcessEnv;
}

/** Starts a worker process against a server and waits until it polls. */
export async function startWorker(options: WorkerProcessOptions): Promise<ChildProcess> {
  const { address, home, logFile, role = 'all', device = 'auto' } = options;
  const log = openSync(logFile, 'a');
  const args = ['--import', TSX, CLI, 'worker', '--role', role, '--device', device];
  const child = spawnBound(process.execPath, args, {
    stdio: ['ignore', 'pipe', log],
    // A group of its own: Ctrl-C in the terminal is this command's to translate, not the worker's.
    detached: true,
    env: { ...withoutTemporal(process.env), TEMPORAL_ADDRESS: address, ORPO_HOME: home, ...options.env },
  });
  closeSync(log);
  await new Promise<void>((resolve, reject) => {
    const fail = (why: string): void => reject(new EnvironmentIncomplete(`worker: ${why}; its log: ${logFile}`));
    const timer = setTimeout(() => fail(`not ready within ${WORKER_READY_MS / 1000} s`), WORKER_READY_MS);
    let text = '';
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      if (text.includes('worker ready')) {
        clearTimeout(timer);
        resolve();
      }
    });
    child.once('exit', (code) => {
      clearTimeout(timer);
      fail(`ended with exit code ${code}`);
    });
  }).catch(async (error: unknown) => {
    await stopProcess(child, 2_000);
    throw error;
  });
  child.stdout?.resume();
  return child;
}
