/**
 * Reads little-endian values from the start of a large file through a small window, with every length checked against the
 * bytes that are left. Synchronous: it is for headers (a few megabytes), where an await for each of 10^5 strings would
 * cost more than the reading. A class because it owns an open file.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { ModelInvalid } from '../../shared/errors.ts';

const WINDOW_BYTES = 1 << 20;

export class ByteCursor {
  readonly path: string;
  readonly fileBytes: number;
  /** Next byte to read, counted from the start of the file. */
  position = 0;
  private readonly descriptor: number;
  private buffer: Buffer = Buffer.alloc(0);
  private bufferStart = 0;

  constructor(path: string, fileBytes: number) {
    this.path = path;
    this.fileBytes = fileBytes;
    this.descriptor = openSync(path, 'r');
  }

  close(): void {
    closeSync(this.descriptor);
  }

  u8(what: string): number {
    return this.take(1, what).readUInt8(0);
  }
  i8(what: string): number {
    return this.take(1, what).readInt8(0);
  }
  u16(what: string): number {
    return this.take(2, what).readUInt16LE(0);
  }
  i16(what: string): number {
    return this.take(2, what).readInt16LE(0);
  }
  u32(what: string): number {
    return this.take(4, what).readUInt32LE(0);
  }
  i32(what: string): number {
    return this.take(4, what).readInt32LE(0);
  }
  f32(what: string): number {
    return this.take(4, what).readFloatLE(0);
  }
  u64(what: string): bigint {
    return this.take(8, what).readBigUInt64LE(0);
  }
  i64(what: string): bigint {
    return this.take(8, what).readBigInt64LE(0);
  }
  f64(what: string): number {
    return this.take(8, what).readDoubleLE(0);
  }

  /** Unsigned 64-bit number that must be an exact JavaScript number. */
  size(what: string): number {
    const value = this.u64(what);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw this.broken(`${what} is ${value}, which is absurd`);
    return Number(value);
  }

  /** A count of items that take at least `itemBytes` each: more than the rest of the file can hold is an error. */
  count(what: string, itemBytes: number): number {
    const value = this.u64(what);
    const left = this.fileBytes - this.position;
    if (value * BigInt(itemBytes) > BigInt(left)) {
      throw this.broken(`${what} is ${value}, more than the ${left} bytes left in the file can hold`);
    }
    return Number(value);
  }

  /** Length-prefixed UTF-8. */
  string(what: string): string {
    const bytes = this.take(this.count(`length of ${what}`, 1), what);
    return bytes.toString('utf8');
  }

  /** Error that says where in the file it was found. */
  broken(what: string): ModelInvalid {
    return new ModelInvalid(
      `${this.path}: ${what} (near byte ${this.position}). The file is damaged or incomplete; fetch it again`,
    );
  }

  /** The next bytes; valid until the next call. */
  private take(length: number, what: string): Buffer {
    if (length > this.fileBytes - this.position) {
      throw this.broken(`the file ends after ${this.fileBytes} bytes, inside ${what}: it is truncated`);
    }
    let from = this.position - this.bufferStart;
    if (from < 0 || from + length > this.buffer.length) {
      this.fill(length, what);
      from = 0;
    }
    this.position += length;
    return this.buffer.subarray(from, from + length);
  }

  private fill(length: number, what: string): void {
    const wanted = Math.min(Math.max(WINDOW_BYTES, length), this.fileBytes - this.position);
    const buffer = Buffer.alloc(wanted);
    let done = 0;
    while (done < wanted) {
      const bytes = readSync(this.descriptor, buffer, done, wanted - done, this.position + done);
      if (bytes === 0) throw this.broken(`the file was cut while ${what} was read`);
      done += bytes;
    }
    this.buffer = buffer;
    this.bufferStart = this.position;
  }
}
