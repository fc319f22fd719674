/**
 * Where what this project downloads or builds is kept: outside the repository, shared by all clones of a user.
 */
import { mkdirSync } from 'node:fs';
import { mkdir, rename, rm, statfs, symlink } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DiskFull, EnvironmentIncomplete } from '../../shared/errors.ts';

/** Root folder of this checkout, absolute, with a trailing slash. */
export const repositoryRoot = fileURLToPath(new URL('../../', import.meta.url));

/** $ORPO_CACHE, else $XDG_CACHE_HOME/durable-orpo, else ~/.cache/durable-orpo; created where missing.
 *  @throws EnvironmentIncomplete where it cannot be created */
export function cacheRoot(env: NodeJS.ProcessEnv = process.env): string {
  const path = cachePath(env);
  try {
    mkdirSync(path, { recursive: true });
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new EnvironmentIncomplete(
      `cache folder ${path} cannot be created (${reason}); set ORPO_CACHE to a folder that you can write`,
      { cause },
    );
  }
  return path;
}

/** The cache folder's path, whether it exists or not. */
export function cachePath(env: NodeJS.ProcessEnv = process.env): string {
  const own = env['ORPO_CACHE'];
  if (own) return resolve(own);
  const xdg = env['XDG_CACHE_HOME'];
  // The XDG base directory specification says that relative paths are to be ignored.
  return join(xdg && isAbsolute(xdg) ? xdg : join(homedir(), '.cache'), 'durable-orpo');
}

/** Bytes that this user may still write on the disk of an existing folder. */
export async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}

/** @throws DiskFull with both numbers and what to do */
export async function requireFreeBytes(folder: string, neededBytes: number, what: string): Promise<void> {
  const free = await freeBytes(folder);
  if (free >= neededBytes) return;
  throw new DiskFull(
    `${folder}: ${formatBytes(free)} free, ${what} needs ${formatBytes(neededBytes)} while it is set up. ` +
      'Free space on that disk, or choose another with ORPO_CACHE=<folder>, then run this again',
  );
}

/** Points a symbolic link at a file in one step: whoever opens it sees the old target or the new one. */
export async function linkAtomic(target: string, link: string): Promise<void> {
  await mkdir(dirname(link), { recursive: true });
  const temporary = `${link}.tmp-${process.pid}`;
  await rm(temporary, { force: true });
  await symlink(target, temporary);
  await rename(temporary, link);
}

/** `853 MB`, `1.26 GB`: decimal units, as package indexes and disks use. */
export function formatBytes(bytes: number): string {
  if (bytes < 1e6) return `${Math.ceil(bytes / 1e3)} kB`;
  if (bytes < 1e9) return `${Math.round(bytes / 1e6)} MB`;
  return `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 0)} GB`;
}
