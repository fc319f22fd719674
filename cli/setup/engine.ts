/**
 * The engine: TensorFlow.js's native binding over a current TensorFlow library, in the cache folder, linked into
 * node_modules. Made on first use out of the TensorFlow wheel and a C++ compiler; the package's official prebuilt one
 * (libtensorflow 2.9.1) is the fallback. See docs/dependencies.md for why.
 */
import { mkdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { EnvironmentIncomplete } from '../../shared/errors.ts';
import { isCode, withLock } from '../../training/hub/lock.ts';
import { linkAtomic } from './cache.ts';
import { chooseDevice } from './device.ts';
import type { Device } from './device.ts';
import {
  BINDING_NAME,
  bindingKey,
  bindingLink,
  compileBinding,
  findCompiler,
  MISSING_COMPILER,
  probeBinding,
} from './engine-build.ts';
import { fetchLibrary } from './engine-library.ts';
import { checkManifest, readManifest, writeManifest } from './engine-manifest.ts';
import type { Manifest } from './engine-manifest.ts';
import { libraryFolders, libraryName } from './engine-packages.ts';
import { installPrebuilt, PREBUILT_LIBRARY, prebuiltFolder } from './engine-prebuilt.ts';

/** The library whose hash stands for the engine: all kernels are in it. */
const MAIN_LIBRARY = 'libtensorflow_cc.so.2';

export interface Engine {
  /** `tensorflow-cpu 2.21.0`, or `libtensorflow 2.9.1 (prebuilt)`. */
  library: string;
  librarySha256: string;
  device: Device;
  /** The compiled binding, and the file tfjs-node loads, which links to it. */
  binding: string;
  bindingSha256: string;
  /** For LD_LIBRARY_PATH of processes that load the engine. */
  libraryPath: string[];
  folder: string;
}

export interface EngineOptions {
  cacheDir: string;
  log: (line: string) => void;
  /** @default ORPO_ENGINE, else what the machine has */
  device?: Device;
  env?: NodeJS.ProcessEnv;
}

/** Makes the engine ready, or finds it ready (some milliseconds).
 *  @throws EnvironmentIncomplete, DiskFull: one message with the fix */
export async function ensureEngine(options: EngineOptions): Promise<Engine> {
  const env = options.env ?? process.env;
  const device = options.device ?? chooseDevice(env);
  // The prebuilt one serves a machine without GPU until there is a compiler for a current one.
  const mayBePrebuilt = device === 'cpu' && findCompiler(env) === null;
  const ready =
    (await findEngine(options.cacheDir, device)) ?? (mayBePrebuilt ? await findPrebuilt(options.cacheDir) : null);
  const engine = ready ?? (await prepare(options, device, env));
  await linkBinding(engine.binding);
  return engine;
}

/** The engine in the cache folder as it is, without changing anything; null where there is none or it is damaged. */
export async function findEngine(cacheDir: string, device: Device): Promise<Engine | null> {
  return (await inspect(cacheDir, device, false)).engine;
}

async function inspect(
  cacheDir: string,
  device: Device,
  hashAll: boolean,
): Promise<{ engine: Engine | null; problem: string | null }> {
  const folder = engineFolder(cacheDir, device);
  const bindingFolder = join(folder, `binding-${await bindingKey()}`);
  const library = await readManifest(folder);
  const binding = await readManifest(bindingFolder);
  if (!library || !binding) return { engine: null, problem: null };
  const problem =
    (await checkManifest(folder, library, hashAll)) ?? (await checkManifest(bindingFolder, binding, hashAll));
  return { engine: problem ? null : describeEngine(folder, device, library, bindingFolder, binding), problem };
}

/** What a process that loads the engine needs in its environment, over the given one. */
export function engineEnvironment(engine: Engine, env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const libraryPath = [...engine.libraryPath, ...(env['LD_LIBRARY_PATH'] ? [env['LD_LIBRARY_PATH']] : [])].join(':');
  if (engine.device === 'cpu') return { ...env, LD_LIBRARY_PATH: libraryPath };
  // XLA compiles GPU kernels with the ptxas and libdevice that it finds here.
  const cudaFolder = `--xla_gpu_cuda_data_dir=${join(engine.folder, 'nvidia', 'cuda_nvcc')}`;
  const given = env['XLA_FLAGS'] ?? '';
  const flags = given.includes('--xla_gpu_cuda_data_dir') ? given : `${cudaFolder} ${given}`.trim();
  return { ...env, LD_LIBRARY_PATH: libraryPath, XLA_FLAGS: flags };
}

export interface EngineStatus {
  device: Device;
  engine: Engine | null;
  /** What is wrong with files that are there: missing, changed. */
  problem: string | null;
  /** Whether node_modules links to it. */
  linked: boolean;
}

/** For `./orpo doctor`: what is there, every file hashed, nothing changed. */
export async function engineStatus(cacheDir: string, env: NodeJS.ProcessEnv = process.env): Promise<EngineStatus> {
  const device = chooseDevice(env);
  const built = await inspect(cacheDir, device, true);
  const engine = built.engine ?? (device === 'cpu' ? await findPrebuilt(cacheDir, true) : null);
  return { device, engine, problem: built.problem, linked: engine !== null && (await isLinked(engine.binding)) };
}

function engineFolder(cacheDir: string, device: Device): string {
  return join(cacheDir, 'engine', libraryName(device).replace(' ', '-'));
}

function describeEngine(
  folder: string,
  device: Device,
  library: Manifest,
  bindingFolder: string,
  binding: Manifest,
): Engine {
  return {
    library: library.name,
    librarySha256: library.files.find(({ path }) => path.endsWith(MAIN_LIBRARY))?.sha256 ?? '',
    device,
    binding: join(bindingFolder, BINDING_NAME),
    bindingSha256: binding.files[0]?.sha256 ?? '',
    libraryPath: libraryFolders(folder, device),
    folder,
  };
}

async function findPrebuilt(cacheDir: string, hashAll = false): Promise<Engine | null> {
  const folder = prebuiltFolder(cacheDir);
  const manifest = await readManifest(folder);
  if (!manifest || (await checkManifest(folder, manifest, hashAll))) return null;
  const [library, binding] = manifest.files;
  if (!library || !binding) return null;
  return {
    library: PREBUILT_LIBRARY,
    librarySha256: library.sha256,
    device: 'cpu',
    binding: join(folder, binding.path),
    bindingSha256: binding.sha256,
    libraryPath: [join(folder, 'deps', 'lib')],
    folder,
  };
}

async function prepare(options: EngineOptions, device: Device, env: NodeJS.ProcessEnv): Promise<Engine> {
  const { cacheDir, log } = options;
  await mkdir(join(cacheDir, 'engine'), { recursive: true });
  return withLock(
    `${engineFolder(cacheDir, device)}.lock`,
    async () => {
      const made = await findEngine(cacheDir, device); // by the process that held the lock
      if (made) return made;
      try {
        return await build(options, device, env);
      } catch (error) {
        // A library of 2022 for CUDA 11 is no replacement on a GPU.
        if (!(error instanceof EnvironmentIncomplete) || device === 'gpu') throw error;
        return await fallBack(options, error);
      }
    },
    { onWait: () => log('Engine: another process is setting it up; waiting for it') },
  );
}

async function fallBack({ cacheDir, log }: EngineOptions, cause: EnvironmentIncomplete): Promise<Engine> {
  log(`Engine: ${firstLine(cause.message).replace(/^engine: /, '')}`);
  const present = await findPrebuilt(cacheDir);
  if (present) return present;
  log(
    `Engine: trying TensorFlow.js's official one, ${PREBUILT_LIBRARY}, instead: about 110 MB to download, 400 MB on disk`,
  );
  try {
    await installPrebuilt(cacheDir);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new EnvironmentIncomplete(`${cause.message}\n(The prebuilt one could not be had either: ${why})`, { cause });
  }
  const engine = await findPrebuilt(cacheDir);
  if (!engine) throw cause;
  return engine;
}

async function build(options: EngineOptions, device: Device, env: NodeJS.ProcessEnv): Promise<Engine> {
  const { cacheDir, log } = options;
  const compiler = findCompiler(env);
  if (!compiler) throw new EnvironmentIncomplete(`engine: ${MISSING_COMPILER}`);
  const folder = engineFolder(cacheDir, device);
  const manifest = await readManifest(folder);
  const problem = manifest ? await checkManifest(folder, manifest) : null;
  if (problem) log(`Engine: ${problem}; fetching the library anew`);
  const library = manifest && !problem ? manifest : await fetchLibrary(device, folder, log);
  const bindingFolder = join(folder, `binding-${await bindingKey()}`);
  const binding = join(bindingFolder, BINDING_NAME);
  log(`Engine: compiling TensorFlow.js's binding with ${compiler} (about 20 s)`);
  await compileBinding(compiler, join(folder, 'tensorflow'), binding);
  const version = await probeBinding(binding, libraryFolders(folder, device));
  const bindingManifest = await writeManifest(bindingFolder, `binding of ${version}`, [{ path: BINDING_NAME }]);
  log(`Engine: ${library.name} (${device.toUpperCase()}) is ready in ${folder}`);
  return describeEngine(folder, device, library, bindingFolder, bindingManifest);
}

async function linkBinding(binding: string): Promise<void> {
  if (!(await isLinked(binding))) await linkAtomic(binding, bindingLink());
}

async function isLinked(binding: string): Promise<boolean> {
  try {
    return (await readlink(bindingLink())) === binding;
  } catch (error) {
    if (isCode(error, 'ENOENT') || isCode(error, 'EINVAL')) return false; // absent, or a file put there by hand
    throw error;
  }
}

function firstLine(text: string): string {
  return text.split('\n')[0] ?? text;
}
