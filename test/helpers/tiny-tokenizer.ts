/**
 * A small byte-level BPE tokenizer with SmolLM2's pipeline (individual digits, then GPT-2's byte level) and a ChatML
 * template. Its merges are learned here from a fixed text: most frequent pair first, ties by text.
 */

export const TINY_SPECIALS = { endoftext: 0, bos: 1, eos: 2, pad: 2 };
const SPECIAL_TOKENS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'];

const CHATML =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const TEXT = `The user asks a question and the assistant answers it. A good answer is short and says what to do first.
How do I boil an egg? Put the egg in cold water, bring it to the boil, and wait seven minutes. What is the capital of
France? The capital of France is Paris. Why is the sky blue? Because air scatters blue light more than red light. When
should I water the plants? Water them in the morning, when the soil is dry. Which way is north? The needle of a compass
points north. Can you help me write a letter? Yes: begin with the name, say why you write, and end with your own name.
It depends on many things, and there are several ways to think about this, so it is hard to say. There are people who
would say one thing and others who would say another, and perhaps both of them are right in their own way. Who wrote the
book, where does the road lead, how far is the station from here, and what will the weather be like tomorrow? Open the
window, close the door, turn left at the second corner, read the first page again, and then call your friend. You could
also try something else, of course, although that may not be what you want. Some bread, some milk, two apples and a bag
of rice: that should be enough for three people. The train leaves at nine and arrives before noon. system user assistant`;

interface TinyTokenizer {
  tokenizerJson: Record<string, unknown>;
  tokenizerConfig: Record<string, unknown>;
}

/** Contents of tokenizer.json and tokenizer_config.json. @param size - tokens in all
 *  @throws RangeError when size is below 259 or the text has no more pairs to merge */
export function tinyTokenizer(size: number, chatTemplate: string | null = CHATML): TinyTokenizer {
  const bytes = byteAlphabet();
  const mergeCount = size - SPECIAL_TOKENS.length - bytes.length;
  if (mergeCount < 0) throw new RangeError(`a tiny tokenizer has at least 259 tokens, got ${size}`);
  const merges = learnMerges(TEXT, mergeCount);
  const tokens = [...SPECIAL_TOKENS, ...bytes, ...merges.map(([left, right]) => left + right)];
  return {
    tokenizerJson: pipeline(tokens, merges),
    tokenizerConfig: {
      tokenizer_class: 'PreTrainedTokenizerFast',
      clean_up_tokenization_spaces: false,
      bos_token: '<|im_start|>',
      eos_token: '<|im_end|>',
      pad_token: '<|im_end|>',
      unk_token: '<|endoftext|>',
      ...(chatTemplate === null ? {} : { chat_template: chatTemplate }),
    },
  };
}

function pipeline(tokens: string[], merges: [string, string][]): Record<string, unknown> {
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIAL_TOKENS.map((content, id) => {
      return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
    }),
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Digits', individual_digits: true },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
      ],
    },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}

/** GPT-2's printable stand-ins for the 256 bytes, in byte order (openai/gpt-2, src/encoder.py, bytes_to_unicode). */
function byteAlphabet(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCodePoint(isPrintable ? byte : next++);
  });
}

/** Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909, algorithm 1) over words with their leading space. */
function learnMerges(text: string, count: number): [string, string][] {
  const words = (text.replaceAll('\n', ' ').match(/ ?[A-Za-z]+|[^A-Za-z ]/g) ?? []).map((word) => [
    ...word.replace(' ', 'Ġ'),
  ]);
  const merges: [string, string][] = [];
  const known = new Set<string>();
  while (merges.length < count) {
    const [left, right] = commonestPair(words);
    words.forEach((word, index) => (words[index] = mergeIn(word, left, right)));
    // Two pairs can make one token; it gets one id.
    if (!known.has(left + right)) merges.push([left, right]);
    known.add(left + right);
  }
  return merges;
}

function commonestPair(words: string[][]): [string, string] {
  const counts = new Map<string, number>();
  for (const word of words) {
    for (let i = 1; i < word.length; i++) {
      const pair = `${word[i - 1] ?? ''} ${word[i] ?? ''}`;
      counts.set(pair, (counts.get(pair) ?? 0) + 1);
    }
  }
  const [best] = [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  const [left, right] = best?.[0].split(' ') ?? [];
  if (left === undefined || right === undefined) throw new RangeError('the text has no more pairs to merge');
  return [left, right];
}

function mergeIn(word: string[], left: string, right: string): string[] {
  const out: string[] = [];
  for (let i = 0; i < word.length; i++) {
    if (word[i] === left && word[i + 1] === right) {
      out.push(left + right);
      i++;
    } else out.push(word[i] ?? '');
  }
  return out;
}
