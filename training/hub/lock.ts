/**
 * A lock file between processes, also over a shared folder: created exclusively, touched while held, taken over when its
 * holder is gone (its process has ended on this host, or another host's has stopped touching it).
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { StorageUnavailable } from '../../shared/errors.ts';

/** How often the holder touches the file, and how old it must be before another host's lock counts as left behind. */
const TOUCH_MS = 5_000;
const STALE_MS = 60_000;
/** Past this age even a lock whose process id still exists is left behind: the id was given to another process. */
const REUSED_ID_MS = 10 * 60_000;

interface Holder {
  token: string;
  pid: number;
  host: string;
}

/** Runs `work` while this process alone holds the lock.
 *  @param onWait - called once when another process holds it
 *  @throws StorageUnavailable where the lock file cannot be written; whatever `work` throws */
export async function withLock<T>(
  path: string,
  work: () => Promise<T>,
  options: { onWait?: () => void; pollMs?: number; signal?: AbortSignal } = {},
): Promise<T> {
  const holder: Holder = { token: randomUUID(), pid: process.pid, host: hostname() };
  let told = false;
  while (!(await tryAcquire(path, holder))) {
    if (!told) options.onWait?.();
    told = true;
    await sleep(options.pollMs ?? 300, undefined, { signal: options.signal });
  }
  const touch = setInterval(() => void utimes(path, new Date(), new Date()).catch(ignoreMissing), TOUCH_MS);
  try {
    return await work();
  } finally {
    clearInterval(touch);
    await rm(path, { force: true });
  }
}

async function tryAcquire(path: string, holder: Holder): Promise<boolean> {
  try {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, JSON.stringify(holder), { flag: 'wx' });
    return true;
  } catch (error) {
    if (!isCode(error, 'EEXIST')) {
      throw new StorageUnavailable(`cannot write ${path} (${messageOf(error)}); make its folder writable`, {
        cause: error,
      });
    }
  }
  await removeIfLeftBehind(path);
  return false;
}

async function removeIfLeftBehind(path: string): Promise<void> {
  try {
    const seen = await readFile(path, 'utf8');
    const ageMs = Date.now() - (await stat(path)).mtimeMs;
    if (!isLeftBehind(seen, ageMs)) return;
    // Only one waiter wins this rename; what it got is checked, since a new holder may have come in between.
    const aside = `${path}.${process.pid}.${randomUUID()}`;
    await rename(path, aside);
    const got = await readFile(aside, 'utf8');
    if (got !== seen) await writeFile(path, got, { flag: 'wx' });
    await rm(aside, { force: true });
  } catch (error) {
    if (!isCode(error, 'ENOENT') && !isCode(error, 'EEXIST')) throw error;
  }
}

function isLeftBehind(content: string, ageMs: number): boolean {
  const holder = parseHolder(content);
  if (!holder) return ageMs > STALE_MS; // being written, or cut short by a full disk
  if (holder.host !== hostname()) return ageMs > STALE_MS;
  return !isAlive(holder.pid) || ageMs > REUSED_ID_MS;
}

function parseHolder(content: string): Holder | null {
  try {
    return JSON.parse(content) as Holder;
  } catch {
    return null;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return isCode(error, 'EPERM');
  }
}

function ignoreMissing(error: unknown): void {
  if (!isCode(error, 'ENOENT')) throw error;
}

/** Whether an error is a system error with this code. */
export function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}

/** The message of anything thrown, with the cause that fetch hides behind "fetch failed". */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if ('problems' in error) return error.message; // one of ours, whose message is whole
  const cause = error.cause instanceof Error ? error.cause : undefined;
  if (!cause) return error.message;
  const detail = cause.message || ('code' in cause ? String(cause.code) : '');
  return detail ? `${error.message}: ${detail}` : error.message;
}
