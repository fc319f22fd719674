/**
 * How a pair's text stands before the model: as it is (`plain`) or in the chat template's conversation (`chat`), and
 * which token ends an answer there.
 */
import { TokenizerMismatch } from '../../shared/errors.ts';
import type { RunConfig } from '../../shared/config.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { EncodedPair } from './encoded.ts';
import type { Message, TextOrMessages } from './preference.ts';

export type PromptFormat = 'chat' | 'plain';

/** A pair as ids, or why there is none; `isOverlength` where other limits or `truncate` would keep it. */
export type EncodeResult = { encoded: EncodedPair } | { dropped: string; isOverlength?: boolean };

/** `auto` is chat where the tokenizer has a template. @throws TokenizerMismatch if chat is asked for and there is none */
export function resolvePromptFormat(
  promptFormat: RunConfig['data']['promptFormat'],
  tokenizer: Tokenizer,
): PromptFormat {
  if (promptFormat === 'auto') return tokenizer.chatTemplate === null ? 'plain' : 'chat';
  if (promptFormat === 'chat' && tokenizer.chatTemplate === null) {
    throw new TokenizerMismatch(
      'data.promptFormat is "chat", but the tokenizer has no chat template; use "plain", or a model whose ' +
        'tokenizer_config.json or chat_template.jinja has one',
    );
  }
  return promptFormat;
}

/** A text as one message of the given role; messages as they are. */
export function toMessages(value: TextOrMessages, role: string): Message[] {
  return typeof value === 'string' ? [{ role, content: value }] : value;
}

const endTokens = new WeakMap<Tokenizer, Map<PromptFormat, number>>();

/** The token after which an answer is over: under chat the special token that the template writes after an assistant
 *  message, else EOS. @throws TokenizerMismatch if there is neither */
export function endTokenOf(tokenizer: Tokenizer, promptFormat: PromptFormat): number {
  const known = endTokens.get(tokenizer) ?? new Map<PromptFormat, number>();
  endTokens.set(tokenizer, known);
  const found = known.get(promptFormat) ?? (promptFormat === 'chat' ? templateEnd(tokenizer) : null) ?? tokenizer.eosId;
  if (found === null) {
    throw new TokenizerMismatch(
      'the tokenizer names no end token: tokenizer_config.json needs "eos_token", or the chat template a special ' +
        'token after an assistant message',
    );
  }
  known.set(promptFormat, found);
  return found;
}

/** First special token that the template writes after an assistant's text. */
function templateEnd(tokenizer: Tokenizer): number | null {
  const mark = 'answer-goes-here';
  const messages = [
    { role: 'user', content: 'question' },
    { role: 'assistant', content: mark },
  ];
  const rendered = tokenizer.renderChat(messages, { addGenerationPrompt: false });
  const at = rendered.lastIndexOf(mark);
  if (at < 0) return null;
  return tokenizer.encode(rendered.slice(at + mark.length)).find((id) => tokenizer.specialIds.has(id)) ?? null;
}
