/**
 * The protocol buffer wire format (protobuf.dev/programming-guides/encoding), writing only, and as much of it as a
 * TensorFlow graph needs. A message is a list of fields; fields are written in the order given.
 */

/** Bytes in parts, so that nesting a message copies nothing. */
export interface Message {
  parts: Uint8Array[];
  size: number;
}

const VARINT = 0;
const BYTES = 2;
const FIXED32 = 5;

/** Puts fields together. */
export function message(...fields: Message[]): Message {
  let size = 0;
  const parts: Uint8Array[] = [];
  for (const field of fields) {
    size += field.size;
    for (const part of field.parts) parts.push(part);
  }
  return { parts, size };
}

/** An integer or enum field: negative ones take ten bytes, as int64. @param value - a safe integer */
export function integer(field: number, value: number): Message {
  return bytesOf([...varint(field * 8 + VARINT), ...varint(value)]);
}

export function boolean(field: number, value: boolean): Message {
  return integer(field, value ? 1 : 0);
}

export function float(field: number, value: number): Message {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setFloat32(0, value, true);
  return bytesOf([...varint(field * 8 + FIXED32), ...bytes]);
}

export function text(field: number, value: string): Message {
  return bytes(field, encoder.encode(value));
}

/** @param value - kept, not copied */
export function bytes(field: number, value: Uint8Array): Message {
  const head = Uint8Array.from([...varint(field * 8 + BYTES), ...varint(value.length)]);
  return { parts: [head, value], size: head.length + value.length };
}

export function nested(field: number, value: Message): Message {
  const head = Uint8Array.from([...varint(field * 8 + BYTES), ...varint(value.size)]);
  return { parts: [head, ...value.parts], size: head.length + value.size };
}

/** Entries of a map field whose keys are strings. @param value - writes the value as field 2 */
export function map<T>(field: number, entries: Record<string, T>, value: (entry: T) => Message): Message {
  return message(...Object.entries(entries).map(([key, entry]) => nested(field, message(text(1, key), value(entry)))));
}

/** All bytes of a message in one array. */
export function serialize({ parts, size }: Message): Uint8Array {
  const all = new Uint8Array(size);
  let offset = 0;
  for (const part of parts) {
    all.set(part, offset);
    offset += part.length;
  }
  return all;
}

const encoder = new TextEncoder();

function bytesOf(values: number[]): Message {
  return { parts: [Uint8Array.from(values)], size: values.length };
}

function varint(value: number): number[] {
  if (value < 0) return bigVarint(BigInt.asUintN(64, BigInt(value)));
  const groups: number[] = [];
  let rest = value;
  while (rest > 127) {
    groups.push((rest % 128) + 128);
    rest = Math.floor(rest / 128);
  }
  groups.push(rest);
  return groups;
}

function bigVarint(value: bigint): number[] {
  const groups: number[] = [];
  let rest = value;
  while (rest > 127n) {
    groups.push(Number(rest & 127n) + 128);
    rest >>= 7n;
  }
  groups.push(Number(rest));
  return groups;
}
