import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ModelInvalid, ModelNotFound } from '../../../shared/errors.ts';
import { openSafetensors } from '../../../training/checkpoint/safetensors.ts';
import { openGguf } from '../../../training/model/gguf.ts';
import { ARRAY, BOOL, ggufBytes, STRING, u32, u64, U32, type GgufParts } from '../../helpers/gguf-bytes.ts';
import { rejection, scratchFolder } from '../../helpers/scratch.ts';

const scratch = scratchFolder();
const FOLDER = 'test/fixtures/gguf';

describe('values of every block format', () => {
  it.each(['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q4_K', 'Q6_K'])(
    '%s equals the reference bit for bit',
    async (name) => {
      const gguf = await openGguf(join(FOLDER, 'quants.gguf'));
      const expected = await openSafetensors(join(FOLDER, 'quants.expected.safetensors'));
      const values = await gguf.read(name);
      expect(gguf.tensors.get(name)?.typeName).toBe(name);
      expect(gguf.tensors.get(name)?.shape).toEqual(expected.entries.get(name)?.shape);
      expect(new Uint32Array(values.buffer)).toEqual(new Uint32Array((await expected.readFloat32(name)).buffer));
      expect(values.some((value) => value !== 0)).toBe(true);
    },
  );
});

describe('metadata', () => {
  it('reads every value type', async () => {
    const { metadata, version } = await openGguf(join(FOLDER, 'quants.gguf'));
    const expected = JSON.parse(await readFile(join(FOLDER, 'metadata.expected.json'), 'utf8')) as object;
    for (const [key, value] of Object.entries(expected)) expect(metadata.get(key), key).toEqual(value);
    expect(metadata.get('t.big')).toBe(2n ** 64n - 1n);
    expect(version).toBe(3);
  });
});

describe('a file that is not right', () => {
  const open = async (parts: GgufParts | Buffer) => {
    const path = join(scratch, 'broken.gguf');
    await writeFile(path, Buffer.isBuffer(parts) ? parts : ggufBytes(parts));
    const error = await rejection(openGguf(path));
    expect(error).toBeInstanceOf(ModelInvalid);
    expect(error.message.startsWith(`${path}: `)).toBe(true);
    return error.message.slice(path.length + 2);
  };
  const weights = { name: 'w', dims: [4], type: 0, offset: 0, data: new Uint8Array(16) };
  const key = (type: number, value: unknown, elementType = STRING) => [{ key: 'k', type, value, elementType }];

  it('names a missing file and a folder', async () => {
    const error = await rejection(openGguf('/nowhere/x.gguf'));
    expect(error).toBeInstanceOf(ModelNotFound);
    expect(error.message).toBe('/nowhere/x.gguf: no such file; expected a GGUF model');
    expect((await rejection(openGguf(scratch))).message).toBe(`${scratch}: not a file; expected a GGUF model`);
  });

  it('says what another file starts with', async () => {
    expect(await open(Buffer.from('PK\u0003\u0004 a zip archive, say'))).toBe(
      'not a GGUF file: it starts with "PK\\u0003\\u0004", expected "GGUF"',
    );
  });

  it('refuses versions it does not read and big-endian files', async () => {
    expect(await open({ version: 1 })).toContain('GGUF version 1 is not supported; little-endian versions 2 and 3 are');
    expect(await open({ version: 4 })).toContain('GGUF version 4 is not supported');
    expect(await open({ version: 0x03000000 })).toContain('GGUF a big-endian file is not supported');
  });

  it('says that it is truncated, at every length', async () => {
    const whole = ggufBytes({
      metadata: [
        { key: 'general.architecture', type: STRING, value: 'llama' },
        { key: 'tokens', type: ARRAY, value: ['a', 'bc'] },
      ],
      tensors: [weights],
    });
    for (let length = 0; length < whole.length; length++) {
      const message = await open(whole.subarray(0, length));
      expect(message, String(length)).toMatch(/truncated|can hold/);
    }
  });

  it('refuses absurd counts and lengths before it allocates', async () => {
    expect(await open({ tensorCount: 2n ** 60n })).toContain(
      `tensor count is ${2n ** 60n}, more than the 16 bytes left in the file can hold`,
    );
    expect(await open({ pairCount: 2n ** 63n })).toContain('metadata count is 9223372036854775808, more than');
    const long = Buffer.concat([u32(STRING), u64(2n ** 62n)]);
    expect(await open({ metadata: key(ARRAY, long) })).toContain('length of "k" is 4611686018427387904, more than');
    expect(await open({ metadata: key(STRING, u64(2n ** 40n)) })).toContain(
      'length of "k" is 1099511627776, more than',
    );
    const tensor = { ...weights, dims: [2n ** 62n] };
    expect(await open({ tensors: [tensor] })).toContain('shape of tensor "w" is 4611686018427387904, which is absurd');
    const wide = { ...weights, dims: [2n ** 50n, 2n ** 50n] };
    expect(await open({ tensors: [wide] })).toContain('it is truncated');
  });

  it('refuses unknown types and malformed values', async () => {
    expect(await open({ metadata: key(77, Buffer.alloc(4)) })).toContain(
      '"k" has value type 77; known types are 0 to 12',
    );
    expect(await open({ metadata: key(ARRAY, Buffer.concat([u32(13), u64(0)])) })).toContain('has element type 13');
    expect(await open({ metadata: key(BOOL, Buffer.of(2)) })).toContain('is a boolean with value 2; expected 0 or 1');
    const nested = Buffer.concat(Array.from({ length: 6 }, () => Buffer.concat([u32(ARRAY), u64(1)])));
    expect(await open({ metadata: key(ARRAY, nested) })).toContain('nests arrays more than 4 deep');
    expect(await open({ metadata: [...key(U32, 1), ...key(U32, 1)] })).toContain('metadata key "k" stands twice');
  });

  it('names tensor types it does not read, and those it does', async () => {
    expect(await open({ tensors: [{ ...weights, type: 23 }] })).toBe(
      'tensor "w" has type IQ4_XS; supported are F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q6_K, BF16. Use another quantisation of this model',
    );
    expect(await open({ tensors: [{ ...weights, type: 999 }] })).toContain('has type number 999');
  });

  it('refuses tensors that do not lie well in the file', async () => {
    expect(await open({ tensors: [weights, weights] })).toContain('tensor "w" stands twice');
    expect(await open({ tensors: [{ ...weights, dims: [1, 1, 1, 1, 4] }] })).toContain('has 5 dimensions; at most 4');
    expect(await open({ tensors: [{ ...weights, dims: [33], type: 8 }] })).toContain(
      'rows of 33 values; Q8_0 packs 32',
    );
    expect(await open({ tensors: [{ ...weights, offset: 8 }] })).toContain('no multiple of the alignment 32');
    const other = { ...weights, name: 'v', dims: [16], data: new Uint8Array(64) };
    expect(await open({ tensors: [other, { ...weights, offset: 32 }] })).toContain('"w" overlaps the tensor before it');
    expect(await open({ tensors: [weights], dataBytes: 15 })).toContain('it is truncated');
    const alignment = { key: 'general.alignment', type: U32, value: 24 };
    expect(await open({ metadata: [alignment] })).toContain('general.alignment is 24; expected a power of two');
  });

  it('notices a file cut after it was opened', async () => {
    const path = join(scratch, 'later.gguf');
    const bytes = ggufBytes({ tensors: [weights] });
    await writeFile(path, bytes);
    const gguf = await openGguf(path);
    await writeFile(path, bytes.subarray(0, -4));
    expect((await rejection(gguf.read('w'))).message).toBe(`${path}: the file was cut while tensor "w" was read`);
    expect((await rejection(gguf.read('v'))).message).toBe(`${path}: no tensor named "v" among its 1`);
  });

  it('reads a header larger than its window', async () => {
    const path = join(scratch, 'large.gguf');
    const tokens = Array.from({ length: 200_000 }, (_, i) => `token-${i}`);
    const huge = 'x'.repeat(3_000_000);
    const metadata = [
      { key: 'tokens', type: ARRAY, value: tokens },
      { key: 'huge', type: STRING, value: huge },
      { key: 'last', type: U32, value: 7 },
    ];
    await writeFile(path, ggufBytes({ metadata, tensors: [weights] }));
    const gguf = await openGguf(path);
    expect(gguf.metadata.get('tokens')).toEqual(tokens);
    expect(gguf.metadata.get('huge')).toBe(huge);
    expect(gguf.metadata.get('last')).toBe(7);
    expect([...(await gguf.read('w'))]).toEqual([0, 0, 0, 0]);
  });
});
