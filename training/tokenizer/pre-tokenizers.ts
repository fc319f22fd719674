/**
 * Where @huggingface/tokenizers 0.2.0 differs from the Rust original, the definition is rewritten into what gives the
 * original's ids. `Digits` knows only 0-9 there (Rust: char::is_numeric, so "½" and "٣" too) and `ByteLevel` takes
 * JavaScript's white space (with U+FEFF, without U+0085): both become the equivalent `Split`, whose regular expressions
 * the library translates with care. And bytes that the vocabulary lacks are dropped after merging instead of before
 * (SmolLM2 lacks 21): a `Replace` takes them out first.
 * Source: huggingface/tokenizers, tokenizers/src/pre_tokenizers/{digits,byte_level}.rs and models/bpe/model.rs.
 */

type Json = Record<string, unknown>;

/** The GPT-2 pattern as byte_level.rs has it. */
const GPT2_PATTERN = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** The definition with its pre-tokenizers rewritten; the given one is left as it is. */
export function rewritePreTokenizers(definition: Json): Json {
  const rewritten = rewrite(definition['pre_tokenizer']);
  const missing = isByteLevel(definition['pre_tokenizer']) ? missingBytes(definition['model']) : [];
  if (missing.length === 0) return { ...definition, pre_tokenizer: rewritten };
  const classOfMissing = missing.map((character) => `\\u{${character.codePointAt(0)?.toString(16)}}`).join('');
  const dropMissing = { type: 'Replace', pattern: { Regex: `[${classOfMissing}]` }, content: '' };
  return { ...definition, pre_tokenizer: { type: 'Sequence', pretokenizers: [rewritten, dropMissing] } };
}

/** Byte characters that are in no vocabulary entry by themselves, where the model has nothing to put in their place. */
function missingBytes(model: unknown): string[] {
  const { type, vocab, unk_token: unknown, byte_fallback: fallback } = (model ?? {}) as Json;
  if (type !== 'BPE' || (unknown ?? null) !== null || fallback === true) return [];
  return byteCharacters().filter((character) => !Object.hasOwn((vocab ?? {}) as Json, character));
}

/** The 256 characters that stand for bytes: printable latin1 for itself, the rest from U+0100 on (GPT-2's table). */
function byteCharacters(): string[] {
  const isPrintable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
}

function isByteLevel(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const step = value as Json;
  if (step['type'] === 'Sequence' && Array.isArray(step['pretokenizers']))
    return step['pretokenizers'].some(isByteLevel);
  return step['type'] === 'ByteLevel';
}

function rewrite(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  const step = value as Json;
  if (step['type'] === 'Sequence' && Array.isArray(step['pretokenizers'])) {
    return { ...step, pretokenizers: step['pretokenizers'].map(rewrite) };
  }
  if (step['type'] === 'Digits') return isolate(step['individual_digits'] === true ? '\\p{N}' : '\\p{N}+');
  const isPlainByteLevel =
    step['type'] === 'ByteLevel' && step['use_regex'] !== false && step['add_prefix_space'] !== true;
  if (!isPlainByteLevel) return step;
  return { type: 'Sequence', pretokenizers: [isolate(GPT2_PATTERN), { ...step, use_regex: false }] };
}

function isolate(pattern: string): Json {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
}
