/**
 * The header of a safetensors file, as text: names, dtypes, shapes and byte ranges. Parsing is as strict as the
 * reference implementation (https://github.com/huggingface/safetensors, safetensors/src/tensor.rs): the tensors must
 * fill the data part exactly. No I/O here; safetensors.ts reads and writes files.
 */
import { ModelInvalid } from '../../shared/errors.ts';

/** Bytes of one element of each supported dtype. */
export const DTYPE_BYTES = { F64: 8, I64: 8, F32: 4, I32: 4, F16: 2, BF16: 2, I16: 2, I8: 1, U8: 1, BOOL: 1 } as const;
export type Dtype = keyof typeof DTYPE_BYTES;

export interface TensorEntry {
  dtype: Dtype;
  shape: number[];
  /** First byte within the file. */
  start: number;
  bytes: number;
}

/** As the reference implementation's: no real header is larger. */
export const MAX_HEADER_BYTES = 100_000_000;

export interface TensorHead {
  name: string;
  dtype: Dtype;
  shape: number[];
}

export interface ParsedHeader {
  entries: Map<string, TensorEntry>;
  metadata: Record<string, string>;
}

/** Reads a header. @param path - for messages  @param dataStart - first byte after the header
 *  @throws ModelInvalid naming the tensor and what is wrong with it */
export function parseHeader(header: Uint8Array, path: string, dataStart: number, fileBytes: number): ParsedHeader {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(header));
  } catch (cause) {
    throw broken(path, 'its header is not JSON', cause);
  }
  if (!isRecord(json)) throw broken(path, 'its header is not a JSON object');
  const entries = new Map<string, TensorEntry>();
  for (const [name, value] of Object.entries(json)) {
    if (name !== '__metadata__') entries.set(name, parseEntry(name, value, path, dataStart));
  }
  checkLayout(entries, path, dataStart, fileBytes);
  return { entries, metadata: parseMetadata(json['__metadata__'], path) };
}

function parseMetadata(value: unknown, path: string): Record<string, string> {
  if (value === undefined) return {};
  if (!isRecord(value) || Object.values(value).some((v) => typeof v !== 'string')) {
    throw broken(path, '"__metadata__" of its header must map names to strings');
  }
  return value as Record<string, string>;
}

function parseEntry(name: string, value: unknown, path: string, dataStart: number): TensorEntry {
  const at = `tensor "${name}"`;
  if (!isRecord(value)) throw broken(path, `${at} has no dtype, shape and data_offsets`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string' || !isDtype(dtype)) {
    throw new ModelInvalid(
      `${path}: ${at} has dtype ${JSON.stringify(dtype)}; supported are ${Object.keys(DTYPE_BYTES).join(', ')}`,
    );
  }
  if (!isCounts(shape)) throw broken(path, `${at} has shape ${JSON.stringify(shape)}; expected non-negative integers`);
  if (!isCounts(offsets) || offsets.length !== 2) {
    throw broken(path, `${at} has data_offsets ${JSON.stringify(offsets)}; expected [begin, end]`);
  }
  const [begin = 0, end = 0] = offsets;
  const bytes = shape.reduce((product, n) => product * n, DTYPE_BYTES[dtype] as number);
  if (end - begin !== bytes) {
    throw broken(
      path,
      `${at} (${dtype} [${shape.join(', ')}]) needs ${bytes} bytes but its offsets span ${end - begin}`,
    );
  }
  return { dtype, shape, start: dataStart + begin, bytes };
}

/** Tensors must fill the data part without gap or overlap. */
function checkLayout(entries: Map<string, TensorEntry>, path: string, dataStart: number, fileBytes: number): void {
  const ordered = [...entries].sort(([, a], [, b]) => a.start - b.start || a.bytes - b.bytes);
  let expected = dataStart;
  for (const [name, { start, bytes }] of ordered) {
    if (start !== expected) {
      const what = start < expected ? 'overlaps the tensor before it' : 'leaves a gap before it';
      throw broken(path, `tensor "${name}" ${what}: it starts at byte ${start}, expected ${expected}`);
    }
    expected += bytes;
  }
  if (expected > fileBytes) {
    throw broken(path, `its tensors need ${expected} bytes but the file has ${fileBytes}: it is truncated`);
  }
  if (expected < fileBytes) throw broken(path, `${fileBytes - expected} bytes after its last tensor belong to none`);
}

/** Length prefix and JSON, padded with spaces to 8 bytes. @param ordered - in the order of their bytes
 *  @throws ModelInvalid for a name used twice */
export function encodeHeader(ordered: TensorHead[], metadata: Record<string, string>): Buffer {
  const pairs: [string, unknown][] = Object.keys(metadata).length > 0 ? [['__metadata__', metadata]] : [];
  const seen = new Set<string>(['__metadata__']);
  let offset = 0;
  for (const { name, dtype, shape } of ordered) {
    if (seen.has(name)) throw new ModelInvalid(`tensor name "${name}" is used twice or reserved; names must be unique`);
    seen.add(name);
    const end = offset + byteCount(dtype, shape);
    pairs.push([name, { dtype, shape, data_offsets: [offset, end] }]);
    offset = end;
  }
  // By hand and not from an object: JavaScript would move integer-like names first and lose "__proto__".
  const json = `{${pairs.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(',')}}`;
  const bytes = Buffer.from(json, 'utf8');
  const padded = Buffer.alloc(8 + Math.ceil(bytes.length / 8) * 8, 0x20);
  padded.writeBigUInt64LE(BigInt(padded.length - 8), 0);
  bytes.copy(padded, 8);
  return padded;
}

/** Bytes of a tensor. */
export function byteCount(dtype: Dtype, shape: number[]): number {
  return shape.reduce((product, n) => product * n, DTYPE_BYTES[dtype] as number);
}

/** Order of names: by UTF-8 bytes, as in Rust and Python. */
export function byCodePoint(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

/** Error for a file that is damaged or no safetensors at all. */
export function broken(path: string, what: string, cause?: unknown): ModelInvalid {
  return new ModelInvalid(`${path}: ${what}. The file is damaged or not safetensors; fetch it again`, { cause });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function isDtype(value: string): value is Dtype {
  return Object.hasOwn(DTYPE_BYTES, value);
}
