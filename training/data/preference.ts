/**
 * The unit of preference data: a prompt with a chosen and a rejected answer, as text or as role/content messages
 * (the two dataset forms of Hugging Face TRL: standard and conversational, explicit prompt).
 */

export interface Message {
  role: string;
  content: string;
}

export type TextOrMessages = string | Message[];

export interface PreferencePair {
  /** Data record in the source, counted from 1, header not counted. Stable identity of the pair within its source. */
  row: number;
  prompt: TextOrMessages;
  chosen: TextOrMessages;
  rejected: TextOrMessages;
}
