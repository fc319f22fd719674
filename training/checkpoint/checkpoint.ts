/**
 * A checkpoint: one folder with everything a run needs to go on as if nothing had happened. Weights and AdamW moments by
 * name (state.safetensors), position, early-stopping state and identity (state.json), the metric rows so far
 * (metrics.jsonl), and last the sizes and hashes of these files (manifest.json). The folder is written under a temporary
 * name, every file flushed, and renamed; a folder whose manifest does not hold is never trusted.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { CheckpointIncompatible, DiskFull } from '../../shared/errors.ts';
import type { CheckpointRef, EngineFingerprint } from '../../shared/records.ts';
import type { StoppingState } from '../early-stopping.ts';
import type { Position } from '../position.ts';
import { parseRows, serializeRows, type LogRow } from '../report/metrics.ts';
import type { TrainState } from '../step/index.ts';
import { diskFullOr, syncFolder, TEMPORARY_PREFIX, writeFileSynced } from './atomic.ts';
import { openSafetensors, writeSafetensors, type TensorSource } from './safetensors.ts';

/** Raised when a reader of the old form could misread the new one. */
export const CHECKPOINT_FORMAT = 1;

const STATE_FILE = 'state.safetensors';
const META_FILE = 'state.json';
const ROWS_FILE = 'metrics.jsonl';
const MANIFEST_FILE = 'manifest.json';

/** What must be equal for a checkpoint to belong to a run. */
export interface RunIdentity {
  /** sha256 of the base's tensors. */
  base: string;
  /** sha256 of the encoded training pairs. */
  data: string;
  /** The config's `method` as canonical JSON. */
  method: string;
  /** The config's `orpo` and `training` (but not how often checkpoints are written) as canonical JSON. */
  training: string;
}

export interface CheckpointMeta {
  checkpointFormat: typeof CHECKPOINT_FORMAT;
  lineage: string;
  /** Fencing token of the attempt that wrote it. */
  token: number;
  configHash: string;
  position: Position;
  totalSteps: number;
  seed: number;
  /** Set once training is over. */
  over: 'done' | 'earlyStop' | null;
  stopping: StoppingState;
  identity: RunIdentity;
  engine: EngineFingerprint;
}

export interface Checkpoint {
  meta: CheckpointMeta;
  state: TrainState;
  rows: LogRow[];
}

/** A checkpoint folder by its name; nothing of its content has been read. */
export interface CheckpointEntry {
  name: string;
  path: string;
  step: number;
  token: number;
}

interface Manifest {
  checkpointFormat: number;
  files: { name: string; bytes: number; sha256: string }[];
}

/** Folder of a lineage's checkpoints. @throws CheckpointIncompatible for a lineage that is no plain name */
export function lineageFolder(output: string, lineage: string): string {
  if (!/^[A-Za-z0-9][\w.-]{0,127}$/.test(lineage)) {
    throw new CheckpointIncompatible(
      `checkpoints: lineage ${JSON.stringify(lineage)} is no plain name; allowed are letters, digits, "_", "-" and "."`,
    );
  }
  return join(output, 'checkpoints', lineage);
}

/** @param token - the writing attempt's fencing token, milliseconds of the server's clock */
export function checkpointName(step: number, token: number): string {
  return `step-${String(step).padStart(8, '0')}-${token}`;
}

/** By step, then token: positive where the first is the newer. */
export function compareCheckpoints(a: { step: number; token: number }, b: { step: number; token: number }): number {
  return a.step - b.step || a.token - b.token;
}

/** Checkpoint folders of a lineage, newest first. Their content is unproven: see loadCheckpoint. */
export async function listCheckpoints(output: string, lineage: string): Promise<CheckpointEntry[]> {
  const folder = lineageFolder(output, lineage);
  const names = await readdir(folder).catch(absentAsEmpty);
  return names
    .flatMap((name) => entryOf(join(folder, name)) ?? [])
    .sort(compareCheckpoints)
    .reverse();
}

/** Step and token as a folder's name says; null where it is no checkpoint's. */
export function entryOf(path: string): CheckpointEntry | null {
  const name = basename(path);
  const [, step, token] = /^step-(\d{8,})-(\d+)$/.exec(name) ?? [];
  return step === undefined ? null : { name, path, step: Number(step), token: Number(token) };
}

/** Writes a checkpoint whole or not at all.
 *  @returns its reference and the bytes written  @throws DiskFull, older ones then kept and nothing half-written left */
export async function saveCheckpoint(
  output: string,
  { meta, state, rows }: Checkpoint,
): Promise<{ ref: CheckpointRef; bytes: number }> {
  const name = checkpointName(meta.position.step, meta.token);
  const folder = lineageFolder(output, meta.lineage);
  const path = join(folder, name);
  const temporary = join(folder, `${TEMPORARY_PREFIX}${name}`);
  try {
    await mkdir(folder, { recursive: true });
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary);
    await writeSafetensors(join(temporary, STATE_FILE), tensorsOf(state));
    await writeFileSynced(join(temporary, META_FILE), `${JSON.stringify(meta, null, 2)}\n`);
    await writeFileSynced(join(temporary, ROWS_FILE), serializeRows(rows));
    const { sha256, bytes } = await writeManifest(temporary);
    await syncFolder(temporary);
    await moveAside(path);
    await rename(temporary, path);
    await syncFolder(folder);
    return { ref: { uri: path, step: meta.position.step, sha256 }, bytes };
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    // The message names the checkpoint, not the unfinished file in it.
    throw diskFullOr(error instanceof DiskFull ? error.cause : error, path);
  }
}

async function writeManifest(folder: string): Promise<{ sha256: string; bytes: number }> {
  const files = [];
  for (const name of [STATE_FILE, META_FILE, ROWS_FILE]) files.push({ name, ...(await hashFile(join(folder, name))) });
  const manifest: Manifest = { checkpointFormat: CHECKPOINT_FORMAT, files };
  const text = `${JSON.stringify(manifest, null, 2)}\n`;
  await writeFileSynced(join(folder, MANIFEST_FILE), text);
  return { sha256: sha256Of(text), bytes: files.reduce((sum, file) => sum + file.bytes, text.length) };
}

/** The same attempt may write a step twice (before and after its evaluation): the later one counts. */
async function moveAside(path: string): Promise<void> {
  const aside = join(dirname(path), `${TEMPORARY_PREFIX}old-${basename(path)}`);
  await rm(aside, { recursive: true, force: true });
  await rename(path, aside).catch(absentAsEmpty);
  await rm(aside, { recursive: true, force: true });
}

/** Reads a checkpoint after checking every file against its manifest.
 *  @param sha256 - the manifest's expected hash, where a reference names it
 *  @throws CheckpointIncompatible saying which file is missing, cut, changed or of another form */
export async function loadCheckpoint(path: string, sha256?: string): Promise<Checkpoint & { ref: CheckpointRef }> {
  const manifestSha256 = await verify(path, sha256);
  const meta = JSON.parse(await readFile(join(path, META_FILE), 'utf8')) as CheckpointMeta;
  const rowsPath = join(path, ROWS_FILE);
  const rows = parseRows(await readFile(rowsPath, 'utf8'), rowsPath);
  const state = await readState(join(path, STATE_FILE), meta.position.step);
  return { meta, rows, state, ref: { uri: path, step: meta.position.step, sha256: manifestSha256 } };
}

/** Reference to a checkpoint folder by its path; null where there is none. Its files are not checked. */
export async function referenceTo(path: string): Promise<CheckpointRef | null> {
  const text = await readFile(join(path, MANIFEST_FILE), 'utf8').catch(() => null);
  const entry = entryOf(path);
  return text === null || entry === null ? null : { uri: path, step: entry.step, sha256: sha256Of(text) };
}

async function verify(path: string, expected: string | undefined): Promise<string> {
  const text = await readFile(join(path, MANIFEST_FILE), 'utf8').catch((cause: unknown) => {
    throw damaged(path, 'has no manifest: it was never finished, or parts were deleted', cause);
  });
  const sha256 = sha256Of(text);
  if (expected !== undefined && sha256 !== expected) {
    throw damaged(path, `has a manifest with hash ${sha256.slice(0, 12)}, expected ${expected.slice(0, 12)}`);
  }
  for (const file of parseManifest(text, path).files) {
    const at = join(path, file.name);
    const size = await stat(at).then(
      (found) => found.size,
      () => null,
    );
    if (size === null) throw damaged(path, `lacks ${file.name}`);
    if (size !== file.bytes) throw damaged(path, `has ${size} bytes in ${file.name}, expected ${file.bytes}`);
    if ((await hashFile(at)).sha256 !== file.sha256)
      throw damaged(path, `has other bytes in ${file.name} than were written`);
  }
  return sha256;
}

function parseManifest(text: string, path: string): Manifest {
  let manifest: Partial<Manifest> | null;
  try {
    manifest = JSON.parse(text) as Partial<Manifest> | null;
  } catch (cause) {
    throw damaged(path, 'has a manifest that is not JSON', cause);
  }
  const names = Array.isArray(manifest?.files) ? manifest.files.map((file) => file.name) : [];
  if (manifest?.checkpointFormat !== CHECKPOINT_FORMAT) {
    throw new CheckpointIncompatible(
      `checkpoint ${path}: has format ${manifest?.checkpointFormat}; this version reads format ${CHECKPOINT_FORMAT}. ` +
        'Continue with the version that wrote it, or start a new run',
    );
  }
  if ([STATE_FILE, META_FILE, ROWS_FILE].some((name) => !names.includes(name))) {
    throw damaged(path, `has a manifest that lists ${names.join(', ') || 'nothing'}`);
  }
  return manifest as Manifest;
}

function damaged(path: string, what: string, cause?: unknown): CheckpointIncompatible {
  return new CheckpointIncompatible(`checkpoint ${path}: ${what}; it is damaged and cannot be used`, { cause });
}

const PARTS = { weights: 'weights/', firstMoments: 'moments/first/', secondMoments: 'moments/second/' } as const;
type Part = keyof typeof PARTS;

function tensorsOf(state: TrainState): TensorSource[] {
  return (Object.keys(PARTS) as Part[]).flatMap((part) =>
    Object.entries(state[part]).map(([name, { shape, data }]) => ({
      name: PARTS[part] + name,
      dtype: 'F32' as const,
      shape,
      data,
    })),
  );
}

async function readState(path: string, step: number): Promise<TrainState> {
  const file = await openSafetensors(path);
  const state: TrainState = { weights: {}, firstMoments: {}, secondMoments: {}, step };
  for (const name of file.names) {
    const part = (Object.keys(PARTS) as Part[]).find((key) => name.startsWith(PARTS[key]));
    if (!part) throw damaged(dirname(path), `holds a tensor "${name}" of no known part`);
    const shape = file.entries.get(name)?.shape ?? [];
    state[part][name.slice(PARTS[part].length)] = { shape, data: await file.readFloat32(name) };
  }
  return state;
}

async function hashFile(path: string): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return { bytes: (await stat(path)).size, sha256: hash.digest('hex') };
}

function sha256Of(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

function absentAsEmpty(error: unknown): never[] {
  if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
  throw error;
}
