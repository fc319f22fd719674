/**
 * The retry budget by progress: attempts are unlimited while checkpoints advance. Counted in the run's own folder, so
 * that it holds across workers.
 */
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '../../training/checkpoint/atomic.ts';

interface Budget {
  /** Names of the checkpoints that stood when the count began. */
  checkpoints: string;
  failures: number;
}

/** Counts one more failed attempt and returns how many there were since the newest checkpoint was written. */
export async function failedWithoutProgress(output: string, kind: string): Promise<number> {
  const path = join(output, 'checkpoints', `failures-${kind}.json`);
  const checkpoints = await checkpointNames(output);
  const before = await readBudget(path);
  const failures = before?.checkpoints === checkpoints ? before.failures + 1 : 1;
  await writeFileAtomic(path, JSON.stringify({ checkpoints, failures } satisfies Budget));
  return failures;
}

async function checkpointNames(output: string): Promise<string> {
  const names = await readdir(join(output, 'checkpoints'), { recursive: true }).catch(() => []);
  return names
    .filter((name) => name.endsWith('manifest.json'))
    .sort()
    .join(' ');
}

async function readBudget(path: string): Promise<Budget | null> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as Budget;
  } catch {
    // None yet, or one cut short: counting begins anew.
    return null;
  }
}
