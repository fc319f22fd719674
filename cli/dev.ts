/**
 * `./orpo dev`: a Temporal server with its UI and all workers on this machine, until Ctrl-C. Its database stands beside
 * the runs, and quickstart writes into the same one, so that its run is in the UI.
 */
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { EnvironmentIncomplete } from '../shared/errors.ts';
import { EXIT, say } from './output.ts';
import { portInUse } from './processes.ts';
import { prepareEngine, prepareTemporal } from './prepare.ts';
import { startStack } from './stack.ts';

const PORT = 7233;
const UI_PORT = 8233;
/** A worker that ends more often than this has a reason that another start does not mend. */
const MOST_DEATHS = 5;

/** Where dev, quickstart and their logs live below a home folder. */
export function serverFiles(home: string): { database: string; logFile: string; workerLog: string } {
  const folder = join(home, 'runs', '.temporal');
  return {
    database: join(folder, 'temporal.db'),
    logFile: join(folder, 'server.log'),
    workerLog: join(folder, 'worker.log'),
  };
}

export function homeFolder(): string {
  return process.env['ORPO_HOME'] ?? process.cwd();
}

/** Runs until SIGINT or SIGTERM. @returns exit code */
export async function dev(): Promise<number> {
  await requireFree(PORT, 'a Temporal server');
  await requireFree(UI_PORT, 'its UI');
  await prepareEngine('auto');
  const cli = await prepareTemporal();
  const home = homeFolder();
  const stack = await startStack({ cli, ...serverFiles(home), port: PORT, uiPort: UI_PORT, home });
  say(`Temporal server  ${stack.server.address}`);
  say(`Temporal UI      ${stack.server.uiUrl}`);
  say(`workers          all roles (process ${stack.worker.pid}); log ${serverFiles(home).workerLog}`);
  say('start a run      ./orpo train examples/quickstart.json      (in another terminal)');
  say('Ctrl-C stops all; running training writes a checkpoint first and goes on at the next ./orpo dev');
  const stopped = untilSignal();
  for (let deaths = 0; await Promise.race([stopped.then(() => false), ended(stack.worker)]);) {
    deaths++;
    if (deaths > MOST_DEATHS) {
      await stack.stop();
      throw new EnvironmentIncomplete(
        `worker: ended ${deaths} times; its log: ${serverFiles(home).workerLog}. Runs go on at the next ./orpo dev`,
      );
    }
    say(`the worker ended unexpectedly; starting another (its log: ${serverFiles(home).workerLog})`);
    await stack.restartWorker();
  }
  say('stopping …');
  await stack.stop();
  return EXIT.completed;
}

async function requireFree(port: number, what: string): Promise<void> {
  if (!(await portInUse(port))) return;
  throw new EnvironmentIncomplete(
    `dev: port ${port}, needed for ${what}, is in use; if that is another ./orpo dev or Temporal server, use it as it is, or stop it first (find it: ss -ltnp | grep ${port})`,
  );
}

function untilSignal(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve());
  });
}

/** Resolves to true when a process has ended by itself. */
function ended(worker: ChildProcess): Promise<true> {
  return new Promise((resolve) => worker.once('exit', () => resolve(true)));
}
