/**
 * What the rest of the project needs of a tokenizer. Loaded by load.ts from a Hugging Face folder.
 */
import type { Message } from '../data/preference.ts';

export interface Tokenizer {
  vocabSize: number;
  /** Ids of a text as it stands: special tokens written in the text are recognised, none is added. */
  encode(text: string): number[];
  /** Ids with what the post-processor adds (BOS for Llama, nothing for SmolLM2). */
  encodeWithSpecials(text: string): number[];
  decode(ids: number[], options?: { skipSpecialTokens?: boolean }): string;
  tokenOf(id: number): string | undefined;
  bosId: number | null;
  eosId: number | null;
  padId: number | null;
  /** Ids of all tokens marked special. */
  specialIds: Set<number>;
  /** Jinja source, null where the tokenizer has none. */
  chatTemplate: string | null;
  /** Rendered conversation as text. @throws TokenizerMismatch where there is no template or it fails */
  renderChat(messages: Message[], options: { addGenerationPrompt: boolean }): string;
}
