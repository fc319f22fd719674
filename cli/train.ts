/**
 * `./orpo train`: checks that a server and workers are there, starts the workflow, follows it and reports its result.
 */
import { randomBytes } from 'node:crypto';
import { basename } from 'node:path';
import { WorkflowExecutionAlreadyStartedError, WorkflowFailedError, type Client } from '@temporalio/client';
import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { FINE_TUNE, WORKFLOW_QUEUE } from '../shared/contract.ts';
import { ConfigInvalid, exitCodeOf } from '../shared/errors.ts';
import type { RunResult } from '../shared/records.ts';
import { summaryOf } from '../training/report/summary.ts';
import { requirePollers, withClient } from './connection.ts';
import { readConfigFile } from './config-file.ts';
import { follow } from './follow.ts';
import { EXIT, say, sayJson, warn } from './output.ts';

export interface TrainOptions {
  id?: string;
  out?: string;
  detach?: boolean;
  json?: boolean;
  plain?: boolean;
}

/** @returns exit code */
export async function train(configPath: string, options: TrainOptions): Promise<number> {
  const { input } = await readConfigFile(configPath, options.out ? { output: options.out } : {});
  const id = options.id ?? `orpo-${basename(configPath).replace(/\.json$/, '')}-${randomBytes(3).toString('hex')}`;
  return withClient(async (client) => {
    await requirePollers(client);
    await start(client, id, input);
    if (options.detach) {
      if (options.json) sayJson({ workflowId: id });
      else say(id);
      return EXIT.completed;
    }
    if (!options.json) say(`started ${id}; Ctrl-C detaches, the run goes on`);
    return followToEnd(client, id, options);
  });
}

/** Starts the workflow. @throws ConfigInvalid when a run of this id is going on */
export async function start(client: Client, id: string, input: object): Promise<void> {
  try {
    await client.workflow.start(FINE_TUNE, { taskQueue: WORKFLOW_QUEUE, workflowId: id, args: [input] });
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    throw new ConfigInvalid(
      `run: "${id}" is going on already; follow it with ./orpo watch ${id}, or give another --id`,
    );
  }
}

/** Follows a run until it closes, prints its summary and returns the exit code; Ctrl-C detaches. */
export async function followToEnd(client: Client, id: string, options: TrainOptions): Promise<number> {
  const detach = new AbortController();
  const onInterrupt = (): void => detach.abort();
  process.once('SIGINT', onInterrupt);
  try {
    await follow(client, [id], { plain: options.plain === true || options.json === true, signal: detach.signal });
  } finally {
    process.off('SIGINT', onInterrupt);
  }
  if (detach.signal.aborted) {
    say(`\ndetached; the run goes on. Follow it again with: ./orpo watch ${id}`);
    return EXIT.detached;
  }
  return reportResult(client, id, options.json === true);
}

async function reportResult(client: Client, id: string, json: boolean): Promise<number> {
  try {
    const result = (await client.workflow.getHandle(id).result()) as RunResult;
    if (json) sayJson({ workflowId: id, status: 'completed', ...result });
    else say(await summaryOf(result));
    return EXIT.completed;
  } catch (error) {
    if (!(error instanceof WorkflowFailedError)) throw error;
    const { code, status, type, message } = failureOf(error);
    if (json) sayJson({ workflowId: id, status, type, message });
    else warn(`run ${id} ${status}: ${message}`);
    return code;
  }
}

/** Exit code and words of a closed, unsuccessful run. */
export function failureOf(error: WorkflowFailedError): { code: number; status: string; type: string; message: string } {
  let inner: Error | undefined = error.cause;
  while (inner && !(inner instanceof ApplicationFailure) && !(inner instanceof CancelledFailure)) {
    inner = inner.cause instanceof Error ? inner.cause : undefined;
  }
  if (inner instanceof ApplicationFailure) {
    const type = inner.type ?? 'Error';
    return { code: exitCodeOf(type), status: 'failed', type, message: inner.message };
  }
  if (inner instanceof CancelledFailure) {
    return {
      code: EXIT.canceled,
      status: 'canceled',
      type: 'Canceled',
      message: 'it was canceled; what it had trained is kept in its checkpoints',
    };
  }
  return { code: EXIT.failed, status: 'failed', type: 'Terminated', message: error.cause?.message ?? error.message };
}
