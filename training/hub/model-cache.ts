/**
 * Model folders in the cache. A folder is filled under a staging name, its files listed with their sizes in
 * `orpo-source.json`, and renamed when complete; one process fills it at a time. A folder counts only when every listed
 * file is there with its size, so that neither an interrupted fetch nor a folder emptied by hand is ever trusted.
 */
import { mkdir, readdir, readFile, rename, rm, rmdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { diskFullOr, syncFolder, writeFileSynced } from '../checkpoint/atomic.ts';
import { withLock } from './lock.ts';

export const NOTE = 'orpo-source.json';

/** What a cached folder says of itself. */
export interface SourceNote {
  /** For people: `hub owner/name (commit …)`, `GGUF Q4_1, dequantised`. */
  source: string;
  /** sha256 of the GGUF it was made from; null for a hub folder. */
  ggufSha256: string | null;
  files: Record<string, number>;
}

/** Folder of the cache in which models stand. */
export function modelsFolder(cacheDir: string): string {
  return join(cacheDir, 'models');
}

/** The cached folder of this name and what it says of itself, or null where there is none that can be trusted. */
export async function findCached(cacheDir: string, name: string): Promise<{ folder: string; note: SourceNote } | null> {
  const folder = join(modelsFolder(cacheDir), name);
  let note: SourceNote;
  try {
    note = JSON.parse(await readFile(join(folder, NOTE), 'utf8')) as SourceNote;
    for (const [file, bytes] of Object.entries(note.files)) {
      if ((await stat(join(folder, file))).size !== bytes) return null;
    }
  } catch {
    return null; // absent, unreadable or incomplete: all mean that it must be made anew
  }
  return { folder, note };
}

/** Fills a cache folder unless it is there, alone among processes.
 *  @param fill - writes the files into the staging folder (which an earlier, interrupted call may have left partly filled)
 *  and says what they are  @throws DiskFull; whatever `fill` throws, nothing then being in the cache */
export async function fillCached(
  cacheDir: string,
  name: string,
  fill: (staging: string) => Promise<Omit<SourceNote, 'files'>>,
  options: { log?: ((line: string) => void) | undefined; signal?: AbortSignal | undefined } = {},
): Promise<{ folder: string; note: SourceNote }> {
  const parent = modelsFolder(cacheDir);
  await mkdir(parent, { recursive: true });
  const onWait = (): void => options.log?.(`another process is preparing ${name}; waiting for it`);
  const work = async (): Promise<{ folder: string; note: SourceNote }> => {
    const found = await findCached(cacheDir, name);
    if (found) return found;
    const staging = join(parent, `.staging-${name}`);
    await mkdir(staging, { recursive: true });
    try {
      const note = await complete(staging, await fill(staging));
      const folder = join(parent, name);
      await rm(folder, { recursive: true, force: true });
      await rename(staging, folder);
      await syncFolder(parent);
      return { folder, note };
    } catch (error) {
      await rmdir(staging).catch(() => undefined); // goes only when empty: what was fetched is kept for the next call
      throw diskFullOr(error, staging);
    }
  };
  return withLock(join(parent, `.${name}.lock`), work, {
    onWait,
    ...(options.signal ? { signal: options.signal } : {}),
  });
}

/** Writes the list of files, last. */
async function complete(staging: string, about: Omit<SourceNote, 'files'>): Promise<SourceNote> {
  await rm(join(staging, NOTE), { force: true });
  const files: Record<string, number> = {};
  for (const file of (await readdir(staging)).sort()) files[file] = (await stat(join(staging, file))).size;
  const note = { ...about, files };
  await writeFileSynced(join(staging, NOTE), `${JSON.stringify(note, null, 2)}\n`);
  await syncFolder(staging);
  return note;
}
