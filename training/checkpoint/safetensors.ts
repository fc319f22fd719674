/**
 * The safetensors file format (https://github.com/huggingface/safetensors, README "Format"): eight bytes of header
 * length, a JSON header, then the tensors' bytes without gaps. The reader is as strict as the reference: it bounds every
 * length by the file's size before it allocates, and refuses gaps, overlaps and bytes that belong to no tensor. Tensors
 * are read one at a time, on demand. The writer sorts names, aligns the header to 8 bytes and renames a finished file.
 */
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { basename, dirname, join } from 'node:path';
import { ModelInvalid, ModelNotFound } from '../../shared/errors.ts';
import { syncFolder, TEMPORARY_PREFIX } from './atomic.ts';
import { bf16ToF32, f16ToF32 } from './float16.ts';
import {
  broken,
  byCodePoint,
  byteCount,
  DTYPE_BYTES,
  encodeHeader,
  MAX_HEADER_BYTES,
  parseHeader,
  type Dtype,
  type TensorEntry,
  type TensorHead,
} from './safetensors-header.ts';

export type { Dtype, TensorEntry } from './safetensors-header.ts';

/** F16 and BF16 stand as their bits (float16.ts converts). */
export type TensorData =
  Float64Array | BigInt64Array | Float32Array | Int32Array | Uint16Array | Int16Array | Int8Array | Uint8Array;

export interface SafetensorsFile {
  path: string;
  /** Sorted. */
  names: string[];
  entries: ReadonlyMap<string, TensorEntry>;
  metadata: Record<string, string>;
  /** The tensor's bytes as they stand. @throws ModelInvalid for a name that is not there or a file cut since it was opened */
  readBytes(name: string): Promise<Uint8Array>;
  /** The tensor in its own type. */
  read(name: string): Promise<TensorData>;
  /** A tensor of floats (F32, F16, BF16, F64) as float32. @throws ModelInvalid for integers */
  readFloat32(name: string): Promise<Float32Array>;
}

/** Opens a safetensors file: reads and checks the header, no tensor.
 *  @throws ModelNotFound when there is no such file; ModelInvalid saying what is wrong with it */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const { header, dataStart, fileBytes } = await withFile(path, (file) => readHeader(file, path));
  const { entries, metadata } = parseHeader(header, path, dataStart, fileBytes);
  const entryOf = (name: string): TensorEntry => {
    const entry = entries.get(name);
    if (!entry) throw new ModelInvalid(`${path}: no tensor named "${name}" among its ${entries.size}`);
    return entry;
  };
  const readBytes = async (name: string): Promise<Uint8Array> => {
    const { start, bytes } = entryOf(name);
    return withFile(path, (file) => readExactly(file, start, bytes, path));
  };
  const read = async (name: string): Promise<TensorData> => typed(entryOf(name).dtype, await readBytes(name));
  return {
    path,
    names: [...entries.keys()].sort(byCodePoint),
    entries,
    metadata,
    readBytes,
    read,
    readFloat32: async (name) => toFloat32(entryOf(name).dtype, await readBytes(name), `${path}: tensor "${name}"`),
  };
}

async function withFile<T>(path: string, use: (file: FileHandle) => Promise<T>): Promise<T> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (cause) {
    if (codeOf(cause) !== 'ENOENT') throw cause;
    throw new ModelNotFound(`${path}: no such file; expected a safetensors file`, { cause });
  }
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

async function readHeader(file: FileHandle, path: string) {
  const stat = await file.stat();
  if (!stat.isFile()) throw new ModelInvalid(`${path}: not a file; expected a safetensors file`);
  const fileBytes = stat.size;
  if (fileBytes < 10) {
    throw broken(path, `${fileBytes} bytes are too few for a safetensors file`);
  }
  const first = await readExactly(file, 0, 8, path);
  const headerBytes = Buffer.from(first.buffer).readBigUInt64LE(0);
  if (headerBytes > BigInt(MAX_HEADER_BYTES)) {
    throw broken(
      path,
      `its first 8 bytes say that the header has ${headerBytes} bytes; at most ${MAX_HEADER_BYTES} are allowed`,
    );
  }
  const dataStart = 8 + Number(headerBytes);
  if (dataStart > fileBytes) {
    throw broken(path, `the header should have ${headerBytes} bytes but the file ends after ${fileBytes}`);
  }
  const header = await readExactly(file, 8, Number(headerBytes), path);
  return { header, dataStart, fileBytes };
}

/** @throws ModelInvalid when the file ends before */
async function readExactly(file: FileHandle, position: number, bytes: number, path: string): Promise<Uint8Array> {
  const buffer = new Uint8Array(bytes);
  let done = 0;
  while (done < bytes) {
    // One read call takes less than 2 GiB.
    const length = Math.min(bytes - done, 1 << 28);
    const { bytesRead } = await file.read(buffer, done, length, position + done);
    if (bytesRead === 0) throw broken(path, `it ends at byte ${position + done}, expected ${position + bytes}`);
    done += bytesRead;
  }
  return buffer;
}

function typed(dtype: Dtype, { buffer }: Uint8Array): TensorData {
  switch (dtype) {
    case 'F64':
      return new Float64Array(buffer);
    case 'I64':
      return new BigInt64Array(buffer);
    case 'F32':
      return new Float32Array(buffer);
    case 'I32':
      return new Int32Array(buffer);
    case 'F16':
    case 'BF16':
      return new Uint16Array(buffer);
    case 'I16':
      return new Int16Array(buffer);
    case 'I8':
      return new Int8Array(buffer);
    case 'U8':
    case 'BOOL':
      return new Uint8Array(buffer);
  }
}

function toFloat32(dtype: Dtype, bytes: Uint8Array, at: string): Float32Array {
  const { buffer } = bytes;
  if (dtype === 'F32') return new Float32Array(buffer);
  if (dtype === 'F16') return f16ToF32(new Uint16Array(buffer));
  if (dtype === 'BF16') return bf16ToF32(new Uint16Array(buffer));
  if (dtype === 'F64') return Float32Array.from(new Float64Array(buffer));
  throw new ModelInvalid(`${at} is ${dtype}; expected floating point (F32, F16, BF16 or F64)`);
}

/** A tensor to write. `data` may be a function, called when its turn comes, so that a model need not stand in memory. */
export interface TensorSource extends TensorHead {
  data: TensorData | (() => Promise<TensorData> | TensorData);
}

/** Writes a safetensors file under a temporary name, flushes it to disk and renames it: other processes see all or
 *  nothing. Tensors stand in order of falling element size, then name (the reference's order, which aligns them).
 *  @returns the file's size in bytes  @throws ModelInvalid when data does not fit its shape; errors of the file system as they
 *  are, since callers know better what was being written (atomic.ts, diskFullOr) */
export async function writeSafetensors(
  path: string,
  tensors: TensorSource[],
  metadata: Record<string, string> = {},
): Promise<number> {
  const ordered = [...tensors].sort(
    (a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype] || byCodePoint(a.name, b.name),
  );
  const folder = dirname(path);
  const temporary = join(folder, `${TEMPORARY_PREFIX}${basename(path)}-${randomBytes(6).toString('hex')}`);
  try {
    const size = await writeTo(temporary, ordered, metadata);
    await rename(temporary, path);
    await syncFolder(folder);
    return size;
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

async function writeTo(path: string, ordered: TensorSource[], metadata: Record<string, string>): Promise<number> {
  const header = encodeHeader(ordered, metadata);
  const file = await open(path, 'wx');
  try {
    let size = header.length;
    await file.writeFile(header);
    for (const { name, dtype, shape, data } of ordered) {
      const values = typeof data === 'function' ? await data() : data;
      const expected = byteCount(dtype, shape);
      if (values.byteLength !== expected) {
        throw new ModelInvalid(
          `${path}: tensor "${name}" (${dtype} [${shape.join(', ')}]) needs ${expected} bytes, got ${values.byteLength}`,
        );
      }
      await file.writeFile(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
      size += expected;
    }
    await file.sync();
    return size;
  } finally {
    await file.close();
  }
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}
