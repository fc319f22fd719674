/**
 * `./orpo worker`: this machine's workers, with the engine made ready first where the role needs one.
 */
import { EnvironmentIncomplete } from '../shared/errors.ts';
import { depsFromEnv, temporalFromEnv } from '../workers/env.ts';
import { runWorkers, type Role } from '../workers/run.ts';
import { EXIT, say } from './output.ts';
import { prepareEngine } from './prepare.ts';
import { cacheRoot } from './setup/cache.ts';

export interface WorkerOptions {
  role: Role;
  device?: 'auto' | 'cpu' | 'gpu';
}

/** Runs until SIGINT or SIGTERM. @returns exit code */
export async function worker({ role, device = 'auto' }: WorkerOptions): Promise<number> {
  const needsEngine = role === 'gpu' || role === 'all';
  const engine = needsEngine ? await prepareEngine(device) : null;
  if (role === 'gpu' && device === 'auto' && engine?.engine.device === 'cpu') {
    throw new EnvironmentIncomplete(
      'worker: no GPU on this machine; to train on its CPU, ask for it: ./orpo worker --role gpu --device cpu',
    );
  }
  await runWorkers({
    role,
    ...temporalFromEnv(),
    deps: depsFromEnv(cacheRoot(process.env)),
    gpu: engine,
    onReady: (lines) => lines.forEach((line) => say(line)),
  });
  return EXIT.completed;
}
