/**
 * Who may go on from what. A lineage is a run's line of checkpoints; its attempts follow one another, each with a fencing
 * token that grows (the server's time at which the attempt was scheduled). An attempt that was given up may still be
 * alive (a partition, SIGSTOP) and write: so every attempt records at its start what it adopted and what stood beneath
 * it, and a later one trusts only that and what bears a token at least as new. After Kleppmann, "How to do distributed
 * locking" (fencing tokens), with the check on the reader's side because a folder cannot refuse a write.
 */
import { readdir, readFile, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { AttemptSuperseded, CheckpointIncompatible } from '../../shared/errors.ts';
import type { CheckpointRef } from '../../shared/records.ts';
import { TEMPORARY_PREFIX, writeFileAtomic } from './atomic.ts';
import {
  compareCheckpoints,
  entryOf,
  lineageFolder,
  listCheckpoints,
  loadCheckpoint,
  type Checkpoint,
  type CheckpointEntry,
} from './checkpoint.ts';

export interface Attempt {
  token: number;
  worker: string;
  /** Name of the checkpoint the segment was to start from, as the workflow knows it. */
  from: string | null;
  /** The epoch, from 0, that the segment is to finish. */
  epoch: number;
  /** Name of the checkpoint this attempt goes on from; null from the start. */
  adopted: string | null;
  /** The adopted checkpoint and those beneath it: what a later attempt may trust of older tokens. */
  trusted: string[];
}

export interface AdoptRequest {
  output: string;
  lineage: string;
  token: number;
  worker: string;
  /** What the workflow recorded last; the newest valid checkpoint past it is taken, else it. */
  from: CheckpointRef | null;
  /** The epoch to finish, where the caller knows it. */
  epoch?: number | undefined;
}

export interface Adoption {
  checkpoint: (Checkpoint & { ref: CheckpointRef }) | null;
  /** The epoch, from 0, that this segment is to finish: the one that its `from` stands in. */
  epoch: number;
  /** Attempts at the same segment before this one. */
  earlierAttempts: number;
  /** Damaged checkpoints that were passed over. */
  warnings: string[];
}

/** Begins an attempt: finds the checkpoint to go on from and records the choice.
 *  @throws AttemptSuperseded when a newer attempt has begun; CheckpointIncompatible when `from` is another lineage's and damaged */
export async function adopt(request: AdoptRequest): Promise<Adoption> {
  const { output, lineage, token, worker, from } = request;
  await mustBeNewest(output, lineage, token);
  const attempts = await listAttempts(output, lineage);
  const candidates = await trustedCheckpoints(output, lineage, token, attempts.at(-1));
  const { checkpoint, warnings } = await newestValid(candidates, request);
  const trusted = candidates.filter((entry) => checkpoint && compareCheckpoints(entry, entryFor(checkpoint)) <= 0);
  const fromName = from && basename(from.uri);
  const earlier = attempts.filter((attempt) => attempt.token < token && attempt.from === fromName);
  const epoch = request.epoch ?? earlier[0]?.epoch ?? (from ? (checkpoint?.meta.position.epoch ?? 0) : 0);
  const record: Attempt = {
    token,
    worker,
    from: fromName,
    epoch,
    adopted: checkpoint && basename(checkpoint.ref.uri),
    trusted: trusted.map((entry) => entry.name),
  };
  await writeFileAtomic(join(attemptsFolder(output, lineage), `${token}.json`), `${JSON.stringify(record)}\n`);
  await removeUnfinished(lineageFolder(output, lineage), token);
  return { checkpoint, epoch, earlierAttempts: earlier.length, warnings };
}

/** Refuses to go on once a newer attempt has begun. To be asked before anything is written that another attempt reads.
 *  @throws AttemptSuperseded */
export async function mustBeNewest(output: string, lineage: string, token: number): Promise<void> {
  const newest = (await attemptTokens(output, lineage)).at(-1);
  if (newest === undefined || newest <= token) return;
  throw new AttemptSuperseded(
    `attempt ${token} of lineage ${lineage}: attempt ${newest} has begun since and owns the checkpoints now; this one ends without writing`,
  );
}

/** Attempts of a lineage in order of their tokens. */
export async function listAttempts(output: string, lineage: string): Promise<Attempt[]> {
  const folder = attemptsFolder(output, lineage);
  const tokens = await attemptTokens(output, lineage);
  return Promise.all(
    tokens.map(async (token) => attemptIn(await readFile(join(folder, `${token}.json`), 'utf8'), token)),
  );
}

/** A damaged record still fences by its name; nothing older than it is trusted. */
function attemptIn(text: string, token: number): Attempt {
  try {
    return JSON.parse(text) as Attempt;
  } catch {
    return { token, worker: '', from: null, epoch: 0, adopted: null, trusted: [] };
  }
}

/** A token for callers without a server's clock: newer than all before it. @param nowMs - this machine's clock */
export async function nextToken(output: string, lineage: string, nowMs: number): Promise<number> {
  const newest = (await attemptTokens(output, lineage)).at(-1) ?? 0;
  return Math.max(nowMs, newest + 1);
}

/** Deletes what no attempt will need: all but the newest `keep` trusted checkpoints and those named. */
export async function prune(
  request: { output: string; lineage: string; token: number },
  keep: { newest: number; names: (string | null)[] },
): Promise<void> {
  const { output, lineage, token } = request;
  const attempts = await listAttempts(output, lineage);
  const trusted = await trustedCheckpoints(output, lineage, token, attempts.at(-1));
  const kept = new Set([...trusted.slice(0, keep.newest).map((entry) => entry.name), ...keep.names]);
  for (const entry of await listCheckpoints(output, lineage)) {
    if (kept.has(entry.name) || entry.token > token) continue;
    // The manifest goes first: a folder half deleted is one that was never finished.
    await rm(join(entry.path, 'manifest.json'), { force: true });
    await rm(entry.path, { recursive: true, force: true });
  }
}

/** Newest first. */
async function trustedCheckpoints(
  output: string,
  lineage: string,
  token: number,
  last: Attempt | undefined,
): Promise<CheckpointEntry[]> {
  const all = await listCheckpoints(output, lineage);
  const isTrusted = (entry: CheckpointEntry): boolean =>
    last === undefined || entry.token >= last.token || last.trusted.includes(entry.name);
  return all.filter((entry) => entry.token <= token && isTrusted(entry));
}

async function newestValid(
  candidates: CheckpointEntry[],
  { output, lineage, from }: AdoptRequest,
): Promise<{ checkpoint: Adoption['checkpoint']; warnings: string[] }> {
  const fromEntry = from && entryOf(from.uri);
  const isOurs = from !== null && basename(dirname(from.uri)) === lineage;
  const past = candidates.filter((entry) => !fromEntry || !isOurs || compareCheckpoints(entry, fromEntry) > 0);
  const warnings: string[] = [];
  const newer = await firstValid(past, warnings);
  if (newer || !from) return { checkpoint: newer, warnings };
  if (!isOurs) return { checkpoint: await loadCheckpoint(from.uri, from.sha256), warnings };
  // The folder may stand elsewhere on this machine; its place within the run is the same.
  const here = join(lineageFolder(output, lineage), basename(from.uri));
  const own = await validOrNull(here, warnings, from.sha256);
  const older = candidates.filter((entry) => fromEntry && compareCheckpoints(entry, fromEntry) < 0);
  return { checkpoint: own ?? (await firstValid(older, warnings)), warnings };
}

async function firstValid(entries: CheckpointEntry[], warnings: string[]): Promise<Adoption['checkpoint']> {
  for (const entry of entries) {
    const checkpoint = await validOrNull(entry.path, warnings);
    if (checkpoint) return checkpoint;
  }
  return null;
}

async function validOrNull(path: string, warnings: string[], sha256?: string): Promise<Adoption['checkpoint']> {
  try {
    return await loadCheckpoint(path, sha256);
  } catch (error) {
    if (!(error instanceof CheckpointIncompatible)) throw error;
    warnings.push(`${error.message}; an older one is used`);
    return null;
  }
}

function entryFor({ meta }: Checkpoint): { step: number; token: number } {
  return { step: meta.position.step, token: meta.token };
}

function attemptsFolder(output: string, lineage: string): string {
  return join(lineageFolder(output, lineage), 'attempts');
}

/** Rising. */
async function attemptTokens(output: string, lineage: string): Promise<number[]> {
  const names = await namesIn(attemptsFolder(output, lineage));
  return names
    .flatMap((name) => /^(\d+)\.json$/.exec(name)?.slice(1) ?? [])
    .map(Number)
    .sort((a, b) => a - b);
}

/** What attempts before this one left under temporary names. */
async function removeUnfinished(folder: string, token: number): Promise<void> {
  for (const name of await namesIn(folder)) {
    const owner = Number(/-(\d+)$/.exec(name)?.[1] ?? NaN);
    if (name.startsWith(TEMPORARY_PREFIX) && !(owner > token)) {
      await rm(join(folder, name), { recursive: true, force: true });
    }
  }
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
}
