/**
 * A preference pair as token ids: two sequences, each prompt then answer. The labels of a sequence are its ids from
 * `promptLength` on; what stands before is not a label of the answer. The prompts of the two sequences are equal but
 * for, under `compat: "trl"`, their last token.
 */

export interface EncodedSequence {
  ids: number[];
  /** Ids that belong to the prompt (BOS included); at least one id follows them. */
  promptLength: number;
}

export interface EncodedPair {
  row: number;
  chosen: EncodedSequence;
  rejected: EncodedSequence;
}
