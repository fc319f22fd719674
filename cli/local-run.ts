/**
 * A whole run in this one process: the workflow's steps (workflows/finetune.ts) in their order, without Temporal. Imported
 * only once the engine is ready, because its steps load TensorFlow.
 */
import { hostname } from 'node:os';
import type { ResolvedRun, RunResult, SegmentResult } from '../shared/records.ts';
import { nextToken } from '../training/checkpoint/lineage.ts';
import { resolveBase } from '../training/hub/resolve.ts';
import { buildModel, type EngineInfo } from '../training/steps/build-model.ts';
import { evaluateRun } from '../training/steps/evaluate.ts';
import { loadAndSplit } from '../training/steps/load-and-split.ts';
import { plotRun } from '../training/steps/plot.ts';
import { saveRun } from '../training/steps/save.ts';
import { tokenizeSplits } from '../training/steps/tokenize.ts';
import { trainSegment, type SegmentProgress } from '../training/steps/train-segment.ts';
import { say } from './output.ts';
import { cacheRoot } from './setup/cache.ts';

/** The whole run. @returns null when it was interrupted (its checkpoints stay) */
export async function runSteps(run: ResolvedRun, engine: EngineInfo): Promise<RunResult | null> {
  const { config, output, configHash, lineage } = run;
  const cacheDir = cacheRoot(process.env);

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

  let interrupted = false;
  const onInterrupt = (): void => void (interrupted = true);
  process.on('SIGINT', onInterrupt);
  const hooks = { onProgress: showProgress, stopRequest: () => (interrupted ? ('pause' as const) : null) };
  const segments: SegmentResult[] = [];
  do {
    const from = segments.at(-1)?.checkpoint ?? null;
    const worker = `${hostname()}:${process.pid}`;
    const place = { config, output, configHash, model, tokens, lineage, from, worker };
    const attemptToken = await nextToken(output, lineage, Date.now());
    segments.push(await trainSegment({ ...place, attemptToken }, hooks));
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
