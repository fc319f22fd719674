/**
 * Activities of the CPU queue: resolve, load and split, tokenize, plot, save. Each calls one step of training/ and can
 * be run again alone.
 */
import { Context } from '@temporalio/activity';
import type {
  DatasetRef,
  EvaluationResult,
  ModelRef,
  ResolvedRun,
  RunResult,
  SegmentResult,
  TokensRef,
} from '../shared/records.ts';
import { resolveBase } from '../training/hub/resolve.ts';
import { loadAndSplit } from '../training/steps/load-and-split.ts';
import { plotRun } from '../training/steps/plot.ts';
import { resolveRun } from '../training/steps/resolve-run.ts';
import { saveRun } from '../training/steps/save.ts';
import { tokenizeSplits } from '../training/steps/tokenize.ts';
import type { ActivityDeps } from './deps.ts';
import { named } from './failures.ts';
import { withHeartbeat } from './heartbeat.ts';
import { ownerRuns, searchAttributesExist } from './server.ts';

/** A CPU step without any sign of progress for this long is given up. */
const DEADLINE_MS = 20 * 60_000;

export function createCpuActivities(deps: ActivityDeps) {
  return {
    resolveRun: (args: { input: unknown; workflowId: string; runId: string }): Promise<ResolvedRun> =>
      named(async () => {
        const { client } = Context.current();
        return resolveRun({
          ...args,
          home: deps.home,
          root: deps.root,
          searchAttributes: await searchAttributesExist(client),
          isRunning: (owner) => ownerRuns(client, owner),
        });
      }),

    loadAndSplit: ({ run }: { run: ResolvedRun }): Promise<DatasetRef> =>
      step((beat, signal) =>
        loadAndSplit({ config: run.config, output: run.output, onProgress: counted('read', beat), signal }),
      ),

    tokenize: ({ run, dataset }: { run: ResolvedRun; dataset: DatasetRef }): Promise<TokensRef> =>
      step(async (beat, signal) => {
        const base = await resolveBase(run.config.model, { cacheDir: deps.cacheDir, onProgress: beat, signal });
        const onProgress = counted('tokenized', beat);
        const { config, output } = run;
        return tokenizeSplits({ config, output, dataset, modelFolder: base.folder, onProgress, signal });
      }),

    plot: ({ run }: { run: ResolvedRun }): Promise<{ files: string[] }> => step(() => plotRun({ output: run.output })),

    save: (args: {
      run: ResolvedRun;
      dataset: DatasetRef;
      tokens: TokensRef;
      model: ModelRef;
      segments: SegmentResult[];
      evaluation: EvaluationResult | null;
    }): Promise<RunResult> => step(() => saveRun(args)),
  };
}

type Beat = (figures?: object) => void;

function counted(what: string, beat: Beat): (done: number, total: number) => void {
  return (done, total) => beat({ what, done, total });
}

/** A step with heartbeats, the worker's cancellation, and named failures. */
function step<T>(body: (beat: Beat, signal: AbortSignal) => Promise<T>): Promise<T> {
  const signal = Context.current().cancellationSignal;
  return named(() => withHeartbeat(DEADLINE_MS, (beat) => body(beat, signal)));
}
