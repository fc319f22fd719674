/**
 * A model's files from a Hugging Face hub (https://huggingface.co or a server that answers alike): which files there are,
 * then each one, checked by the size and sha256 that the hub states. One commit for all files.
 */
import { readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ModelInvalid } from '../../shared/errors.ts';
import { readModelConfig } from '../model/config.ts';
import { downloadFile, DownloadFailed, fileSha256 } from './download.ts';
import { messageOf } from './lock.ts';

export interface HubOptions {
  hubUrl: string;
  hubToken?: string | undefined;
  /** Longest wait for the first answer. */
  connectTimeoutMs: number;
  onProgress?: ((file: string, doneBytes: number, totalBytes: number | null) => void) | undefined;
  log?: ((line: string) => void) | undefined;
  signal?: AbortSignal | undefined;
}

/** Small files, in the order in which they are asked for; the first two must be there. */
const REQUIRED = ['config.json', 'tokenizer.json'];
const OPTIONAL = ['tokenizer_config.json', 'special_tokens_map.json', 'generation_config.json', 'chat_template.jinja'];
const WEIGHTS = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';

interface RemoteFile {
  name: string;
  url: string;
  bytes: number | null;
  /** Of large files only. */
  sha256: string | null;
  commit: string | null;
}

/** Fetches a repository's model files into a folder; files that are there and right are kept.
 *  @returns the commit, null where the server names none
 *  @throws DownloadFailed when the hub does not answer or has no such model; ModelInvalid for a model of an unsupported kind */
export async function fetchFromHub(id: string, folder: string, options: HubOptions): Promise<string | null> {
  const first = await describe(id, 'config.json', 'main', options);
  if (!first) throw new DownloadFailed(`${options.hubUrl}/${id}: has no config.json`, 'refused', { status: 404 });
  const revision = first.commit ?? 'main';
  await fetchFile(first, folder, options);
  await readModelConfig(folder); // an unsupported model fails here, before its weights are fetched
  for (const name of [...REQUIRED.slice(1), ...OPTIONAL]) {
    const file = await describe(id, name, revision, options);
    if (file) await fetchFile(file, folder, options);
    else if (REQUIRED.includes(name)) throw lacks(id, name, options);
    else await rm(join(folder, name), { force: true });
  }
  const weights = await describeWeights(id, revision, folder, options);
  const total = weights.reduce((sum, file) => sum + (file.bytes ?? 0), 0);
  options.log?.(
    `fetching ${id} from ${options.hubUrl}: ${weights.length} weight file(s), ${Math.ceil(total / 1e6)} MB`,
  );
  for (const file of weights) await fetchFile(file, folder, options);
  return first.commit;
}

async function describeWeights(
  id: string,
  revision: string,
  folder: string,
  options: HubOptions,
): Promise<RemoteFile[]> {
  const single = await describe(id, WEIGHTS, revision, options);
  // An interrupted fetch of another commit may have left the other form, which would be read instead.
  await rm(join(folder, single ? INDEX : WEIGHTS), { force: true });
  if (single) return [single];
  const index = await describe(id, INDEX, revision, options);
  if (!index) throw lacks(id, WEIGHTS, options);
  await fetchFile(index, folder, options);
  const files: RemoteFile[] = [];
  for (const name of await shardNames(join(folder, INDEX))) {
    const file = await describe(id, name, revision, options);
    if (!file) throw lacks(id, name, options);
    files.push(file);
  }
  return files;
}

async function shardNames(path: string): Promise<string[]> {
  const index: unknown = JSON.parse(await readFile(path, 'utf8'));
  const map = typeof index === 'object' && index !== null && 'weight_map' in index ? index.weight_map : null;
  const names = typeof map === 'object' && map !== null ? [...new Set<unknown>(Object.values(map))] : [];
  const isName = (name: unknown): name is string => typeof name === 'string' && /^[\w.-]+\.safetensors$/.test(name);
  if (names.length > 0 && names.every(isName)) return names.sort();
  throw new ModelInvalid(`${path}: its weight_map does not name .safetensors files; the model's repository is broken`);
}

function lacks(id: string, name: string, { hubUrl }: HubOptions): ModelInvalid {
  return new ModelInvalid(
    `${hubUrl}/${id}: has no ${name}; needed are config.json, tokenizer.json and ${WEIGHTS} (or its shards). Choose another model, or convert this one`,
  );
}

/** What the hub says of a file without sending it, or null where it has none.
 *  Large files redirect to storage; the redirect itself carries size and sha256 (`x-linked-*`, see huggingface_hub's
 *  file_download.py, get_hf_file_metadata), so it is not followed. Redirects within the hub (renamed models) are. */
async function describe(id: string, name: string, revision: string, options: HubOptions): Promise<RemoteFile | null> {
  let url = `${options.hubUrl}/${id}/resolve/${revision}/${name}`;
  for (let hop = 0; hop < 4; hop++) {
    const response = await head(url, options);
    const { status, headers } = response;
    const location = headers.get('location');
    if (location?.startsWith('/') && !headers.has('x-linked-etag')) {
      url = new URL(location, url).href;
      continue;
    }
    if (status === 404) return null;
    if (status >= 400) throw refused(id, url, status);
    const etag = (headers.get('x-linked-etag') ?? '').replaceAll('"', '');
    const size = headers.get('x-linked-size') ?? (status === 200 ? headers.get('content-length') : null);
    return {
      name,
      url,
      bytes: size === null ? null : Number(size),
      sha256: /^[0-9a-f]{64}$/.test(etag) ? etag : null,
      commit: /^[0-9a-f]{40}$/.exec(headers.get('x-repo-commit') ?? '')?.[0] ?? null,
    };
  }
  throw new DownloadFailed(`${url}: redirects without end`, 'refused');
}

async function head(url: string, options: HubOptions): Promise<Response> {
  const timeout = AbortSignal.timeout(options.connectTimeoutMs);
  const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout;
  try {
    const headers = { 'accept-encoding': 'identity', ...authorisation(options) };
    return await fetch(url, { method: 'HEAD', redirect: 'manual', headers, signal });
  } catch (cause) {
    options.signal?.throwIfAborted();
    const why = timeout.aborted ? `no answer within ${options.connectTimeoutMs / 1000} s` : messageOf(cause);
    throw new DownloadFailed(`${new URL(url).host} cannot be reached (${why})`, 'unreachable', { cause });
  }
}

function refused(id: string, url: string, status: number): DownloadFailed {
  const host = new URL(url).host;
  if (status === 401 || status === 403) {
    return new DownloadFailed(
      `${host} refuses ${id} (HTTP ${status}): there is no such model, or it is private or gated and needs a token with access`,
      'refused',
      { status },
    );
  }
  const reason = status >= 500 || status === 429 ? 'unreachable' : 'refused';
  return new DownloadFailed(`${host} answers HTTP ${status} for ${id}`, reason, { status });
}

function authorisation({ hubToken }: HubOptions): Record<string, string> {
  return hubToken ? { authorization: `Bearer ${hubToken}` } : {};
}

async function fetchFile(file: RemoteFile, folder: string, options: HubOptions): Promise<void> {
  const path = join(folder, file.name);
  if (await isAlreadyRight(path, file)) return;
  await downloadFile(file.url, path, {
    ...(file.sha256 === null ? {} : { sha256: file.sha256 }),
    ...(file.bytes === null ? {} : { bytes: file.bytes }),
    headers: authorisation(options),
    onProgress: (done, total) => options.onProgress?.(file.name, done, total ?? file.bytes),
    ...(options.signal ? { signal: options.signal } : {}),
  });
}

/** Whether an earlier, interrupted fetch brought this very file. */
async function isAlreadyRight(path: string, file: RemoteFile): Promise<boolean> {
  if (file.sha256 === null) return false;
  const found = await stat(path).catch(() => null);
  if (!found || (file.bytes !== null && found.size !== file.bytes)) return false;
  return (await fileSha256(path)) === file.sha256;
}
