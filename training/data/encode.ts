/**
 * A preference pair as token ids. `compat: none` is what a careful person wants: prompt and answer tokenised apart and
 * joined, nothing inserted, exactly one end token that is always a label. `compat: trl` is token for token what
 * ORPOTrainer of TRL 1.16.0 makes of the same rows (trl-encode.ts). Both then obey the same length limits.
 */
import { DatasetInvalid, TokenizerMismatch } from '../../shared/errors.ts';
import type { RunConfig } from '../../shared/config.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { limitLengths } from './overlength.ts';
import type { LengthLimits } from './overlength.ts';
import { endTokenOf, toMessages } from './format.ts';
import type { EncodeResult } from './format.ts';
import { textLength } from './report.ts';
import type { PreferencePair, TextOrMessages } from './preference.ts';
import { encodeAsTrl } from './trl-encode.ts';

export { resolvePromptFormat } from './format.ts';

export interface EncodeOptions extends LengthLimits {
  compat: RunConfig['data']['compat'];
}

/** A longer text is refused untokenised: even at 16 characters a token it is past any limit here, and a single word of
 *  that size costs the tokenizer gigabytes. */
const MAX_TEXT_CHARACTERS = 2 ** 20;

/** Encodes one pair. @returns its ids, or the reason why the row cannot be used
 *  @throws DatasetInvalid for a row past the limits where overlength is `error`; ModelInvalid if the template never ends */
export function encodePair(pair: PreferencePair, tokenizer: Tokenizer, options: EncodeOptions): EncodeResult {
  if (options.promptFormat === 'plain' && typeof pair.prompt !== 'string') {
    return { dropped: 'has role/content messages, which need a chat template (data.promptFormat "chat")' };
  }
  const longest = Math.max(textLength(pair.prompt), textLength(pair.chosen), textLength(pair.rejected));
  if (longest > MAX_TEXT_CHARACTERS) return { dropped: `has a text of ${longest} characters` };
  const joined = encodeText(pair, tokenizer, options);
  if ('dropped' in joined) return joined;
  const limited = limitLengths(joined.encoded, tokenizer, options);
  if ('dropped' in limited && limited.isOverlength && options.overlength === 'error') {
    throw new DatasetInvalid(
      `row ${pair.row}: ${limited.dropped}; raise the limit, or set data.overlength to "drop" or "truncate"`,
    );
  }
  return limited;
}

/** Some templates refuse some conversations (roles that do not alternate, a system message): then the row is at fault. */
function encodeText(pair: PreferencePair, tokenizer: Tokenizer, options: EncodeOptions): EncodeResult {
  try {
    if (options.compat === 'trl') return encodeAsTrl(pair, tokenizer, options.promptFormat);
    return encodeJoined(pair, tokenizer, options);
  } catch (error) {
    if (error instanceof TokenizerMismatch && options.promptFormat === 'chat') return { dropped: error.message };
    throw error;
  }
}

function encodeJoined(pair: PreferencePair, tokenizer: Tokenizer, options: EncodeOptions): EncodeResult {
  const prompt = options.promptFormat === 'plain' ? plainPrompt(pair, tokenizer) : chatPrompt(pair, tokenizer);
  if ('dropped' in prompt) return prompt;
  const end = endTokenOf(tokenizer, options.promptFormat);
  const chosen = answerIds(pair.chosen, tokenizer, end);
  const rejected = answerIds(pair.rejected, tokenizer, end);
  if (chosen === null || rejected === null) {
    return { dropped: 'has an answer of several messages; compat "none" trains on a single assistant message' };
  }
  if (prompt.ids.length === 0) return { dropped: 'the prompt has no tokens' };
  if (chosen.length < 2 || rejected.length < 2) return { dropped: 'an answer has no tokens' };
  const promptLength = prompt.ids.length;
  return {
    encoded: {
      row: pair.row,
      chosen: { ids: [...prompt.ids, ...chosen], promptLength },
      rejected: { ids: [...prompt.ids, ...rejected], promptLength },
    },
  };
}

type PromptIds = { ids: number[] } | { dropped: string };

function plainPrompt(pair: PreferencePair, tokenizer: Tokenizer): PromptIds {
  return { ids: tokenizer.encodeWithSpecials(String(pair.prompt)) };
}

/** The template writes all special tokens itself, so none is added to what it renders. */
function chatPrompt(pair: PreferencePair, tokenizer: Tokenizer): PromptIds {
  const messages = toMessages(pair.prompt, 'user');
  if (messages.at(-1)?.role === 'assistant') {
    return { dropped: "the prompt ends with an assistant message; it must end with the user's" };
  }
  return { ids: tokenizer.encode(tokenizer.renderChat(messages, { addGenerationPrompt: true })) };
}

/** Ids of the answer and one end token, null if it is more than one message. */
function answerIds(answer: TextOrMessages, tokenizer: Tokenizer, end: number): number[] | null {
  const [only, ...others] = toMessages(answer, 'assistant');
  if (only === undefined || others.length > 0) return null;
  const ids = tokenizer.encode(only.content);
  return ids.at(-1) === end ? ids : [...ids, end];
}
