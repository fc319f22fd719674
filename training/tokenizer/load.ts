/**
 * A tokenizer from a Hugging Face folder: tokenizer.json by @huggingface/tokenizers, which gives the ids that Python's
 * `tokenizers` gives once two of its pre-tokenizers are rewritten (pre-tokenizers.ts), and the small files around it,
 * which name the special tokens and hold the chat template.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Tokenizer as JsTokenizer } from '@huggingface/tokenizers';
import { ModelInvalid, TokenizerMismatch } from '../../shared/errors.ts';
import { compileChatTemplate } from './chat-template.ts';
import { rewritePreTokenizers } from './pre-tokenizers.ts';
import type { Tokenizer } from './tokenizer.ts';

type Json = Record<string, unknown>;

interface AddedToken {
  id: number;
  content: string;
  special: boolean;
}

/** Loads the tokenizer of a model folder. @throws ModelInvalid if tokenizer.json is missing or a file is broken;
 *  TokenizerMismatch if a named special token is not in the vocabulary or the chat template is not valid */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const path = join(folder, 'tokenizer.json');
  const definition = await readJson(path);
  if (definition === null) {
    throw new ModelInvalid(`${path}: not found; a model folder needs tokenizer.json (save_pretrained writes it)`);
  }
  const config = (await readJson(join(folder, 'tokenizer_config.json'))) ?? {};
  const special = { ...(await readJson(join(folder, 'special_tokens_map.json'))), ...withoutNulls(config) };
  const engine = createEngine(path, definition, config);
  const added = addedTokens(definition);
  const idOf = (token: string | null) => (token === null ? null : specialId(path, engine, token));
  const generation = (await readJson(join(folder, 'generation_config.json'))) ?? {};
  const modelConfig = (await readJson(join(folder, 'config.json'))) ?? {};
  const eosId = idOf(tokenName(special['eos_token'])) ?? firstId(generation) ?? firstId(modelConfig);
  const chatTemplate = await readChatTemplate(folder, config);
  const render = chatTemplate === null ? null : compileChatTemplate(chatTemplate, tokenNames(special));
  const cleanUp = config['clean_up_tokenization_spaces'] === true;
  return {
    vocabSize: highestId(engine) + 1,
    encode: (text) => engine.encode(text, { add_special_tokens: false }).ids,
    encodeWithSpecials: (text) => engine.encode(text).ids,
    decode: (ids, options = {}) =>
      ids.length === 0
        ? ''
        : engine.decode(ids, {
            skip_special_tokens: options.skipSpecialTokens ?? false,
            clean_up_tokenization_spaces: cleanUp,
          }),
    tokenOf: (id) => engine.id_to_token(id),
    bosId: idOf(tokenName(special['bos_token'])),
    eosId,
    padId: idOf(tokenName(special['pad_token'])) ?? eosId,
    specialIds: new Set(added.filter((token) => token.special).map(({ id }) => id)),
    chatTemplate,
    renderChat: (messages, options) => {
      if (render === null) throw new TokenizerMismatch(`${folder}: the tokenizer has no chat template`);
      return render(messages, options);
    },
  };
}

/** Whether ids and embedding rows belong together. @param vocabSize - rows of the model's embedding
 *  @throws TokenizerMismatch if an id has no row, or if half of the rows have no id */
export function checkTokenizerFits(tokenizer: Tokenizer, vocabSize: number): void {
  const advice = 'the tokenizer belongs to another model; take tokenizer.json from the folder of this one';
  if (tokenizer.vocabSize > vocabSize) {
    const token = JSON.stringify(tokenizer.tokenOf(tokenizer.vocabSize - 1) ?? '');
    throw new TokenizerMismatch(
      `tokenizer ids go to ${tokenizer.vocabSize - 1} (${token}), the model's embedding has ${vocabSize} rows: ${advice}`,
    );
  }
  // Embeddings are padded to round sizes by a few per cent, never to twice the vocabulary.
  if (tokenizer.vocabSize * 2 < vocabSize) {
    throw new TokenizerMismatch(
      `the tokenizer has ${tokenizer.vocabSize} tokens, the model's embedding ${vocabSize} rows: ${advice}`,
    );
  }
}

function createEngine(path: string, definition: Json, config: Json): JsTokenizer {
  const broken = (why: string, cause?: unknown) =>
    new ModelInvalid(`${path}: is no usable tokenizer (${why}); copy or convert the model again`, { cause });
  if (typeof definition['model'] !== 'object' || definition['model'] === null) throw broken('it has no "model"');
  try {
    // The library wants these keys to exist; only some writers give them.
    const defaults = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] };
    return new JsTokenizer(rewritePreTokenizers({ ...defaults, ...definition }), libraryConfig(config));
  } catch (error) {
    throw broken(error instanceof Error ? error.message : String(error), error);
  }
}

/** Only what the library must know: cleaning up is asked for with each decode. */
function libraryConfig(config: Json): Json {
  const { remove_space, do_lowercase_and_remove_accent } = config;
  return { remove_space, do_lowercase_and_remove_accent };
}

function addedTokens(definition: Json): AddedToken[] {
  return Array.isArray(definition['added_tokens']) ? (definition['added_tokens'] as AddedToken[]) : [];
}

function highestId(engine: JsTokenizer): number {
  let highest = -1;
  for (const id of engine.get_vocab().values()) highest = Math.max(highest, id);
  return highest;
}

function specialId(path: string, engine: JsTokenizer, token: string): number {
  const id = engine.token_to_id(token);
  if (id === undefined) {
    throw new TokenizerMismatch(
      `${path}: has no token ${JSON.stringify(token)}, which tokenizer_config.json names as special`,
    );
  }
  return id;
}

/** `"</s>"` or `{"content": "</s>", …}`. */
function tokenName(value: unknown): string | null {
  if (typeof value === 'string') return value;
  if (typeof value !== 'object' || value === null || !('content' in value)) return null;
  return typeof value.content === 'string' ? value.content : null;
}

/** All `*_token` entries, for the chat template. */
function tokenNames(special: Json): Record<string, string> {
  const names = Object.entries(special).flatMap(([key, value]): [string, string][] => {
    const name = key.endsWith('_token') ? tokenName(value) : null;
    return name === null ? [] : [[key, name]];
  });
  return Object.fromEntries(names);
}

function firstId(config: Json): number | null {
  const value = config['eos_token_id'];
  const first: unknown = Array.isArray(value) ? value[0] : value;
  return typeof first === 'number' ? first : null;
}

function withoutNulls(config: Json): Json {
  return Object.fromEntries(Object.entries(config).filter(([, value]) => value !== null));
}

/** The template from where transformers looks, in its order: chat_template.jinja, chat_template.json, the config's
 *  `chat_template` (text, or a list of which `default` is taken). */
async function readChatTemplate(folder: string, config: Json): Promise<string | null> {
  const jinja = await readText(join(folder, 'chat_template.jinja'));
  if (jinja !== null) return jinja;
  const inJson = (await readJson(join(folder, 'chat_template.json')))?.['chat_template'];
  const value = inJson ?? config['chat_template'];
  if (typeof value === 'string') return value;
  const list = Array.isArray(value) ? (value as Json[]) : [];
  const found = list.find((entry) => entry['name'] === 'default')?.['template'];
  return typeof found === 'string' ? found : null;
}

async function readJson(path: string): Promise<Json | null> {
  const text = await readText(path);
  if (text === null) return null;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json;
  } catch (error) {
    const why = error instanceof Error ? error.message.slice(0, 120) : '';
    throw new ModelInvalid(`${path}: is not valid JSON (${why}); is it truncated? Copy or download it again`, {
      cause: error,
    });
  }
  throw new ModelInvalid(`${path}: is not a JSON object; copy or download it again`);
}

async function readText(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    const why = error instanceof Error ? error.message : String(error);
    throw new ModelInvalid(`${path}: cannot be read (${why})`, { cause: error });
  }
}
