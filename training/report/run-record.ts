/**
 * Puts run.json together from what the steps of a run returned. Pure: the same results make the same record.
 */
import type {
  DatasetRef,
  EvaluationResult,
  MetricRow,
  ModelRef,
  ResolvedRun,
  RunResult,
  SegmentResult,
  TokensRef,
} from '../../shared/records.ts';
import { inexactBecause } from '../checkpoint/identity.ts';
import { metricsWith, type LogRow } from './metrics.ts';
import { RUN_FORMAT, type RunFile, type TimingsRecord, type TrainingRecord } from './run-file.ts';

/** What a run's steps returned. */
export interface RunOutcome {
  run: ResolvedRun;
  dataset: DatasetRef;
  tokens: TokensRef;
  model: ModelRef;
  /** At least one; the last is what was kept. */
  segments: readonly SegmentResult[];
  evaluation: EvaluationResult | null;
}

export interface RecordParts {
  rows: readonly LogRow[];
  digest: string;
  versions: Record<string, string>;
  timings: TimingsRecord;
  artifacts: Record<string, string>;
}

/** Most bytes of a workflow result as JSON. */
export const RESULT_LIMIT_BYTES = 4096;
/** Digits that a result keeps of a metric; run.json has them all. */
const RESULT_DIGITS = 6;
/** Metrics kept where a result would be too long with all of them. */
const CHIEF_METRICS = ['loss', 'nll_loss', 'log_odds_chosen', 'rewards/accuracies', 'rewards/margins'];

export function makeRunFile(outcome: RunOutcome, parts: RecordParts): RunFile {
  const { run, dataset, tokens, model, segments, evaluation } = outcome;
  const training = trainingRecord(segments, parts.rows);
  const reasons = reasonsOf(model, segments);
  return {
    runFormat: RUN_FORMAT,
    status: 'completed',
    configHash: run.configHash,
    dataSha256: run.dataSha256,
    baseSha256: model.weightsSha256,
    digest: parts.digest,
    exact: reasons.length === 0,
    inexactBecause: reasons,
    config: run.config,
    base: {
      model: run.config.model,
      folder: model.folder,
      source: model.source,
      modelType: model.modelType,
      parameters: model.parameters,
      trainable: model.trainable,
    },
    data: { rows: dataset.rows, dropped: tokens.dropped, counts: tokens.counts },
    engine: model.engine,
    training,
    metrics: evaluation,
    versions: parts.versions,
    timings: parts.timings,
    warnings: unique([run, dataset, tokens, ...segments].flatMap(({ warnings }) => warnings)),
    result: makeResult(outcome, training, parts, reasons.length === 0),
  };
}

/** Why a repetition of the run may end with other bits; empty where it cannot. */
function reasonsOf(model: ModelRef, segments: readonly SegmentResult[]): string[] {
  const reasons = inexactBecause(model.engine, model.engine);
  if (reasons.length === 0 && segments.some(({ exact }) => exact === false)) {
    reasons.push('it went on from a checkpoint of another engine (see warnings)');
  }
  return reasons;
}

function trainingRecord(segments: readonly SegmentResult[], rows: readonly LogRow[]): TrainingRecord {
  const last = segments.at(-1);
  const total = (of: (segment: SegmentResult) => number): number => segments.reduce((sum, s) => sum + of(s), 0);
  return {
    steps: last?.step ?? 0,
    totalSteps: last?.totalSteps ?? 0,
    epochs: rows.at(-1)?.epoch ?? last?.epoch ?? 0,
    stop: last?.stop ?? 'stopped',
    resumes: total(({ resumes }) => resumes ?? 0),
    recomputedSteps: total(({ recomputedSteps }) => recomputedSteps),
    perEpoch: rows
      .filter((row) => row.type === 'epoch')
      .map((row) => ({
        epoch: row.epoch,
        step: row.step,
        train: metricsWith('train_', row) ?? {},
        eval: metricsWith('eval_', row),
      })),
  };
}

function makeResult(
  { run, model, evaluation }: RunOutcome,
  { steps, epochs, stop, resumes, recomputedSteps }: TrainingRecord,
  { digest, artifacts }: RecordParts,
  exact: boolean,
): RunResult {
  const whole: RunResult = {
    output: run.output,
    model: run.config.model,
    baseSource: model.source,
    steps,
    epochs,
    stop,
    evaluation: evaluation && shortened(evaluation, () => true),
    digest,
    resumes,
    recomputedSteps,
    exact,
    artifacts,
  };
  if (Buffer.byteLength(JSON.stringify(whole)) <= RESULT_LIMIT_BYTES) return whole;
  const isChief = (name: string): boolean => CHIEF_METRICS.includes(name.replace(/^eval_/, ''));
  return { ...whole, evaluation: evaluation && shortened(evaluation, isChief) };
}

function shortened(evaluation: EvaluationResult, keep: (name: string) => boolean): EvaluationResult {
  const row = (metrics: MetricRow): MetricRow =>
    Object.fromEntries(
      Object.entries(metrics)
        .filter(([name]) => keep(name))
        .map(([name, value]) => [name, Number(value.toPrecision(RESULT_DIGITS))]),
    );
  return { ...evaluation, before: row(evaluation.before), after: row(evaluation.after) };
}

/** Sums of timings.jsonl (segment-log.ts). Lines cut by a crash are left out. */
export function timingsOf(text: string, segments: readonly SegmentResult[]): TimingsRecord {
  const steps = text.split('\n').flatMap(stepTiming);
  const sum = (of: (row: StepTiming) => number): number | null =>
    steps.length === 0 ? null : steps.reduce((total, row) => total + of(row), 0);
  const speeds = segments.map(({ tokensPerSecond }) => tokensPerSecond).filter((speed) => speed > 0);
  speeds.sort((a, b) => a - b);
  return {
    trainingSeconds: sum(({ seconds }) => seconds),
    tokens: sum(({ tokens }) => tokens),
    tokensPerSecond: speeds[Math.floor(speeds.length / 2)] ?? null,
    workers: unique(segments.map(({ worker }) => worker).filter((worker) => worker !== '')),
  };
}

interface StepTiming {
  seconds: number;
  tokens: number;
}

function stepTiming(line: string): StepTiming[] {
  try {
    const row = JSON.parse(line) as { event?: string; seconds?: number; tokens?: number };
    return row.event === 'step' ? [{ seconds: row.seconds ?? 0, tokens: row.tokens ?? 0 }] : [];
  } catch {
    return [];
  }
}

function unique<T>(values: readonly T[]): T[] {
  return [...new Set(values)];
}
