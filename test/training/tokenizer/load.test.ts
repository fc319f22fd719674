import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ModelInvalid, TokenizerMismatch } from '../../../shared/errors.ts';
import { checkTokenizerFits, loadTokenizer } from '../../../training/tokenizer/load.ts';
import type { Tokenizer } from '../../../training/tokenizer/tokenizer.ts';
import { FIXTURES, itMatchesReference } from './reference-tokens.ts';

const SMALL = fileURLToPath(new URL('tokenizer/small', FIXTURES));

describe('a tokenizer with SmolLM2 pipeline', () => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(SMALL);
  });

  itMatchesReference('small', () => tokenizer);

  it('knows its size, special tokens and names', () => {
    expect(tokenizer.vocabSize).toBe(600);
    expect(tokenizer.specialIds.size).toBe(17);
    expect(tokenizer.tokenOf(2)).toBe('<|im_end|>');
    expect(tokenizer.tokenOf(600)).toBeUndefined();
    expect(tokenizer.decode([])).toBe('');
  });

  it('splits digits of all scripts one by one, as char::is_numeric does', () => {
    const ids = tokenizer.encode('٣٤½Ⅷ12');
    expect(ids).toHaveLength(2 + 2 + 2 + 3 + 1 + 1); // UTF-8 bytes: none of these has a merge of its own
    expect(tokenizer.encode('12')).toHaveLength(2);
  });
});

describe('a model folder', () => {
  let folder: string;
  const config = async () => JSON.parse(await readFile(join(SMALL, 'tokenizer_config.json'), 'utf8')) as object;
  const write = (name: string, content: unknown) =>
    writeFile(join(folder, name), typeof content === 'string' ? content : JSON.stringify(content));
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tokenizer-'));
  });
  afterAll(() => rm(folder, { recursive: true }));
  const fresh = async () => {
    await rm(folder, { recursive: true });
    await cp(SMALL, folder, { recursive: true });
  };

  it('without tokenizer.json is ModelInvalid with the path', async () => {
    const error = await loadTokenizer(join(folder, 'nowhere')).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ModelInvalid);
    expect(String(error)).toContain(`${join(folder, 'nowhere', 'tokenizer.json')}: not found`);
  });

  it.each([
    ['{"model": {"type": "BPE"', 'is not valid JSON'],
    ['[1, 2]', 'is not a JSON object'],
    ['{"version": "1.0"}', 'is no usable tokenizer (it has no "model")'],
    ['{"model": {"type": "BPE", "vocab": 5}}', 'is no usable tokenizer'],
  ])('with tokenizer.json %s is ModelInvalid', async (content, message) => {
    await fresh();
    await write('tokenizer.json', content);
    const error = await loadTokenizer(folder).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ModelInvalid);
    expect(String(error)).toContain(message);
  });

  it('whose tokenizer.json is a folder is ModelInvalid', async () => {
    await fresh();
    await rm(join(folder, 'tokenizer.json'));
    await cp(SMALL, join(folder, 'tokenizer.json'), { recursive: true });
    await expect(loadTokenizer(folder)).rejects.toThrow(/tokenizer\.json: cannot be read \(EISDIR/);
  });

  it('that names a special token outside the vocabulary is TokenizerMismatch', async () => {
    await fresh();
    await write('tokenizer_config.json', { ...(await config()), eos_token: '</s>' });
    const error = await loadTokenizer(folder).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(TokenizerMismatch);
    expect(String(error)).toContain('has no token "</s>", which tokenizer_config.json names as special');
  });

  it('may name special tokens as objects, in special_tokens_map.json, or give EOS by id only', async () => {
    await fresh();
    await write('tokenizer_config.json', { bos_token: null });
    await write('special_tokens_map.json', { bos_token: { content: '<|endoftext|>' }, pad_token: '<file_sep>' });
    await write('generation_config.json', { eos_token_id: [2, 0] });
    const { bosId, eosId, padId, chatTemplate } = await loadTokenizer(folder);
    expect({ bosId, eosId, padId, chatTemplate }).toEqual({ bosId: 0, eosId: 2, padId: 5, chatTemplate: null });
  });

  it('takes the template from chat_template.jinja, chat_template.json, then the config', async () => {
    await fresh();
    const messages = [{ role: 'user', content: 'x' }];
    const render = async () => (await loadTokenizer(folder)).renderChat(messages, { addGenerationPrompt: false });
    const list = [
      { name: 'tool_use', template: 'no' },
      { name: 'default', template: 'list {{ bos_token }}' },
    ];
    await write('tokenizer_config.json', { ...(await config()), chat_template: list });
    expect(await render()).toBe('list <|im_start|>');
    await write('chat_template.json', { chat_template: 'json' });
    expect(await render()).toBe('json');
    await write('chat_template.jinja', 'jinja {{ messages[0].content }}\n');
    expect(await render()).toBe('jinja x');
  });

  it('without a template refuses to render', async () => {
    await fresh();
    await write('tokenizer_config.json', {});
    const tokenizer = await loadTokenizer(folder);
    expect(() => tokenizer.renderChat([], { addGenerationPrompt: true })).toThrow(/the tokenizer has no chat template/);
  });

  it('fits a model whose embedding has a row for every id', async () => {
    const tokenizer = await loadTokenizer(SMALL);
    checkTokenizerFits(tokenizer, 600);
    checkTokenizerFits(tokenizer, 640);
    expect(() => checkTokenizerFits(tokenizer, 599)).toThrow(TokenizerMismatch);
    expect(() => checkTokenizerFits(tokenizer, 599)).toThrow(/tokenizer ids go to 599 .*embedding has 599 rows/);
    expect(() => checkTokenizerFits(tokenizer, 49_152)).toThrow(/has 600 tokens, the model's embedding 49152 rows/);
  });
});
