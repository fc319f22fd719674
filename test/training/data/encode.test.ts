import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { DatasetInvalid, ModelInvalid, TokenizerMismatch } from '../../../shared/errors.ts';
import { encodePair, resolvePromptFormat } from '../../../training/data/encode.ts';
import type { EncodeOptions } from '../../../training/data/encode.ts';
import type { EncodedPair } from '../../../training/data/encoded.ts';
import { endTokenOf } from '../../../training/data/format.ts';
import type { PreferencePair } from '../../../training/data/preference.ts';
import { compileChatTemplate } from '../../../training/tokenizer/chat-template.ts';
import { loadTokenizer } from '../../../training/tokenizer/load.ts';
import type { Tokenizer } from '../../../training/tokenizer/tokenizer.ts';
import { oddPairs } from '../tokenizer/reference-tokens.ts';

const PLAIN: EncodeOptions = {
  promptFormat: 'plain',
  compat: 'none',
  maxPromptLength: 1e6,
  maxCompletionLength: 1e6,
  overlength: 'drop',
};
const CHAT: EncodeOptions = { ...PLAIN, promptFormat: 'chat' };
const END = 2; // <|im_end|>
const PAIR: PreferencePair = {
  row: 7,
  prompt: 'Why is the sky blue?',
  chosen: 'Air scatters blue light.',
  rejected: 'No.',
};

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer(fileURLToPath(new URL('../../fixtures/tokenizer/small', import.meta.url)));
});

/** The same tokenizer with another template; ids of special tokens stay. */
const withTemplate = (source: string | null): Tokenizer => ({
  ...tokenizer,
  chatTemplate: source,
  renderChat: source === null ? tokenizer.renderChat : compileChatTemplate(source, {}, { timeLimitMs: 100 }),
});

function encoded(pair: PreferencePair, options: EncodeOptions, by: Tokenizer = tokenizer): EncodedPair {
  const result = encodePair(pair, by, options);
  if ('dropped' in result) throw new Error(result.dropped);
  return result.encoded;
}

function dropped(pair: PreferencePair, options: EncodeOptions, by: Tokenizer = tokenizer): string {
  const result = encodePair(pair, by, options);
  if ('encoded' in result) throw new Error('expected the row to be dropped');
  return result.dropped;
}

describe('a pair under compat none', () => {
  it('is prompt, answer and one end token, nothing else, under plain', () => {
    const { row, chosen, rejected } = encoded(PAIR, PLAIN);
    const prompt = tokenizer.encode('Why is the sky blue?');
    expect(row).toBe(7);
    expect(chosen).toEqual({
      ids: [...prompt, ...tokenizer.encode('Air scatters blue light.'), END],
      promptLength: prompt.length,
    });
    expect(rejected).toEqual({ ids: [...prompt, ...tokenizer.encode('No.'), END], promptLength: prompt.length });
  });

  it('is the template rendered once with the generation prompt, the answer and one end token under chat', () => {
    const { chosen } = encoded(PAIR, CHAT);
    expect(tokenizer.decode(chosen.ids.slice(0, chosen.promptLength))).toBe(
      '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' +
        '<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n',
    );
    expect(tokenizer.decode(chosen.ids.slice(chosen.promptLength))).toBe('Air scatters blue light.<|im_end|>');
  });

  it.each([
    ['plain', PLAIN],
    ['chat', CHAT],
  ] as const)('holds its laws on every odd pair (%s)', (format, options) => {
    const { texts, conversations } = oddPairs();
    const rows = format === 'plain' ? texts : [...texts, ...conversations];
    let kept = 0;
    rows.forEach((row, index) => {
      const result = encodePair({ row: index + 1, ...row }, tokenizer, options);
      if ('dropped' in result) return;
      kept++;
      const { chosen, rejected } = result.encoded;
      expect(chosen.ids.slice(0, chosen.promptLength)).toEqual(rejected.ids.slice(0, rejected.promptLength));
      for (const [sequence, text] of [
        [chosen, row.chosen],
        [rejected, row.rejected],
      ] as const) {
        const content = typeof text === 'string' ? text : (text[0]?.content ?? '');
        const answer = sequence.ids.slice(sequence.promptLength);
        const alone = tokenizer.encode(content);
        expect(answer).toEqual(alone.at(-1) === END ? alone : [...alone, END]);
        expect(answer.length).toBeGreaterThan(1);
      }
    });
    // Not kept: an answer of bytes that the vocabulary lacks; under chat also two prompts that end with the assistant's
    // message, and an answer of three messages.
    expect(rows.length - kept).toBe(format === 'plain' ? 1 : 4);
  });

  it('does not double an end token that the answer has already', () => {
    const { chosen } = encoded({ ...PAIR, chosen: 'Done.<|im_end|>' }, CHAT);
    expect(chosen.ids.slice(-2)).toEqual([tokenizer.encode('Done.').at(-1), END]);
  });

  it('puts what the post-processor adds before a plain prompt, and nowhere else', () => {
    const llama: Tokenizer = { ...tokenizer, bosId: 0, encodeWithSpecials: (text) => [0, ...tokenizer.encode(text)] };
    const { chosen } = encoded(PAIR, PLAIN, llama);
    expect(chosen.ids.filter((id) => id === 0)).toHaveLength(1);
    expect(chosen.ids[0]).toBe(0);
    expect(encoded(PAIR, CHAT, llama).chosen.ids).not.toContain(0);
  });

  it('ends with the special token that the template writes after an assistant message, else with EOS', () => {
    expect(endTokenOf(tokenizer, 'chat')).toBe(END);
    const turn = withTemplate('{% for m in messages %}{{ m.content }}\n<file_sep>{% endfor %}');
    expect(endTokenOf(turn, 'chat')).toBe(5);
    expect(endTokenOf(turn, 'plain')).toBe(END);
    expect(endTokenOf(withTemplate('{% for m in messages %}{{ m.content }}\n{% endfor %}'), 'chat')).toBe(END);
    expect(endTokenOf(withTemplate('no content at all'), 'chat')).toBe(END);
    const endless: Tokenizer = { ...tokenizer, eosId: null };
    expect(() => endTokenOf(endless, 'plain')).toThrow(TokenizerMismatch);
    expect(() => endTokenOf(endless, 'plain')).toThrow(/names no end token: tokenizer_config.json needs "eos_token"/);
    expect(endTokenOf(endless, 'chat')).toBe(END);
  });

  it.each([
    [
      { ...PAIR, prompt: [{ role: 'user', content: 'x' }] },
      PLAIN,
      'has role/content messages, which need a chat template',
    ],
    [
      {
        ...PAIR,
        chosen: [
          { role: 'assistant', content: 'a' },
          { role: 'user', content: 'b' },
        ],
      },
      CHAT,
      'has an answer of several messages; compat "none" trains on a single assistant message',
    ],
    [{ ...PAIR, prompt: [{ role: 'assistant', content: 'x' }] }, CHAT, 'the prompt ends with an assistant message'],
    [{ ...PAIR, chosen: 'x'.repeat(2 ** 20 + 1) }, CHAT, 'has a text of 1048577 characters'],
    [{ ...PAIR, prompt: '\u0004' }, PLAIN, 'the prompt has no tokens'], // a byte that the vocabulary lacks
    [{ ...PAIR, rejected: '\u0004' }, PLAIN, 'an answer has no tokens'],
  ] as const)('is dropped with its reason where it cannot be trained on (%#)', (pair, options, reason) => {
    expect(dropped(pair as PreferencePair, options)).toContain(reason);
  });

  it('is dropped where the template refuses it, but a template that never ends is an error', () => {
    const strict = withTemplate('{{ raise_exception("no system role") }}');
    expect(dropped(PAIR, CHAT, strict)).toContain('the chat template refuses a conversation of user: no system role');
    expect(dropped(PAIR, { ...CHAT, compat: 'trl' }, strict)).toContain('no system role');
    const source = '{% for a in range(90000) %}{% for b in range(90000) %}{{ a }}{% endfor %}{% endfor %}';
    expect(() => encodePair(PAIR, withTemplate(source), CHAT)).toThrow(ModelInvalid);
  });
});

describe('a pair under compat trl', () => {
  // That its ids equal TRL's on all odd pairs is proven in test/training/tokenizer/load.test.ts.
  it('shows the quirks of SmolLM2-Instruct: BOS before plain text, a second end token after chat', () => {
    const plain = encoded(PAIR, { ...PLAIN, compat: 'trl' });
    expect(plain.chosen.ids[0]).toBe(1);
    const chat = encoded(PAIR, { ...CHAT, compat: 'trl' });
    expect(chat.chosen.ids.slice(-3)).toEqual([END, ...tokenizer.encode('\n'), END]);
  });

  it('is dropped where the template hides the message that is to be continued', () => {
    const pair = { ...PAIR, prompt: [{ role: 'assistant', content: 'x' }] };
    const hiding = withTemplate('{% for m in messages %}{{ m.role }}{% endfor %}');
    expect(dropped(pair, { ...CHAT, compat: 'trl' }, hiding)).toBe(
      'the chat template leaves out part of the final assistant message of the prompt',
    );
  });

  it('cuts a continued message at its end where the template trims it', () => {
    const trims = withTemplate('{% for m in messages %}[{{ m.content | trim }}]{% endfor %}');
    const pair = { ...PAIR, prompt: [{ role: 'assistant', content: 'once ' }] };
    const { chosen } = encoded(pair, { ...CHAT, compat: 'trl' }, trims);
    expect(tokenizer.decode(chosen.ids.slice(1, chosen.promptLength))).toBe('[once');
  });
});

describe('the prompt format', () => {
  it('auto is chat where there is a template', () => {
    expect(resolvePromptFormat('auto', tokenizer)).toBe('chat');
    expect(resolvePromptFormat('auto', withTemplate(null))).toBe('plain');
    expect(resolvePromptFormat('plain', tokenizer)).toBe('plain');
    expect(resolvePromptFormat('chat', tokenizer)).toBe('chat');
    expect(() => resolvePromptFormat('chat', withTemplate(null))).toThrow(TokenizerMismatch);
    expect(() => resolvePromptFormat('chat', withTemplate(null))).toThrow(/has no chat template; use "plain"/);
  });
});

describe('a row past the limits', () => {
  const text = (count: number, word: string) => Array.from({ length: count }, () => word).join('');
  const long: PreferencePair = { row: 3, prompt: text(30, '1'), chosen: text(20, '2'), rejected: text(5, '3') };
  const limits = { ...PLAIN, maxPromptLength: 10, maxCompletionLength: 8 };

  it('is left out by default, with every length named', () => {
    expect(dropped(long, limits)).toBe(
      'the prompt is 30 tokens (data.maxPromptLength 10); chosen is 21 tokens (data.maxCompletionLength 8)',
    );
    expect(dropped({ ...long, prompt: '1' }, { ...limits, maxCompletionLength: 5 })).toContain(
      '; rejected is 6 tokens',
    );
    expect(encodePair(long, tokenizer, limits)).toMatchObject({ isOverlength: true });
  });

  it('exactly at the limits is kept whole', () => {
    const exact = { ...limits, maxPromptLength: 30, maxCompletionLength: 21 };
    expect(encoded(long, exact)).toEqual(encoded(long, PLAIN));
    expect(() => encoded(long, { ...exact, maxPromptLength: 29 })).toThrow('the prompt is 30 tokens');
    expect(() => encoded(long, { ...exact, maxCompletionLength: 20 })).toThrow('chosen is 21 tokens');
  });

  it('is an error where it is to be one', () => {
    const options = { ...limits, overlength: 'error' } as const;
    expect(() => encodePair(long, tokenizer, options)).toThrow(DatasetInvalid);
    expect(() => encodePair(long, tokenizer, options)).toThrow(
      /^row 3: the prompt is 30 tokens .*; raise the limit, or set/,
    );
  });

  it('is cut so: the prompt keeps its end, each answer its start and its end token, by its own length', () => {
    const pair = { ...long, prompt: `${text(25, '1')}${text(5, '9')}` };
    const { chosen, rejected } = encoded(pair, { ...limits, overlength: 'truncate' });
    expect(tokenizer.decode(chosen.ids)).toBe(`${text(5, '1')}${text(5, '9')}${text(7, '2')}<|im_end|>`);
    expect(tokenizer.decode(rejected.ids)).toBe(`${text(5, '1')}${text(5, '9')}${text(5, '3')}<|im_end|>`);
    expect([chosen.promptLength, rejected.promptLength]).toEqual([10, 10]);
  });

  it('keeps a BOS before plain text when its prompt is cut', () => {
    const { chosen } = encoded(long, { ...limits, compat: 'trl', overlength: 'truncate' });
    expect(chosen.ids.slice(0, 10)).toEqual([1, ...tokenizer.encode(text(9, '1'))]);
    expect(chosen.promptLength).toBe(10);
  });

  it('is dropped where the cut leaves equal answers or no room for one', () => {
    const same = { ...long, chosen: `${text(10, '2')}4`, rejected: `${text(10, '2')}5` };
    expect(dropped(same, { ...limits, overlength: 'truncate' })).toBe(
      'the answers are equal in their first 7 tokens, and longer ones are cut',
    );
    expect(dropped(long, { ...limits, maxCompletionLength: 1, overlength: 'truncate' })).toBe(
      'data.maxCompletionLength 1 leaves no token before the end token',
    );
  });

  it('never has an empty answer, a lost end token or unequal prompts, whatever the limits (both compats, both formats)', () => {
    const { texts } = oddPairs();
    for (const compat of ['none', 'trl'] as const) {
      for (const promptFormat of ['plain', 'chat'] as const) {
        for (const [maxPromptLength, maxCompletionLength] of [
          [1, 2],
          [2, 3],
          [5, 4],
          [40, 9],
        ] as const) {
          const options = {
            promptFormat,
            compat,
            maxPromptLength,
            maxCompletionLength,
            overlength: 'truncate',
          } as const;
          texts.forEach((row, index) => {
            const result = encodePair({ row: index + 1, ...row }, tokenizer, options);
            if ('dropped' in result) return;
            const { chosen, rejected } = result.encoded;
            for (const { ids, promptLength } of [chosen, rejected]) {
              expect(promptLength).toBeLessThanOrEqual(maxPromptLength);
              expect(ids.length - promptLength).toBeLessThanOrEqual(maxCompletionLength);
              // TRL keeps an answer of bytes that the vocabulary lacks: nothing but its end token.
              expect(ids.length - promptLength).toBeGreaterThanOrEqual(compat === 'trl' ? 1 : 2);
              expect(ids.at(-1)).toBe(END);
            }
            const shorter = Math.min(chosen.promptLength, rejected.promptLength);
            const prompts = [chosen, rejected].map(({ ids }) => ids.slice(0, Math.max(0, shorter - 1)));
            expect(prompts[0]).toEqual(prompts[1]);
          });
        }
      }
    }
  });
});
