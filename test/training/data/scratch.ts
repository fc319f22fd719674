/** A folder for one test file, and a source file written into it. */
import { mkdtempSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { readPreferences } from '../../../training/data/read.ts';
import type { Preferences, ReadOptions } from '../../../training/data/read.ts';

export const COLUMNS = { prompt: 'prompt', chosen: 'chosen', rejected: 'rejected' };

export function scratch() {
  const folder = mkdtempSync(join(tmpdir(), 'orpo-data-'));
  afterAll(() => rm(folder, { recursive: true }));
  const write = async (name: string, content: string | Uint8Array): Promise<string> => {
    const path = join(folder, name);
    await writeFile(path, content);
    return path;
  };
  const read = async (
    name: string,
    content: string | Uint8Array,
    options: Partial<ReadOptions> = {},
  ): Promise<Preferences> =>
    readPreferences(await write(name, content), { columns: COLUMNS, skipInvalid: false, ...options });
  return { folder, write, read };
}

/** What a promise fails with. */
export async function failureOf(promise: Promise<unknown>): Promise<Error & { problems?: string[] }> {
  const result = await promise.catch((error: unknown) => error);
  if (result instanceof Error) return result;
  throw new Error(`expected a failure, got ${JSON.stringify(result)}`);
}
