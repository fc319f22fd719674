/**
 * GGUF files made by hand, right or wrong in any field (format: ggml/docs/gguf.md).
 */

/** A metadata value as the file has it: type number and value. */
export type GgufEntry = { key: string; type: number; value: unknown; elementType?: number };

export interface GgufParts {
  magic?: string;
  version?: number;
  /** Counts written instead of the true ones. */
  tensorCount?: bigint;
  pairCount?: bigint;
  metadata?: GgufEntry[];
  tensors?: { name: string; dims: (number | bigint)[]; type: number; offset: number; data?: Uint8Array }[];
  /** Bytes of the data part; default is as the tensors' data says. */
  dataBytes?: number;
}

export const U32 = 4;
export const F32 = 6;
export const BOOL = 7;
export const STRING = 8;
export const ARRAY = 9;

export function ggufBytes(parts: GgufParts): Buffer {
  const { metadata = [], tensors = [] } = parts;
  const head = Buffer.concat([
    Buffer.from(parts.magic ?? 'GGUF', 'latin1'),
    u32(parts.version ?? 3),
    u64(parts.tensorCount ?? tensors.length),
    u64(parts.pairCount ?? metadata.length),
    ...metadata.map(({ key, type, value, elementType }) =>
      Buffer.concat([string(key), u32(type), encode(type, value, elementType)]),
    ),
    ...tensors.map(({ name, dims, type, offset }) =>
      Buffer.concat([string(name), u32(dims.length), ...dims.map((n) => u64(n)), u32(type), u64(offset)]),
    ),
  ]);
  const dataEnd = tensors.reduce((end, { offset, data }) => Math.max(end, offset + (data?.length ?? 0)), 0);
  const data = Buffer.alloc(parts.dataBytes ?? dataEnd);
  for (const tensor of tensors) if (tensor.data) Buffer.from(tensor.data).copy(data, tensor.offset);
  return Buffer.concat([head, Buffer.alloc((32 - (head.length % 32)) % 32), data]);
}

export function string(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  return Buffer.concat([u64(bytes.length), bytes]);
}

export function u32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32LE(value);
  return buffer;
}

export function u64(value: number | bigint): Buffer {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64LE(BigInt(value));
  return buffer;
}

function encode(type: number, value: unknown, elementType = STRING): Buffer {
  if (Buffer.isBuffer(value)) return value;
  if (type === U32) return u32(Number(value));
  if (type === F32) {
    const buffer = Buffer.alloc(4);
    buffer.writeFloatLE(Number(value));
    return buffer;
  }
  if (type === BOOL) return Buffer.of(Number(value));
  if (type === STRING) return string(String(value));
  const items = value as unknown[];
  return Buffer.concat([u32(elementType), u64(items.length), ...items.map((item) => encode(elementType, item))]);
}
