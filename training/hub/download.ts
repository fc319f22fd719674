/**
 * One file over HTTP: into a partial file beside the target, resumed where the server allows it (RFC 9110, Range and
 * If-Range), checked for length and hash, flushed and renamed. What stands at the target is whole or was there before.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DiskFull, OrpoError } from '../../shared/errors.ts';
import { syncFolder } from '../checkpoint/atomic.ts';
import { isCode, messageOf, withLock } from './lock.ts';
import { noteOf, rangeStart, readNote, totalOf, validatorOf, writeNote } from './partial.ts';

/** Why a download failed: nobody answers or the line is cut; the server has no such file or refuses it; or what came is
 *  not what was asked for. */
export type DownloadFailure = 'unreachable' | 'refused' | 'corrupt';

/** A download that cannot succeed now. Neutral: callers wrap it as ModelNotFound, EnvironmentIncomplete, … */
export class DownloadFailed extends OrpoError {
  readonly reason: DownloadFailure;
  /** HTTP status, null where no answer came. */
  readonly status: number | null;
  constructor(message: string, reason: DownloadFailure, options: { status?: number; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.reason = reason;
    this.status = options.status ?? null;
  }
}

export interface DownloadOptions {
  /** Expected hash, hex. */
  sha256?: string;
  /** Expected length. */
  bytes?: number;
  headers?: Record<string, string>;
  /** Longest silence: until the first byte and between bytes. @default 30000 */
  timeoutMs?: number;
  /** Tries in all; each goes on where the last was cut. @default 4 */
  attempts?: number;
  /** Wait before the second try; doubles. @default 1000 */
  retryDelayMs?: number;
  /** Bytes on disk so far and in all (null while unknown). */
  onProgress?: (doneBytes: number, totalBytes: number | null) => void;
  signal?: AbortSignal;
}

export interface Downloaded {
  bytes: number;
  sha256: string;
}

interface Transfer {
  url: string;
  path: string;
  partial: string;
  options: DownloadOptions;
  timeoutMs: number;
}

/** A try that may be repeated. */
class Interrupted extends Error {
  readonly failure: DownloadFailed;
  readonly retryAfterMs: number;
  constructor(failure: DownloadFailed, retryAfterMs = 0) {
    super(failure.message);
    this.failure = failure;
    this.retryAfterMs = retryAfterMs;
  }
}

/** Fetches `url` to `path`, whose folder is created. An interrupted call leaves `path.partial`, which the next call of
 *  the same url goes on from. Two processes fetching one path take turns.
 *  @throws DownloadFailed with its reason; DiskFull; the signal's reason when aborted */
export async function downloadFile(url: string, path: string, options: DownloadOptions = {}): Promise<Downloaded> {
  const transfer: Transfer = {
    url,
    path,
    partial: `${path}.partial`,
    options,
    timeoutMs: options.timeoutMs ?? 30_000,
  };
  await mkdir(dirname(path), { recursive: true });
  let waited = false;
  const lockOptions = { onWait: () => (waited = true), ...(options.signal ? { signal: options.signal } : {}) };
  return withLock(
    `${path}.lock`,
    async () => (waited ? await alreadyThere(transfer) : null) ?? (await downloadWithRetries(transfer)),
    lockOptions,
  );
}

/** The target, if the process that held the lock has just put it there. */
async function alreadyThere({ path, options }: Transfer): Promise<Downloaded | null> {
  const bytes = await sizeOf(path);
  if (bytes === null || (options.bytes !== undefined && bytes !== options.bytes)) return null;
  const sha256 = await fileSha256(path);
  return options.sha256 === undefined || options.sha256 === sha256 ? { bytes, sha256 } : null;
}

async function downloadWithRetries(transfer: Transfer): Promise<Downloaded> {
  const { options, path } = transfer;
  const attempts = options.attempts ?? 4;
  for (let attempt = 1; ; attempt++) {
    options.signal?.throwIfAborted();
    try {
      await fetchRest(transfer);
      return await verifyAndPlace(transfer);
    } catch (error) {
      if (isCode(error, 'ENOSPC') || isCode(error, 'EDQUOT')) throw diskFull(path, error);
      if (!(error instanceof Interrupted)) throw error;
      if (attempt >= attempts) throw error.failure;
      const delayMs = (options.retryDelayMs ?? 1000) * 2 ** (attempt - 1);
      await sleep(Math.max(delayMs, Math.min(error.retryAfterMs, 20_000)), undefined, { signal: options.signal });
    }
  }
}

/** Appends what is still missing to the partial file. */
async function fetchRest(transfer: Transfer): Promise<void> {
  const { options, partial, url } = transfer;
  const note = await readNote(partial);
  const have = note?.url === url && (note.validator !== null || options.sha256) ? ((await sizeOf(partial)) ?? 0) : 0;
  if (have > 0 && have === options.bytes) return;
  const silence = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const onByte = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new Error(`no data for ${transfer.timeoutMs} ms`)), transfer.timeoutMs);
  };
  onByte();
  try {
    const signal = options.signal ? AbortSignal.any([options.signal, silence.signal]) : silence.signal;
    const response = await request(transfer, have, note?.validator ?? null, signal);
    const start = await acceptStart(transfer, response, have);
    if (start === 0) await rm(partial, { force: true }); // before the note names another version
    await writeNote(partial, { url, validator: validatorOf(response) });
    await receive(transfer, response, start, onByte);
  } finally {
    clearTimeout(timer);
    silence.abort();
  }
}

async function request(
  { url, options }: Transfer,
  have: number,
  validator: string | null,
  signal: AbortSignal,
): Promise<Response> {
  const headers = new Headers(options.headers);
  headers.set('accept-encoding', 'identity'); // lengths and offsets are the file's own
  if (have > 0) {
    headers.set('range', `bytes=${have}-`);
    if (validator) headers.set('if-range', validator);
  }
  try {
    return await fetch(url, { headers, signal, redirect: 'follow' });
  } catch (error) {
    options.signal?.throwIfAborted();
    throw new Interrupted(unreachable(url, signal.aborted ? signal.reason : error));
  }
}

/** Judges status and headers. @returns the offset of the body's first byte */
async function acceptStart(transfer: Transfer, response: Response, have: number): Promise<number> {
  const { status } = response;
  const { url, partial } = transfer;
  if (status === 416 && have > 0) {
    await rm(partial, { force: true });
    throw new Interrupted(
      new DownloadFailed(`${url}: the server no longer offers this range (HTTP 416)`, 'corrupt', { status }),
    );
  }
  if (status === 429 || status >= 500) {
    const retryAfterMs = Number(response.headers.get('retry-after') ?? 0) * 1000 || 0;
    throw new Interrupted(
      new DownloadFailed(`${url}: the server answers HTTP ${status}; try again later`, 'unreachable', { status }),
      retryAfterMs,
    );
  }
  if (status !== 200 && status !== 206) {
    throw new DownloadFailed(`${url}: the server answers HTTP ${status} ${response.statusText}`.trim(), 'refused', {
      status,
    });
  }
  const start = status === 206 ? rangeStart(response) : 0;
  if (start !== 0 && start !== have) {
    await rm(partial, { force: true });
    throw new Interrupted(
      new DownloadFailed(`${url}: asked for bytes from ${have}, the server sent from ${start}`, 'corrupt', { status }),
    );
  }
  checkTotal(transfer, totalOf(response));
  return start;
}

function checkTotal({ url, options }: Transfer, total: number | null): void {
  if (total === null || options.bytes === undefined || total === options.bytes) return;
  throw new DownloadFailed(
    `${url}: the server offers ${total} bytes, ${options.bytes} were expected; it is not the file meant here`,
    'corrupt',
  );
}

async function receive(transfer: Transfer, response: Response, start: number, onByte: () => void): Promise<void> {
  const { options, partial, url } = transfer;
  const total = totalOf(response) ?? options.bytes ?? null;
  const file = await open(partial, start > 0 ? 'r+' : 'w');
  try {
    const end = await writeBody(file, start, response, (position) => {
      onByte();
      options.onProgress?.(position, total);
    });
    await file.sync();
    if (total !== null && end < total) {
      throw new Error(`the connection ended after ${end} of ${total} bytes`);
    }
  } catch (error) {
    if (isCode(error, 'ENOSPC') || isCode(error, 'EDQUOT')) throw error;
    options.signal?.throwIfAborted();
    throw new Interrupted(unreachable(url, error));
  } finally {
    await file.close();
  }
}

async function writeBody(
  file: FileHandle,
  start: number,
  response: Response,
  onPosition: (position: number) => void,
): Promise<number> {
  let position = start;
  onPosition(position);
  if (!response.body) return position;
  for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
    await file.write(chunk, 0, chunk.length, position);
    position += chunk.length;
    onPosition(position);
  }
  return position;
}

async function verifyAndPlace({ url, path, partial, options }: Transfer): Promise<Downloaded> {
  const bytes = (await sizeOf(partial)) ?? 0;
  const sha256 = await fileSha256(partial);
  const problem =
    options.bytes !== undefined && bytes !== options.bytes
      ? `has ${bytes} bytes, ${options.bytes} were expected`
      : options.sha256 !== undefined && sha256 !== options.sha256
        ? `has sha256 ${sha256}, ${options.sha256} was expected`
        : null;
  if (problem) {
    await rm(partial, { force: true });
    await rm(noteOf(partial), { force: true });
    throw new DownloadFailed(
      `${url}: what came ${problem}; it was deleted. A proxy may have changed it: try again, or check the address`,
      'corrupt',
    );
  }
  await rename(partial, path);
  await syncFolder(dirname(path));
  await rm(noteOf(partial), { force: true });
  return { bytes, sha256 };
}

/** sha256 of a file's bytes, hex. */
export async function fileSha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

function unreachable(url: string, cause: unknown): DownloadFailed {
  return new DownloadFailed(`${url}: could not be fetched (${messageOf(cause)})`, 'unreachable', { cause });
}

function diskFull(path: string, cause: unknown): DiskFull {
  return new DiskFull(
    `${path}: no space left while downloading (${messageOf(cause)}). Free space on that disk and start again: ` +
      'the download goes on from where it stopped',
    { cause },
  );
}

async function sizeOf(path: string): Promise<number | null> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isCode(error, 'ENOENT')) return null;
    throw error;
  }
}
