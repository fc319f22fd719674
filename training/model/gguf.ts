/**
 * Reader of the GGUF model format, versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): metadata,
 * tensor list, and tensors as float32 on demand. Every count and length is bounded by the bytes that are left in the file
 * before anything is allocated for it.
 */
import { open, stat } from 'node:fs/promises';
import { ModelInvalid, ModelNotFound } from '../../shared/errors.ts';
import { ByteCursor } from './byte-cursor.ts';
import { BLOCK_FORMATS, ggmlTypeName } from './gguf-quants.ts';

/** A 64-bit integer past 2^53 stands as bigint. */
export type GgufValue = number | bigint | boolean | string | GgufValue[];

export interface GgufTensor {
  name: string;
  /** Row-major, as Hugging Face writes it: the reverse of GGUF's order. */
  shape: number[];
  /** GGML type number and its name. */
  type: number;
  typeName: string;
  /** First byte within the file. */
  start: number;
  bytes: number;
}

export interface GgufFile {
  path: string;
  version: number;
  metadata: ReadonlyMap<string, GgufValue>;
  tensors: ReadonlyMap<string, GgufTensor>;
  /** Values of a tensor, dequantised. @throws ModelInvalid for a name that is not there or a file cut meanwhile */
  read(name: string): Promise<Float32Array>;
}

const MAGIC = 0x46554747; // "GGUF"
const MAX_DIMENSIONS = 4; // GGML_MAX_DIMS
const MAX_NESTING = 4;

/** Opens a GGUF file: reads and checks all but the tensors' bytes.
 *  @throws ModelNotFound when there is no such file; ModelInvalid saying where it is broken or what is not supported */
export async function openGguf(path: string): Promise<GgufFile> {
  const found = await stat(path).catch((cause: unknown) => {
    throw new ModelNotFound(`${path}: no such file; expected a GGUF model`, { cause });
  });
  if (!found.isFile()) throw new ModelInvalid(`${path}: not a file; expected a GGUF model`);
  const cursor = new ByteCursor(path, found.size);
  try {
    const version = readVersion(cursor, path);
    const tensorCount = cursor.count('tensor count', 24);
    const pairCount = cursor.count('metadata count', 13);
    const metadata = readMetadata(cursor, pairCount, path);
    const tensors = readTensorList(cursor, tensorCount, metadata, path);
    return { path, version, metadata, tensors, read: (name) => readTensor(path, tensors, name) };
  } finally {
    cursor.close();
  }
}

function readVersion(cursor: ByteCursor, path: string): number {
  const magic = cursor.u32('magic');
  if (magic !== MAGIC) {
    const got = JSON.stringify(String.fromCharCode(...[0, 8, 16, 24].map((shift) => (magic >> shift) & 255)));
    throw new ModelInvalid(`${path}: not a GGUF file: it starts with ${got}, expected "GGUF"`);
  }
  const version = cursor.u32('version');
  if (version === 2 || version === 3) return version;
  const why = (version & 0xffff) === 0 ? 'a big-endian file' : `version ${version}`;
  throw new ModelInvalid(
    `${path}: GGUF ${why} is not supported; little-endian versions 2 and 3 are. Convert the model again with a current llama.cpp`,
  );
}

function readMetadata(cursor: ByteCursor, count: number, path: string): Map<string, GgufValue> {
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    const key = cursor.string(`metadata key ${i + 1} of ${count}`);
    if (metadata.has(key)) throw new ModelInvalid(`${path}: metadata key "${key}" stands twice. The file is damaged`);
    metadata.set(key, readValue(cursor, cursor.u32(`type of "${key}"`), `"${key}"`, 0));
  }
  return metadata;
}

/** Bytes that a value of each type takes at least: bounds an array's length before it is read. */
const VALUE_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8] as const;

function readValue(cursor: ByteCursor, type: number, what: string, depth: number): GgufValue {
  switch (type) {
    case 0:
      return cursor.u8(what);
    case 1:
      return cursor.i8(what);
    case 2:
      return cursor.u16(what);
    case 3:
      return cursor.i16(what);
    case 4:
      return cursor.u32(what);
    case 5:
      return cursor.i32(what);
    case 6:
      return cursor.f32(what);
    case 7:
      return readBoolean(cursor, what);
    case 8:
      return cursor.string(what);
    case 9:
      return readArray(cursor, what, depth);
    case 10:
      return narrow(cursor.u64(what));
    case 11:
      return narrow(cursor.i64(what));
    case 12:
      return cursor.f64(what);
    default:
      throw cursor.broken(`${what} has value type ${type}; known types are 0 to 12`);
  }
}

function readBoolean(cursor: ByteCursor, what: string): boolean {
  const value = cursor.u8(what);
  if (value > 1) throw cursor.broken(`${what} is a boolean with value ${value}; expected 0 or 1`);
  return value === 1;
}

function readArray(cursor: ByteCursor, what: string, depth: number): GgufValue[] {
  if (depth >= MAX_NESTING) throw cursor.broken(`${what} nests arrays more than ${MAX_NESTING} deep`);
  const type = cursor.u32(`element type of ${what}`);
  const bytes = VALUE_BYTES[type];
  if (bytes === undefined) throw cursor.broken(`${what} has element type ${type}; known types are 0 to 12`);
  const length = cursor.count(`length of ${what}`, bytes);
  const values: GgufValue[] = [];
  for (let i = 0; i < length; i++) values.push(readValue(cursor, type, what, depth + 1));
  return values;
}

function narrow(value: bigint): number | bigint {
  return value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
}

function readTensorList(
  cursor: ByteCursor,
  count: number,
  metadata: Map<string, GgufValue>,
  path: string,
): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  for (let i = 0; i < count; i++) {
    const tensor = readTensorHead(cursor, `tensor ${i + 1} of ${count}`);
    if (tensors.has(tensor.name)) throw cursor.broken(`tensor "${tensor.name}" stands twice`);
    tensors.set(tensor.name, tensor);
  }
  const alignment = metadata.get('general.alignment') ?? 32;
  if (typeof alignment !== 'number' || alignment < 1 || alignment > 65536 || (alignment & (alignment - 1)) !== 0) {
    throw new ModelInvalid(`${path}: general.alignment is ${String(alignment)}; expected a power of two up to 65536`);
  }
  placeTensors(tensors, Math.ceil(cursor.position / alignment) * alignment, alignment, cursor);
  return tensors;
}

/** One line of the tensor list; `start` is still counted from the data part. */
function readTensorHead(cursor: ByteCursor, what: string): GgufTensor {
  const name = cursor.string(`name of ${what}`);
  const dimensions = cursor.u32(`dimensions of tensor "${name}"`);
  if (dimensions > MAX_DIMENSIONS) {
    throw cursor.broken(`tensor "${name}" has ${dimensions} dimensions; at most ${MAX_DIMENSIONS} are allowed`);
  }
  const shape: number[] = [];
  for (let i = 0; i < dimensions; i++) shape.unshift(cursor.size(`shape of tensor "${name}"`));
  const type = cursor.u32(`type of tensor "${name}"`);
  const start = cursor.size(`offset of tensor "${name}"`);
  const format = BLOCK_FORMATS.get(type);
  if (!format) {
    const known = [...BLOCK_FORMATS.values()].map((f) => f.name).join(', ');
    throw new ModelInvalid(
      `${cursor.path}: tensor "${name}" has type ${ggmlTypeName(type)}; supported are ${known}. Use another quantisation of this model`,
    );
  }
  const row = shape.at(-1) ?? 1;
  if (row % format.values !== 0) {
    throw cursor.broken(`tensor "${name}" has rows of ${row} values; ${format.name} packs ${format.values} at a time`);
  }
  const values = shape.reduce((product, n) => product * n, 1);
  return { name, shape, type, typeName: format.name, start, bytes: (values / format.values) * format.bytes };
}

/** Turns offsets into places in the file and checks that every tensor lies inside it and none overlaps another. */
function placeTensors(
  tensors: Map<string, GgufTensor>,
  dataStart: number,
  alignment: number,
  cursor: ByteCursor,
): void {
  let end = dataStart;
  for (const tensor of [...tensors.values()].sort((a, b) => a.start - b.start)) {
    if (tensor.start % alignment !== 0) {
      throw cursor.broken(
        `tensor "${tensor.name}" has offset ${tensor.start}, which is no multiple of the alignment ${alignment}`,
      );
    }
    tensor.start += dataStart;
    if (tensor.start < end) throw cursor.broken(`tensor "${tensor.name}" overlaps the tensor before it`);
    end = tensor.start + tensor.bytes;
    if (!(end <= cursor.fileBytes)) {
      throw cursor.broken(
        `tensor "${tensor.name}" ends at byte ${end} but the file has ${cursor.fileBytes}: it is truncated`,
      );
    }
  }
}

async function readTensor(path: string, tensors: Map<string, GgufTensor>, name: string): Promise<Float32Array> {
  const tensor = tensors.get(name);
  const format = tensor && BLOCK_FORMATS.get(tensor.type);
  if (!tensor || !format) throw new ModelInvalid(`${path}: no tensor named "${name}" among its ${tensors.size}`);
  const out = new Float32Array((tensor.bytes / format.bytes) * format.values);
  const perChunk = Math.max(1, Math.floor((16 << 20) / format.bytes));
  const file = await open(path, 'r');
  try {
    for (let at = 0, to = 0; at < tensor.bytes;) {
      const length = Math.min(perChunk * format.bytes, tensor.bytes - at);
      const chunk = new Uint8Array(length);
      for (let done = 0; done < length;) {
        const { bytesRead } = await file.read(chunk, done, length - done, tensor.start + at + done);
        if (bytesRead === 0) throw new ModelInvalid(`${path}: the file was cut while tensor "${name}" was read`);
        done += bytesRead;
      }
      const values = (length / format.bytes) * format.values;
      format.decode(chunk, out.subarray(to, to + values));
      at += length;
      to += values;
    }
  } finally {
    await file.close();
  }
  return out;
}
