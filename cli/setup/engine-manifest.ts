/**
 * What was put into an engine folder, with hashes: written last, so that a folder with a manifest is whole. Sizes and
 * times are compared at every start (milliseconds), hashes when those differ and by `./orpo doctor`.
 */
import { readFile, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '../../training/checkpoint/atomic.ts';
import { fileSha256 } from '../../training/hub/download.ts';
import { isCode } from '../../training/hub/lock.ts';

export interface ManifestFile {
  /** Relative to the manifest's folder. */
  path: string;
  sha256: string;
  bytes: number;
  /** Seconds. */
  mtime: number;
}

export interface Manifest {
  /** `tensorflow-cpu 2.21.0`, or the binding's TensorFlow version. */
  name: string;
  files: ManifestFile[];
}

const NAME = 'manifest.json';

/** A folder's manifest, null where there is none or it was cut short. */
export async function readManifest(folder: string): Promise<Manifest | null> {
  try {
    return JSON.parse(await readFile(join(folder, NAME), 'utf8')) as Manifest;
  } catch (error) {
    if (error instanceof SyntaxError || isCode(error, 'ENOENT') || isCode(error, 'ENOTDIR')) return null;
    throw error;
  }
}

/** Records files under `folder`. Hashes already known are taken over. */
export async function writeManifest(
  folder: string,
  name: string,
  files: { path: string; sha256?: string }[],
): Promise<Manifest> {
  const entries: ManifestFile[] = [];
  for (const { path, sha256 } of files) {
    const full = join(folder, path);
    const { size, mtimeMs } = await stat(full);
    const mtime = Math.floor(mtimeMs / 1000);
    entries.push({ path, sha256: sha256 ?? (await fileSha256(full)), bytes: size, mtime });
  }
  const manifest: Manifest = { name, files: entries };
  await writeFileAtomic(join(folder, NAME), `${JSON.stringify(manifest, null, 1)}\n`);
  return manifest;
}

/** The first thing wrong with the files, null when they are as recorded. A file whose time differs (a copied cache) is
 *  hashed, and its time put back when the hash holds.
 *  @param hashAll - hash every file */
export async function checkManifest(folder: string, manifest: Manifest, hashAll = false): Promise<string | null> {
  for (const file of manifest.files) {
    const problem = await checkFile(folder, file, hashAll);
    if (problem) return problem;
  }
  return null;
}

async function checkFile(folder: string, file: ManifestFile, hash: boolean): Promise<string | null> {
  const path = join(folder, file.path);
  let found;
  try {
    found = await stat(path);
  } catch (error) {
    if (isCode(error, 'ENOENT')) return `${path} is missing`;
    throw error;
  }
  if (found.size !== file.bytes) return `${path} has ${found.size} bytes instead of ${file.bytes}`;
  const isMoved = Math.floor(found.mtimeMs / 1000) !== file.mtime;
  if (!hash && !isMoved) return null;
  const sha256 = await fileSha256(path);
  if (sha256 !== file.sha256) return `${path} has sha256 ${sha256} instead of ${file.sha256}`;
  if (isMoved) await utimes(path, file.mtime, file.mtime).catch(() => {}); // a read-only cache is hashed every time
  return null;
}
