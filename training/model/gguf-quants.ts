/**
 * Block formats of GGUF tensors and their values as float32, after the reference (ggml/src/ggml-quants.c and gguf-py's
 * quants.py in https://github.com/ggml-org/llama.cpp). Every product below is exact in float32 and each value is rounded
 * once, so results equal the reference bit for bit (scripts/reference/gguf_quants.py makes the fixture).
 */
import { bf16ToF32, f16ToF32, halfToNumber } from '../checkpoint/float16.ts';

export interface BlockFormat {
  name: string;
  /** Values in a block. */
  values: number;
  /** Bytes of a block. */
  bytes: number;
  /** Decodes whole blocks. @param source - aligned to nothing  @param out - as many values as the blocks hold */
  decode(source: Uint8Array, out: Float32Array): void;
}

/** Supported formats by GGML type number. */
export const BLOCK_FORMATS: ReadonlyMap<number, BlockFormat> = new Map([
  [0, { name: 'F32', values: 1, bytes: 4, decode: decodeF32 }],
  [1, { name: 'F16', values: 1, bytes: 2, decode: (source, out) => out.set(f16ToF32(words(source))) }],
  [2, { name: 'Q4_0', values: 32, bytes: 18, decode: decodeQ4_0 }],
  [3, { name: 'Q4_1', values: 32, bytes: 20, decode: decodeQ4_1 }],
  [6, { name: 'Q5_0', values: 32, bytes: 22, decode: decodeQ5_0 }],
  [7, { name: 'Q5_1', values: 32, bytes: 24, decode: decodeQ5_1 }],
  [8, { name: 'Q8_0', values: 32, bytes: 34, decode: decodeQ8_0 }],
  [12, { name: 'Q4_K', values: 256, bytes: 144, decode: decodeQ4_K }],
  [14, { name: 'Q6_K', values: 256, bytes: 210, decode: decodeQ6_K }],
  [30, { name: 'BF16', values: 1, bytes: 2, decode: (source, out) => out.set(bf16ToF32(words(source))) }],
] satisfies [number, BlockFormat][]);

/** Names of the GGML types that are not read, for messages (ggml.h, enum ggml_type). */
const OTHER_TYPES: Record<number, string> = {
  9: 'Q8_1',
  10: 'Q2_K',
  11: 'Q3_K',
  13: 'Q5_K',
  15: 'Q8_K',
  16: 'IQ2_XXS',
  17: 'IQ2_XS',
  18: 'IQ3_XXS',
  19: 'IQ1_S',
  20: 'IQ4_NL',
  21: 'IQ3_S',
  22: 'IQ2_S',
  23: 'IQ4_XS',
  24: 'I8',
  25: 'I16',
  26: 'I32',
  27: 'I64',
  28: 'F64',
  29: 'IQ1_M',
  34: 'TQ1_0',
  35: 'TQ2_0',
  39: 'MXFP4',
};

/** Name of a GGML type number, supported or not. */
export function ggmlTypeName(type: number): string {
  return BLOCK_FORMATS.get(type)?.name ?? OTHER_TYPES[type] ?? `number ${type}`;
}

function words(source: Uint8Array): Uint16Array {
  return new Uint16Array(source.slice().buffer);
}

function decodeF32(source: Uint8Array, out: Float32Array): void {
  out.set(new Float32Array(source.slice().buffer));
}

/** Byte at a place that the caller has bounded. */
function byte(source: Uint8Array, at: number): number {
  return source[at] ?? 0;
}

function half(source: Uint8Array, at: number): number {
  return halfToNumber(byte(source, at) | (byte(source, at + 1) << 8));
}

function signed(value: number): number {
  return (value << 24) >> 24;
}

/** d, then 16 bytes: low nibbles are values 0–15, high nibbles 16–31; value = d·(q − 8). */
function decodeQ4_0(source: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; to < out.length; at += 18, to += 32) {
    const d = half(source, at);
    for (let i = 0; i < 16; i++) {
      const pair = byte(source, at + 2 + i);
      out[to + i] = d * ((pair & 15) - 8);
      out[to + 16 + i] = d * ((pair >> 4) - 8);
    }
  }
}

/** d, m, then nibbles as in Q4_0; value = d·q + m. */
function decodeQ4_1(source: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; to < out.length; at += 20, to += 32) {
    const d = half(source, at);
    const m = half(source, at + 2);
    for (let i = 0; i < 16; i++) {
      const pair = byte(source, at + 4 + i);
      out[to + i] = d * (pair & 15) + m;
      out[to + 16 + i] = d * (pair >> 4) + m;
    }
  }
}

/** d, 32 fifth bits (value i's in bit i), nibbles; value = d·(q − 16). */
function decodeQ5_0(source: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; to < out.length; at += 22, to += 32) {
    const d = half(source, at);
    for (let i = 0; i < 16; i++) {
      const pair = byte(source, at + 6 + i);
      out[to + i] = d * (((pair & 15) | fifthBit(source, at + 2, i)) - 16);
      out[to + 16 + i] = d * (((pair >> 4) | fifthBit(source, at + 2, 16 + i)) - 16);
    }
  }
}

/** d, m, fifth bits, nibbles; value = d·q + m. */
function decodeQ5_1(source: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; to < out.length; at += 24, to += 32) {
    const d = half(source, at);
    const m = half(source, at + 2);
    for (let i = 0; i < 16; i++) {
      const pair = byte(source, at + 8 + i);
      out[to + i] = d * ((pair & 15) | fifthBit(source, at + 4, i)) + m;
      out[to + 16 + i] = d * ((pair >> 4) | fifthBit(source, at + 4, 16 + i)) + m;
    }
  }
}

function fifthBit(source: Uint8Array, at: number, index: number): number {
  return ((byte(source, at + (index >> 3)) >> (index & 7)) & 1) << 4;
}

/** d, then 32 signed bytes; value = d·q. */
function decodeQ8_0(source: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; to < out.length; at += 34, to += 32) {
    const d = half(source, at);
    for (let i = 0; i < 32; i++) out[to + i] = d * signed(byte(source, at + 2 + i));
  }
}

/** d, dmin, 12 bytes of eight 6-bit scales and minima, 128 bytes of nibbles; value = d·scale·q − dmin·min.
 *  Each 32 bytes hold two groups of 32: low nibbles, then high nibbles. */
function decodeQ4_K(source: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; to < out.length; at += 144, to += 256) {
    const d = half(source, at);
    const dmin = half(source, at + 2);
    for (let group = 0; group < 8; group++) {
      const [scale, minimum] = scaleAndMin(source, at + 4, group);
      const shift = (group & 1) * 4;
      const nibbles = at + 16 + (group >> 1) * 32;
      for (let i = 0; i < 32; i++) {
        const q = (byte(source, nibbles + i) >> shift) & 15;
        out[to + group * 32 + i] = d * scale * q - dmin * minimum;
      }
    }
  }
}

/** Unpacks the 6-bit scale and minimum of a group: groups 0–3 in bytes 0–3 and 4–7; the low four bits of groups 4–7 in
 *  bytes 8–11, their high two bits in the top of bytes 0–7 (get_scale_min_k4 in ggml-quants.c). */
function scaleAndMin(source: Uint8Array, at: number, group: number): [number, number] {
  if (group < 4) return [byte(source, at + group) & 63, byte(source, at + 4 + group) & 63];
  const low = byte(source, at + 4 + group);
  const scale = (low & 15) | ((byte(source, at + group - 4) >> 6) << 4);
  const minimum = (low >> 4) | ((byte(source, at + group) >> 6) << 4);
  return [scale, minimum];
}

/** 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, d; value = d·scale·(q − 32), a scale for 16 values.
 *  Each half (128 values) is four runs of 32, which share 64 bytes of nibbles and 32 of bit pairs. */
function decodeQ6_K(source: Uint8Array, out: Float32Array): void {
  for (let at = 0, to = 0; to < out.length; at += 210, to += 256) {
    const d = half(source, at + 208);
    for (let run = 0; run < 8; run++) {
      const inHalf = run & 3;
      const low = at + (run >> 2) * 64 + (inHalf & 1) * 32;
      const high = at + 128 + (run >> 2) * 32;
      for (let i = 0; i < 32; i++) {
        const nibble = (byte(source, low + i) >> ((inHalf >> 1) * 4)) & 15;
        const pair = (byte(source, high + i) >> (inHalf * 2)) & 3;
        const scale = signed(byte(source, at + 192 + run * 2 + (i >> 4)));
        out[to + run * 32 + i] = d * scale * ((nibble | (pair << 4)) - 32);
      }
    }
  }
}
