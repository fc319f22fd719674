/**
 * What a worker hands to its activities: where things stand on this machine. Activities read no environment themselves.
 */
import type { EngineInfo } from '../training/steps/build-model.ts';

export interface ActivityDeps {
  /** Folder of downloaded and converted models. */
  cacheDir: string;
  /** Folder against which relative paths of a run's config resolve. */
  home: string;
  /** All paths must stay inside it, where set. */
  root: string | null;
  host: string;
}

export interface GpuDeps extends ActivityDeps {
  engine: EngineInfo;
  /** Environment of the trainer child: library paths and devices. Thread counts come from the run's config. */
  trainerEnv: Record<string, string>;
}
