/**
 * The front door: `./orpo` finds Node, cli/launcher.mjs installs the npm packages and runs the command line.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { repositoryRoot } from '../../cli/setup/cache.ts';
import { scratchFolder } from '../helpers/scratch.ts';

const root = join(repositoryRoot);
const scratch = scratchFolder();
let count = 0;
const newFolder = (): string => {
  const folder = join(scratch, String(count++));
  mkdirSync(folder);
  return folder;
};

describe('./orpo', () => {
  /** A PATH with nothing but these scripts and the few tools that `orpo` uses. All are new files: links to the system's
   *  tools could be written through. */
  const pathWith = (scripts: Record<string, string>): string => {
    const folder = newFolder();
    const tools = Object.fromEntries(
      ['dirname', 'readlink', 'uname'].map((name) => [name, `exec /usr/bin/${name} "$@"`]),
    );
    for (const [name, script] of Object.entries({ ...tools, ...scripts })) {
      writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`, { mode: 0o755, flag: 'wx' });
    }
    return folder;
  };
  const run = (program: string, path: string, cwd = scratch): { status: number; output: string } => {
    try {
      const output = execFileSync(program, ['a', 'b c'], {
        cwd,
        env: { PATH: path },
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      return { status: 0, output: output.toString() };
    } catch (error) {
      const { status, stderr } = error as { status: number; stderr: Buffer };
      return { status, output: stderr.toString() };
    }
  };

  test('elsewhere than on Linux x86-64 its first line says so and names the container', () => {
    const mac = run(join(root, 'orpo'), pathWith({ uname: 'case $1 in -s) echo Darwin;; -m) echo arm64;; esac' }));
    expect(mac.status).toBe(3);
    expect(mac.output).toMatch(
      /^orpo runs on Linux x86-64 with glibc; this is Darwin arm64\.\nUse the container instead: docker compose/,
    );
    const arm = run(join(root, 'orpo'), pathWith({ uname: 'case $1 in -s) echo Linux;; -m) echo aarch64;; esac' }));
    expect(arm.output).toContain('this is Linux aarch64');
  });

  test('a missing, old or broken Node is told with what is needed', () => {
    expect(run(join(root, 'orpo'), pathWith({}))).toEqual({
      status: 3,
      output: expect.stringContaining('Node.js was not found on PATH; version 20.9 or newer is needed') as string,
    });
    for (const old of ['v18.20.4', 'v20.8.1']) {
      expect(run(join(root, 'orpo'), pathWith({ node: `echo ${old}` })).output).toContain(`Node.js ${old} is too old`);
    }
    expect(run(join(root, 'orpo'), pathWith({ node: 'exit 1' })).output).toContain('node is on PATH but does not run');
    expect(run(join(root, 'orpo'), pathWith({ node: 'echo hello' })).output).toContain('cannot read the version');
  });

  test('hands its arguments to the launcher, from any folder and through links', () => {
    const path = pathWith({ node: 'if [ "$1" = --version ]; then echo v20.9.0; else printf "[%s]" "$@"; pwd; fi' });
    const links = newFolder();
    symlinkSync(join(root, 'orpo'), join(links, 'one'));
    symlinkSync('one', join(links, 'two'));
    const here = newFolder();
    const expected = { status: 0, output: `[${join(root, 'cli/launcher.mjs')}][a][b c]${here}\n` };
    expect(run(join(root, 'orpo'), path, here)).toEqual(expected);
    expect(run(join(links, 'two'), path, here)).toEqual(expected);
  });
});

describe('launcher', () => {
  const LOCK = '{"packages": {"": {}, "node_modules/tsx": {"version": "1.0.0", "integrity": "sha512-a"}}}';
  /** What stands in for `npm ci`: a node_modules with the real tsx in it. */
  const INSTALL = `echo ci >>npm.log; mkdir -p node_modules; ln -sfn ${join(root, 'node_modules', 'tsx')} node_modules/tsx`;

  /** A clone whose npm does what the script says; its command line prints its arguments and folder, and exits with 7. */
  const clone = (npm: string): { folder: string; npm: string; command: string } => {
    const folder = newFolder();
    mkdirSync(join(folder, 'cli'));
    copyFileSync(join(root, 'cli', 'launcher.mjs'), join(folder, 'cli', 'launcher.mjs'));
    writeFileSync(join(folder, 'package-lock.json'), LOCK);
    writeFileSync(join(folder, 'package.json'), '{"type": "module"}');
    writeFileSync(join(folder, 'tsconfig.json'), '{}');
    const cli =
      'const a: string[] = process.argv.slice(2); console.log(a.join(), process.cwd()); process.exitCode = 7;';
    writeFileSync(join(folder, 'cli', 'index.ts'), cli);
    const bin = newFolder();
    writeFileSync(join(bin, 'npm'), `#!/bin/sh\n${npm}\n`, { mode: 0o755 });
    const command = `PATH=${bin}:/bin:/usr/bin "${process.execPath}" "${join(folder, 'cli', 'launcher.mjs')}" x y`;
    return { folder, npm: join(bin, 'npm'), command };
  };
  const run = (command: string): { output: string; code: number } => {
    const output = execFileSync('/bin/sh', ['-c', `(${command}) 2>&1; echo "code $?"`], { cwd: scratch }).toString();
    return { output, code: Number(/code (\d+)\n$/.exec(output)?.[1]) };
  };
  const installs = (folder: string): number => readFileSync(join(folder, 'npm.log'), 'utf8').trim().split('\n').length;

  test('installs once, says what it downloads, then hands over folder, arguments and exit code', () => {
    const { folder, command } = clone(INSTALL);
    const first = run(command);
    expect(first.code).toBe(7);
    expect(first.output).toMatch(/^Installing npm packages by package-lock\.json \(about \d+ MB to download/);
    expect(first.output).toContain(`x,y ${scratch}\n`);
    expect(run(command)).toEqual({ output: `x,y ${scratch}\ncode 7\n`, code: 7 });
    expect(installs(folder)).toBe(1);
  });

  test('installs again when the lockfile has changed', () => {
    const { folder, command } = clone(INSTALL);
    run(command);
    writeFileSync(join(folder, 'package-lock.json'), LOCK.replace('1.0.0', '1.0.1'));
    run(command);
    expect(installs(folder)).toBe(2);
  });

  test('two at once install once', () => {
    const { folder, command } = clone(`sleep 1; ${INSTALL}`);
    const { output } = run(`${command} & ${command}; wait`);
    expect(installs(folder)).toBe(1);
    expect(output).toContain('Another orpo is installing the npm packages here; waiting for it');
    expect(output.match(/x,y/g)).toHaveLength(2);
  });

  test('takes over packages that were installed by hand when they are the lockfile’s', () => {
    const { folder, command } = clone('echo npm called; exit 1');
    mkdirSync(join(folder, 'node_modules'));
    symlinkSync(join(root, 'node_modules', 'tsx'), join(folder, 'node_modules', 'tsx'));
    writeFileSync(join(folder, 'node_modules', '.package-lock.json'), LOCK);
    expect(run(command)).toEqual({ output: `x,y ${scratch}\ncode 7\n`, code: 7 });
    writeFileSync(join(folder, 'package-lock.json'), LOCK.replace('sha512-a', 'sha512-b'));
    expect(run(command).code).toBe(3);
  });

  test('a failed installation is told with its cause, and tried again the next time', () => {
    const causes: [string, RegExp][] = [
      ['npm error code EAI_AGAIN', /registry could not be reached: check the network.*\n {2}npm error code EAI_AGAIN/],
      ['npm error code ENOSPC', /The disk is full: free some space/],
      ['npm error code EACCES', /No permission to write: make .* writable/],
      ['npm error code EUSAGE', /package\.json and package-lock\.json do not agree/],
      ['npm error code EINTEGRITY', /did not match its hash: run `npm cache verify`/],
      ['npm error strange', /npm says:\n {2}npm error strange/],
    ];
    const { npm, command } = clone('');
    for (const [line, message] of causes) {
      writeFileSync(npm, `#!/bin/sh\necho '${line}' >&2; exit 9\n`);
      const { output, code } = run(command);
      expect(output).toMatch(message);
      expect(output).toContain('orpo: npm ci failed (exit code 9)');
      expect(code).toBe(3);
    }
    writeFileSync(npm, `#!/bin/sh\n${INSTALL}\n`);
    expect(run(command).code).toBe(7);
  });

  test('a lock left by a launcher that was killed is taken over', () => {
    const { folder, command } = clone(INSTALL);
    writeFileSync(join(folder, '.orpo-install.lock'), `${2 ** 22 + 1} ${hostname()} 0`);
    expect(run(command).code).toBe(7);
    expect(existsSync(join(folder, '.orpo-install.lock'))).toBe(false);
  });

  test('a clone without lockfile is told apart', () => {
    const { folder, command } = clone(INSTALL);
    execFileSync('rm', [join(folder, 'package-lock.json')]);
    expect(run(command).output).toContain('cannot read package-lock.json');
  });
});
