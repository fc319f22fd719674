/**
 * Makes node_modules match package-lock.json, then runs cli/index.ts through tsx in this process. Plain JavaScript
 * without dependencies, because it runs before any is installed. The working directory is left as it is, so relative
 * paths mean what the user meant; exit code and signals are the command line's own.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { clearInterval, setInterval } from 'node:timers';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** What `npm ci` fetches and what it becomes, measured with the lockfile of this version. */
const INSTALL_SIZE = 'about 260 MB to download, 720 MB on disk';
const INSTALL_DISK_BYTES = 1000e6;
/** A lock not touched for this long belongs to a process that is gone. */
const LOCK_STALE_MS = 60_000;

/** A failure whose message is all the user needs; exit code 3 (environment). */
class SetupError extends Error {}

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

try {
  await ensurePackages();
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exit(3);
}
await runCli();

/** Installs the npm packages unless node_modules is known to match the lockfile. */
async function ensurePackages() {
  if (isCurrent()) return;
  await withLock(path.join(root, '.orpo-install.lock'), async () => {
    if (isCurrent()) return;
    if (matchesLockfile()) return writeStamp();
    await install();
    writeStamp();
  });
}

function stampPath() {
  return path.join(root, 'node_modules', '.orpo-lock-sha256');
}

function lockHash() {
  try {
    return createHash('sha256')
      .update(fs.readFileSync(path.join(root, 'package-lock.json')))
      .digest('hex');
  } catch (error) {
    throw new SetupError(`orpo: cannot read package-lock.json in ${root} (${error.code}); is this a whole clone?`);
  }
}

function isCurrent() {
  try {
    return fs.readFileSync(stampPath(), 'utf8').trim() === lockHash();
  } catch (error) {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return false;
    throw error;
  }
}

function writeStamp() {
  const temporary = `${stampPath()}.${process.pid}`;
  fs.writeFileSync(temporary, `${lockHash()}\n`);
  fs.renameSync(temporary, stampPath());
}

/** Whether packages installed by hand (npm ci, npm install) are exactly the lockfile's, by npm's own hidden lockfile. */
function matchesLockfile() {
  const wanted = readJson(path.join(root, 'package-lock.json'))?.packages;
  const present = readJson(path.join(root, 'node_modules', '.package-lock.json'))?.packages;
  if (!wanted || !present) return false;
  return Object.entries(wanted).every(([name, entry]) => {
    if (name === '') return true;
    const found = present[name];
    if (!found) return entry.optional === true;
    const inPlace = fs.existsSync(path.join(root, name, 'package.json'));
    return inPlace && found.version === entry.version && found.integrity === entry.integrity;
  });
}

function readJson(file) {
  try {
    return JSON.parse(fs.readFileSync(file, 'utf8'));
  } catch {
    return null; // absent or cut short: either way, it proves nothing
  }
}

async function install() {
  process.stderr.write(`Installing npm packages by package-lock.json (${INSTALL_SIZE}) into ${root}/node_modules\n`);
  checkDisk();
  const started = Date.now();
  const { code, output } = await run(npmCommand(), [
    'ci',
    '--ignore-scripts',
    '--no-fund',
    '--no-audit',
    '--loglevel=error',
  ]);
  if (code !== 0) throw new SetupError(explainNpmFailure(code, output));
  process.stderr.write(`npm packages installed in ${Math.round((Date.now() - started) / 1000)} s\n`);
}

function checkDisk() {
  const { bavail, bsize } = fs.statfsSync(root);
  const free = bavail * bsize;
  if (free >= INSTALL_DISK_BYTES) return;
  throw new SetupError(
    `orpo: not enough disk space for the npm packages: ${root} has ${Math.floor(free / 1e6)} MB free, ` +
      `${Math.ceil(INSTALL_DISK_BYTES / 1e6)} MB are needed. Free some space and run this again.`,
  );
}

/** npm on PATH, else the one beside this node. */
function npmCommand() {
  for (const folder of (process.env.PATH ?? '').split(path.delimiter)) {
    if (folder !== '' && fs.existsSync(path.join(folder, 'npm'))) return [path.join(folder, 'npm')];
  }
  const bundled = path.join(path.dirname(process.execPath), '..', 'lib', 'node_modules', 'npm', 'bin', 'npm-cli.js');
  if (fs.existsSync(bundled)) return [process.execPath, bundled];
  throw new SetupError(
    'orpo: npm was not found on PATH. It comes with Node.js (Debian, Ubuntu: apt-get install npm); install it, then run this again.',
  );
}

function run(command, args) {
  return new Promise((resolve, reject) => {
    const [program, ...before] = command;
    // Everything goes to stderr: stdout belongs to the command that was asked for.
    const child = spawn(program, [...before, ...args], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    const keep = (chunk) => {
      output = (output + chunk).slice(-20_000);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    const ticker = setInterval(() => process.stderr.write(process.stderr.isTTY ? '.' : ''), 2000);
    child.on('error', (error) => {
      clearInterval(ticker);
      reject(new SetupError(`orpo: ${program} does not run (${error.message}).`));
    });
    child.on('close', (code) => {
      clearInterval(ticker);
      if (process.stderr.isTTY) process.stderr.write('\n');
      resolve({ code: code ?? 1, output });
    });
  });
}

function explainNpmFailure(code, output) {
  // npm puts the cause first and its usage after it.
  const lines = output
    .split('\n')
    .filter((line) => line.startsWith('npm error') && !/^npm error\s*$|complete log/.test(line))
    .slice(0, 8)
    .map((line) => `  ${line}`)
    .join('\n');
  const cause = npmCause(output);
  return `orpo: npm ci failed (exit code ${code}). ${cause}\n${lines}`;
}

function npmCause(output) {
  if (/ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ERR_SOCKET_TIMEOUT|ENETUNREACH/.test(output)) {
    return 'The npm registry could not be reached: check the network, `npm config get registry` and proxy settings, then run this again.';
  }
  if (/ENOSPC/.test(output)) return 'The disk is full: free some space (about 1 GB), then run this again.';
  if (/EACCES|EPERM|EROFS/.test(output))
    return `No permission to write: make ${root} writable for you, then run this again.`;
  if (/EUSAGE|in sync/.test(output)) {
    return 'package.json and package-lock.json do not agree: run `npm install --ignore-scripts`, then this again.';
  }
  if (/EINTEGRITY/.test(output)) return 'A download did not match its hash: run `npm cache verify`, then this again.';
  return 'npm says:';
}

/** Runs `work` while holding a lock file; a lock whose holder is gone is taken over. */
async function withLock(file, work) {
  const token = `${process.pid} ${os.hostname()} ${Date.now()}`;
  let told = false;
  while (!tryLock(file, token)) {
    if (!told) process.stderr.write('Another orpo is installing the npm packages here; waiting for it\n');
    told = true;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  const touch = setInterval(() => fs.utimes(file, new Date(), new Date(), () => {}), 5000);
  try {
    return await work();
  } finally {
    clearInterval(touch);
    fs.rmSync(file, { force: true });
  }
}

function tryLock(file, token) {
  try {
    fs.writeFileSync(file, token, { flag: 'wx' });
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') {
      throw new SetupError(
        `orpo: cannot write in ${root} (${error.code}); make the folder writable, then run this again.`,
      );
    }
  }
  try {
    const [pid, host] = fs.readFileSync(file, 'utf8').split(' ');
    const age = Date.now() - fs.statSync(file).mtimeMs;
    const gone = host === os.hostname() ? !isAlive(Number(pid)) : age > LOCK_STALE_MS;
    if (gone || age > 10 * LOCK_STALE_MS) {
      const aside = `${file}.${process.pid}`;
      fs.renameSync(file, aside); // only one waiter wins this rename
      fs.rmSync(aside, { force: true });
    }
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
  return false;
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Runs cli/index.ts in this process; children forked from it inherit the loader through execArgv. */
async function runCli() {
  const loader = pathToFileURL(path.join(root, 'node_modules', 'tsx', 'dist', 'loader.mjs')).href;
  const entry = path.join(root, 'cli', 'index.ts');
  process.argv[1] = entry;
  process.env.TSX_TSCONFIG_PATH ??= path.join(root, 'tsconfig.json'); // else tsx takes the one of the working directory
  process.execArgv.push('--import', loader);
  await import(loader);
  await import(pathToFileURL(entry).href);
}
