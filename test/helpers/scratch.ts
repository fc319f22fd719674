/**
 * A folder of its own for a test file, deleted when its tests are done.
 */
import { mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';

/** Call at the top of a test file. @returns absolute path */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'orpo-test-'));
  afterAll(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** The error that a promise rejects with; fails when it does not. */
export async function rejection(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof Error) return error;
    throw new Error(`rejected with ${String(error)}, which is no Error`, { cause: error });
  }
  throw new Error('expected a rejection');
}
