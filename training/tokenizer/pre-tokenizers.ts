/**
 * Two pre-tokenizers of @huggingface/tokenizers 0.2.0 differ from the Rust original, and are rewritten as the equivalent
 * `Split`, whose regular expressions the library translates with care: `Digits` knows only 0-9 there (Rust:
 * char::is_numeric, so "½" and "٣" too), and `ByteLevel` takes JavaScript's white space (with U+FEFF, without U+0085).
 * Source: huggingface/tokenizers, tokenizers/src/pre_tokenizers/{digits,byte_level}.rs.
 */

type Json = Record<string, unknown>;

/** The GPT-2 pattern as byte_level.rs has it. */
const GPT2_PATTERN = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** The definition with its pre-tokenizers rewritten; the given one is left as it is. */
export function rewritePreTokenizers(definition: Json): Json {
  return { ...definition, pre_tokenizer: rewrite(definition['pre_tokenizer']) };
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
