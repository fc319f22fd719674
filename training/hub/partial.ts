/**
 * What a partial download is of, noted beside it, and what an HTTP answer says of its bytes (RFC 9110, sections 8.6, 8.8
 * and 14.4).
 */
import { readFile, writeFile } from 'node:fs/promises';

/** What a partial file is of; resuming needs the same address and an unchanged file. */
export interface PartialNote {
  url: string;
  /** Strong ETag or Last-Modified. */
  validator: string | null;
}

/** Path of the note beside a partial file. */
export function noteOf(partial: string): string {
  return `${partial}.json`;
}

/** Null where there is none that can be read. */
export async function readNote(partial: string): Promise<PartialNote | null> {
  try {
    return JSON.parse(await readFile(noteOf(partial), 'utf8')) as PartialNote;
  } catch {
    return null; // absent or cut short: start anew
  }
}

export async function writeNote(partial: string, note: PartialNote): Promise<void> {
  await writeFile(noteOf(partial), JSON.stringify(note));
}

/** Length of the whole file, null where the answer does not tell. */
export function totalOf(response: Response): number | null {
  if (response.headers.get('content-encoding')) return null; // the length is the encoded one
  const range = /\/(\d+)$/.exec(response.headers.get('content-range') ?? '');
  if (response.status === 206) return range ? Number(range[1]) : null;
  const length = response.headers.get('content-length');
  return length === null ? null : Number(length);
}

/** Offset of a 206 answer's first byte, -1 where it does not tell. */
export function rangeStart(response: Response): number {
  const range = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '');
  return range ? Number(range[1]) : -1;
}

/** For If-Range, which takes a strong ETag or a date (RFC 9110, 13.1.5). */
export function validatorOf(response: Response): string | null {
  const etag = response.headers.get('etag');
  return etag && !etag.startsWith('W/') ? etag : response.headers.get('last-modified');
}
