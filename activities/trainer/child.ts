/**
 * The trainer process: the only one that loads TensorFlow. Runs one task for its worker and ends. It obeys only its
 * parent: terminals signal the whole process group, so the usual signals are ignored and the parent decides; when the
 * parent is gone it ends at once.
 */
import { evaluateRun } from '../../training/steps/evaluate.ts';
import { trainSegment, type SegmentProgress } from '../../training/steps/train-segment.ts';
import type { FromTrainer, StopReason, ToTrainer, TrainerTask } from './protocol.ts';

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
process.on('disconnect', () => process.exit(1));

let pauseRequested = false;
const handOver = new AbortController();

process.on('message', (message: ToTrainer) => {
  if (message.type === 'stop') stop(message.reason);
  else
    void run(message.task).then(
      (value) => end({ type: 'result', value }, 0),
      (error: unknown) => end(failure(error), 1),
    );
});

function stop(reason: StopReason): void {
  if (reason === 'pause') pauseRequested = true;
  else handOver.abort();
}

function run(task: TrainerTask): Promise<unknown> {
  const hooks = {
    onProgress: (progress: SegmentProgress) => send({ type: 'progress', progress }),
    stopRequest: () => (pauseRequested ? ('pause' as const) : null),
    signal: handOver.signal,
  };
  return task.kind === 'segment' ? trainSegment(task.input, hooks) : evaluateRun(task.input, hooks);
}

function failure(error: unknown): FromTrainer {
  if (!(error instanceof Error)) {
    return { type: 'error', name: 'Error', message: String(error), problems: [], stack: undefined };
  }
  const problems = 'problems' in error && Array.isArray(error.problems) ? error.problems.map(String) : [];
  return { type: 'error', name: error.name, message: error.message, problems, stack: error.stack };
}

function send(message: FromTrainer): void {
  process.send?.(message);
}

/** Ends only once the last message has left the process. */
function end(message: FromTrainer, code: number): void {
  if (process.send) process.send(message, undefined, {}, () => process.exit(code));
  else process.exit(code);
}
