/**
 * The only reader of the environment outside cli/: where this worker's files stand and how it reaches Temporal.
 */
import { hostname } from 'node:os';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import type { NativeConnectionOptions } from '@temporalio/worker';
import type { ActivityDeps } from '../activities/deps.ts';

export interface TemporalTarget {
  connection: NativeConnectionOptions;
  namespace: string;
}

/** Server, namespace and credentials as the Temporal CLI reads them: profile file, then TEMPORAL_* variables. */
export function temporalFromEnv(): TemporalTarget {
  const { connectionOptions, namespace } = loadClientConnectConfig();
  return { connection: connectionOptions as NativeConnectionOptions, namespace: namespace ?? 'default' };
}

/** ORPO_HOME: folder of relative paths (default: the working directory). ORPO_ROOT: paths must stay inside it. */
export function depsFromEnv(cacheDir: string): ActivityDeps {
  return {
    cacheDir,
    home: process.env['ORPO_HOME'] ?? process.cwd(),
    root: process.env['ORPO_ROOT'] ?? null,
    host: `${hostname()}:${process.pid}`,
  };
}
