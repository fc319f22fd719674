/**
 * `./orpo train --local`: the same steps as the workflow, in this one process and without Temporal, for debugging and
 * experiments. The steps stand in local-run.ts. A killed run goes on from its newest checkpoint when started again.
 */
import { randomUUID } from 'node:crypto';
import { basename } from 'node:path';
import { summaryOf } from '../training/report/summary.ts';
import { processRuns, resolveRun } from '../training/steps/resolve-run.ts';
import { readConfigFile } from './config-file.ts';
import { EXIT, say, sayJson } from './output.ts';
import { prepareEngine } from './prepare.ts';

export interface LocalOptions {
  out?: string;
  json?: boolean;
}

/** @returns exit code; Ctrl-C writes a checkpoint and ends with 130 */
export async function trainLocally(configPath: string, options: LocalOptions): Promise<number> {
  const { input, config } = await readConfigFile(configPath, options.out ? { output: options.out } : {});
  const name = basename(configPath).replace(/\.json$/, '');
  const run = await resolveRun({
    input,
    workflowId: `local-${name}`,
    runId: randomUUID(),
    pid: process.pid,
    home: process.cwd(),
    root: null,
    searchAttributes: false,
    isRunning: async (owner) => processRuns(owner),
  });
  const { engine } = await prepareEngine(config.engine.device === 'cpu' ? 'cpu' : 'auto');
  // TensorFlow makes its threads when it loads.
  process.env['TF_NUM_INTRAOP_THREADS'] = String(
    config.engine.threads === 'auto' ? engine.threads : config.engine.threads,
  );
  const { runSteps } = await import('./local-run.ts');
  const result = run.finished ? { ...run.finished, alreadyFinished: true } : await runSteps(run, engine);
  if (!result) {
    say(`\nstopped; start it again with the same command to go on (${run.output})`);
    return EXIT.detached;
  }
  if (options.json) sayJson({ status: 'completed', ...result });
  else say(await summaryOf(result));
  return EXIT.completed;
}
