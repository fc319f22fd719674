/**
 * A micro-batch laid out for computing. Tokens of all sequences stand one after another without padding ([M, …] rows);
 * only attention sees padded rows [N, T, …], reached by gathering. What is a pad is known by position, never by id.
 * The last id of a sequence predicts nothing that counts, so it is a target but no input.
 */
import { tf, type Tensor } from '../tf.ts';
import { DatasetInvalid } from '../../shared/errors.ts';
import type { EncodedPair, EncodedSequence } from '../data/encoded.ts';

export type NllScope = 'prompt+completion' | 'completion';

/** Where sequences stand among the tokens; all that the decoder needs besides ids. */
export interface SequenceLayout {
  /** Input tokens of each sequence; N of them. */
  lengths: number[];
  /** N, T (the longest) and M (all tokens). */
  sequences: number;
  longest: number;
  tokens: number;
  /** Identity of each sequence for random masks: the same in every micro-batch it may fall into. */
  keys: string[];
  /** int32 [N·T]: the token's row in [M, …], M where there is none. */
  padIndex: Tensor;
  /** int32 [M]: the token's row in [N·T, …]. */
  unpadIndex: Tensor;
}

/** A micro-batch of pairs: chosen sequences first, then rejected, and the positions whose predictions the loss reads. */
export interface MicroBatch {
  pairs: EncodedPair[];
  layout: SequenceLayout;
  /** int32 [M] */
  ids: Tensor;
  /** int32 [P]: rows of [M, …] whose next id counts, and that id. */
  positions: Tensor;
  targets: Tensor;
  /** float32 [N, P]: 1/|y| at the answer's positions of each sequence, so that −answerMean·nll is its mean log-probability. */
  answerMean: Tensor;
  /** float32 [B, P]: 1 at the positions of each chosen sequence that the NLL counts. */
  nllMask: Tensor;
  /** Positions the NLL counts, of each pair. */
  nllCounts: number[];
  /** Real tokens of both sequences. */
  tokenCount: number;
}

/** @param lengths - input tokens of each sequence, each at least 1 */
export function sequenceLayout(lengths: number[], keys: string[] = lengths.map(String)): SequenceLayout {
  const longest = Math.max(...lengths);
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  const padIndex = new Int32Array(lengths.length * longest).fill(tokens);
  const unpadIndex = new Int32Array(tokens);
  let row = 0;
  for (const [sequence, length] of lengths.entries()) {
    for (let position = 0; position < length; position++) {
      padIndex[sequence * longest + position] = row;
      unpadIndex[row++] = sequence * longest + position;
    }
  }
  return {
    lengths,
    sequences: lengths.length,
    longest,
    tokens,
    keys,
    padIndex: tf.tensor1d(padIndex, 'int32'),
    unpadIndex: tf.tensor1d(unpadIndex, 'int32'),
  };
}

interface Slot {
  /** Row in [M, …]. */
  position: number;
  target: number;
  sequence: number;
  answer: boolean;
  nll: boolean;
}

/** Lays out pairs for one forward pass. The caller owns the tensors (`dispose(batch)` frees them all).
 *  @throws DatasetInvalid where an answer has no token, whose mean would be 0/0 */
export function buildMicroBatch(pairs: EncodedPair[], nllScope: NllScope): MicroBatch {
  mustHaveAnswers(pairs);
  const sequences = [...pairs.map((pair) => pair.chosen), ...pairs.map((pair) => pair.rejected)];
  const keys = [...pairs.map(({ row }) => `${row}/chosen`), ...pairs.map(({ row }) => `${row}/rejected`)];
  const slots = slotsOf(sequences, pairs.length, nllScope);
  const nllCounts = pairs.map((_, pair) => slots.filter((slot) => slot.nll && slot.sequence === pair).length);
  return {
    pairs,
    layout: sequenceLayout(
      sequences.map(({ ids }) => ids.length - 1),
      keys,
    ),
    ids: tf.tensor1d(
      sequences.flatMap(({ ids }) => ids.slice(0, -1)),
      'int32',
    ),
    positions: tf.tensor1d(
      slots.map((slot) => slot.position),
      'int32',
    ),
    targets: tf.tensor1d(
      slots.map((slot) => slot.target),
      'int32',
    ),
    answerMean: answerMeanMatrix(slots, sequences),
    nllMask: nllMatrix(slots, pairs.length),
    nllCounts,
    tokenCount: sequences.reduce((sum, { ids }) => sum + ids.length, 0),
  };
}

function mustHaveAnswers(pairs: EncodedPair[]): void {
  const problems = pairs.flatMap(({ row, chosen, rejected }) =>
    Object.entries({ chosen, rejected })
      .filter(([, { ids, promptLength }]) => ids.length <= Math.max(promptLength, 1))
      .map(
        ([side, { ids }]) =>
          `row ${row}: ${side} has ${ids.length} ids and none of them is an answer's that can be predicted`,
      ),
  );
  if (problems.length > 0) {
    throw new DatasetInvalid(
      `${problems.join('\n')}\nEvery answer needs a token after the prompt; tokenize the data again`,
      {
        problems,
      },
    );
  }
}

/** Positions that count: in a chosen sequence those of the NLL's scope, in a rejected one those of the answer. */
function slotsOf(sequences: EncodedSequence[], pairCount: number, nllScope: NllScope): Slot[] {
  const slots: Slot[] = [];
  let start = 0;
  for (const [sequence, { ids, promptLength }] of sequences.entries()) {
    for (const [index, target] of ids.entries()) {
      if (index === 0) continue;
      const answer = index >= promptLength;
      const nll = sequence < pairCount && (answer || nllScope === 'prompt+completion');
      if (answer || nll) slots.push({ position: start + index - 1, target, sequence, answer, nll });
    }
    start += ids.length - 1;
  }
  return slots;
}

function answerMeanMatrix(slots: Slot[], sequences: EncodedSequence[]): Tensor {
  const counts = sequences.map(({ ids, promptLength }) => ids.length - Math.max(promptLength, 1));
  const values = new Float32Array(sequences.length * slots.length);
  for (const [column, { sequence, answer }] of slots.entries()) {
    if (answer) values[sequence * slots.length + column] = 1 / (counts[sequence] ?? 1);
  }
  return tf.tensor2d(values, [sequences.length, slots.length]);
}

function nllMatrix(slots: Slot[], pairCount: number): Tensor {
  const values = new Float32Array(pairCount * slots.length);
  for (const [column, { sequence, nll }] of slots.entries()) {
    if (nll) values[sequence * slots.length + column] = 1;
  }
  return tf.tensor2d(values, [pairCount, slots.length]);
}
