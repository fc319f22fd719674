/**
 * The fallback engine: what @tensorflow/tfjs-node-gpu's own install script downloads from its publisher, libtensorflow
 * 2.9.1 and a binding built for it. The script writes into its package, so it runs in a copy in the cache folder.
 */
import { cp, mkdir, rename, rm, stat } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import { EnvironmentIncomplete } from '../../shared/errors.ts';
import { messageOf } from '../../training/hub/lock.ts';
import { repositoryRoot, requireFreeBytes } from './cache.ts';
import { BINDING_NAME, probeBinding, tfjsPackageFolder } from './engine-build.ts';
import { writeManifest } from './engine-manifest.ts';
import { runProgram, tailOf } from './run-program.ts';

export const PREBUILT_LIBRARY = 'libtensorflow 2.9.1 (prebuilt)';

const PUBLISHER = 'https://storage.googleapis.com/';
const REACH_TIMEOUT_MS = 8_000;
const INSTALL_TIMEOUT_MS = 20 * 60_000;
/** Archives of about 110 MB, 400 MB unpacked; both stand on the disk for a while. */
const NEEDED_BYTES = 700e6;

export function prebuiltFolder(cacheDir: string): string {
  return join(cacheDir, 'engine', 'libtensorflow-2.9.1-prebuilt');
}

/** Downloads and probes the prebuilt engine (CPU). @throws EnvironmentIncomplete, DiskFull */
export async function installPrebuilt(cacheDir: string): Promise<void> {
  const host = process.env['CDN_STORAGE'] ?? PUBLISHER; // the install script's own variable for mirrors
  await checkReachable(host);
  const folder = prebuiltFolder(cacheDir);
  const staging = join(dirname(folder), '.partial-prebuilt');
  await rm(staging, { recursive: true, force: true });
  await mkdir(staging, { recursive: true });
  await requireFreeBytes(staging, NEEDED_BYTES, 'the prebuilt engine');
  try {
    await runInstallScript(staging);
    const files = ['deps/lib/libtensorflow.so.2.9.1', join('lib', 'napi-v8', BINDING_NAME)];
    await Promise.all(files.map((file) => stat(join(staging, file))));
    await probeBinding(join(staging, files[1] ?? ''), [join(staging, 'deps', 'lib')]);
    await writeManifest(
      staging,
      PREBUILT_LIBRARY,
      files.map((path) => ({ path })),
    );
    await rm(folder, { recursive: true, force: true });
    await rename(staging, folder);
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
}

async function checkReachable(host: string): Promise<void> {
  try {
    await fetch(host, { method: 'HEAD', signal: AbortSignal.timeout(REACH_TIMEOUT_MS) });
  } catch (cause) {
    throw new EnvironmentIncomplete(`${host} does not answer: ${messageOf(cause)}`, { cause });
  }
}

async function runInstallScript(staging: string): Promise<void> {
  await cp(tfjsPackageFolder(), staging, { recursive: true, filter: (path) => !path.includes('napi-v') });
  const modules = join(repositoryRoot, 'node_modules');
  const result = await runProgram(process.execPath, ['scripts/install.js', 'cpu', 'download'], {
    cwd: staging,
    timeoutMs: INSTALL_TIMEOUT_MS,
    env: {
      ...process.env,
      NODE_PATH: modules,
      PATH: [join(modules, '.bin'), process.env['PATH'] ?? ''].join(delimiter),
    },
  });
  if (result.code === 0) return;
  throw new EnvironmentIncomplete(
    `its install script failed (exit code ${result.code ?? result.signal})\n${tailOf(result.stderr + result.stdout)}`,
  );
}
