import { describe, expect, it } from 'vitest';
import { createRandom, restoreRandom, shuffled, stableFraction, stableHash } from '../../training/random.ts';
import type { RandomState } from '../../training/random.ts';

const many = (count: number, draw: () => number) => Array.from({ length: count }, draw);

describe('the generator', () => {
  it("gives the numbers of the authors' xoshiro128starstar.c from state 1, 2, 3, 4", () => {
    const random = restoreRandom([1, 2, 3, 4]);
    expect(many(10, random.uint32)).toEqual([
      11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804,
    ]);
    for (let draw = 10; draw < 1_000_000; draw++) random.uint32();
    // The state after a million numbers and the next number, from the same C program.
    expect(random.state()).toEqual([2928258933, 4119544218, 1001204686, 2576016786]);
    expect(random.uint32()).toBe(3175353485);
  });

  it('continues a stored state where it stood, also through JSON', () => {
    const random = createRandom('dropout', 42, 7);
    random.normal();
    const stored = JSON.parse(JSON.stringify(random.state())) as RandomState;
    expect(many(5, restoreRandom(stored).normal)).toEqual(many(5, random.normal));
  });

  it('has a stream of its own for each seed, whose parts do not run into each other', () => {
    const first = (...seed: (string | number)[]) => createRandom(...seed).uint32();
    const seeds = [[42], [43], ['42'], ['a', 'b'], ['ab'], ['b', 'a'], [4, 2], ['order', 42, 0], ['order', 42, 1]];
    expect(new Set(seeds.map((seed) => first(...seed))).size).toBe(seeds.length);
    expect(first('order', 42, 0)).toBe(first('order', 42, 0));
  });

  it('draws uniforms in [0, 1) with mean 1/2 and variance 1/12', () => {
    const draws = many(100_000, createRandom('uniform').uniform);
    expect(Math.min(...draws)).toBeGreaterThanOrEqual(0);
    expect(draws.every((draw) => draw < 1)).toBe(true);
    const mean = draws.reduce((sum, draw) => sum + draw) / draws.length;
    const variance = draws.reduce((sum, draw) => sum + (draw - mean) ** 2, 0) / draws.length;
    expect(Math.abs(mean - 0.5)).toBeLessThan(4 * Math.sqrt(1 / 12 / draws.length)); // four standard errors
    expect(Math.abs(variance - 1 / 12)).toBeLessThan(0.001);
  });

  it('draws normals with mean 0, variance 1 and 4.55% beyond two deviations', () => {
    const draws = many(100_000, createRandom('normal').normal);
    const mean = draws.reduce((sum, draw) => sum + draw) / draws.length;
    const variance = draws.reduce((sum, draw) => sum + draw ** 2, 0) / draws.length;
    const beyond = draws.filter((draw) => Math.abs(draw) > 2).length / draws.length;
    expect(Math.abs(mean)).toBeLessThan(4 / Math.sqrt(draws.length));
    expect(Math.abs(variance - 1)).toBeLessThan(0.02);
    expect(Math.abs(beyond - 0.0455)).toBeLessThan(0.003);
  });

  it('draws integers below a bound evenly, and refuses other bounds', () => {
    const random = createRandom('below');
    for (const bound of [0, -1, 1.5, 2 ** 32 + 1, NaN]) {
      expect(() => random.below(bound)).toThrow(`the bound must be an integer from 1 to 2^32, got ${bound}`);
    }
    const tally = new Map<number, number>();
    for (let draw = 0; draw < 30_000; draw++) {
      const drawn = random.below(3);
      tally.set(drawn, (tally.get(drawn) ?? 0) + 1);
    }
    for (const value of [0, 1, 2]) expect(Math.abs((tally.get(value) ?? 0) - 10_000)).toBeLessThan(4 * 82); // √(30000·1/3·2/3)
  });

  it.each([[[0, 0, 0, 0]], [[1, 2, 3]], [[1, 2, 3, -4]], [[1, 2, 3, 0.5]], [[1, 2, 3, 2 ** 32]], ['seed']])(
    'refuses the state %j',
    (state) => {
      expect(() => restoreRandom(state as RandomState)).toThrow(
        /expected four unsigned 32-bit integers, not all 0, got/,
      );
    },
  );
});

describe('an order', () => {
  it('is a permutation and a function of count and seed alone', () => {
    const order = shuffled(1000, 'order', 42, 0);
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, index) => index));
    expect(shuffled(1000, 'order', 42, 0)).toEqual(order);
    expect(shuffled(1000, 'order', 42, 1)).not.toEqual(order);
    expect(shuffled(0, 'x')).toEqual([]);
    expect(shuffled(1, 'x')).toEqual([0]);
  });

  it('gives each of the six orders of three its share', () => {
    const tally = new Map<string, number>();
    for (let seed = 0; seed < 12_000; seed++) {
      const order = shuffled(3, 'three', seed).join('');
      tally.set(order, (tally.get(order) ?? 0) + 1);
    }
    expect(tally.size).toBe(6);
    for (const count of tally.values()) expect(Math.abs(count - 2000)).toBeLessThan(4 * 41); // √(12000·1/6·5/6)
  });

  it('of a known seed never changes', () => {
    expect(shuffled(8, 'order', 42, 0)).toEqual(ORDER_OF_EIGHT);
  });
});

describe('a stable hash', () => {
  it('is the same for ever, so that splits are', () => {
    // sha256 of "string 5 splitnumber 2 42string 5 hello"
    expect(stableHash('split', 42, 'hello')).toBe(HASH_OF_HELLO);
    expect(stableFraction('split', 42, 'hello')).toBe(
      Number(BigInt(`0x${HASH_OF_HELLO.slice(0, 16)}`) >> 11n) / 2 ** 53,
    );
  });

  it('spreads texts evenly over [0, 1)', () => {
    const below = Array.from({ length: 10_000 }, (_, index) => stableFraction('x', index)).filter((at) => at < 0.1);
    expect(Math.abs(below.length - 1000)).toBeLessThan(4 * 30); // √(10000·0.1·0.9)
  });
});

const HASH_OF_HELLO = 'e27e016fb93aecd3f1a3dc7dc4951c5b89ef672f8c0c3ae9b9106bfcf83b8c83';
const ORDER_OF_EIGHT = [5, 3, 7, 2, 0, 4, 1, 6];
