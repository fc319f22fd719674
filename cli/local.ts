/**
 * `./orpo train --local`: the same steps as the workflow (workflows/finetune.ts), in this one process and without
 * Temporal, for debugging and experiments. A killed run goes on from its newest checkpoint when started again.
 */
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { basename } from 'node:path';
import { resolveBase } from '../training/hub/resolve.ts';
import { summaryOf } from '../training/report/summary.ts';
import { buildModel } from '../training/steps/build-model.ts';
import { evaluateRun } from '../training/steps/evaluate.ts';
import { loadAndSplit } from '../training/steps/load-and-split.ts';
import { plotRun } from '../training/steps/plot.ts';
import { processRuns, resolveRun } from '../training/steps/resolve-run.ts';
import { saveRun } from '../training/steps/save.ts';
import { tokenizeSplits } from '../training/steps/tokenize.ts';
import { trainSegment, type SegmentProgress } from '../training/steps/train-segment.ts';
import type { ResolvedRun, RunResult, SegmentResult } from '../shared/records.ts';
import { readConfigFile } from './config-file.ts';
import { EXIT, say, sayJson } from './output.ts';
import { prepareEngine } from './prepare.ts';
import { cacheRoot } from './setup/cache.ts';

export interface LocalOptions {
  out?: string;
  json?: boolean;
}

/** @returns exit code; Ctrl-C writes a checkpoint and ends with 130 */
export async function trainLocally(configPath: string, options: LocalOptions): Promise<number> {
  const { input } = await readConfigFile(configPath, options.out ? { output: options.out } : {});
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
  const result = run.finished ? { ...run.finished, alreadyFinished: true } : await runSteps(run);
  if (!result) {
    say(`\nstopped; start it again with the same command to go on (${run.output})`);
    return EXIT.detached;
  }
  if (options.json) sayJson({ status: 'completed', ...result });
  else say(await summaryOf(result));
  return EXIT.completed;
}

/** The whole run. @returns null when it was interrupted (its checkpoints stay) */
async function runSteps(run: ResolvedRun): Promise<RunResult | null> {
  const { config, output, configHash, lineage } = run;
  const cacheDir = cacheRoot(process.env);
  const { engine } = await prepareEngine(config.engine.device === 'cpu' ? 'cpu' : 'auto');

  say('load and split');
  const dataset = await loadAndSplit({ config, output });
  say(
    `  ${dataset.counts.train} pairs to train on, ${dataset.counts.validation} validation, ${dataset.counts.test} test`,
  );

  say('tokenize');
  const base = await resolveBase(config.model, { cacheDir });
  const tokens = await tokenizeSplits({ config, output, dataset, modelFolder: base.folder });

  say('build model');
  const model = await buildModel({ config, tokens, cacheDir, engine });
  say(`  ${model.source}: ${model.parameters} parameters, ${model.trainable} trained`);
  process.env['TF_NUM_INTRAOP_THREADS'] = String(model.engine.threads);

  let interrupted = false;
  const onInterrupt = (): void => void (interrupted = true);
  process.on('SIGINT', onInterrupt);
  const hooks = { onProgress: showProgress, stopRequest: () => (interrupted ? ('pause' as const) : null) };
  const segments: SegmentResult[] = [];
  do {
    const from = segments.at(-1)?.checkpoint ?? null;
    const worker = `${hostname()}:${process.pid}`;
    const place = { config, output, configHash, model, tokens, lineage, from, worker };
    segments.push(await trainSegment({ ...place, attemptToken: Date.now() }, hooks));
    if (interrupted) return null;
  } while (segments.at(-1)?.stop === 'epoch');
  process.off('SIGINT', onInterrupt);

  const checkpoint = segments.at(-1)?.checkpoint;
  if (!checkpoint) return null;
  say('evaluate');
  const evaluation = await evaluateRun({ config, output, configHash, model, tokens, from: checkpoint }, hooks);
  say('plot and save');
  await plotRun({ output });
  return saveRun({ run, dataset, tokens, model, segments, evaluation });
}

let shownStep = -1;

function showProgress({ phase, epoch, step, totalSteps, loss, tokensPerSecond }: SegmentProgress): void {
  if (phase !== 'step' || step === undefined || step === shownStep) return;
  shownStep = step;
  const figures = [
    loss === undefined ? '' : `loss ${loss.toFixed(3)}`,
    tokensPerSecond ? `${Math.round(tokensPerSecond)} tokens/s` : '',
  ];
  say(`  epoch ${(epoch ?? 0) + 1}  step ${step}/${totalSteps ?? '?'}  ${figures.join('  ')}`);
}
