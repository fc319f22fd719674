/**
 * Makes ready what a command needs, saying what is fetched and from where; what stands already costs nothing.
 */
import { availableParallelism, cpus } from 'node:os';
import type { EngineInfo } from '../training/steps/build-model.ts';
import { EnvironmentIncomplete } from '../shared/errors.ts';
import { say } from './output.ts';
import { cacheRoot } from './setup/cache.ts';
import { ensureEngine } from './setup/engine.ts';
import { ensureTemporalCli } from './setup/temporal.ts';

/** The engine with what a worker tells its trainers. @param device - `auto` is the GPU where there is one */
export async function prepareEngine(
  device: 'auto' | 'cpu' | 'gpu',
): Promise<{ engine: EngineInfo; trainerEnv: Record<string, string> }> {
  const ready = await ensureEngine({
    cacheDir: cacheRoot(process.env),
    log: say,
    device: device === 'auto' ? undefined : device,
  });
  if (device === 'gpu' && ready.device !== 'gpu')
    throw new EnvironmentIncomplete('engine: a GPU was asked for and none is here; run ./orpo doctor');
  return {
    engine: {
      library: `${ready.library} (${ready.librarySha256.slice(0, 16)})`,
      device: ready.device,
      threads: availableParallelism(),
      cpuModel: cpus()[0]?.model ?? 'unknown',
    },
    trainerEnv: ready.libraryPath.length > 0 ? { LD_LIBRARY_PATH: ready.libraryPath.join(':') } : {},
  };
}

/** Path of a `temporal` binary. */
export async function prepareTemporal(): Promise<string> {
  const { path } = await ensureTemporalCli({ cacheDir: cacheRoot(process.env), env: process.env, log: say });
  return path;
}
