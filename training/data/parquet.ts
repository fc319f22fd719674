/**
 * Parquet on disk: written by parquetjs-lite a few megabytes at a time, read by hyparquet a row group at a time (why two
 * libraries: parquetjs-lite cannot read what other writers make, hyparquet writes nothing). Token ids are packed as
 * little-endian int32 bytes in one binary cell, because a list column costs parquetjs-lite an object per number.
 */
import { createHash } from 'node:crypto';
import { mkdir, open, rename, rm } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { parquetMetadataAsync, parquetReadObjects } from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import parquetjs from 'parquetjs-lite';
import type { FieldDefinition, Sink } from 'parquetjs-lite';
import { DatasetInvalid } from '../../shared/errors.ts';
import type { ArtifactRef } from '../../shared/records.ts';
import { diskFullOr, syncFolder, TEMPORARY_PREFIX } from '../checkpoint/atomic.ts';
import { decodeUtf8 } from './source.ts';

export type ParquetFields = Record<string, FieldDefinition['type']>;
export type ParquetRow = Record<string, number | string | Buffer>;

/** A file that can be read at any position; what hyparquet calls an AsyncBuffer. */
export interface RandomAccessFile {
  byteLength: number;
  slice(start: number, end?: number): Promise<ArrayBuffer>;
  close(): Promise<void>;
}

/** Rows are written once this much is buffered, or this many rows. */
const GROUP_BYTES = 4 * 2 ** 20;
const GROUP_ROWS = 4096;

/** Writes a whole file under a temporary name, flushes and renames it; equal rows give equal bytes.
 *  @param metadata - key-value pairs of the footer; @throws DiskFull, with nothing left behind */
export async function writeParquet(
  path: string,
  fields: ParquetFields,
  rows: Iterable<ParquetRow> | AsyncIterable<ParquetRow>,
  options: { metadata?: Record<string, string>; signal?: AbortSignal | undefined } = {},
): Promise<ArtifactRef> {
  const folder = dirname(path);
  const temporary = join(folder, `${TEMPORARY_PREFIX}${basename(path)}-${process.pid}`);
  try {
    await mkdir(folder, { recursive: true });
    const file = await open(temporary, 'w');
    let written: { sha256: string; bytes: number };
    try {
      written = await writeRows(file, fields, rows, options);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await syncFolder(folder);
    return { uri: path, ...written };
  } catch (error) {
    await rm(temporary, { force: true });
    throw diskFullOr(error, path);
  }
}

async function writeRows(
  file: FileHandle,
  fields: ParquetFields,
  rows: Iterable<ParquetRow> | AsyncIterable<ParquetRow>,
  options: { metadata?: Record<string, string>; signal?: AbortSignal | undefined },
): Promise<{ sha256: string; bytes: number }> {
  const schema = new parquetjs.ParquetSchema(
    Object.fromEntries(Object.entries(fields).map(([name, type]) => [name, { type, statistics: false }])),
  );
  const sink = hashingSink(file);
  const writer = await parquetjs.ParquetWriter.openStream(schema, sink.stream, {
    rowGroupSize: GROUP_ROWS,
    pageIndex: false,
  });
  for (const [key, value] of Object.entries(options.metadata ?? {})) writer.setMetadata(key, value);
  let buffered = 0;
  for await (const row of rows) {
    options.signal?.throwIfAborted();
    buffered += sizeOf(row);
    const isFull = buffered >= GROUP_BYTES;
    writer.setRowGroupSize(isFull ? 1 : GROUP_ROWS);
    await writer.appendRow(row);
    if (!isFull) continue;
    buffered = 0;
    sink.check();
    await nextTurn();
  }
  await writer.close();
  return sink.finish();
}

/** Writes in order, hashing as it goes. The library leaves some writes unawaited, so the first failure is kept and
 *  thrown by `check` and `finish`, never as an unhandled rejection. */
function hashingSink(file: FileHandle) {
  const hash = createHash('sha256');
  let bytes = 0;
  let failure: unknown = null;
  let queue = Promise.resolve();
  const check = () => {
    if (failure !== null) throw failure;
  };
  const stream: Sink = {
    write(chunk, done) {
      hash.update(chunk);
      bytes += chunk.length;
      queue = queue
        .then(() => (failure === null ? file.writeFile(chunk) : undefined))
        .catch((error: unknown) => {
          failure = error;
        })
        .then(() => done());
    },
    end(done) {
      queue = queue.then(() => done());
    },
  };
  const finish = async () => {
    await queue;
    check();
    return { sha256: hash.digest('hex'), bytes };
  };
  return { stream, check, finish };
}

function sizeOf(row: ParquetRow): number {
  let size = 0;
  for (const value of Object.values(row)) size += typeof value === 'number' ? 4 : value.length;
  return size;
}

/** Opens a file for hyparquet; the caller closes it. @throws DatasetInvalid if it is missing */
export async function openAsyncBuffer(path: string): Promise<RandomAccessFile> {
  const file = await open(path, 'r').catch((error: unknown) => {
    throw new DatasetInvalid(`${path}: cannot be opened (${reasonOf(error)})`, { cause: error });
  });
  const { size } = await file.stat();
  return {
    byteLength: size,
    async slice(start, end = size) {
      const bytes = new Uint8Array(end - start);
      const { bytesRead } = await file.read(bytes, 0, bytes.length, start);
      if (bytesRead < bytes.length) throw new Error(`ends ${bytes.length - bytesRead} bytes early`);
      return bytes.buffer;
    },
    close: () => file.close(),
  };
}

/** Rows of a file this project wrote, a row group at a time; binary cells come as Uint8Array.
 *  @throws DatasetInvalid if the file is missing, broken, or has not these columns */
export async function* readParquetRows(path: string, fields: ParquetFields): AsyncGenerator<Record<string, unknown>> {
  const file = await openAsyncBuffer(path);
  try {
    const metadata = await parquetMetadataAsync(file);
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows);
      const columns = Object.keys(fields);
      const parsers = { stringFromBytes: (bytes: Uint8Array | undefined) => bytes && decodeUtf8(bytes) };
      yield* await parquetReadObjects({
        file,
        metadata,
        columns,
        rowStart,
        rowEnd,
        compressors,
        parsers,
        utf8: false,
      });
      rowStart = rowEnd;
    }
  } catch (error) {
    if (error instanceof DatasetInvalid) throw error;
    throw new DatasetInvalid(`${path}: is broken (${reasonOf(error)}); delete it and run the step again`, {
      cause: error,
    });
  } finally {
    await file.close();
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Ids as little-endian int32 bytes. */
export function packIds(ids: number[]): Buffer {
  const bytes = Buffer.alloc(ids.length * 4);
  ids.forEach((id, index) => bytes.writeInt32LE(id, index * 4));
  return bytes;
}

/** The ids that packIds packed. */
export function unpackIds(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: Math.floor(bytes.byteLength / 4) }, (_, index) => view.getInt32(index * 4, true));
}
