/**
 * `./orpo test`: sets everything up, then runs the whole test suite with what it found. Ends with one line of counts.
 */
import { spawn } from 'node:child_process';
import { readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { EXIT, say } from './output.ts';
import { prepareBase, prepareEngine, prepareTemporal } from './prepare.ts';
import { withoutTemporal } from './server.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const VITEST = join(ROOT, 'node_modules', 'vitest', 'vitest.mjs');

interface VitestReport {
  numPassedTests: number;
  numFailedTests: number;
  numPendingTests: number;
  success: boolean;
}

/** @returns exit code: 0 only when every test passed */
export async function test(filters: string[]): Promise<number> {
  await prepareEngine('auto');
  const temporal = await prepareTemporal();
  const base = await prepareBase('smollm2-135m-instruct');
  const report = join(tmpdir(), `orpo-test-${process.pid}.json`);
  const code = await vitest(
    ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...filters],
    {
      ...withoutTemporal(process.env),
      TEMPORAL_CLI_PATH: temporal,
      ORPO_TEST_BASE: base.folder,
    },
  );
  try {
    const counts = JSON.parse(await readFile(report, 'utf8')) as VitestReport;
    say(`${counts.numPassedTests} passed, ${counts.numFailedTests} failed, ${counts.numPendingTests} skipped`);
  } finally {
    await rm(report, { force: true });
  }
  return code === 0 ? EXIT.completed : EXIT.failed;
}

function vitest(args: string[], env: NodeJS.ProcessEnv): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [VITEST, ...args], { cwd: ROOT, env, stdio: 'inherit' });
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? 1));
  });
}
