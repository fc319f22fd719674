/**
 * `orpoFineTune`: one run as a sequence of activities (resolve → load and split → tokenize → build model → train epochs
 * → evaluate → plot → save). The workflow holds references and small numbers only; the output folder holds the rest.
 */
import {
  ActivityCancellationType,
  ApplicationFailure,
  CancellationScope,
  CancelledFailure,
  condition,
  allHandlersFinished,
  isCancellation,
  proxyActivities,
  setCurrentDetails,
  setHandler,
  upsertSearchAttributes,
  workflowInfo,
} from '@temporalio/workflow';
import type { RetryPolicy } from '@temporalio/common';
import type { createCpuActivities } from '../activities/cpu.ts';
import type { createGpuActivities } from '../activities/gpu.ts';
import { CPU_QUEUE, GPU_QUEUE, NON_RETRYABLE } from '../shared/contract.ts';
import type {
  CheckpointRef,
  ModelRef,
  Progress,
  ResolvedRun,
  RunResult,
  SegmentResult,
  TokensRef,
} from '../shared/records.ts';
import { detailsOf } from './details.ts';
import {
  artifactsQuery,
  configQuery,
  pauseUpdate,
  progressQuery,
  reportProgressSignal,
  resumeUpdate,
  stopAfterEpochUpdate,
  stopUpdate,
  type ControlAnswer,
} from './messages.ts';
import { absorb, initialProgress } from './progress.ts';
import { searchAttributesOf } from './search-attributes.ts';

const retry: RetryPolicy = {
  initialInterval: '1s',
  backoffCoefficient: 2,
  maximumInterval: '10s',
  nonRetryableErrorTypes: [...NON_RETRYABLE],
};

const resolving = proxyActivities<ReturnType<typeof createCpuActivities>>({
  taskQueue: CPU_QUEUE,
  startToCloseTimeout: '10m',
  retry,
});

type GpuActivities = ReturnType<typeof createGpuActivities>;
type CpuActivities = ReturnType<typeof createCpuActivities>;

/** Activities with the run's own time limits, known once its config is resolved. */
function activitiesOf(run: ResolvedRun): { cpu: CpuActivities; gpu: (summary: string) => GpuActivities } {
  const { heartbeatSeconds, retryMaxSeconds } = run.config.limits;
  const options = {
    heartbeatTimeout: heartbeatSeconds * 1000,
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: { ...retry, maximumInterval: retryMaxSeconds * 1000 },
  };
  return {
    cpu: proxyActivities<CpuActivities>({ ...options, taskQueue: CPU_QUEUE, startToCloseTimeout: '2h' }),
    gpu: (summary) =>
      proxyActivities<GpuActivities>({ ...options, taskQueue: GPU_QUEUE, startToCloseTimeout: '7d', summary }),
  };
}

type Control = { want: 'run' | 'pause' | 'stop'; stopAfterEpoch: boolean; segment: CancellationScope | null };

export async function orpoFineTune(input: unknown): Promise<RunResult> {
  const progress = initialProgress();
  const control: Control = { want: 'run', stopAfterEpoch: false, segment: null };
  let run: ResolvedRun | null = null;
  let artifacts: Record<string, string> = {};
  setHandler(progressQuery, () => progress);
  setHandler(configQuery, () => run?.config ?? null);
  setHandler(artifactsQuery, () => artifacts);
  handleMessages(control, progress, () => show(progress, run));

  const enter = (phase: Progress['phase']): void => {
    progress.phase = phase;
    show(progress, run);
    if (run?.searchAttributes) upsertSearchAttributes(searchAttributesOf(run, progress));
  };

  show(progress, run);
  const info = workflowInfo();
  run = await resolving.resolveRun({ input, workflowId: info.workflowId, runId: info.runId });
  artifacts = { output: run.output };
  if (run.finished) {
    enter('done');
    return { ...run.finished, alreadyFinished: true };
  }
  progress.epochs = run.config.training.epochs;
  const { cpu, gpu } = activitiesOf(run);

  enter('splitting');
  const dataset = await cpu.loadAndSplit({ run });
  progress.warnings.push(...dataset.warnings);

  enter('tokenizing');
  const tokens = await cpu.tokenize({ run, dataset });
  progress.warnings.push(...tokens.warnings);

  enter('building');
  const model = await gpu('resolve and verify the base').buildModel({ run, tokens });

  const segments = await trainEpochs({ run, tokens, model, gpu, control, progress, enter });
  const last = segments.at(-1);
  if (!last)
    throw ApplicationFailure.nonRetryable('training: stopped before its first step; nothing to save', 'NoProgress');

  enter('evaluating');
  const evaluation = await gpu('held-out pairs, before and after').evaluate({
    run,
    tokens,
    model,
    from: last.checkpoint,
  });

  enter('plotting');
  await cpu.plot({ run });

  enter('saving');
  const result = await cpu.save({ run, dataset, tokens, model, segments, evaluation });
  artifacts = { output: run.output, ...result.artifacts };
  if (evaluation) {
    progress.evalLoss = evaluation.after['eval_loss'] ?? progress.evalLoss;
    progress.rewardAccuracy = evaluation.after['eval_rewards/accuracies'] ?? progress.rewardAccuracy;
  }
  enter('done');
  await condition(allHandlersFinished);
  return result;
}

interface Training {
  run: ResolvedRun;
  tokens: TokensRef;
  model: ModelRef;
  gpu: (summary: string) => GpuActivities;
  control: Control;
  progress: Progress;
  enter(phase: Progress['phase']): void;
}

/** One segment an epoch, until all are trained, early stopping holds, or somebody stops the run. */
async function trainEpochs(training: Training): Promise<SegmentResult[]> {
  const { control, progress, enter } = training;
  const segments: SegmentResult[] = [];
  for (;;) {
    if (control.want === 'pause') {
      enter('paused');
      await condition(() => control.want !== 'pause');
    }
    if (control.want === 'stop') return stopped(segments);
    // Between epochs the same worker usually goes straight on.
    if (progress.phase !== 'training') enter('waitingForWorker');
    const segment = await trainSegment(training, segments.at(-1)?.checkpoint ?? null);
    segments.push(segment);
    absorb(progress, segment);
    if (CancellationScope.current().consideredCancelled) throw new CancelledFailure('the run was canceled');
    if (segment.stop === 'done' || segment.stop === 'earlyStop') return segments;
    if (control.stopAfterEpoch && segment.stop === 'epoch') return segments;
  }
}

/** What was trained when somebody stopped the run; its end is recorded as that. */
function stopped(segments: SegmentResult[]): SegmentResult[] {
  return segments.map((segment, index) => (index === segments.length - 1 ? { ...segment, stop: 'stopped' } : segment));
}

/** A segment in its own scope, so that `pause` and `stop` end it (after a checkpoint) without ending the run. */
async function trainSegment(
  { run, tokens, model, gpu, control, progress }: Training,
  from: CheckpointRef | null,
): Promise<SegmentResult> {
  const summary = `epoch ${Math.min(progress.epoch + 1, progress.epochs)}/${progress.epochs}`;
  const scope = new CancellationScope();
  control.segment = scope;
  try {
    return await scope.run(() => gpu(summary).trainEpoch({ run, tokens, model, from }));
  } catch (error) {
    // Canceled before a worker took it: nothing ran, nothing to record.
    if (isCancellation(error) && from && control.want !== 'run') return pausedAt(from, progress);
    throw error;
  } finally {
    control.segment = null;
  }
}

function pausedAt(checkpoint: CheckpointRef, progress: Progress): SegmentResult {
  return {
    checkpoint,
    epoch: progress.epoch,
    step: progress.step,
    totalSteps: progress.totalSteps,
    train: {},
    eval: null,
    stop: 'paused',
    resumedFrom: null,
    recomputedSteps: 0,
    tokensPerSecond: progress.tokensPerSecond ?? 0,
    worker: progress.worker ?? '',
    warnings: [],
  };
}

function handleMessages(control: Control, progress: Progress, refresh: () => void): void {
  const answer = (): ControlAnswer => ({ phase: progress.phase, step: progress.step, checkpoint: progress.checkpoint });
  const end = async (want: 'pause' | 'stop'): Promise<ControlAnswer> => {
    control.want = want;
    control.segment?.cancel();
    await condition(() => control.segment === null);
    return answer();
  };
  const isOver = (): boolean => ['evaluating', 'plotting', 'saving', 'done'].includes(progress.phase);
  const refuseWhenOver = (): void => {
    if (isOver())
      throw ApplicationFailure.nonRetryable(
        `training is over (phase ${progress.phase}); nothing to pause or stop`,
        'TooLate',
      );
  };
  setHandler(pauseUpdate, () => end('pause'), { validator: refuseWhenOver });
  setHandler(stopUpdate, () => end('stop'), { validator: refuseWhenOver });
  setHandler(
    resumeUpdate,
    async () => {
      control.want = 'run';
      await condition(() => progress.phase !== 'paused');
      return answer();
    },
    {
      validator: () => {
        if (control.want !== 'pause')
          throw ApplicationFailure.nonRetryable(`not paused (phase ${progress.phase})`, 'NotPaused');
      },
    },
  );
  setHandler(
    stopAfterEpochUpdate,
    () => {
      control.stopAfterEpoch = true;
      return answer();
    },
    { validator: refuseWhenOver },
  );
  setHandler(reportProgressSignal, (figures) => {
    Object.assign(progress, figures);
    if (progress.phase === 'waitingForWorker') progress.phase = 'training';
    refresh();
  });
}

function show(progress: Progress, run: ResolvedRun | null): void {
  setCurrentDetails(detailsOf(progress, run));
}
