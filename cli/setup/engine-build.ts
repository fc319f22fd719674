/**
 * Compiles TensorFlow.js's own N-API binding (two C++ files of @tensorflow/tfjs-node-gpu) against the library of a
 * TensorFlow wheel. N-API is stable: one build serves Node 20, 22 and 24.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { EnvironmentIncomplete } from '../../shared/errors.ts';
import { findProgram, runProgram, tailOf } from './run-program.ts';

const require = createRequire(import.meta.url);

/** The binding's N-API level: the newest that tfjs-node 4.22 names, and the folder it looks in (lib/napi-v8). */
const NAPI_VERSION = 8;
const LIBRARIES = ['libtensorflow_cc.so.2', 'libtensorflow_framework.so.2'];
/** `$ORIGIN` keeps the cache folder movable: the binding finds the library beside it. */
const FLAGS = [
  ...['-O2', '-std=c++17', '-shared', '-fPIC', `-DNAPI_VERSION=${NAPI_VERSION}`],
  ...['-Wl,-rpath,$ORIGIN/../tensorflow', '-Wl,--enable-new-dtags'],
];
const COMPILE_TIMEOUT_MS = 10 * 60_000;

export const BINDING_NAME = 'tfjs_binding.node';

export const MISSING_COMPILER =
  'no C++ compiler was found (CXX, g++, c++, clang++), which the engine needs once. ' +
  'Install one (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++), then run this again';

/** Folder of the npm package @tensorflow/tfjs-node-gpu. */
export function tfjsPackageFolder(): string {
  return dirname(require.resolve('@tensorflow/tfjs-node-gpu/package.json'));
}

/** Where tfjs-node looks for its binding. */
export function bindingLink(packageFolder: string = tfjsPackageFolder()): string {
  return join(packageFolder, 'lib', `napi-v${NAPI_VERSION}`, BINDING_NAME);
}

/** Path of a C++ compiler: $CXX, else the first of the usual names on PATH, else null. */
export function findCompiler(env: NodeJS.ProcessEnv = process.env): string | null {
  const names = [...(env['CXX'] ? [env['CXX']] : []), 'g++', 'c++', 'clang++'];
  for (const name of names) {
    const path = findProgram(name, env);
    if (path) return path;
  }
  return null;
}

/** Identifies a build by all that goes into it but the library: sources, headers' version, flags. 12 hex digits. */
export async function bindingKey(packageFolder: string = tfjsPackageFolder()): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify(FLAGS));
  const folder = join(packageFolder, 'binding');
  for (const name of (await readdir(folder)).sort()) hash.update(name).update(await readFile(join(folder, name)));
  return hash.digest('hex').slice(0, 12);
}

/** Compiles the binding to `target`.
 *  @param libraryFolder - holds the libraries and `include/`
 *  @throws EnvironmentIncomplete with the compiler's last lines */
export async function compileBinding(compiler: string, libraryFolder: string, target: string): Promise<void> {
  const packageFolder = tfjsPackageFolder();
  const nodeHeaders = join(dirname(require.resolve('node-api-headers/package.json')), 'include');
  await mkdir(dirname(target), { recursive: true });
  const temporary = `${target}.partial-${process.pid}`;
  const result = await runProgram(
    compiler,
    [
      ...FLAGS,
      ...[`-I${nodeHeaders}`, `-I${join(libraryFolder, 'include')}`, `-I${packageFolder}`],
      ...['tfjs_backend.cc', 'tfjs_binding.cc'].map((name) => join(packageFolder, 'binding', name)),
      ...[`-L${libraryFolder}`, ...LIBRARIES.map((name) => `-l:${name}`), '-o', temporary],
    ],
    { timeoutMs: COMPILE_TIMEOUT_MS },
  );
  if (result.code !== 0) {
    await rm(temporary, { force: true });
    throw new EnvironmentIncomplete(
      `engine: ${compiler} could not compile TensorFlow.js's binding (exit code ${result.code ?? result.signal}). ` +
        `It must be a C++17 compiler with its standard library (Debian, Ubuntu: apt-get install g++)\n${tailOf(result.stderr, 15)}`,
    );
  }
  await rename(temporary, target);
}

/** Loads a binding in a process of its own and asks it for TensorFlow's version.
 *  @throws EnvironmentIncomplete when it does not load */
export async function probeBinding(binding: string, libraryPath: string[]): Promise<string> {
  const script = `process.stdout.write('version=' + require(process.argv[1]).TF_Version)`;
  const result = await runProgram(process.execPath, ['-e', script, binding], {
    env: {
      ...process.env,
      NODE_OPTIONS: '',
      TF_CPP_MIN_LOG_LEVEL: '2',
      LD_LIBRARY_PATH: [...libraryPath, process.env['LD_LIBRARY_PATH'] ?? ''].filter((part) => part !== '').join(':'),
    },
    timeoutMs: 120_000,
  });
  const version = /version=(\S+)/.exec(result.stdout)?.[1];
  if (result.code === 0 && version) return version;
  const why =
    result.signal === 'SIGILL'
      ? 'this CPU lacks instructions that the library needs (AVX)'
      : (/Error: (.*)/.exec(result.stderr)?.[1] ??
        `exit code ${result.code ?? result.signal}\n${tailOf(result.stderr)}`);
  throw new EnvironmentIncomplete(`engine: the TensorFlow library does not load: ${why}`);
}
