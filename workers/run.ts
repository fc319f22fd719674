/**
 * Starts this machine's workers and runs them until a signal: the workflow worker, the CPU activities, the GPU
 * activities (one at a time), or all three in one process. The worker process never loads TensorFlow.
 */
import { hostname } from 'node:os';
import { fileURLToPath } from 'node:url';
import { DefaultLogger, NativeConnection, Runtime, Worker, type NativeConnectionOptions } from '@temporalio/worker';
import { createCpuActivities } from '../activities/cpu.ts';
import type { ActivityDeps, GpuDeps } from '../activities/deps.ts';
import { createGpuActivities } from '../activities/gpu.ts';
import { CPU_QUEUE, GPU_QUEUE, WORKFLOW_QUEUE } from '../shared/contract.ts';
import { EnvironmentIncomplete } from '../shared/errors.ts';
import { createLog } from './log.ts';

export const ROLES = ['all', 'workflow', 'cpu', 'gpu'] as const;
export type Role = (typeof ROLES)[number];

export interface WorkersOptions {
  role: Role;
  connection: NativeConnectionOptions;
  namespace: string;
  deps: ActivityDeps;
  /** Needed for the roles `gpu` and `all`. */
  gpu: Pick<GpuDeps, 'engine' | 'trainerEnv'> | null;
  /** Called once all pollers run. */
  onReady(lines: string[]): void;
}

/** Cancellation reaches an activity with a heartbeat's answer, so heartbeats are sent often; there is one trainer a worker. */
const HEARTBEAT_THROTTLE = '3s';
/** After SIGTERM: a step, a checkpoint and the hand-over fit into this; then the process ends whatever runs. */
const SHUTDOWN_FORCE = '2m';

/** Runs workers until SIGINT or SIGTERM; running training finishes its step, writes a checkpoint and hands over. */
export async function runWorkers(options: WorkersOptions): Promise<void> {
  Runtime.install({ logger: new DefaultLogger('INFO', createLog()) });
  const connection = await connect(options.connection);
  try {
    const workers = await createWorkers(options, connection);
    options.onReady(startLines(options));
    await Promise.all(workers.map((worker) => worker.run()));
  } finally {
    await connection.close();
  }
}

async function connect(options: NativeConnectionOptions): Promise<NativeConnection> {
  try {
    return await NativeConnection.connect(options);
  } catch (cause) {
    throw new EnvironmentIncomplete(
      `Temporal server: no answer at ${options.address ?? 'localhost:7233'}; start one with ./orpo dev, or set TEMPORAL_ADDRESS`,
      { cause },
    );
  }
}

async function createWorkers(options: WorkersOptions, connection: NativeConnection): Promise<Worker[]> {
  const { role, namespace, deps, gpu } = options;
  const base = { connection, namespace, shutdownForceTime: SHUTDOWN_FORCE };
  const has = (part: Role): boolean => role === 'all' || role === part;
  const workers: Promise<Worker>[] = [];
  if (has('workflow')) {
    const workflowsPath = fileURLToPath(new URL('../workflows/index.ts', import.meta.url));
    workers.push(Worker.create({ ...base, taskQueue: WORKFLOW_QUEUE, workflowsPath }));
  }
  if (has('cpu')) {
    const activities = createCpuActivities(deps);
    workers.push(Worker.create({ ...base, taskQueue: CPU_QUEUE, activities, maxConcurrentActivityTaskExecutions: 4 }));
  }
  if (has('gpu')) {
    if (!gpu) throw new EnvironmentIncomplete('worker: the gpu role needs an engine; run ./orpo doctor');
    workers.push(
      Worker.create({
        ...base,
        taskQueue: GPU_QUEUE,
        activities: createGpuActivities({ ...deps, ...gpu }),
        maxConcurrentActivityTaskExecutions: 1,
        maxHeartbeatThrottleInterval: HEARTBEAT_THROTTLE,
      }),
    );
  }
  return Promise.all(workers);
}

function startLines({ role, connection, namespace, gpu }: WorkersOptions): string[] {
  const queues = {
    all: [WORKFLOW_QUEUE, CPU_QUEUE, GPU_QUEUE],
    workflow: [WORKFLOW_QUEUE],
    cpu: [CPU_QUEUE],
    gpu: [GPU_QUEUE],
  }[role];
  return [
    `worker ready: role ${role} on ${hostname()} (process ${process.pid})`,
    `  server   ${connection.address ?? 'localhost:7233'}, namespace ${namespace}`,
    `  queues   ${queues.join(', ')}`,
    ...(gpu && (role === 'all' || role === 'gpu')
      ? [`  engine   ${gpu.engine.library} on ${gpu.engine.device}, ${gpu.engine.cpuModel}, one trainer at a time`]
      : []),
    `  stopping SIGTERM finishes the running step, writes a checkpoint and hands over (at most ${SHUTDOWN_FORCE})`,
  ];
}
