/**
 * Activities of the GPU queue: build the model, train an epoch, evaluate. Only the trainer child that they start loads
 * TensorFlow.
 */
import { ApplicationFailure, CancelledFailure, Context } from '@temporalio/activity';
import { REPORT_PROGRESS } from '../shared/contract.ts';
import { NoProgress, Preempted, TrainerCrashed, TrainerStalled } from '../shared/errors.ts';
import type {
  CheckpointRef,
  EvaluationResult,
  ModelRef,
  Progress,
  ResolvedRun,
  SegmentResult,
  TokensRef,
} from '../shared/records.ts';
import { buildModel } from '../training/steps/build-model.ts';
import type { GpuDeps } from './deps.ts';
import { named } from './failures.ts';
import { withHeartbeat } from './heartbeat.ts';
import { runTrainer } from './trainer/supervise.ts';
import type { SegmentProgress } from '../training/steps/train-segment.ts';
import type { TaskResults, TrainerTask } from './trainer/protocol.ts';
import { failedWithoutProgress } from './trainer/budget.ts';

const BUILD_DEADLINE_MS = 30 * 60_000;
/** The trainer's own deadlines decide (shared/contract.ts); this only bounds silence between them. */
const TRAIN_DEADLINE_MS = 35 * 60_000;
const REPORT_EVERY_MS = 60_000;

interface SegmentArgs {
  run: ResolvedRun;
  tokens: TokensRef;
  model: ModelRef;
  from: CheckpointRef | null;
}

export function createGpuActivities(deps: GpuDeps) {
  return {
    buildModel: ({ run, tokens }: { run: ResolvedRun; tokens: TokensRef }): Promise<ModelRef> =>
      named(() =>
        withHeartbeat(BUILD_DEADLINE_MS, (onProgress) =>
          buildModel({
            config: run.config,
            tokens,
            cacheDir: deps.cacheDir,
            engine: deps.engine,
            onProgress,
            signal: Context.current().cancellationSignal,
          }),
        ),
      ),

    trainEpoch: ({ run, tokens, model, from }: SegmentArgs): Promise<SegmentResult> => {
      const { info } = Context.current();
      return supervised(deps, run, model, {
        kind: 'segment',
        input: {
          config: run.config,
          output: run.output,
          configHash: run.configHash,
          model,
          tokens,
          lineage: run.lineage,
          from,
          attemptToken: info.currentAttemptScheduledTimestampMs,
          worker: deps.host,
        },
      });
    },

    evaluate: ({ run, tokens, model, from }: SegmentArgs & { from: CheckpointRef }): Promise<EvaluationResult | null> =>
      supervised(deps, run, model, {
        kind: 'evaluate',
        input: { config: run.config, output: run.output, configHash: run.configHash, model, tokens, from },
      }),
  };
}

/** Runs a task in a trainer; its progress becomes heartbeats and, at most once a minute, the workflow's progress. */
async function supervised<K extends TrainerTask['kind']>(
  deps: GpuDeps,
  run: ResolvedRun,
  model: ModelRef,
  task: Extract<TrainerTask, { kind: K }>,
): Promise<TaskResults[K]> {
  // Abort listeners and timers run outside the activity's context: it is taken here, once.
  const context = Context.current();
  const isRunCanceled = (): boolean => context.cancellationDetails?.cancelRequested === true;
  return named(async () => {
    const report = createReporter(run, deps.host);
    let figures: SegmentProgress = { phase: 'load' };
    try {
      return await withHeartbeat(TRAIN_DEADLINE_MS, (beat) =>
        runTrainer<K>(task, {
          env: trainerEnv(deps, model),
          stop: context.cancellationSignal,
          // Only the workflow's own cancellation has a result; a native pause or reset, or a worker that shuts down, does not.
          stopReason: () => (isRunCanceled() ? 'pause' : 'handOver'),
          onProgress: (progress) => {
            figures = { ...figures, ...progress };
            beat(figures);
            report(figures);
          },
        }),
      );
    } catch (error) {
      if (error instanceof Preempted) throw handOver(error, isRunCanceled());
      if (error instanceof TrainerCrashed || error instanceof TrainerStalled) await spendBudget(run, task.kind, error);
      throw error;
    }
  });
}

/** What was begun goes on in the next attempt; where the run itself was canceled, there is none. */
function handOver(error: Preempted, isRunCanceled: boolean): Error {
  if (isRunCanceled) return new CancelledFailure('the run was canceled');
  return ApplicationFailure.create({ message: error.message, type: error.name, nextRetryDelay: '1s', cause: error });
}

async function spendBudget(run: ResolvedRun, kind: string, cause: Error): Promise<void> {
  const allowed = run.config.limits.noProgressAttempts;
  const failures = await failedWithoutProgress(run.output, kind);
  if (failures < allowed) return;
  throw new NoProgress(
    `training: ${failures} attempts in a row ended without a new checkpoint (limits.noProgressAttempts is ${allowed}); the last one: ${cause.message}`,
    { cause },
  );
}

function trainerEnv(deps: GpuDeps, model: ModelRef): Record<string, string> {
  const threads = String(model.engine.threads);
  return { ...deps.trainerEnv, TF_NUM_INTRAOP_THREADS: threads, OMP_NUM_THREADS: threads, TF_NUM_INTEROP_THREADS: '1' };
}

/** Signals a run's figures to its workflow, since a query cannot read heartbeats. */
function createReporter(run: ResolvedRun, worker: string): (progress: SegmentProgress) => void {
  const { info, client } = Context.current();
  const handle = client.workflow.getHandle(info.workflowExecution?.workflowId ?? '', info.workflowExecution?.runId);
  let last = 0;
  return (progress) => {
    if (Date.now() - last < REPORT_EVERY_MS) return;
    last = Date.now();
    // A lost report is made good by the next one, and by the segment's result.
    handle.signal(REPORT_PROGRESS, figuresOf(run, worker, progress)).catch(() => {});
  };
}

function figuresOf(run: ResolvedRun, worker: string, progress: SegmentProgress): Partial<Progress> {
  const figures: Partial<Progress> = { worker, epochs: run.config.training.epochs };
  for (const key of ['epoch', 'step', 'totalSteps', 'loss', 'tokensPerSecond', 'etaSeconds', 'checkpoint'] as const) {
    if (progress[key] !== undefined) Object.assign(figures, { [key]: progress[key] });
  }
  return figures;
}
