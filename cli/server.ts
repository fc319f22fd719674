/**
 * A Temporal development server of our own: the CLI's `server start-dev` over a database file, with this project's
 * search attributes. Used by `dev` (well-known ports), `quickstart` and the tests (free ports).
 */
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Connection } from '@temporalio/client';
import { SEARCH_ATTRIBUTES } from '../shared/contract.ts';
import { EnvironmentIncomplete } from '../shared/errors.ts';
import { freePort, spawnBound, stopProcess } from './processes.ts';

export interface DevServer {
  address: string;
  uiUrl: string;
  pid: number;
  stop(): Promise<void>;
}

export interface DevServerOptions {
  /** Path of the `temporal` binary. */
  cli: string;
  database: string;
  /** 0 or absent: a free one. */
  port?: number;
  uiPort?: number;
  logFile: string;
}

const READY_WITHIN_MS = 60_000;
const TYPE_NAMES = { KEYWORD: 'Keyword', INT: 'Int', DOUBLE: 'Double' } as const;

/** Starts a server and waits until it answers. @throws EnvironmentIncomplete with the end of its log */
export async function startServer(options: DevServerOptions): Promise<DevServer> {
  mkdirSync(dirname(options.database), { recursive: true });
  mkdirSync(dirname(options.logFile), { recursive: true });
  const unlock = lockDatabase(options.database);
  const port = options.port || (await freePort());
  const uiPort = options.uiPort || (await freePort());
  const log = openSync(options.logFile, 'a');
  const child = spawnBound(options.cli, serverArgs(options.database, port, uiPort), {
    stdio: ['ignore', log, log],
    env: withoutTemporal(process.env),
  });
  closeSync(log);
  const address = `127.0.0.1:${port}`;
  try {
    await untilReady(address, () => child.exitCode !== null);
  } catch (cause) {
    await stopProcess(child, 2_000);
    unlock();
    const tail = readFileSync(options.logFile, 'utf8').slice(-1500).trim();
    throw new EnvironmentIncomplete(
      `Temporal server: did not start on ${address}; the end of ${options.logFile}:\n${tail}`,
      {
        cause,
      },
    );
  }
  return {
    address,
    uiUrl: `http://127.0.0.1:${uiPort}`,
    pid: child.pid ?? 0,
    stop: async () => {
      await stopProcess(child, 10_000);
      unlock();
    },
  };
}

/** A copy of an environment without anything that would send a client to another server. */
export function withoutTemporal(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('TEMPORAL_')));
}

/** Removes a private server's database. */
export async function removeDatabase(database: string): Promise<void> {
  for (const suffix of ['', '-shm', '-wal', '.lock']) await rm(database + suffix, { force: true });
}

function serverArgs(database: string, port: number, uiPort: number): string[] {
  return [
    ...['server', 'start-dev', '--ip', '127.0.0.1', '--port', String(port), '--ui-port', String(uiPort)],
    ...['--db-filename', database, '--log-level', 'warn'],
    ...Object.entries(SEARCH_ATTRIBUTES).flatMap(([name, type]) => [
      '--search-attribute',
      `${name}=${TYPE_NAMES[type]}`,
    ]),
  ];
}

async function untilReady(address: string, ended: () => boolean): Promise<void> {
  const deadline = Date.now() + READY_WITHIN_MS;
  for (;;) {
    try {
      const connection = await Connection.connect({ address, connectTimeout: 1_000 });
      try {
        await connection.workflowService.describeNamespace({ namespace: 'default' });
        return;
      } finally {
        await connection.close();
      }
    } catch (error) {
      if (ended() || Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

/** Two servers on one SQLite file would corrupt each other's view: the second is refused. */
function lockDatabase(database: string): () => void {
  const path = `${database}.lock`;
  for (;;) {
    try {
      writeFileSync(path, String(process.pid), { flag: 'wx' });
      return () => void rm(path, { force: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      const holder = Number(readFileSync(path, 'utf8'));
      if (isAlive(holder)) {
        throw new EnvironmentIncomplete(
          `Temporal server: ${database} is open in another server (started by process ${holder}); stop that one first (Ctrl-C in its terminal)`,
        );
      }
      writeFileSync(path, String(process.pid));
      return () => void rm(path, { force: true });
    }
  }
}

function isAlive(pid: number): boolean {
  if (!Number.isInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
