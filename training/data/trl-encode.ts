/**
 * Token for token what ORPOTrainer of TRL 1.16.0 makes of a row, quirks included: `apply_chat_template` of
 * trl/data_utils.py, then `build_tokenized_answer` and `tokenize_row` of trl/experimental/orpo/orpo_trainer.py, then
 * `add_bos_token_if_needed` and `add_eos_token_if_needed` of trl/experimental/utils.py. With SmolLM2-Instruct that means
 * a BOS before plain text, a second end token after the template's own, and a boundary one token back where prompt and
 * answer merge. TRL's own truncation by max_length is left out: lengths follow overlength.ts.
 */
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { endTokenOf, toMessages } from './format.ts';
import type { EncodeResult, PromptFormat } from './format.ts';
import type { Message, PreferencePair } from './preference.ts';

interface Texts {
  prompt: string;
  chosen: string;
  rejected: string;
}

interface TokenizedAnswer {
  prompt: number[];
  answer: number[];
}

/** @returns the pair's ids, or why TRL itself stops at this row */
export function encodeAsTrl(pair: PreferencePair, tokenizer: Tokenizer, promptFormat: PromptFormat): EncodeResult {
  const texts =
    promptFormat === 'chat'
      ? applyChatTemplate(pair, tokenizer)
      : { prompt: String(pair.prompt), chosen: String(pair.chosen), rejected: String(pair.rejected) };
  if ('dropped' in texts) return texts;
  const chosen = tokenizeAnswer(texts.prompt, texts.chosen, tokenizer);
  const rejected = tokenizeAnswer(texts.prompt, texts.rejected, tokenizer);
  if (chosen === null || rejected === null) {
    return {
      dropped: 'TRL 1.16.0 refuses the row: prompt and answer together have fewer tokens than the prompt alone',
    };
  }
  if (!differInLastTokenOnly(chosen.prompt, rejected.prompt)) {
    return { dropped: "TRL 1.16.0 refuses the row: the two prompts' tokens differ in more than the last one" };
  }
  // TRL takes the tokenizer's EOS in both formats.
  const eos = endTokenOf(tokenizer, 'plain');
  return {
    encoded: {
      row: pair.row,
      chosen: withBosAndEos(chosen, tokenizer.bosId, eos),
      rejected: withBosAndEos(rejected, tokenizer.bosId, eos),
    },
  };
}

/** `apply_chat_template` for an explicit prompt: the answer is what the rendered conversation has past the prompt. */
function applyChatTemplate(pair: PreferencePair, tokenizer: Tokenizer): Texts | { dropped: string } {
  const prompt = toMessages(pair.prompt, 'user');
  const chosen = toMessages(pair.chosen, 'assistant');
  const rejected = toMessages(pair.rejected, 'assistant');
  const start = renderPrompt(prompt, tokenizer);
  if (start === null)
    return { dropped: 'the chat template leaves out part of the final assistant message of the prompt' };
  const withChosen = tokenizer.renderChat([...prompt, ...chosen], { addGenerationPrompt: false });
  const withRejected = tokenizer.renderChat([...prompt, ...rejected], { addGenerationPrompt: false });
  const shared = commonPrefix(commonPrefix(start, withChosen), withRejected);
  return { prompt: shared, chosen: withChosen.slice(shared.length), rejected: withRejected.slice(shared.length) };
}

/** With a generation prompt after a user or tool message; an assistant message is left open (`continue_final_message`
 *  of transformers: render with a tag after the last content, cut there). */
function renderPrompt(messages: Message[], tokenizer: Tokenizer): string | null {
  const last = messages.at(-1);
  if (last?.role !== 'assistant') return tokenizer.renderChat(messages, { addGenerationPrompt: true });
  const tag = 'CONTINUE_FINAL_MESSAGE_TAG ';
  const tagged = [...messages.slice(0, -1), { role: last.role, content: last.content + tag }];
  const rendered = tokenizer.renderChat(tagged, { addGenerationPrompt: false });
  const at = rendered.lastIndexOf(tag.trim());
  if (at < 0 || !rendered.includes(last.content.trim())) return null;
  const isSpaceKept = rendered.startsWith(tag, at);
  return isSpaceKept ? rendered.slice(0, at) : rendered.slice(0, at).trimEnd();
}

/** By characters as Python counts them, so never through a surrogate pair. */
function commonPrefix(a: string, b: string): string {
  let length = 0;
  for (const character of a) {
    if (!b.startsWith(character, length)) break;
    length += character.length;
  }
  return a.slice(0, length);
}

/** `build_tokenized_answer`, null where TRL raises. */
function tokenizeAnswer(prompt: string, answer: string, tokenizer: Tokenizer): TokenizedAnswer | null {
  const joint = tokenizer.encode(prompt + answer);
  const alone = tokenizer.encode(prompt);
  if (joint.length < alone.length) return null;
  const isPrefix = alone.every((id, index) => id === joint[index]);
  const start = isPrefix ? alone.length : alone.length - 1;
  return { prompt: joint.slice(0, start), answer: joint.slice(start) };
}

function differInLastTokenOnly(a: number[], b: number[]): boolean {
  const shorter = Math.min(a.length, b.length);
  let different = 0;
  for (let index = 0; index < shorter; index++) if (a[index] !== b[index]) different++;
  return different <= 1 && Math.abs(a.length - b.length) <= 1;
}

function withBosAndEos({ prompt, answer }: TokenizedAnswer, bos: number | null, eos: number) {
  const start = bos === null || prompt[0] === bos ? prompt : [bos, ...prompt];
  const end = answer.at(-1) === eos ? answer : [...answer, eos];
  return { ids: [...start, ...end], promptLength: start.length };
}
