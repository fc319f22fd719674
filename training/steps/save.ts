/**
 * Save step: the trained weights in the form others load (PEFT adapter, or a Hugging Face model), tokenizer files, model
 * card, report page, and last of all run.json, which marks the run as finished. Every file is put in place whole; running
 * the step again writes the same bytes.
 */
import { access, copyFile, mkdir, readFile, rename, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { DatasetInvalid, ModelInvalid } from '../../shared/errors.ts';
import type { ModelRef, RunResult } from '../../shared/records.ts';
import { saveAdapter } from '../checkpoint/adapter.ts';
import { diskFullOr, TEMPORARY_PREFIX, writeFileAtomic } from '../checkpoint/atomic.ts';
import { loadCheckpoint } from '../checkpoint/checkpoint.ts';
import { digestOf } from '../checkpoint/digest.ts';
import { writeSafetensors } from '../checkpoint/safetensors.ts';
import { presetOf } from '../hub/presets.ts';
import { CHART_METRICS, epochChart, stepChart } from '../report/charts.ts';
import { reportHtml, type ReportChart } from '../report/html.ts';
import { readMetrics, TRAINER_STATE_FILE, type LogRow } from '../report/metrics.ts';
import { modelCard } from '../report/model-card.ts';
import { renderSvg } from '../report/render.ts';
import { readRunFile, RUN_FILE, type RunFile } from '../report/run-file.ts';
import { makeRunFile, timingsOf, type RunOutcome } from '../report/run-record.ts';
import { readSamples, type Sample } from '../report/samples.ts';
import type { TrainState } from '../step/index.ts';
import { plotRun, PLOTS_FOLDER } from './plot.ts';
import { TIMINGS_FILE } from './segment-log.ts';

export const REPORT_FILE = 'report.html';

const require = createRequire(import.meta.url);

/** What a tokenizer may consist of, in a Hugging Face folder. */
const TOKENIZER_FILES = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'chat_template.json',
  'tokenizer.model',
  'vocab.json',
  'merges.txt',
];
/** What a whole model has besides weights and tokenizer. */
const MODEL_FILES = ['config.json', 'generation_config.json'];

/** @returns the run's result, as run.json holds it too
 *  @throws DatasetInvalid where metrics or trainer state are missing or damaged; CheckpointIncompatible for a damaged
 *  checkpoint; ModelInvalid for a base folder without tokenizer; DiskFull */
export async function saveRun(outcome: RunOutcome): Promise<RunResult> {
  const { run, model } = outcome;
  const { output, config } = run;
  const checkpoint = outcome.segments.at(-1)?.checkpoint;
  if (!checkpoint)
    throw new DatasetInvalid('save: no segment was trained, so there is nothing to save; train at least one step');
  await mustHaveTrainerState(output);
  const rows = await readMetrics(output);
  const samples = await readSamples(output);
  const { state } = await loadCheckpoint(checkpoint.uri, checkpoint.sha256);

  const folder = config.method.kind === 'full' ? 'model' : 'adapter';
  await saveWeights(join(output, folder), outcome, state);
  await copyPresent(model.folder, join(output, folder), TOKENIZER_FILES);
  const record = makeRunFile(outcome, {
    rows,
    digest: digestOf(state.weights),
    versions: versionsHere(),
    timings: timingsOf(await readFile(join(output, TIMINGS_FILE), 'utf8').catch(absentAsEmpty), outcome.segments),
    artifacts: artifactsOf(folder, samples),
  });
  await writeCard(join(output, folder), record, samples);
  await writeFileAtomic(
    join(output, REPORT_FILE),
    reportHtml({ run: record, samples, charts: await drawCharts(rows) }),
  );
  await writeFileAtomic(join(output, RUN_FILE), `${JSON.stringify(record, null, 2)}\n`);
  return record.result;
}

/** A finished run's record, null where the output holds none: only a complete run.json counts. */
export function readRun(output: string): Promise<RunFile | null> {
  return readRunFile(output);
}

async function mustHaveTrainerState(output: string): Promise<void> {
  const path = join(output, TRAINER_STATE_FILE);
  await access(path).catch((cause: unknown) => {
    throw new DatasetInvalid(
      `save: ${path} is not there; start the same run again: it is written anew from the newest checkpoint`,
      { cause },
    );
  });
}

async function saveWeights(folder: string, { run, model }: RunOutcome, state: TrainState): Promise<void> {
  const { method } = run.config;
  await mkdir(folder, { recursive: true });
  if (method.kind === 'lora') {
    const baseSha256 = model.weightsSha256;
    return saveAdapter(folder, { state, method, baseName: model.folder, baseSha256 });
  }
  const tensors = Object.entries(state.weights).map(([name, { shape, data }]) => ({
    name,
    dtype: 'F32' as const,
    shape,
    data,
  }));
  await writeSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' });
  await copyPresent(model.folder, folder, MODEL_FILES);
}

/** Copies those of the files that are there. @throws ModelInvalid where none is */
async function copyPresent(from: string, to: string, files: readonly string[]): Promise<void> {
  let copied = 0;
  for (const file of files) if (await copyWhole(join(from, file), join(to, file))) copied += 1;
  if (copied === 0) {
    throw new ModelInvalid(
      `save: ${from} has none of ${files.join(', ')}; it was complete when the run began, so restore it and start the same run again`,
    );
  }
}

/** @returns false where the file is not there */
async function copyWhole(from: string, to: string): Promise<boolean> {
  const temporary = join(dirname(to), `${TEMPORARY_PREFIX}copy-${process.pid}`);
  try {
    await copyFile(from, temporary);
    await rename(temporary, to);
    return true;
  } catch (error) {
    await rm(temporary, { force: true });
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return false;
    throw diskFullOr(error, to);
  }
}

/** README.md and the images it shows, so that the folder can be published as it is. */
async function writeCard(folder: string, record: RunFile, samples: readonly Sample[]): Promise<void> {
  const output = dirname(folder);
  const images = CHART_METRICS.map(({ file }) => `${file}.png`);
  await mkdir(join(folder, PLOTS_FOLDER), { recursive: true });
  for (const image of images) {
    const to = join(folder, PLOTS_FOLDER, image);
    if (await copyWhole(join(output, PLOTS_FOLDER, image), to)) continue;
    await plotRun({ output });
    await copyWhole(join(output, PLOTS_FOLDER, image), to);
  }
  const hubId = hubIdOf(record.base);
  const licence = await licenceOf(record.base.folder, hubId);
  await writeFileAtomic(join(folder, 'README.md'), modelCard({ run: record, samples, hubId, licence }));
}

/** The base's id on the hub, where its source tells. */
function hubIdOf({ model, source }: Pick<ModelRef, 'source'> & { model: string }): string | null {
  return presetOf(model)?.hubId ?? /^hub (\S+\/\S+)/.exec(source)?.[1] ?? null;
}

/** Bases whose cards on the hub name this licence. */
const KNOWN_LICENCES = [{ prefix: 'HuggingFaceTB/SmolLM2-', licence: 'apache-2.0' }];

/** The licence that the base's own card names, or the known one; null where neither tells. */
async function licenceOf(folder: string, hubId: string | null): Promise<string | null> {
  const card = await readFile(join(folder, 'README.md'), 'utf8').catch(absentAsEmpty);
  const frontMatter = /^---\r?\n([\s\S]*?)\r?\n---/.exec(card)?.[1] ?? '';
  const named = /^license:\s*["']?([\w.-]+)/m.exec(frontMatter)?.[1];
  return named ?? KNOWN_LICENCES.find(({ prefix }) => hubId?.startsWith(prefix))?.licence ?? null;
}

async function drawCharts(rows: readonly LogRow[]): Promise<ReportChart[]> {
  const charts: ReportChart[] = [];
  for (const metric of CHART_METRICS) {
    const [bySteps, byEpochs] = [stepChart(rows, metric), epochChart(rows, metric)];
    charts.push({ metric, bySteps: await renderSvg(bySteps), byEpochs: await renderSvg(byEpochs) });
  }
  return charts;
}

/** Where things stand, relative to the output folder. */
function artifactsOf(folder: string, samples: readonly Sample[]): Record<string, string> {
  return {
    [folder]: folder,
    report: REPORT_FILE,
    plots: PLOTS_FOLDER,
    ...(samples.length > 0 ? { samples: 'samples.md' } : {}),
    metrics: 'metrics.jsonl',
    trainerState: TRAINER_STATE_FILE,
    run: RUN_FILE,
  };
}

function versionsHere(): Record<string, string> {
  const versionOf = (manifest: string): string => (require(manifest) as { version: string }).version;
  return {
    'durable-orpo': versionOf('../../package.json'),
    node: process.versions.node,
    '@tensorflow/tfjs': versionOf('@tensorflow/tfjs/package.json'),
  };
}

function absentAsEmpty(error: unknown): string {
  if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return '';
  throw error;
}
