/**
 * Half-precision numbers to and from float32: IEEE 754 binary16 (F16) and bfloat16 (BF16), rounded to nearest, ties to
 * even, as numpy and torch do. Bits travel as Uint16Array. Little-endian hosts only (all that Node's prebuilt engines
 * support); safetensors and GGUF are little-endian too.
 */

let halfTable: Float32Array | undefined;

/** Every binary16 value by its bits; made once (256 KiB). */
function halfValues(): Float32Array {
  if (halfTable) return halfTable;
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 31) table[bits] = fraction === 0 ? sign * Infinity : NaN;
    else if (exponent === 0) table[bits] = sign * fraction * 2 ** -24;
    else table[bits] = sign * (1024 + fraction) * 2 ** (exponent - 25);
  }
  halfTable = table;
  return table;
}

/** Value of one binary16 number given by its bits. */
export function halfToNumber(bits: number): number {
  return halfValues()[bits & 0xffff] ?? NaN;
}

/** F16 bits to float32, exact. */
export function f16ToF32(bits: Uint16Array): Float32Array {
  const table = halfValues();
  const out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = table[bits[i] ?? 0] ?? NaN;
  return out;
}

/** BF16 bits to float32, exact. */
export function bf16ToF32(bits: Uint16Array): Float32Array {
  const out = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = (bits[i] ?? 0) << 16;
  return new Float32Array(out.buffer);
}

/** float32 to F16 bits; past 65,504 becomes infinite, below 2^-25 zero. */
export function f32ToF16(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < words.length; i++) out[i] = halfBits(words[i] ?? 0);
  return out;
}

/** Bits of the nearest binary16 to a float32 given by its bits. */
function halfBits(word: number): number {
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00; // NaN stays a quiet NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // rounds to 65,520 or more
  if (magnitude < 0x38800000) {
    // Subnormal: shift the 24-bit significand right, then round on what fell off.
    const shift = 126 - (magnitude >>> 23);
    if (shift > 24) return sign;
    const significand = (magnitude & 0x7fffff) | 0x800000;
    return sign | roundShift(significand, shift);
  }
  return sign | roundShift(magnitude - 0x38000000, 13);
}

/** value / 2^shift, rounded to nearest, ties to even. */
function roundShift(value: number, shift: number): number {
  const half = 1 << (shift - 1);
  const kept = value >>> shift;
  const rest = value & ((1 << shift) - 1);
  return rest > half || (rest === half && (kept & 1) === 1) ? kept + 1 : kept;
}

/** float32 to BF16 bits. */
export function f32ToBf16(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i] ?? 0;
    if ((word & 0x7fffffff) > 0x7f800000) out[i] = (word >>> 16) | 0x40;
    else out[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return out;
}
