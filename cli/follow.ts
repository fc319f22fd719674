/**
 * Follows runs by asking their workflows: a progress bar a run on a terminal, plain lines otherwise. Reconnects; the
 * run never needs the follower.
 */
import { setTimeout } from 'node:timers/promises';
import { MultiBar, Presets, type SingleBar } from 'cli-progress';
import { WorkflowNotFoundError, type Client, type WorkflowHandle } from '@temporalio/client';
import { defaultPayloadConverter } from '@temporalio/common';
import { QUERIES } from '../shared/contract.ts';
import { ConfigInvalid } from '../shared/errors.ts';
import type { Progress } from '../shared/records.ts';
import { say } from './output.ts';

const POLL_MS = 1_000;
const PLAIN_EVERY_MS = 5_000;

export interface FollowOptions {
  plain: boolean;
  signal: AbortSignal;
}

/** Shows one or more runs until all have closed or the signal aborts. */
export async function follow(client: Client, ids: string[], options: FollowOptions): Promise<void> {
  const view = options.plain || !process.stdout.isTTY ? plainView() : barView();
  try {
    const open = new Set(ids);
    while (open.size > 0 && !options.signal.aborted) {
      for (const id of open) {
        const state = await stateOf(client, id);
        if (state.progress) view.show(id, state.progress);
        if (state.closed) open.delete(id);
      }
      if (open.size > 0) await pause(POLL_MS, options.signal);
    }
  } finally {
    view.end();
  }
}

export interface RunState {
  closed: boolean;
  status: string;
  progress: Progress | null;
}

/** Progress of a run: what its workflow answers, made current by its pending activity's heartbeat. */
export async function stateOf(client: Client, id: string): Promise<RunState> {
  const handle = client.workflow.getHandle(id);
  const description = await handle.describe().catch((error: unknown) => {
    if (error instanceof WorkflowNotFoundError) {
      throw new ConfigInvalid(`run: no workflow "${id}" on this server; ./orpo status lists them`, { cause: error });
    }
    throw error;
  });
  const progress = await queryProgress(handle);
  const beats = (description.raw.pendingActivities ?? []).map((activity) => activity.heartbeatDetails?.payloads?.[0]);
  for (const beat of beats) {
    if (beat && progress) Object.assign(progress, figuresOf(defaultPayloadConverter.fromPayload(beat)));
  }
  return { closed: description.status.name !== 'RUNNING', status: description.status.name, progress };
}

/** Null when no workflow worker answers just now. */
async function queryProgress(handle: WorkflowHandle): Promise<Progress | null> {
  try {
    return await handle.query<Progress>(QUERIES.progress);
  } catch {
    // No worker to replay it, or a server restart: the next poll asks again.
    return null;
  }
}

/** The fields of a heartbeat that are progress; its own `phase` is the trainer's, not the run's. */
function figuresOf(heartbeat: unknown): Partial<Progress> {
  const { phase: _phase, ...rest } = (heartbeat ?? {}) as Record<string, unknown>;
  const known = ['epoch', 'step', 'totalSteps', 'loss', 'tokensPerSecond', 'etaSeconds', 'checkpoint'];
  return Object.fromEntries(Object.entries(rest).filter(([key]) => known.includes(key)));
}

interface View {
  show(id: string, progress: Progress): void;
  end(): void;
}

/** One line of a run's figures. */
export function progressLine(progress: Progress): string {
  const parts: string[] = [progress.phase];
  if (progress.totalSteps > 0) {
    parts.push(
      `epoch ${Math.min(progress.epoch + (progress.phase === 'training' ? 1 : 0), progress.epochs)}/${progress.epochs}`,
    );
    parts.push(`step ${progress.step}/${progress.totalSteps}`);
  }
  if (progress.loss !== null) parts.push(`loss ${progress.loss.toFixed(3)}`);
  if (progress.evalLoss !== null) parts.push(`held-out loss ${progress.evalLoss.toFixed(3)}`);
  if (progress.rewardAccuracy !== null) parts.push(`accuracy ${progress.rewardAccuracy.toFixed(2)}`);
  if (progress.tokensPerSecond !== null && progress.phase === 'training')
    parts.push(`${Math.round(progress.tokensPerSecond)} tokens/s`);
  if (progress.etaSeconds !== null && progress.phase === 'training')
    parts.push(`${Math.ceil(progress.etaSeconds / 60)} min left`);
  if (progress.resumes > 0) parts.push(`resumed ${progress.resumes}×`);
  return parts.join('  ');
}

function plainView(): View {
  const shown = new Map<string, { line: string; phase: string; at: number }>();
  return {
    show(id, progress) {
      const line = progressLine(progress);
      const before = shown.get(id);
      const isDue = !before || before.phase !== progress.phase || Date.now() - before.at >= PLAIN_EVERY_MS;
      if (!isDue || before?.line === line) return;
      say(`${id}  ${line}`);
      shown.set(id, { line, phase: progress.phase, at: Date.now() });
    },
    end() {},
  };
}

function barView(): View {
  const bars = new MultiBar(
    { format: '{id} {bar} {line}', hideCursor: true, clearOnComplete: false },
    Presets.shades_classic,
  );
  const byId = new Map<string, SingleBar>();
  return {
    show(id, progress) {
      const bar = byId.get(id) ?? bars.create(1, 0, { id, line: '' });
      byId.set(id, bar);
      bar.setTotal(Math.max(1, progress.totalSteps));
      bar.update(progress.step, { id, line: progressLine(progress) });
    },
    end: () => bars.stop(),
  };
}

/** Sleeps, or returns at once when aborted. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await setTimeout(ms, undefined, { signal }).catch(() => {});
}
