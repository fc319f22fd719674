/**
 * What a run writes, read by the programs its users take it to: PEFT and transformers load the adapter, pyarrow the
 * splits and the tokens. ORPO_TEST_PYTHON names a Python with scripts/reference/requirements.txt.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ORPO, PREFERENCES, run, tinyRun, type CommandResult } from '../helpers/stack.ts';
import { makeTinyModel } from '../helpers/tiny-model.ts';

const python = process.env['ORPO_TEST_PYTHON'];
const SCRIPTS = fileURLToPath(new URL('../../scripts/', import.meta.url));
const TSX = fileURLToPath(new URL('../../node_modules/.bin/tsx', import.meta.url));

describe.skipIf(!python)(
  'a run read by Python (needs ORPO_TEST_PYTHON: a Python after pip install -r scripts/reference/requirements.txt)',
  () => {
    let folder: string;
    const output = (): string => join(folder, 'out');

    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'orpo-reference-'));
      await makeTinyModel(join(folder, 'tiny'), { vocab: 600 });
      await writeFile(
        join(folder, 'run.json'),
        JSON.stringify(tinyRun({ training: { epochs: 1, maxSteps: 8, learningRate: 1e-2 }, output: 'out' })),
      );
      const trained = await run(ORPO, ['train', 'run.json', '--local'], { cwd: folder, env: process.env });
      expect(trained.code, trained.stderr).toBe(0);
    });
    afterAll(() => rm(folder, { recursive: true, force: true }));

    const script = (name: string, ...args: string[]): Promise<CommandResult> =>
      run(python ?? '', [join(SCRIPTS, 'reference', name), ...args], { cwd: folder, env: process.env });

    it('loads the adapter with PEFT, whose logits equal ours to 1e-3', async () => {
      const place = ['--base', join(folder, 'tiny'), '--adapter', join(output(), 'adapter')];
      const logits = join(folder, 'logits.safetensors');
      const dumped = await run(TSX, [join(SCRIPTS, 'dump-logits.ts'), ...place, '--out', logits], {
        cwd: folder,
        env: process.env,
      });
      expect(dumped.code, dumped.stderr).toBe(0);
      const checked = await script('check_adapter.py', ...place, '--logits', logits);
      expect(checked.code, checked.stderr).toBe(0);
      expect(checked.stdout).toMatch(/largest difference/);
    });

    it('reads splits and tokens with pyarrow, equal to the CSV', async () => {
      const checked = await script('check_parquet.py', join(output(), 'data'), PREFERENCES);
      expect(checked.code, checked.stderr).toBe(0);
      expect(checked.stdout).toMatch(/train: \d+ pairs/);
    });
  },
);
