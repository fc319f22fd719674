/**
 * tokenizer.json and tokenizer_config.json from a GGUF file's `tokenizer.ggml.*` metadata. GGUF names its pre-tokenizer
 * (`tokenizer.ggml.pre`) instead of spelling it out; the table below spells out the ones we know, after llama.cpp's
 * src/llama-vocab.cpp (the regular expressions and defaults of each name), in the form of the models' own tokenizer.json.
 * A name that is not in the table is an error: a wrong cut gives other token ids in silence.
 */
import { ModelInvalid } from '../../shared/errors.ts';
import type { GgufFile, GgufValue } from './gguf.ts';

type Json = Record<string, unknown>;

const GPT2_CUT = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)";
const LLAMA3_CUT =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

interface Pipeline {
  normalizer: Json | null;
  preTokenizer: Json;
  /** A piece that is a token as a whole is not merged from its bytes. */
  ignoreMerges: boolean;
  /** What `tokenizer.ggml.add_bos_token` is when the file does not say. */
  addBos: boolean;
}

const byteLevel = (useRegex: boolean): Json => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
});
const split = (regex: string): Json => ({
  type: 'Split',
  pattern: { Regex: regex },
  behavior: 'Isolated',
  invert: false,
});
const sequence = (...pretokenizers: Json[]): Json => ({ type: 'Sequence', pretokenizers });
const plain = { normalizer: null, ignoreMerges: false, addBos: false };

const PIPELINES: Record<string, Pipeline> = {
  smollm: { ...plain, preTokenizer: sequence({ type: 'Digits', individual_digits: true }, byteLevel(true)) },
  'gpt-2': { ...plain, preTokenizer: byteLevel(true) },
  default: {
    ...plain,
    preTokenizer: sequence(
      split('[\\p{P}\\$\\+<=>\\^~\\|]+'),
      split(GPT2_CUT),
      split('\\p{N}+'),
      split('[0-9][0-9][0-9]'),
      byteLevel(false),
    ),
  },
  'llama-bpe': {
    ...plain,
    preTokenizer: sequence(split(LLAMA3_CUT), byteLevel(false)),
    ignoreMerges: true,
    addBos: true,
  },
  qwen2: {
    ...plain,
    normalizer: { type: 'NFC' },
    preTokenizer: sequence(split(LLAMA3_CUT.replace('{1,3}', '')), byteLevel(false)),
  },
};

/** Values of `tokenizer.ggml.token_type` (llama.h, enum llama_token_type). */
const TYPE = { unknown: 2, control: 3, userDefined: 4 };

export interface GgufTokenizer {
  tokenizerJson: Json;
  tokenizerConfig: Json;
  bosId: number | null;
  eosId: number | null;
  padId: number | null;
  size: number;
}

/** Builds both files' contents. @throws ModelInvalid for a tokenizer that is missing, inconsistent or of another kind */
export function tokenizerFromGguf(gguf: GgufFile): GgufTokenizer {
  const { path, metadata } = gguf;
  const pipeline = pipelineOf(gguf);
  const tokens = strings(gguf, 'tokenizer.ggml.tokens');
  const ids = new Map(tokens.map((token, id) => [token, id]));
  if (ids.size !== tokens.length) {
    throw new ModelInvalid(`${path}: tokenizer.ggml.tokens holds ${tokens.length - ids.size} tokens twice`);
  }
  const idOf = (key: string) => tokenId(gguf, `tokenizer.ggml.${key}_token_id`, tokens.length);
  const special = { bos: idOf('bos'), eos: idOf('eos'), pad: idOf('padding'), unk: idOf('unknown') };
  const named = (id: number | null): NamedToken | null => (id === null ? null : { text: tokens[id] ?? '', id });
  const addBos = metadata.get('tokenizer.ggml.add_bos_token') ?? pipeline.addBos;
  const addEos = metadata.get('tokenizer.ggml.add_eos_token') ?? false;
  const tokenizerJson = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedTokens(gguf, tokens),
    normalizer: pipeline.normalizer,
    pre_tokenizer: pipeline.preTokenizer,
    post_processor: template(addBos === true ? named(special.bos) : null, addEos === true ? named(special.eos) : null),
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: bytePairModel(ids, merges(gguf, ids), pipeline.ignoreMerges),
  };
  const specialTokens = Object.entries(special).flatMap(([key, id]): [string, string][] => {
    return id === null ? [] : [[`${key}_token`, tokens[id] ?? '']];
  });
  return {
    tokenizerJson,
    tokenizerConfig: configOf(gguf, Object.fromEntries(specialTokens)),
    bosId: special.bos,
    eosId: special.eos,
    padId: special.pad,
    size: tokens.length,
  };
}

function bytePairModel(ids: Map<string, number>, pairs: [string, string][], ignoreMerges: boolean): Json {
  return {
    type: 'BPE',
    dropout: null,
    // As in llama.cpp, bytes that have no token are left out; they do not become the unknown token.
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    ignore_merges: ignoreMerges,
    vocab: Object.fromEntries(ids),
    merges: pairs,
  };
}

function pipelineOf({ path, metadata }: GgufFile): Pipeline {
  const model = metadata.get('tokenizer.ggml.model');
  if (model !== 'gpt2') {
    throw new ModelInvalid(
      `${path}: tokenizer.ggml.model is ${show(model)}; only "gpt2" (byte-level BPE) is supported. Use the model's Hugging Face folder, which has its own tokenizer.json`,
    );
  }
  const pre = metadata.get('tokenizer.ggml.pre');
  const pipeline = typeof pre === 'string' && Object.hasOwn(PIPELINES, pre) ? PIPELINES[pre] : undefined;
  if (!pipeline) {
    throw new ModelInvalid(
      `${path}: tokenizer.ggml.pre is ${show(pre)}; supported are ${Object.keys(PIPELINES).join(', ')}. Use the model's Hugging Face folder, or a GGUF converted by a current llama.cpp`,
    );
  }
  return pipeline;
}

function addedTokens(gguf: GgufFile, tokens: string[]): Json[] {
  const types = gguf.metadata.get('tokenizer.ggml.token_type');
  if (!Array.isArray(types) || types.length !== tokens.length) {
    const got = Array.isArray(types) ? `${types.length} entries` : show(types);
    throw new ModelInvalid(
      `${gguf.path}: tokenizer.ggml.token_type has ${got}; expected one for each of ${tokens.length} tokens`,
    );
  }
  const added: Json[] = [];
  for (const [id, content] of tokens.entries()) {
    const special = types[id] === TYPE.control || types[id] === TYPE.unknown;
    if (!special && types[id] !== TYPE.userDefined) continue;
    added.push({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special });
  }
  return added;
}

/** `"a b"` lines as pairs; each part and its sum must be a token. */
function merges(gguf: GgufFile, ids: Map<string, number>): [string, string][] {
  return strings(gguf, 'tokenizer.ggml.merges').map((line, rank) => {
    const at = line.indexOf(' ', 1);
    const [left, right] = [line.slice(0, at), line.slice(at + 1)];
    if (at < 1 || !ids.has(left) || !ids.has(right) || !ids.has(left + right)) {
      throw new ModelInvalid(
        `${gguf.path}: tokenizer.ggml.merges[${rank}] is ${show(line)}; expected two tokens of the vocabulary whose sum is a token`,
      );
    }
    return [left, right];
  });
}

interface NamedToken {
  text: string;
  id: number;
}

/** Post-processor that adds BOS before and EOS after; null where the tokenizer adds neither. */
function template(bos: NamedToken | null, eos: NamedToken | null): Json | null {
  if (!bos && !eos) return null;
  const mark = (token: NamedToken | null, type: number) =>
    token ? [{ SpecialToken: { id: token.text, type_id: type } }] : [];
  const sequenceOf = (id: string, type: number) => [
    ...mark(bos, type),
    { Sequence: { id, type_id: type } },
    ...mark(eos, type),
  ];
  const tokens = [bos, eos].filter((token) => token !== null);
  return {
    type: 'TemplateProcessing',
    single: sequenceOf('A', 0),
    pair: [...sequenceOf('A', 0), ...sequenceOf('B', 1)],
    special_tokens: Object.fromEntries(tokens.map(({ text, id }) => [text, { id: text, ids: [id], tokens: [text] }])),
  };
}

function configOf(gguf: GgufFile, special: Record<string, string>): Json {
  const context = gguf.metadata.get('llama.context_length');
  const chatTemplate = gguf.metadata.get('tokenizer.chat_template');
  return {
    // Not GPT2Tokenizer: transformers would rebuild that class's own pre-tokenizer and ignore tokenizer.json's.
    tokenizer_class: 'PreTrainedTokenizerFast',
    clean_up_tokenization_spaces: false,
    ...(typeof context === 'number' ? { model_max_length: context } : {}),
    ...special,
    ...(typeof chatTemplate === 'string' ? { chat_template: chatTemplate } : {}),
  };
}

function strings({ path, metadata }: GgufFile, key: string): string[] {
  const value = metadata.get(key);
  if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) {
    throw new ModelInvalid(
      `${path}: ${key} is ${value === undefined ? 'missing' : 'no list of strings'}; the tokenizer needs it`,
    );
  }
  return value;
}

function tokenId({ path, metadata }: GgufFile, key: string, size: number): number | null {
  const value = metadata.get(key);
  if (value === undefined) return null;
  if (typeof value !== 'number' || value < 0 || value >= size) {
    throw new ModelInvalid(`${path}: ${key} is ${show(value)}; expected an id below ${size}`);
  }
  return value;
}

function show(value: GgufValue | undefined): string {
  return value === undefined ? 'missing' : typeof value === 'string' ? JSON.stringify(value) : String(value);
}
