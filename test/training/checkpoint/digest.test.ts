import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { createTensorDigest, digestOf } from '../../../training/checkpoint/digest.ts';

const one = { shape: [2, 1], data: Float32Array.of(1, 2) };
const two = { shape: [1], data: Float32Array.of(3) };

describe('the digest of tensors', () => {
  it('is sha256 over a JSON line of name and shape, then the float32 bytes, in name order', () => {
    const hash = createHash('sha256');
    hash.update('["a",[2,1]]\n').update(Buffer.from('0000803f00000040', 'hex'));
    hash.update('["b",[1]]\n').update(Buffer.from('00004040', 'hex'));
    expect(digestOf({ b: two, a: one })).toBe(hash.digest('hex'));
  });

  it('does not depend on the record order and does on names, shapes and single bits', () => {
    const base = digestOf({ a: one, b: two });
    expect(digestOf({ b: two, a: one })).toBe(base);
    expect(digestOf({ a: one, c: two })).not.toBe(base);
    expect(digestOf({ a: { ...one, shape: [1, 2] }, b: two })).not.toBe(base);
    expect(digestOf({ a: { ...one, data: Float32Array.of(1, 2 + 2 ** -22) }, b: two })).not.toBe(base);
    expect(digestOf({ a: { ...one, data: Float32Array.of(1, 2) }, b: two })).toBe(base);
    expect(digestOf({ a: { shape: [1], data: Float32Array.of(-0) } })).not.toBe(
      digestOf({ a: { shape: [1], data: Float32Array.of(0) } }),
    );
  });

  it('reads only the view it is given', () => {
    const data = Float32Array.of(9, 1, 2, 9).subarray(1, 3);
    expect(digestOf({ a: { shape: [2, 1], data } })).toBe(digestOf({ a: one }));
  });

  it('refuses tensors out of order', () => {
    const digest = createTensorDigest();
    digest.add('b', [1], two.data);
    expect(() => digest.add('a', [2, 1], one.data)).toThrow('"a" must come before "b"; add tensors in name order');
    expect(() => digest.add('b', [1], two.data)).toThrow('name order');
  });
});
