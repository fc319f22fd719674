/**
 * Splits and tokens as Parquet files: columns that any Parquet reader understands, and back again without loss.
 * Splits: `row`, `prompt`, `chosen`, `rejected` as text, and `form`: `text`, or `messages` where the three are JSON lists
 * of role and content. Tokens: `row`, and for each answer the packed ids (int32, little endian) and the prompt's length.
 */
import { DatasetInvalid } from '../../shared/errors.ts';
import type { ArtifactRef } from '../../shared/records.ts';
import type { EncodedPair, EncodedSequence } from './encoded.ts';
import { packIds, readParquetRows, unpackIds, writeParquet } from './parquet.ts';
import type { ParquetFields } from './parquet.ts';
import type { Message, PreferencePair, TextOrMessages } from './preference.ts';

/** Footer key that marks a split file as this project's. */
export const FORM_KEY = 'durable-orpo.pairs';

const PAIR_FIELDS: ParquetFields = { row: 'INT32', prompt: 'UTF8', chosen: 'UTF8', rejected: 'UTF8', form: 'UTF8' };
const TOKEN_FIELDS: ParquetFields = {
  row: 'INT32',
  chosen: 'BYTE_ARRAY',
  chosen_prompt_length: 'INT32',
  rejected: 'BYTE_ARRAY',
  rejected_prompt_length: 'INT32',
};

/** @throws DiskFull */
export async function writePairs(
  path: string,
  pairs: PreferencePair[],
  options: { signal?: AbortSignal | undefined } = {},
): Promise<ArtifactRef> {
  const rows = function* () {
    for (const pair of pairs) {
      const form = typeof pair.prompt === 'string' ? 'text' : 'messages';
      const cell = (value: TextOrMessages) => (typeof value === 'string' ? value : JSON.stringify(value));
      const { row, prompt, chosen, rejected } = pair;
      yield { row, prompt: cell(prompt), chosen: cell(chosen), rejected: cell(rejected), form };
    }
  };
  return writeParquet(path, PAIR_FIELDS, rows(), { ...options, metadata: { [FORM_KEY]: '1' } });
}

/** @throws DatasetInvalid if the file is missing or not one that writePairs wrote */
export async function readPairs(path: string): Promise<PreferencePair[]> {
  const pairs: PreferencePair[] = [];
  for await (const cells of readParquetRows(path, PAIR_FIELDS)) {
    const { row, prompt, chosen, rejected, form } = cells;
    const isPair = [prompt, chosen, rejected, form].every((cell) => typeof cell === 'string');
    if (typeof row !== 'number' || !isPair) throw foreign(path, PAIR_FIELDS);
    const value = (cell: unknown) => (form === 'messages' ? (JSON.parse(String(cell)) as Message[]) : String(cell));
    pairs.push({ row, prompt: value(prompt), chosen: value(chosen), rejected: value(rejected) });
  }
  return pairs;
}

/** Writes pairs as they come, a few megabytes in memory at a time. @throws DiskFull */
export async function writeTokens(
  path: string,
  pairs: Iterable<EncodedPair> | AsyncIterable<EncodedPair>,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<ArtifactRef> {
  const rows = async function* () {
    for await (const { row, chosen, rejected } of pairs) {
      yield {
        row,
        chosen: packIds(chosen.ids),
        chosen_prompt_length: chosen.promptLength,
        rejected: packIds(rejected.ids),
        rejected_prompt_length: rejected.promptLength,
      };
    }
  };
  return writeParquet(path, TOKEN_FIELDS, rows(), options);
}

/** Pairs in the file's order. @throws DatasetInvalid if the file is missing or not one that writeTokens wrote */
export async function readTokens(path: string): Promise<EncodedPair[]> {
  const pairs: EncodedPair[] = [];
  for await (const cells of readParquetRows(path, TOKEN_FIELDS)) {
    const chosen = sequence(cells['chosen'], cells['chosen_prompt_length']);
    const rejected = sequence(cells['rejected'], cells['rejected_prompt_length']);
    if (typeof cells['row'] !== 'number' || chosen === null || rejected === null) throw foreign(path, TOKEN_FIELDS);
    pairs.push({ row: cells['row'], chosen, rejected });
  }
  return pairs;
}

function sequence(packed: unknown, promptLength: unknown): EncodedSequence | null {
  if (!(packed instanceof Uint8Array) || typeof promptLength !== 'number') return null;
  const ids = unpackIds(packed);
  return promptLength < ids.length ? { ids, promptLength } : null;
}

function foreign(path: string, fields: ParquetFields): DatasetInvalid {
  const expected = Object.keys(fields).join(', ');
  return new DatasetInvalid(`${path}: has other columns or values than this step writes (${expected}); run it again`);
}
