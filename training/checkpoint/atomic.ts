/**
 * Files that are there whole or not at all: written under a temporary name, flushed to disk, renamed; the folder is
 * flushed too, so that the new name outlives a power cut (POSIX rename(2) is atomic, durable only after fsync of the folder).
 */
import { randomBytes } from 'node:crypto';
import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { DiskFull } from '../../shared/errors.ts';

/** Names of unfinished files and folders start so; whoever lists a folder skips them. */
export const TEMPORARY_PREFIX = '.tmp-';

/** No space, no quota, no more bytes allowed in a file: another attempt cannot help before someone makes room. */
const FULL_CODES = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** Creates a folder and those above it. Unlike `mkdir` with `recursive`, which on Node 20 never returns where a file system
 *  answers "no such folder" for ever (`/proc`), it fails then.
 *  @throws NodeJS.ErrnoException */
export async function makeFolder(path: string): Promise<void> {
  const create = (): Promise<void> =>
    mkdir(path).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST' || !(await stat(path)).isDirectory()) throw error;
    });
  try {
    await create();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || dirname(path) === path) throw error;
    await makeFolder(dirname(path));
    await create();
  }
}

/** Puts a file in place in one step, its folder created where missing: readers see the old bytes or the new ones.
 *  @throws DiskFull, the old file then untouched and no temporary one left */
export async function writeFileAtomic(path: string, content: string | Uint8Array): Promise<void> {
  const folder = dirname(path);
  await makeFolder(folder);
  const temporary = join(folder, `${TEMPORARY_PREFIX}${basename(path)}-${randomBytes(6).toString('hex')}`);
  try {
    await writeFileSynced(temporary, content);
    await rename(temporary, path);
    await syncFolder(folder);
  } catch (error) {
    await rm(temporary, { force: true });
    throw diskFullOr(error, path);
  }
}

/** Writes a new file and flushes it to disk, not yet under its final name. */
export async function writeFileSynced(path: string, content: string | Uint8Array): Promise<void> {
  const file = await open(path, 'wx');
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Flushes a folder's names to disk. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** A failed write as DiskFull where the disk, a quota or a size limit is the cause; any other error as it is.
 *  @param path - what was being written, for the message */
export function diskFullOr(error: unknown, path: string): unknown {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  if (!FULL_CODES.has(code)) return error;
  return new DiskFull(
    `${path}: could not be written, no space left (${code}); what was there before is kept. ` +
      `Free space on that disk or raise its quota or file size limit, then start the same run again: it goes on from its last checkpoint`,
    { cause: error },
  );
}
