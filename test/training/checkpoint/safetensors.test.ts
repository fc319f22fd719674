import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ModelInvalid, ModelNotFound } from '../../../shared/errors.ts';
import { f16ToF32, f32ToBf16, f32ToF16, halfToNumber } from '../../../training/checkpoint/float16.ts';
import { openSafetensors, writeSafetensors } from '../../../training/checkpoint/safetensors.ts';
import { rejection, scratchFolder } from '../../helpers/scratch.ts';

const scratch = scratchFolder();
const FIXTURE = 'test/fixtures/safetensors/dtypes.safetensors';
const VALUES = [0, 1, -2, 3, 100, -128];

describe('reading what the reference library wrote', () => {
  it('gives every float dtype as the same float32 values', async () => {
    const file = await openSafetensors(FIXTURE);
    for (const name of ['F32', 'F16', 'BF16', 'F64']) {
      expect([...(await file.readFloat32(name))], name).toEqual(VALUES);
      expect(file.entries.get(name)?.shape).toEqual([2, 3]);
    }
    expect([...(await file.readFloat32('scalar'))]).toEqual([7]);
    expect(file.entries.get('scalar')?.shape).toEqual([]);
    expect((await file.readFloat32('empty')).length).toBe(0);
    expect(file.metadata).toEqual({ format: 'pt', note: 'ünïcode' });
  });

  it('gives integers in their own types', async () => {
    const file = await openSafetensors(FIXTURE);
    expect(await file.read('I8')).toEqual(Int8Array.from(VALUES));
    expect(await file.read('I16')).toEqual(Int16Array.from(VALUES));
    expect(await file.read('I32')).toEqual(Int32Array.from(VALUES));
    expect(await file.read('I64')).toEqual(BigInt64Array.from(VALUES.map(BigInt)));
    expect(await file.read('F64')).toEqual(Float64Array.from(VALUES));
    expect(await file.read('U8')).toEqual(Uint8Array.from(VALUES.map(Math.abs)));
    expect(await file.read('BOOL')).toEqual(Uint8Array.from([0, 1, 0, 1, 1, 0]));
    expect(String((await rejection(file.readFloat32('I32'))).message)).toContain(
      'tensor "I32" is I32; expected floating point',
    );
  });

  it('rounds float32 to half precision bit for bit as torch does', async () => {
    const file = await openSafetensors(FIXTURE);
    const values = await file.readFloat32('round.f32');
    const bits = async (name: string) => new Uint16Array((await file.readBytes(name)).buffer);
    const isNumber = (_: number, i: number) => !Number.isNaN(values[i]);
    expect(f32ToF16(values).filter(isNumber)).toEqual((await bits('round.f16')).filter(isNumber));
    expect(f32ToBf16(values).filter(isNumber)).toEqual((await bits('round.bf16')).filter(isNumber));
    expect(f16ToF32(f32ToF16(Float32Array.of(NaN)))).toEqual(Float32Array.of(NaN));
  });

  it('takes every half-precision number there and back unchanged', () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i).filter((b) => !Number.isNaN(halfToNumber(b)));
    expect(f32ToF16(f16ToF32(bits))).toEqual(bits);
  });
});

describe('writing', () => {
  const tensors = [
    { name: 'b', dtype: 'F32' as const, shape: [2], data: Float32Array.of(1.5, -2) },
    { name: 'a', dtype: 'F16' as const, shape: [2], data: f32ToF16(Float32Array.of(0.5, 4)) },
    { name: '__proto__', dtype: 'U8' as const, shape: [3], data: Uint8Array.of(7, 8, 9) },
    { name: 'Ω', dtype: 'F32' as const, shape: [1], data: async () => Float32Array.of(3) },
    { name: '10', dtype: 'I64' as const, shape: [1], data: BigInt64Array.of(-5n) },
  ];

  it('reads back what it wrote, aligned, with metadata', async () => {
    const path = join(scratch, 'written.safetensors');
    const size = await writeSafetensors(path, tensors, { format: 'pt' });
    const file = await openSafetensors(path);
    expect((await readFile(path)).length).toBe(size);
    expect(file.names).toEqual(['10', '__proto__', 'a', 'b', 'Ω']);
    expect([...(await file.readFloat32('b'))]).toEqual([1.5, -2]);
    expect([...(await file.readFloat32('a'))]).toEqual([0.5, 4]);
    expect([...(await file.readFloat32('Ω'))]).toEqual([3]);
    expect(await file.read('__proto__')).toEqual(Uint8Array.of(7, 8, 9));
    for (const { start, dtype } of file.entries.values()) expect(start % (dtype === 'U8' ? 1 : 2)).toBe(0);
    expect(file.entries.get('10')?.start ?? 1).toBe((await readFile(path)).readUInt32LE(0) + 8);
    expect((file.entries.get('10')?.start ?? 1) % 8).toBe(0);
  });

  it('writes the same bytes whatever the order of the tensors', async () => {
    const [one, two] = [join(scratch, 'one.safetensors'), join(scratch, 'two.safetensors')];
    await writeSafetensors(one, tensors);
    await writeSafetensors(two, [...tensors].reverse());
    expect(await readFile(one)).toEqual(await readFile(two));
  });

  it('refuses data that does not fit its shape and leaves nothing behind', async () => {
    const folder = join(scratch, 'refused');
    await mkdir(folder);
    const path = join(folder, 'x.safetensors');
    const short = { name: 'w', dtype: 'F32' as const, shape: [3], data: Float32Array.of(1) };
    const error = await rejection(writeSafetensors(path, [short]));
    expect(error).toBeInstanceOf(ModelInvalid);
    expect(error.message).toMatch(/tensor "w" \(F32 \[3\]\) needs 12 bytes, got 4$/);
    const twice = await rejection(
      writeSafetensors(
        path,
        [tensors[0], tensors[0]].flatMap((t) => t ?? []),
      ),
    );
    expect(twice.message).toBe('tensor name "b" is used twice or reserved; names must be unique');
    expect(await readdir(folder)).toEqual([]);
  });

  it('lets a failure on the way through and leaves nothing behind', async () => {
    const folder = join(scratch, 'failing');
    await mkdir(folder);
    const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    const data = (): never => {
      throw full;
    };
    const path = join(folder, 'w.safetensors');
    expect(await rejection(writeSafetensors(path, [{ name: 'w', dtype: 'F32', shape: [1], data }]))).toBe(full);
    expect(await readdir(folder)).toEqual([]);
  });
});

describe('a file that is not right', () => {
  const open = async (name: string, bytes: Uint8Array) => {
    const path = join(scratch, name);
    await writeFile(path, bytes);
    const error = await rejection(openSafetensors(path));
    expect(error).toBeInstanceOf(ModelInvalid);
    expect(error.message.startsWith(`${path}: `)).toBe(true);
    return error.message.slice(path.length + 2);
  };
  const file = (header: unknown, dataBytes: number, claimed?: bigint) => {
    const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(claimed ?? BigInt(text.length));
    return Buffer.concat([length, text, Buffer.alloc(dataBytes)]);
  };
  const entry = (dtype: string, shape: unknown, offsets: unknown) => ({ dtype, shape, data_offsets: offsets });
  const advice = '. The file is damaged or not safetensors; fetch it again';

  it('names a missing file', async () => {
    const error = await rejection(openSafetensors('/nowhere/model.safetensors'));
    expect(error).toBeInstanceOf(ModelNotFound);
    expect(error.message).toBe('/nowhere/model.safetensors: no such file; expected a safetensors file');
    expect((await rejection(openSafetensors(scratch))).message).toContain('not a file');
  });

  it('says that it is truncated, at every length', async () => {
    const whole = file({ w: entry('F32', [4], [0, 16]) }, 16);
    for (let length = 0; length < whole.length; length++) {
      const message = await open('cut.safetensors', whole.subarray(0, length));
      expect(message, String(length)).toMatch(/too few|header should have|it is truncated/);
    }
  });

  it('refuses absurd header lengths before it allocates them', async () => {
    for (const claimed of [2n ** 60n, 2n ** 64n - 1n, 100_000_001n]) {
      expect(await open('absurd.safetensors', file({}, 64, claimed))).toBe(
        `its first 8 bytes say that the header has ${claimed} bytes; at most 100000000 are allowed${advice}`,
      );
    }
    expect(await open('absurd.safetensors', file({}, 64, 90_000_000n))).toContain('but the file ends after 74');
  });

  it('refuses headers that are no JSON object of tensors', async () => {
    expect(await open('h.safetensors', file('not json!!', 0))).toBe(`its header is not JSON${advice}`);
    expect(await open('h.safetensors', file('[1, 2, 3]', 0))).toBe(`its header is not a JSON object${advice}`);
    expect(await open('h.safetensors', file({ w: 5 }, 0))).toBe(
      `tensor "w" has no dtype, shape and data_offsets${advice}`,
    );
    expect(await open('h.safetensors', file({ __metadata__: { a: 1 } }, 0))).toContain('must map names to strings');
    expect(await open('h.safetensors', file({ w: entry('F32', [-1], [0, 4]) }, 4))).toContain('has shape [-1]');
    expect(await open('h.safetensors', file({ w: entry('F32', [1], [0]) }, 4))).toContain('expected [begin, end]');
  });

  it('refuses unknown dtypes by name', async () => {
    expect(await open('d.safetensors', file({ w: entry('F8_E4M3', [4], [0, 4]) }, 4))).toBe(
      'tensor "w" has dtype "F8_E4M3"; supported are F64, I64, F32, I32, F16, BF16, I16, I8, U8, BOOL',
    );
  });

  it('refuses sizes, overlaps and gaps', async () => {
    const huge = { w: entry('F32', [2 ** 40, 2 ** 40], [0, 16]) };
    expect(await open('s.safetensors', file(huge, 16))).toContain('but its offsets span 16');
    const beyond = { w: entry('F32', [2 ** 40], [0, 2 ** 42]) };
    expect(await open('s.safetensors', file(beyond, 16))).toContain('it is truncated');
    const overlap = { a: entry('F32', [2], [0, 8]), b: entry('F32', [2], [4, 12]) };
    expect(await open('s.safetensors', file(overlap, 12))).toContain('tensor "b" overlaps the tensor before it');
    const gap = { a: entry('F32', [1], [0, 4]), b: entry('F32', [1], [8, 12]) };
    expect(await open('s.safetensors', file(gap, 12))).toContain('tensor "b" leaves a gap before it');
    expect(await open('s.safetensors', file({ a: entry('F32', [1], [0, 4]) }, 9))).toContain(
      '5 bytes after its last tensor belong to none',
    );
  });

  it('notices a file cut after it was opened', async () => {
    const path = join(scratch, 'later.safetensors');
    await writeFile(path, file({ w: entry('F32', [4], [0, 16]) }, 16));
    const opened = await openSafetensors(path);
    await writeFile(path, file({ w: entry('F32', [4], [0, 16]) }, 5));
    expect((await rejection(opened.read('w'))).message).toContain('it ends at byte');
    expect((await rejection(opened.read('v'))).message).toBe(`${path}: no tensor named "v" among its 1`);
  });
});
