/**
 * Makes ready what a command needs, saying what is fetched and from where; what stands already costs nothing.
 */
import { availableParallelism, cpus } from 'node:os';
import type { EngineInfo } from '../training/steps/build-model.ts';
import { EnvironmentIncomplete } from '../shared/errors.ts';
import { resolveBase, type ResolvedBase } from '../training/hub/resolve.ts';
import { say } from './output.ts';
import { cacheRoot } from './setup/cache.ts';
import { engineEnvironment, ensureEngine, type Engine } from './setup/engine.ts';
import { startMeter, type Meter } from './setup/progress.ts';
import { ensureTemporalCli } from './setup/temporal.ts';

/** The engine with what a worker tells its trainers. @param device - `auto` is the GPU where there is one */
export async function prepareEngine(
  device: 'auto' | 'cpu' | 'gpu',
): Promise<{ engine: EngineInfo; trainerEnv: Record<string, string> }> {
  // For commands that load the engine in this process: TensorFlow's informational lines would drown the command's own.
  process.env['TF_CPP_MIN_LOG_LEVEL'] ??= '2';
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
    trainerEnv: trainerEnv(ready),
  };
}

/** Path of a `temporal` binary. */
export async function prepareTemporal(): Promise<string> {
  const { path } = await ensureTemporalCli({ cacheDir: cacheRoot(process.env), env: process.env, log: say });
  return path;
}

/** What a trainer needs in its environment over the worker's own. */
function trainerEnv(engine: Engine): Record<string, string> {
  const wanted = engineEnvironment(engine, process.env);
  const changed = Object.entries(wanted).filter(([name, value]) => value !== undefined && value !== process.env[name]);
  return Object.fromEntries(changed) as Record<string, string>;
}

/** A base model, with what is fetched shown as it comes. */
export async function prepareBase(model: string): Promise<ResolvedBase> {
  let meter: (Meter & { what: string }) | null = null;
  try {
    return await resolveBase(model, {
      cacheDir: cacheRoot(process.env),
      log: say,
      onProgress: ({ what, done, total, unit }) => {
        if (unit !== 'bytes') return;
        if (meter?.what !== what) {
          meter?.stop();
          meter = { ...startMeter(what), what };
        }
        meter.update(done, total);
      },
    });
  } finally {
    (meter as Meter | null)?.stop();
  }
}
