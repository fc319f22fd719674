/**
 * The Temporal client of the command line: server, namespace and credentials from profiles and TEMPORAL_* variables.
 */
import { Client, Connection } from '@temporalio/client';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { CPU_QUEUE, GPU_QUEUE, WORKFLOW_QUEUE } from '../shared/contract.ts';
import { EnvironmentIncomplete } from '../shared/errors.ts';

const CONNECT_TIMEOUT_MS = 5_000;
const TASK_QUEUE_TYPE = { workflow: 1, activity: 2 } as const;

/** Runs `body` with a client and closes the connection. @throws EnvironmentIncomplete when no server answers */
export async function withClient<T>(body: (client: Client) => Promise<T>, address?: string): Promise<T> {
  const loaded = address ? { connectionOptions: { address }, namespace: 'default' } : loadClientConnectConfig();
  const target = loaded.connectionOptions.address ?? 'localhost:7233';
  let connection: Connection;
  try {
    connection = await Connection.connect({ ...loaded.connectionOptions, connectTimeout: CONNECT_TIMEOUT_MS });
  } catch (cause) {
    throw new EnvironmentIncomplete(
      `Temporal server: no answer at ${target}; start one with ./orpo dev, or set TEMPORAL_ADDRESS (or a profile) to yours`,
      { cause },
    );
  }
  try {
    return await body(new Client({ connection, namespace: loaded.namespace ?? 'default' }));
  } finally {
    await connection.close();
  }
}

/** @throws EnvironmentIncomplete naming each queue without pollers and the command that starts one */
export async function requirePollers(client: Client): Promise<void> {
  const queues = [
    { name: WORKFLOW_QUEUE, type: TASK_QUEUE_TYPE.workflow, role: 'workflow' },
    { name: CPU_QUEUE, type: TASK_QUEUE_TYPE.activity, role: 'cpu' },
    { name: GPU_QUEUE, type: TASK_QUEUE_TYPE.activity, role: 'gpu' },
  ];
  const missing: string[] = [];
  for (const { name, type, role } of queues) {
    const { pollers } = await client.workflowService.describeTaskQueue({
      namespace: client.options.namespace,
      taskQueue: { name },
      taskQueueType: type,
    });
    if (!pollers || pollers.length === 0)
      missing.push(`  queue ${name}: no worker polls it; start one with ./orpo worker --role ${role}`);
  }
  if (missing.length > 0) {
    throw new EnvironmentIncomplete(
      `workers: ${missing.length} of ${queues.length} queues have none\n${missing.join('\n')}\n  (or ./orpo dev, which starts a server and all of them)`,
    );
  }
}
