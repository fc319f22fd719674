/**
 * Rows past the length limits, by an explicit rule: left out, cut, or an error. A cut prompt keeps its end, a cut answer
 * its start and its end token; each answer is cut by its own length, and none is ever emptied (other trainers' joint
 * rules do empty them: huggingface/trl#6548).
 */
import type { RunConfig } from '../../shared/config.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { EncodedPair, EncodedSequence } from './encoded.ts';
import type { EncodeResult, PromptFormat } from './format.ts';

export interface LengthLimits {
  promptFormat: PromptFormat;
  /** Tokens, BOS included. */
  maxPromptLength: number;
  /** Tokens, end token included. */
  maxCompletionLength: number;
  overlength: RunConfig['data']['overlength'];
}

/** The pair within the limits, or why not. Without `truncate` a pair is never changed. */
export function limitLengths(pair: EncodedPair, tokenizer: Tokenizer, limits: LengthLimits): EncodeResult {
  const problems = overlengthProblems(pair, limits);
  if (problems.length === 0) return { encoded: pair };
  if (limits.overlength !== 'truncate') return { dropped: problems.join('; '), isOverlength: true };
  if (limits.maxCompletionLength < 2) {
    return { dropped: 'data.maxCompletionLength 1 leaves no token before the end token', isOverlength: true };
  }
  const cut = truncate(pair, tokenizer, limits);
  const answer = ({ ids, promptLength }: EncodedSequence) => ids.slice(promptLength).join(' ');
  if (answer(cut.chosen) === answer(cut.rejected)) {
    return {
      dropped: `the answers are equal in their first ${limits.maxCompletionLength - 1} tokens, and longer ones are cut`,
      isOverlength: true,
    };
  }
  return { encoded: cut };
}

function overlengthProblems(pair: EncodedPair, limits: LengthLimits): string[] {
  const { chosen, rejected } = pair;
  const { maxPromptLength, maxCompletionLength } = limits;
  const promptLength = Math.max(chosen.promptLength, rejected.promptLength);
  const problems: string[] = [];
  if (promptLength > maxPromptLength) {
    problems.push(`the prompt is ${promptLength} tokens (data.maxPromptLength ${maxPromptLength})`);
  }
  for (const [name, { ids, promptLength: start }] of Object.entries({ chosen, rejected })) {
    const length = ids.length - start;
    if (length <= maxCompletionLength) continue;
    problems.push(`${name} is ${length} tokens (data.maxCompletionLength ${maxCompletionLength})`);
  }
  return problems;
}

function truncate(pair: EncodedPair, tokenizer: Tokenizer, limits: LengthLimits): EncodedPair {
  const longest = Math.max(pair.chosen.promptLength, pair.rejected.promptLength);
  // Both prompts lose the same ids, so that they stay equal but for the last one.
  const lost = Math.max(0, longest - limits.maxPromptLength);
  const cut = ({ ids, promptLength }: EncodedSequence): EncodedSequence => {
    // A BOS before plain text stays; under chat the first token is part of the template and goes with it.
    const kept = limits.promptFormat === 'plain' && ids[0] === tokenizer.bosId && limits.maxPromptLength > 1 ? 1 : 0;
    const prompt =
      lost === 0 ? ids.slice(0, promptLength) : [...ids.slice(0, kept), ...ids.slice(kept + lost, promptLength)];
    const answer = ids.slice(promptLength);
    const isLong = answer.length > limits.maxCompletionLength;
    const short = isLong ? [...answer.slice(0, limits.maxCompletionLength - 1), ...answer.slice(-1)] : answer;
    return { ids: [...prompt, ...short], promptLength: prompt.length };
  };
  return { row: pair.row, chosen: cut(pair.chosen), rejected: cut(pair.rejected) };
}
