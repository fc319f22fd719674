/**
 * Seeded random numbers that repeat on every machine and can be stored: xoshiro128** 1.1 (Blackman and Vigna, "Scrambled
 * linear pseudorandom number generators", ACM TOMS 47(4), 2021, doi 10.1145/3460772; 32-bit arithmetic, period 2^128 − 1),
 * seeded with the first 128 bits of a SHA-256 so that any mix of words and numbers is a seed. Differs from the authors'
 * seeding by splitmix64. The stable hashes serve splits: equal text gives an equal number, for ever.
 */
import { createHash } from 'node:crypto';

/** Anything that tells one stream of numbers from another: `['order', seed, epoch]`. */
export type SeedPart = string | number;

/** Plain data: four unsigned 32-bit words, not all zero. */
export type RandomState = [number, number, number, number];

export interface Random {
  /** Uniform integer in [0, 2^32). */
  uint32(): number;
  /** Uniform in [0, 1) with 53 random bits. */
  uniform(): number;
  /** Uniform integer in [0, bound), without modulo bias. @throws RangeError unless 1 ≤ bound ≤ 2^32 */
  below(bound: number): number;
  /** Standard normal (Box and Muller 1958, cosine branch; two uniforms each, nothing kept between calls). */
  normal(): number;
  /** What `restoreRandom` continues from. */
  state(): RandomState;
}

/** A generator whose stream is a function of the seed parts alone. */
export function createRandom(...seed: SeedPart[]): Random {
  const digest = hashParts(seed);
  return restoreRandom([
    digest.readUInt32LE(0),
    digest.readUInt32LE(4),
    digest.readUInt32LE(8),
    digest.readUInt32LE(12),
  ]);
}

/** Continues a stored stream. @throws RangeError if the state is not four unsigned 32-bit integers, one of them not 0 */
export function restoreRandom(state: RandomState): Random {
  checkState(state);
  let [s0, s1, s2, s3] = state;
  const uint32 = (): number => {
    const result = Math.imul(rotateLeft(Math.imul(s1, 5), 7), 9) >>> 0;
    const shifted = s1 << 9;
    s2 ^= s0;
    s3 ^= s1;
    s1 ^= s2;
    s0 ^= s3;
    s2 ^= shifted;
    s3 = rotateLeft(s3, 11);
    return result;
  };
  const uniform = (): number => ((uint32() >>> 5) * 2 ** 26 + (uint32() >>> 6)) / 2 ** 53;
  return {
    uint32,
    uniform,
    below: (bound) => below(uint32, bound),
    normal: () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
    state: () => [s0 >>> 0, s1 >>> 0, s2 >>> 0, s3 >>> 0],
  };
}

/** The numbers 0 … count − 1 in an order that depends on count and seed alone (Fisher and Yates, Durstenfeld's form). */
export function shuffled(count: number, ...seed: SeedPart[]): number[] {
  const random = createRandom(...seed);
  const order = Array.from({ length: count }, (_, index) => index);
  for (let last = count - 1; last > 0; last--) {
    const other = random.below(last + 1);
    const held = order[last] ?? 0;
    order[last] = order[other] ?? 0;
    order[other] = held;
  }
  return order;
}

/** SHA-256 of the parts as hex. Parts cannot run into each other: `['a', 'b']` and `['ab']` differ. */
export function stableHash(...parts: SeedPart[]): string {
  return hashParts(parts).toString('hex');
}

/** A number in [0, 1) that is a function of the parts alone: the top 53 bits of their SHA-256. */
export function stableFraction(...parts: SeedPart[]): number {
  return Number(hashParts(parts).readBigUInt64BE(0) >> 11n) / 2 ** 53;
}

function hashParts(parts: SeedPart[]): Buffer {
  const hash = createHash('sha256');
  for (const part of parts) {
    const text = String(part);
    hash.update(`${typeof part} ${Buffer.byteLength(text)} ${text}`, 'utf8');
  }
  return hash.digest();
}

function rotateLeft(word: number, bits: number): number {
  return (word << bits) | (word >>> (32 - bits));
}

/** Draws below the largest multiple of bound are kept, others drawn again. */
function below(uint32: () => number, bound: number): number {
  if (!Number.isInteger(bound) || bound < 1 || bound > 2 ** 32) {
    throw new RangeError(`random below: the bound must be an integer from 1 to 2^32, got ${bound}`);
  }
  const limit = 2 ** 32 - (2 ** 32 % bound);
  let draw = uint32();
  while (draw >= limit) draw = uint32();
  return draw % bound;
}

function checkState(state: RandomState): void {
  const words: unknown[] = Array.isArray(state) ? state : [];
  const isWord = (word: unknown) => Number.isInteger(word) && Number(word) >= 0 && Number(word) < 2 ** 32;
  if (words.length !== 4 || !words.every(isWord) || words.every((word) => word === 0)) {
    throw new RangeError(
      `random state: expected four unsigned 32-bit integers, not all 0, got ${JSON.stringify(state)}`,
    );
  }
}
