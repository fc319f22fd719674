/**
 * `./orpo dev`: a Temporal server with its UI and all workers on this machine, until Ctrl-C. Its database stands beside
 * the runs, and quickstart writes into the same one, so that its run is in the UI.
 */
import { join } from 'node:path';
import { EnvironmentIncomplete } from '../shared/errors.ts';
import { EXIT, say } from './output.ts';
import { portInUse } from './processes.ts';
import { prepareEngine, prepareTemporal } from './prepare.ts';
import { startStack } from './stack.ts';

const PORT = 7233;
const UI_PORT = 8233;

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
  const died = await untilSignalOr(stack.worker);
  say(died ? 'the worker ended; stopping the server' : 'stopping …');
  await stack.stop();
  if (died) throw new EnvironmentIncomplete(`worker: ended unexpectedly; its log: ${serverFiles(home).workerLog}`);
  return EXIT.completed;
}

async function requireFree(port: number, what: string): Promise<void> {
  if (!(await portInUse(port))) return;
  throw new EnvironmentIncomplete(
    `dev: port ${port}, needed for ${what}, is in use; if that is another ./orpo dev or Temporal server, use it as it is, or stop it first (find it: ss -ltnp | grep ${port})`,
  );
}

/** @returns true when the worker ended by itself */
function untilSignalOr(worker: { once(event: 'exit', listener: () => void): unknown }): Promise<boolean> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve(false));
    worker.once('exit', () => resolve(true));
  });
}
