/**
 * Runs a task in a trainer child process and watches it: progress within its phase's deadline counts as alive, silence
 * beyond it as a stall. A crash, an abort or a kill of the trainer is a failure with its cause, never a dead worker.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { PHASE_DEADLINE_MS, type TrainerPhase } from '../../shared/contract.ts';
import * as errors from '../../shared/errors.ts';
import type { SegmentProgress } from '../../training/steps/train-segment.ts';
import type { FromTrainer, StopReason, TaskResults, ToTrainer, TrainerTask } from './protocol.ts';

const CHILD = fileURLToPath(new URL('./child.ts', import.meta.url));
const TSX = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
/** util-linux's wrapper that asks the kernel to kill the trainer when its worker dies, however busy or stopped it is. */
const SETPRIV = ['/usr/bin/setpriv', '/bin/setpriv'].find((path) => existsSync(path));
const STDERR_TAIL_CHARS = 4000;
/** Lines that TensorFlow writes at every start, whatever its log level. */
const NOISE = /^(WARNING: All log messages before absl|I0000 ).*\n?/gm;
/** After a stop was asked for, the running step and a checkpoint may take this long before the trainer is killed. */
const STOP_GRACE_MS = 5 * 60_000;

export interface Supervision {
  /** Environment of the trainer: engine libraries, thread counts, devices. */
  env: Record<string, string>;
  onProgress(progress: SegmentProgress): void;
  /** Aborted when the task should finish its step, checkpoint and end. */
  stop: AbortSignal;
  /** Asked when `stop` aborts. */
  stopReason(): StopReason;
  /** Lets tests shorten deadlines. */
  deadlinesMs?: Partial<Record<TrainerPhase, number>>;
  onSpawn?(pid: number): void;
}

/** Runs one task to its end.
 *  @throws TrainerStalled past a deadline, TrainerCrashed with exit code, signal and the end of stderr, or the task's own error */
export async function runTrainer<K extends TrainerTask['kind']>(
  task: Extract<TrainerTask, { kind: K }>,
  supervision: Supervision,
): Promise<TaskResults[K]> {
  const child = spawnTrainer(supervision.env);
  if (child.pid !== undefined) supervision.onSpawn?.(child.pid);
  const stderr = tailOf(child);
  const watchdog = createWatchdog(child, { ...PHASE_DEADLINE_MS, ...supervision.deadlinesMs });
  const onStop = (): void => {
    say(child, { type: 'stop', reason: supervision.stopReason() });
    watchdog.giveAtMost(STOP_GRACE_MS);
  };
  if (supervision.stop.aborted) onStop();
  supervision.stop.addEventListener('abort', onStop, { once: true });
  try {
    return (await new Promise((resolve, reject) => {
      let outcome: FromTrainer | null = null;
      child.on('message', (message: FromTrainer) => {
        if (message.type === 'progress') {
          watchdog.progress(message.progress.phase);
          supervision.onProgress(message.progress);
        } else outcome = message;
      });
      child.on('error', (cause) =>
        reject(new errors.TrainerCrashed(`trainer: could not start: ${cause.message}`, { cause })),
      );
      child.on('close', (code, signal) => {
        if (outcome?.type === 'result') resolve(outcome.value as TaskResults[K]);
        else if (outcome?.type === 'error') reject(revive(outcome));
        else reject(watchdog.stalled() ?? crashed(code, signal, stderr()));
      });
      say(child, { type: 'run', task });
    })) as TaskResults[K];
  } finally {
    watchdog.end();
    supervision.stop.removeEventListener('abort', onStop);
    child.kill('SIGKILL');
  }
}

function spawnTrainer(env: Record<string, string>): ChildProcess {
  const options = {
    execArgv: [],
    env: { ...process.env, TF_CPP_MIN_LOG_LEVEL: '2', ...env },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'] as ('ignore' | 'pipe' | 'ipc')[],
    serialization: 'json' as const,
  };
  const node = ['--import', TSX, CHILD];
  if (SETPRIV === undefined) return fork(CHILD, [], { ...options, execArgv: node.slice(0, 2) });
  const [program, ...args] = ['--pdeathsig', 'KILL', process.execPath, ...node];
  return fork(program ?? '', args, { ...options, execPath: SETPRIV });
}

function say(child: ChildProcess, message: ToTrainer): void {
  // A trainer that is already gone is reported by its `close` event.
  if (child.connected) child.send(message, () => {});
}

function tailOf(child: ChildProcess): () => string {
  let tail = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    tail = (tail + text.replaceAll(NOISE, '')).slice(-STDERR_TAIL_CHARS);
  });
  return () => tail.trim();
}

interface Watchdog {
  progress(phase: TrainerPhase): void;
  giveAtMost(ms: number): void;
  stalled(): errors.TrainerStalled | null;
  end(): void;
}

function createWatchdog(child: ChildProcess, deadlinesMs: Record<TrainerPhase, number>): Watchdog {
  let phase: TrainerPhase = 'load';
  let timer: NodeJS.Timeout;
  let ceiling: NodeJS.Timeout | undefined;
  let stall: errors.TrainerStalled | null = null;
  const kill = (why: string): void => {
    stall = new errors.TrainerStalled(
      `trainer: ${why}; it was killed and will be started again from the newest checkpoint`,
    );
    child.kill('SIGKILL');
  };
  const arm = (): void => {
    clearTimeout(timer);
    const limit = deadlinesMs[phase];
    timer = setTimeout(() => kill(`no progress for ${limit / 1000} s in phase "${phase}"`), limit);
  };
  arm();
  return {
    progress(next) {
      phase = next;
      arm();
    },
    giveAtMost(ms) {
      ceiling = setTimeout(() => kill(`did not stop within ${ms / 1000} s of being asked to`), ms);
    },
    stalled: () => stall,
    end() {
      clearTimeout(timer);
      clearTimeout(ceiling);
    },
  };
}

function crashed(code: number | null, signal: NodeJS.Signals | null, stderr: string): errors.TrainerCrashed {
  const how = signal ? `killed by ${signal}` : `ended with exit code ${code}`;
  return new errors.TrainerCrashed(`trainer: ${how}${stderr ? `; its last words:\n${stderr}` : ''}`);
}

/** A child's named error as the class of that name, so that its type decides about retries here too. */
function revive(failure: Extract<FromTrainer, { type: 'error' }>): Error {
  const named = Object.entries(errors).find(([name]) => name === failure.name)?.[1];
  if (typeof named === 'function' && named.prototype instanceof errors.OrpoError) {
    const Revived = named as typeof errors.OrpoError;
    return new Revived(failure.message, { problems: failure.problems });
  }
  return new errors.TrainerCrashed(`trainer: ${failure.stack ?? failure.message}`);
}
