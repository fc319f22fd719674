/**
 * downloadFile against a real HTTP server on this machine whose manners each test chooses.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DownloadFailed, downloadFile } from '../../../training/hub/download.ts';

const content = randomBytes(300_000);
const sha256 = createHash('sha256').update(content).digest('hex');
const quick = { retryDelayMs: 5, timeoutMs: 2000 };

let folder: string;
let target: string;
let server: Server;
let url: string;
let requests: IncomingMessage[];
let respond: (request: IncomingMessage, response: ServerResponse) => void;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orpo-download-'));
  target = join(folder, 'sub', 'model.bin');
  requests = [];
  server = createServer((request, response) => {
    requests.push(request);
    respond(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/model.bin`;
});

afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(folder, { recursive: true, force: true });
});

/** Serves ranges as a well-behaved server does; If-Range with another ETag gets the whole file. */
function serveRanges(etag: string, body: Buffer = content): typeof respond {
  return (request, response) => {
    const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const condition = request.headers['if-range'];
    if (from === 0 || (condition !== undefined && condition !== etag)) {
      response.writeHead(200, { etag, 'content-length': body.length }).end(body);
      return;
    }
    const range = `bytes ${from}-${body.length - 1}/${body.length}`;
    response.writeHead(206, { etag, 'content-range': range, 'content-length': body.length - from });
    response.end(body.subarray(from));
  };
}

/** Promises the whole file and cuts the line after `bytes`. */
function cutAfter(bytes: number, etag: string): typeof respond {
  return (_request, response) => {
    response.writeHead(200, { etag, 'content-length': content.length });
    response.write(content.subarray(0, bytes), () => setTimeout(() => response.destroy(), 30));
  };
}

const failure = async (promise: Promise<unknown>): Promise<DownloadFailed> => {
  const error = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(DownloadFailed);
  return error as DownloadFailed;
};
const left = async (): Promise<string[]> => (await readdir(join(folder, 'sub'))).sort();

test('leaves exactly the file, with its bytes, and says how many and their hash', async () => {
  respond = serveRanges('"a"');
  const seen: number[] = [];
  const result = await downloadFile(url, target, {
    ...quick,
    sha256,
    bytes: content.length,
    onProgress: (done) => seen.push(done),
  });
  expect(result).toEqual({ bytes: 300_000, sha256 });
  expect((await readFile(target)).equals(content)).toBe(true);
  expect(await left()).toEqual(['model.bin']);
  expect(seen.at(-1)).toBe(300_000);
  expect(seen).toEqual([...seen].sort((a, b) => a - b));
});

test('a cut connection is taken up where it broke, under the condition that the file is the same', async () => {
  const whole = serveRanges('"a"');
  const cut = cutAfter(100_000, '"a"');
  respond = (request, response) => (requests.length === 1 ? cut : whole)(request, response);
  await downloadFile(url, target, { ...quick, sha256 });
  expect((await readFile(target)).equals(content)).toBe(true);
  expect(requests).toHaveLength(2);
  expect(requests[1]?.headers.range).toBe('bytes=100000-');
  expect(requests[1]?.headers['if-range']).toBe('"a"');
});

test('a later call goes on with what an earlier one left', async () => {
  respond = cutAfter(100_000, '"a"');
  const cut = await failure(downloadFile(url, target, { ...quick, attempts: 1 }));
  expect(cut.reason).toBe('unreachable');
  expect(cut.message).toMatch(/model\.bin: could not be fetched \(/);
  expect(await left()).toEqual(['model.bin.partial', 'model.bin.partial.json']);
  respond = serveRanges('"a"');
  await downloadFile(url, target, quick);
  expect(requests[1]?.headers.range).toBe('bytes=100000-');
  expect((await readFile(target)).equals(content)).toBe(true);
  expect(await left()).toEqual(['model.bin']);
});

test('a file that changed on the server is fetched anew, never mixed from two versions', async () => {
  respond = cutAfter(100_000, '"a"');
  await failure(downloadFile(url, target, { ...quick, attempts: 1 }));
  const other = randomBytes(200_000);
  respond = serveRanges('"b"', other);
  await downloadFile(url, target, quick);
  expect((await readFile(target)).equals(other)).toBe(true);
});

test('a server without ranges gets the whole file asked for again', async () => {
  const cut = cutAfter(100_000, '"a"');
  respond = (request, response) => {
    if (requests.length === 1) return cut(request, response);
    response.writeHead(200, { 'content-length': content.length }).end(content);
  };
  await downloadFile(url, target, { ...quick, sha256 });
  expect((await readFile(target)).equals(content)).toBe(true);
});

test('a range that the server no longer has starts over', async () => {
  respond = cutAfter(100_000, '"a"');
  await failure(downloadFile(url, target, { ...quick, attempts: 1 }));
  const whole = serveRanges('"a"');
  respond = (request, response) => {
    if (request.headers.range) response.writeHead(416).end();
    else whole(request, response);
  };
  await downloadFile(url, target, quick);
  expect((await readFile(target)).equals(content)).toBe(true);
});

test('a range other than the one asked for is not appended', async () => {
  respond = cutAfter(100_000, '"a"');
  await failure(downloadFile(url, target, { ...quick, attempts: 1 }));
  const whole = serveRanges('"a"');
  respond = (request, response) => {
    if (!request.headers.range) return whole(request, response);
    response.writeHead(206, { 'content-range': `bytes 5-${content.length - 1}/${content.length}` });
    response.end(content.subarray(5));
  };
  const error = await failure(downloadFile(url, target, { ...quick, attempts: 1 }));
  expect(error.message).toContain('asked for bytes from 100000, the server sent from 5');
  await downloadFile(url, target, quick);
  expect((await readFile(target)).equals(content)).toBe(true);
});

test('a wrong hash leaves nothing behind and names both hashes', async () => {
  respond = serveRanges('"a"');
  const wanted = '0'.repeat(64);
  const error = await failure(downloadFile(url, target, { ...quick, sha256: wanted }));
  expect(error.reason).toBe('corrupt');
  expect(error.message).toContain(`has sha256 ${sha256}, ${wanted} was expected; it was deleted`);
  expect(await left()).toEqual([]);
});

test('a wrong length is refused before the body where the server tells it, and after it where not', async () => {
  respond = serveRanges('"a"');
  const told = await failure(downloadFile(url, target, { ...quick, bytes: 299_999 }));
  expect(told.message).toContain('the server offers 300000 bytes, 299999 were expected');
  respond = (_request, response) => {
    response.writeHead(200); // chunked: no length
    response.end(content);
  };
  const counted = await failure(downloadFile(url, target, { ...quick, bytes: 300_001, attempts: 1 }));
  expect(counted.message).toContain('the connection ended after 300000 of 300001 bytes');
  const over = await failure(downloadFile(url, target, { ...quick, bytes: 299_999, attempts: 1 }));
  expect(over.message).toContain('has 300000 bytes, 299999 were expected');
  expect(await left()).toEqual([]);
});

test('what stood at the target stays when the download fails', async () => {
  respond = serveRanges('"a"');
  await downloadFile(url, target, quick);
  respond = (_request, response) => void response.writeHead(200, { 'content-length': 3 }).end('new');
  await failure(downloadFile(url, target, { ...quick, sha256 }));
  expect((await readFile(target)).equals(content)).toBe(true);
});

test('a missing file is refused at once, with its status', async () => {
  respond = (_request, response) => void response.writeHead(404).end();
  const error = await failure(downloadFile(url, target, quick));
  expect(error.reason).toBe('refused');
  expect(error.status).toBe(404);
  expect(error.message).toContain('the server answers HTTP 404 Not Found');
  expect(requests).toHaveLength(1);
});

test('a busy server is asked again', async () => {
  const whole = serveRanges('"a"');
  respond = (request, response) => {
    if (requests.length < 3) response.writeHead(503).end();
    else whole(request, response);
  };
  await downloadFile(url, target, { ...quick, sha256 });
  expect(requests).toHaveLength(3);
  respond = (_request, response) => void response.writeHead(503).end();
  const error = await failure(downloadFile(url, target, { ...quick, attempts: 2 }));
  expect(error.message).toContain('the server answers HTTP 503; try again later');
});

test('silence ends a try, before the first byte and between bytes', async () => {
  respond = () => {};
  const mute = await failure(downloadFile(url, target, { timeoutMs: 150, attempts: 1 }));
  expect(mute.message).toContain('no data for 150 ms');
  respond = (_request, response) => {
    response.writeHead(200, { 'content-length': content.length });
    response.write(content.subarray(0, 10));
  };
  const stalled = await failure(downloadFile(url, target, { timeoutMs: 150, attempts: 1 }));
  expect(stalled.message).toContain('no data for 150 ms');
});

test('nobody listening is unreachable, with the reason', async () => {
  const error = await failure(downloadFile('http://127.0.0.1:9/x', target, { ...quick, attempts: 1 }));
  expect(error.reason).toBe('unreachable');
  expect(error.status).toBeNull();
  expect(error.message).toMatch(/127\.0\.0\.1:9\/x: could not be fetched \(fetch failed: .+\)/);
});

test('an aborted download ends with the signal’s reason and can be taken up', async () => {
  respond = (_request, response) => {
    response.writeHead(200, { etag: '"a"', 'content-length': content.length });
    response.write(content.subarray(0, 100_000));
  };
  const abort = new AbortController();
  const reason = new Error('user pressed Ctrl-C');
  const onProgress = (done: number): void => {
    if (done >= 100_000) abort.abort(reason);
  };
  await expect(downloadFile(url, target, { ...quick, signal: abort.signal, onProgress })).rejects.toBe(reason);
  respond = serveRanges('"a"');
  await downloadFile(url, target, quick);
  expect(requests[1]?.headers.range).toBe('bytes=100000-');
});

test('a full disk is DiskFull and says that the download can go on', async () => {
  respond = serveRanges('"a"');
  await downloadFile(url, target, quick); // makes the folder
  await rm(target);
  await symlink('/dev/full', `${target}.partial.json`);
  await expect(downloadFile(url, target, quick)).rejects.toMatchObject({
    name: 'DiskFull',
    message: expect.stringMatching(/no space left while downloading .*ENOSPC.*goes on from where it stopped/) as string,
  });
});

test('two callers of one target share one transfer', async () => {
  respond = (request, response) => setTimeout(() => serveRanges('"a"')(request, response), 100);
  const both = await Promise.all([downloadFile(url, target, quick), downloadFile(url, target, quick)]);
  expect(both[0]).toEqual(both[1]);
  expect(requests).toHaveLength(1);
});

test('a lock whose process is gone does not stop a download', async () => {
  respond = serveRanges('"a"');
  await downloadFile(url, target, quick);
  const { hostname } = await import('node:os');
  await writeFile(`${target}.lock`, JSON.stringify({ token: 'x', pid: 2 ** 22 + 1, host: hostname() }));
  await downloadFile(url, target, quick);
  expect(await left()).toEqual(['model.bin']);
});
