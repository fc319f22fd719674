/**
 * Commands on runs that exist: watch, status, and the control updates.
 */
import { WorkflowUpdateFailedError, type Client } from '@temporalio/client';
import { FINE_TUNE, UPDATES } from '../shared/contract.ts';
import { ConfigInvalid } from '../shared/errors.ts';
import type { ControlAnswer } from '../workflows/messages.ts';
import { withClient } from './connection.ts';
import { follow, progressLine, stateOf } from './follow.ts';
import { EXIT, say, sayJson } from './output.ts';

const STATUS_LIMIT = 50;

/** Follows the given runs, or all that are running. @returns exit code */
export async function watch(ids: string[], options: { plain?: boolean }): Promise<number> {
  return withClient(async (client) => {
    const stop = new AbortController();
    process.once('SIGINT', () => stop.abort());
    const followed = ids.length > 0 ? ids : await runningIds(client);
    if (followed.length === 0) say('no run is going on; ./orpo status lists the finished ones');
    await follow(client, followed, { plain: options.plain === true, signal: stop.signal });
    return stop.signal.aborted ? EXIT.detached : EXIT.completed;
  });
}

/** A table of runs, newest first, or one run's figures. @returns exit code */
export async function status(id: string | undefined, options: { json?: boolean }): Promise<number> {
  return withClient(async (client) => {
    const rows = id ? [await rowOf(client, id, null)] : await listRuns(client);
    if (options.json) sayJson(id ? (rows[0] ?? {}) : { runs: rows });
    else if (rows.length === 0) say('no runs yet; start one with ./orpo train config.json');
    else for (const row of rows) say(`${row.status.padEnd(11)} ${row.started ?? ''} ${row.id}  ${row.line}`);
    return EXIT.completed;
  });
}

interface Row {
  id: string;
  status: string;
  started: string | null;
  line: string;
  progress: unknown;
}

async function listRuns(client: Client): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const run of client.workflow.list({ query: `WorkflowType = "${FINE_TUNE}"` })) {
    const started = run.startTime.toISOString().slice(0, 16).replace('T', ' ');
    // Only running workflows are asked: a query replays the workflow on a worker.
    if (run.status.name === 'RUNNING') rows.push(await rowOf(client, run.workflowId, started));
    else rows.push({ id: run.workflowId, status: statusWord(run.status.name), started, line: '', progress: null });
    if (rows.length === STATUS_LIMIT) break;
  }
  return rows;
}

async function rowOf(client: Client, id: string, started: string | null): Promise<Row> {
  const state = await stateOf(client, id);
  const line = state.progress ? progressLine(state.progress) : 'no workflow worker answers';
  return { id, status: statusWord(state.status), started, line, progress: state.progress };
}

/** The server's status in the words that results use. */
function statusWord(status: string): string {
  return status === 'CANCELLED' ? 'canceled' : status.toLowerCase();
}

async function runningIds(client: Client): Promise<string[]> {
  const ids: string[] = [];
  for await (const run of client.workflow.list({
    query: `WorkflowType = "${FINE_TUNE}" AND ExecutionStatus = "Running"`,
  })) {
    ids.push(run.workflowId);
  }
  return ids;
}

/** Sends a control update and says where the run stands after it. @returns exit code */
export async function control(update: keyof typeof UPDATES, id: string, options: { json?: boolean }): Promise<number> {
  return withClient(async (client) => {
    try {
      const answer = await client.workflow.getHandle(id).executeUpdate<ControlAnswer, []>(UPDATES[update]);
      if (options.json) sayJson({ workflowId: id, ...answer });
      else
        say(
          `${id}: ${update} accepted; phase ${answer.phase}, step ${answer.step}${answer.checkpoint ? `, checkpoint of step ${answer.checkpoint.step}` : ''}`,
        );
      return EXIT.completed;
    } catch (error) {
      if (!(error instanceof WorkflowUpdateFailedError)) throw error;
      throw new ConfigInvalid(`run ${id}: ${update} refused: ${error.cause?.message ?? error.message}`, {
        cause: error,
      });
    }
  });
}
