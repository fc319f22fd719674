/**
 * First step of a run: untrusted JSON becomes a full config with absolute paths, and the output folder is claimed.
 * One running run owns an output; an unfinished one is continued by the same config and data, a finished one reported.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { access, readFile, readdir, realpath, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { resolveConfig, type RunConfig } from '../../shared/config.ts';
import { ConfigInvalid, DatasetInvalid, ModelNotFound, OutputInUse } from '../../shared/errors.ts';
import type { ResolvedRun } from '../../shared/records.ts';
import { readAdapterShape } from '../checkpoint/adapter.ts';
import { makeFolder, writeFileAtomic } from '../checkpoint/atomic.ts';
import { canonicalJson } from '../checkpoint/identity.ts';
import { MODEL_PRESETS, nearPresets, presetOf } from '../hub/presets.ts';
import { RUN_FILE } from '../report/run-file.ts';
import { readRun } from './save.ts';

/** Who works on an output: a workflow, or a process of `--local`. Stands in `owner.json`. */
export interface Owner {
  workflowId: string;
  runId: string;
  /** Set for `--local` only. */
  pid?: number;
  host: string;
  configHash: string;
  dataSha256: string;
  lineage: string;
}

export interface ResolveRunInput {
  input: unknown;
  workflowId: string;
  runId: string;
  /** Process id where no workflow stands behind the run. */
  pid?: number;
  /** Folder against which relative paths resolve. */
  home: string;
  /** All paths must stay inside this folder, where given. */
  root: string | null;
  searchAttributes: boolean;
  /** Whether another owner still works on the output. */
  isRunning(owner: Owner): Promise<boolean>;
}

const OWNER_FILE = 'owner.json';

/** @throws ConfigInvalid, DatasetInvalid or ModelNotFound with every path as this machine sees it; OutputInUse when another run owns the output */
export async function resolveRun(request: ResolveRunInput): Promise<ResolvedRun> {
  const parsed = resolveConfig(request.input);
  const given = absolutePaths(parsed, request);
  await mustStayInside(request.root, given);
  const dataSha256 = await hashSource(given.data.source);
  await mustExist(given);
  const config = await withAdapterShape(request.input, given);
  const configHash = hashOf(config);
  const { output, finished, lineage } = await claim(config, { configHash, dataSha256 }, request);
  return {
    config: { ...config, output },
    output,
    configHash,
    dataSha256,
    lineage,
    warnings: [],
    finished,
    searchAttributes: request.searchAttributes,
  };
}

/** sha256 of what decides the result: the config without output, limits and ifExists. */
export function hashOf(config: RunConfig): string {
  const { output: _output, limits: _limits, ifExists: _ifExists, ...decisive } = config;
  return createHash('sha256').update(canonicalJson(decisive)).digest('hex');
}

function absolutePaths(config: RunConfig, { home, workflowId }: ResolveRunInput): RunConfig {
  if (/^[a-z0-9]+:\/\//i.test(config.output)) {
    throw new ConfigInvalid(`output: got "${config.output}"; only folders can be written so far; give a path`);
  }
  const output = config.output
    .replaceAll('{workflowId}', workflowId.replaceAll(/[^\w.@+-]/g, '_'))
    .replaceAll('{date}', new Date().toISOString().slice(0, 10));
  const at = (path: string): string => resolve(home, path);
  const { method } = config;
  return {
    ...config,
    model: looksLikePath(config.model) ? at(config.model) : config.model,
    data: { ...config.data, source: at(config.data.source) },
    method: method.kind === 'lora' && method.initFrom !== null ? { ...method, initFrom: at(method.initFrom) } : method,
    output: at(output),
  };
}

/** A path is written as one: `./base`, `../base`, `/base`, or a file that ends in .gguf. All else is a name. */
export function looksLikePath(model: string): boolean {
  return /^(\.{1,2}\/|\/)/.test(model) || model === '.' || model.endsWith('.gguf');
}

async function mustStayInside(root: string | null, config: RunConfig): Promise<void> {
  if (root === null) return;
  const base = await realpath(root);
  const paths = { 'data.source': config.data.source, output: config.output } as Record<string, string>;
  if (isAbsolute(config.model)) paths['model'] = config.model;
  if (config.method.kind === 'lora' && config.method.initFrom) paths['method.initFrom'] = config.method.initFrom;
  const outside: string[] = [];
  for (const [field, path] of Object.entries(paths)) {
    const way = relative(base, await realpathOfNearest(path));
    if (way.startsWith('..') || isAbsolute(way)) outside.push(`${field}: ${path}`);
  }
  if (outside.length > 0) {
    throw new ConfigInvalid(`config: paths must stay inside ORPO_ROOT (${base}); outside it: ${outside.join(', ')}`, {
      problems: outside,
    });
  }
}

async function realpathOfNearest(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch {
    return join(await realpathOfNearest(dirname(path)), relative(dirname(path), path));
  }
}

async function hashSource(source: string): Promise<string> {
  const found = await stat(source).catch(() => null);
  if (!found?.isFile()) {
    const got = found ? 'a folder' : 'nothing there';
    throw new DatasetInvalid(
      `data.source: ${source} on host ${hostname()}: ${got}; give a .csv, .jsonl or .parquet file that this machine can read`,
    );
  }
  const hash = createHash('sha256');
  await pipeline(createReadStream(source), hash);
  return hash.digest('hex');
}

async function mustExist(config: RunConfig): Promise<void> {
  const folders: [string, string][] = [];
  if (isAbsolute(config.model)) folders.push(['model', config.model]);
  if (config.method.kind === 'lora' && config.method.initFrom)
    folders.push(['method.initFrom', config.method.initFrom]);
  if (!isAbsolute(config.model) && !config.model.includes('/') && !presetOf(config.model)) {
    const near = nearPresets(config.model);
    const hint = near.length > 0 ? `; did you mean ${near.map((name) => `"${name}"`).join(' or ')}?` : '';
    throw new ModelNotFound(
      `model: got "${config.model}", which is no preset${hint}; write a preset (${Object.keys(MODEL_PRESETS).join(', ')}), a hub id (owner/name), or a path (./folder, ./file.gguf)`,
    );
  }
  for (const [field, path] of folders) {
    await access(path).catch(() => {
      throw new ModelNotFound(
        `${field}: ${path} on host ${hostname()}: nothing there; give a folder or file that this machine can read`,
      );
    });
  }
}

/** With `initFrom` the adapter's own rank, alpha and targets hold and stand in the config; a different value that the user
 *  wrote is a contradiction. */
async function withAdapterShape(input: unknown, config: RunConfig): Promise<RunConfig> {
  const { method } = config;
  if (method.kind !== 'lora' || method.initFrom === null) return config;
  const written = (input as { method: Record<string, unknown> }).method;
  const shape = await readAdapterShape(method.initFrom);
  const problems = Object.entries(shape)
    .filter(([key, value]) => key in written && !isSame(written[key], value))
    .map(
      ([key, value]) =>
        `method.${key}: got ${JSON.stringify(written[key])}; the adapter in method.initFrom has ${JSON.stringify(value)}; leave it out`,
    );
  if (problems.length === 0) return { ...config, method: { ...method, ...shape } };
  const lines = problems.map((line) => `  - ${line}`).join('\n');
  throw new ConfigInvalid(`config: it contradicts the adapter ${method.initFrom}\n${lines}`, { problems });
}

/** `all-linear` is not compared: which modules those are, the model says. */
function isSame(given: unknown, adapter: unknown): boolean {
  const plain = (value: unknown): string => canonicalJson(Array.isArray(value) ? [...value].sort() : value);
  return given === 'all-linear' || plain(given) === plain(adapter);
}

interface Identity {
  configHash: string;
  dataSha256: string;
}

type Claim = Pick<ResolvedRun, 'output' | 'finished' | 'lineage'>;

/** Makes the output folder this run's, by the rule of `ifExists`. */
async function claim(config: RunConfig, identity: Identity, request: ResolveRunInput): Promise<Claim> {
  for (let attempt = 1; ; attempt++) {
    const output = attempt === 1 ? config.output : `${config.output}-${attempt}`;
    const owner = await readOwner(output);
    const mine = owner?.workflowId === request.workflowId && owner.runId === request.runId;
    const isSameRun = owner?.configHash === identity.configHash && owner.dataSha256 === identity.dataSha256;
    if (owner && !mine) {
      if (config.ifExists === 'new') continue;
      await mayContinue(config, output, owner, identity, request);
    }
    const lineage = owner && (mine || isSameRun) ? owner.lineage : request.runId;
    const run = owner ? await readRun(output) : null;
    await takeOver(output, { ...identity, lineage }, request);
    return { output, lineage, finished: run && !mine ? run.result : null };
  }
}

async function mayContinue(
  config: RunConfig,
  output: string,
  owner: Owner,
  identity: Identity,
  request: ResolveRunInput,
): Promise<void> {
  if (await request.isRunning(owner)) {
    throw new OutputInUse(
      `output: ${output} belongs to the running ${owner.pid === undefined ? `workflow ${owner.workflowId}` : `process ${owner.pid}`}; wait for it, or choose another output`,
    );
  }
  const advice = 'choose another output, or set ifExists to "new" to take the next free name';
  if (config.ifExists === 'error')
    throw new OutputInUse(`output: ${output} holds a run already (ifExists is "error"); ${advice}`);
  const changed = [
    ...(owner.configHash === identity.configHash ? [] : ['config']),
    ...(owner.dataSha256 === identity.dataSha256 ? [] : ['data']),
  ];
  if (changed.length > 0 && (await holdsTraining(output))) {
    throw new OutputInUse(
      `output: ${output} holds a run of another ${changed.join(' and ')}, which cannot be continued; ${advice}`,
    );
  }
}

/** Whether anything was trained here. A run that failed before that (a mistyped path, say) may be corrected in place. */
async function holdsTraining(output: string): Promise<boolean> {
  const names = await readdir(output).catch((): string[] => []);
  return names.includes('checkpoints') || names.includes(RUN_FILE);
}

async function takeOver(
  output: string,
  identity: Identity & { lineage: string },
  request: ResolveRunInput,
): Promise<void> {
  await makeFolder(output).catch((cause: NodeJS.ErrnoException) => {
    throw new ConfigInvalid(`output: cannot make the folder ${output} on host ${hostname()}: ${cause.message}`, {
      cause,
    });
  });
  const owner: Owner = {
    workflowId: request.workflowId,
    runId: request.runId,
    ...(request.pid === undefined ? {} : { pid: request.pid }),
    host: hostname(),
    ...identity,
  };
  await writeFileAtomic(join(output, OWNER_FILE), JSON.stringify(owner, null, 2) + '\n');
}

async function readOwner(output: string): Promise<Owner | null> {
  const text = await readFile(join(output, OWNER_FILE), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return null;
    throw error;
  });
  return text === null ? null : (JSON.parse(text) as Owner);
}

/** Whether a `--local` owner's process lives. On another host nobody can know: it counts as running. */
export function processRuns(owner: Owner): boolean {
  if (owner.pid === undefined) return false;
  if (owner.host !== hostname()) return true;
  try {
    process.kill(owner.pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
