/**
 * Looks at every part this project stands on, without fetching or changing anything. For `./orpo doctor`.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { availableParallelism, cpus, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { findCached, modelsFolder } from '../../training/hub/model-cache.ts';
import { cachePath, formatBytes, freeBytes, repositoryRoot } from './cache.ts';
import { findGpu } from './device.ts';
import { findCompiler, MISSING_COMPILER, probeBinding } from './engine-build.ts';
import { enginePackages } from './engine-packages.ts';
import { engineStatus } from './engine.ts';
import { findProgram, runProgram } from './run-program.ts';
import { findTemporalCli, TEMPORAL_VERSION } from './temporal.ts';

export interface Finding {
  part: string;
  /** `missing` is something needed; `warning` may become a problem; `optional` is missing and not needed now. */
  state: 'found' | 'missing' | 'warning' | 'optional';
  detail: string;
  /** What to do; null where nothing is to be done. */
  fix: string | null;
}

type Env = NodeJS.ProcessEnv;

/** glibc that the TensorFlow wheel (manylinux_2_27) asks for. */
const MINIMUM_GLIBC = [2, 27];
/** What a first set-up and one run of SmolLM2-135M take. */
const DISK_FOR_SETUP_BYTES = 4e9;
const DISK_LEAST_BYTES = 1e9;
const MEMORY_FOR_QUICKSTART_BYTES = 10e9;

/** All findings, in the order a user would fix them. */
export async function checkEverything(env: Env): Promise<Finding[]> {
  const cacheDir = cachePath(env);
  const engine = await checkEngine(cacheDir, env);
  const temporal = await checkTemporal(cacheDir, env);
  const isReady = engine.state === 'found' && temporal.state === 'found';
  return [
    checkSystem(),
    checkCpu(),
    checkNode(),
    checkPackages(),
    await checkCompiler(env, engine.state === 'found'),
    await checkPython(env, isReady),
    engine,
    await checkDevice(env),
    temporal,
    await checkModels(cacheDir),
    await checkDisk('Disk, cache', cacheDir, isReady),
    await checkDisk('Disk, here', process.cwd(), isReady),
    checkMemory(),
  ];
}

function found(part: string, detail: string): Finding {
  return { part, state: 'found', detail, fix: null };
}

function checkSystem(): Finding {
  const part = 'System';
  const glibc = glibcVersion();
  const detail = `${process.platform} ${process.arch}${glibc ? `, glibc ${glibc}` : ''}`;
  const [major = 0, minor = 0] = (glibc ?? '').split('.').map(Number);
  const [wantedMajor = 0, wantedMinor = 0] = MINIMUM_GLIBC;
  const isRecent = major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
  if (process.platform === 'linux' && process.arch === 'x64' && isRecent) return found(part, detail);
  return {
    part,
    state: 'missing',
    detail,
    fix: `needs Linux x86-64 with glibc ${MINIMUM_GLIBC.join('.')} or newer; use the container: docker compose up`,
  };
}

/** Version of the C library that Node runs on; undefined with musl. */
function glibcVersion(): string | undefined {
  const report = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
  return report.header.glibcVersionRuntime;
}

function checkCpu(): Finding {
  const part = 'Processor';
  const flags = /^flags\s*:(.*)$/m.exec(readOr('/proc/cpuinfo', ''))?.[1]?.split(' ') ?? [];
  const vector = ['avx', 'avx2', 'avx512f', 'amx_bf16'].filter((flag) => flags.includes(flag));
  const detail = `${cpus()[0]?.model ?? 'unknown'}, ${availableParallelism()} threads${vector.length > 0 ? `, ${vector.join(' ')}` : ''}`;
  if (flags.length === 0 || flags.includes('avx')) return found(part, detail);
  return { part, state: 'missing', detail, fix: 'the TensorFlow library needs AVX: use another machine' };
}

function checkNode(): Finding {
  return found('Node.js', `${process.version} (${process.execPath})`); // the launcher has refused older ones
}

function checkPackages(): Finding {
  const part = 'npm packages';
  const stamp = readOr(join(repositoryRoot, 'node_modules', '.orpo-lock-sha256'), '').trim();
  const lock = createHash('sha256')
    .update(readFileSync(join(repositoryRoot, 'package-lock.json')))
    .digest('hex');
  if (stamp === lock) return found(part, 'as in package-lock.json');
  return {
    part,
    state: 'warning',
    detail: 'not known to match package-lock.json',
    fix: 'start through ./orpo, which installs them',
  };
}

async function checkCompiler(env: Env, isEngineReady: boolean): Promise<Finding> {
  const part = 'C++ compiler';
  const path = findCompiler(env);
  if (!path) return { part, state: isEngineReady ? 'optional' : 'missing', detail: 'none', fix: MISSING_COMPILER };
  const { stdout } = await runProgram(path, ['--version'], { env });
  return found(part, `${path}: ${stdout.split('\n')[0] ?? ''}`);
}

async function checkPython(env: Env, isReady: boolean): Promise<Finding> {
  const part = 'Python, pip';
  const state = isReady ? 'optional' : 'missing';
  const install = 'apt-get install python3 python3-pip (only for downloads: engine, Temporal CLI, model)';
  if (!findProgram('python3', env)) return { part, state, detail: 'no python3', fix: install };
  const python = await runProgram('python3', ['--version'], { env });
  const pip = await runProgram('python3', ['-m', 'pip', '--version'], { env });
  const version = python.stdout.trim();
  if (pip.code !== 0) return { part, state, detail: `${version}, no pip`, fix: install };
  return found(part, `${version}, pip ${/^pip (\S+)/.exec(pip.stdout)?.[1] ?? 'of unknown version'}`);
}

async function checkEngine(cacheDir: string, env: Env): Promise<Finding> {
  const part = 'Engine';
  const { device, engine, problem, linked } = await engineStatus(cacheDir, env);
  if (!engine) {
    const bytes = enginePackages(device).reduce((sum, one) => sum + one.bytes, 0);
    const fix = `./orpo quickstart (or ./orpo test) sets it up: ${formatBytes(bytes)} to download`;
    return {
      part,
      state: 'missing',
      detail: problem ?? `none for ${device.toUpperCase()} in ${cacheDir}/engine`,
      fix,
    };
  }
  const detail = `${engine.library}, sha256 ${engine.librarySha256.slice(0, 16)} checked, in ${engine.folder}`;
  if (!linked) {
    return {
      part,
      state: 'warning',
      detail: `${detail}; not linked into node_modules`,
      fix: './orpo links it when it needs it',
    };
  }
  try {
    const version = await probeBinding(engine.binding, engine.libraryPath);
    return found(part, `${detail}; loads as TensorFlow ${version}`);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return {
      part,
      state: 'missing',
      detail: reason,
      fix: `delete ${engine.folder}, then ./orpo quickstart sets it up anew`,
    };
  }
}

async function checkDevice(env: Env): Promise<Finding> {
  const part = 'GPU';
  const gpu = findGpu(env);
  const forced = env['ORPO_ENGINE'] ? `; ORPO_ENGINE=${env['ORPO_ENGINE']}` : '';
  if (!gpu.usable) {
    const isNone = gpu.note === 'no NVIDIA GPU';
    const detail = `${gpu.note}: computing on the CPU${forced}`;
    return isNone ? { part, state: 'optional', detail, fix: null } : { part, state: 'warning', detail, fix: gpu.note };
  }
  const query = ['--query-gpu=name,memory.total', '--format=csv,noheader'];
  const { code, stdout } = await runProgram('nvidia-smi', query, { env, timeoutMs: 20_000 });
  return found(part, `${code === 0 ? stdout.trim().split('\n').join('; ') : gpu.note}${forced}`);
}

async function checkTemporal(cacheDir: string, env: Env): Promise<Finding> {
  const part = 'Temporal CLI';
  const notes: string[] = [];
  try {
    const cli = await findTemporalCli({ cacheDir, env, log: (line) => notes.push(line) });
    if (cli) return found(part, `${cli.version} (${cli.path}), from ${cli.source}`);
    const fix = `./orpo quickstart fetches ${TEMPORAL_VERSION}; or set TEMPORAL_CLI_PATH`;
    return { part, state: 'missing', detail: ['none', ...notes].join('; '), fix };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { part, state: 'missing', detail: reason, fix: 'correct or unset TEMPORAL_CLI_PATH' };
  }
}

async function checkModels(cacheDir: string): Promise<Finding> {
  const part = 'Models';
  const folder = modelsFolder(cacheDir);
  const names = (await readdir(folder).catch(() => [])).filter((name) => !name.startsWith('.'));
  const present: string[] = [];
  for (const name of names) {
    const cached = await findCached(cacheDir, name);
    const bytes = Object.values(cached?.note.files ?? {}).reduce((sum, size) => sum + size, 0);
    if (cached) present.push(`${name} (${formatBytes(bytes)})`);
  }
  if (present.length > 0) return found(part, `${present.join(', ')} in ${folder}`);
  return { part, state: 'optional', detail: `none in ${folder}`, fix: './orpo model fetch smollm2-135m-instruct' };
}

async function checkDisk(part: string, folder: string, isReady: boolean): Promise<Finding> {
  const free = await freeBytes(nearestExisting(folder));
  const detail = `${formatBytes(free)} free for ${folder}`;
  if (free < DISK_LEAST_BYTES) return { part, state: 'missing', detail, fix: 'free some space' };
  if (isReady || free >= DISK_FOR_SETUP_BYTES) return found(part, detail);
  return {
    part,
    state: 'warning',
    detail,
    fix: `set-up and a first run take about ${formatBytes(DISK_FOR_SETUP_BYTES)}`,
  };
}

/** The folder itself, or the nearest one above it that exists. */
function nearestExisting(folder: string): string {
  return existsSync(folder) || folder === dirname(folder) ? folder : nearestExisting(dirname(folder));
}

function checkMemory(): Finding {
  const part = 'Memory';
  const limit = Number(readOr('/sys/fs/cgroup/memory.max', '').trim() || NaN);
  const total = Number.isFinite(limit) && limit > 0 ? Math.min(limit, totalmem()) : totalmem();
  const available = Number(/^MemAvailable:\s+(\d+) kB/m.exec(readOr('/proc/meminfo', ''))?.[1] ?? NaN) * 1024;
  const detail = `${formatBytes(total)}${Number.isFinite(available) ? `, ${formatBytes(Math.min(available, total))} available` : ''}`;
  if (total >= MEMORY_FOR_QUICKSTART_BYTES) return found(part, detail);
  return { part, state: 'warning', detail, fix: 'quickstart may need up to 10 GB: preset low-memory needs less' };
}

function readOr(path: string, otherwise: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return otherwise;
  }
}
