/**
 * Digest of a set of tensors: sha256 over names, shapes and float32 values in name order. Two sets have one digest exactly
 * when their names, shapes and bits are equal; how they are stored (dtype, files) does not matter.
 */
import { createHash } from 'node:crypto';

export interface TensorDigest {
  /** Adds a tensor; names must come in rising order of their UTF-8 bytes. @throws RangeError otherwise */
  add(name: string, shape: number[], data: Float32Array): void;
  /** Hexadecimal; ends the digest. */
  hex(): string;
}

/** A digest fed tensor by tensor, for models that do not fit in memory. */
export function createTensorDigest(): TensorDigest {
  const hash = createHash('sha256');
  let last: Buffer | null = null;
  return {
    add: (name, shape, data) => {
      const bytes = Buffer.from(name, 'utf8');
      if (last && Buffer.compare(last, bytes) >= 0) {
        throw new RangeError(
          `tensor digest: "${name}" must come before "${last.toString('utf8')}"; add tensors in name order`,
        );
      }
      last = bytes;
      // A JSON line cannot be mistaken for another split of name and shape; the shape gives the length of what follows.
      hash.update(`${JSON.stringify([name, shape])}\n`, 'utf8');
      hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    },
    hex: () => hash.digest('hex'),
  };
}

/** sha256 (hex) over the tensors' names, shapes and bytes in name order, whatever the record's own order. */
export function digestOf(tensors: Record<string, { shape: number[]; data: Float32Array }>): string {
  const digest = createTensorDigest();
  const named = Object.entries(tensors).sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  for (const [name, { shape, data }] of named) digest.add(name, shape, data);
  return digest.hex();
}
