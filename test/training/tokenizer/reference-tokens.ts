/** Laws that hold for any tokenizer against its fixtures from scripts/reference/{tokens,trl_tokens}.py. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { encodePair } from '../../../training/data/encode.ts';
import type { Message, PreferencePair } from '../../../training/data/preference.ts';
import type { Tokenizer } from '../../../training/tokenizer/tokenizer.ts';

interface TokenFixture {
  special: Record<'bos' | 'eos' | 'pad', number | null>;
  encoded: { text: string; ids: number[]; withSpecials?: number[]; decoded?: string; bare?: string }[];
  rendered: { messages: Message[]; addGenerationPrompt: boolean; rendered: string }[];
}

/** [chosen ids, chosen prompt length, rejected ids, rejected prompt length], null where TRL raises. */
type TrlPair = [number[], number, number[], number] | null;

interface OddPairs {
  texts: Omit<PreferencePair, 'row'>[];
  conversations: Omit<PreferencePair, 'row'>[];
}

export const FIXTURES = new URL('../../fixtures/', import.meta.url);

export function readFixture<T>(path: string): T {
  return JSON.parse(readFileSync(new URL(path, FIXTURES), 'utf8')) as T;
}

export const oddPairs = () => readFixture<OddPairs>('data/odd-pairs.json');

const NO_LIMITS = { maxPromptLength: 1e6, maxCompletionLength: 1e6, overlength: 'drop' } as const;

/** @param name - `small` or `smollm2`; @param tokenizer - loaded lazily, so that a suite may be skipped */
export function itMatchesReference(name: string, tokenizer: () => Tokenizer): void {
  it('gives the ids that transformers gives for odd texts', () => {
    const { encoded, special } = readFixture<TokenFixture>(`tokenizer/tokens-${name}.json`);
    expect(encoded.length).toBeGreaterThan(150);
    for (const { text, ids, withSpecials } of encoded) {
      expect(tokenizer().encode(text), JSON.stringify(text)).toEqual(ids);
      expect(tokenizer().encodeWithSpecials(text), JSON.stringify(text)).toEqual(withSpecials ?? ids);
    }
    const { bosId, eosId, padId } = tokenizer();
    expect({ bos: bosId, eos: eosId, pad: padId }).toEqual(special);
  });

  it('decodes as transformers does, with and without special tokens', () => {
    for (const { text, ids, decoded, bare } of readFixture<TokenFixture>(`tokenizer/tokens-${name}.json`).encoded) {
      expect(tokenizer().decode(ids)).toBe(decoded ?? text);
      expect(tokenizer().decode(ids, { skipSpecialTokens: true })).toBe(bare ?? decoded ?? text);
    }
  });

  it('renders conversations as apply_chat_template does', () => {
    const { rendered } = readFixture<TokenFixture>(`tokenizer/tokens-${name}.json`);
    expect(rendered.length).toBeGreaterThan(40);
    for (const { messages, addGenerationPrompt, rendered: expected } of rendered) {
      expect(tokenizer().renderChat(messages, { addGenerationPrompt })).toBe(expected);
    }
  });

  it.each(['plain', 'chat'] as const)('makes token for token what TRL 1.16.0 makes of %s pairs', (promptFormat) => {
    const { texts, conversations } = oddPairs();
    const expected = readFixture<Record<'plain' | 'chat', TrlPair[]>>(`tokenizer/trl-${name}.json`)[promptFormat];
    const pairs = promptFormat === 'plain' ? texts : [...texts, ...conversations];
    expect(expected).toHaveLength(pairs.length);
    pairs.forEach((pair, index) => {
      const options = { promptFormat, compat: 'trl', ...NO_LIMITS } as const;
      const result = encodePair({ row: index + 1, ...pair }, tokenizer(), options);
      const trl = expected[index] ?? null;
      if (trl === null) {
        expect(result, JSON.stringify(pair)).toEqual({
          dropped: expect.stringContaining('TRL 1.16.0 refuses') as string,
        });
        return;
      }
      const [chosen, chosenPrompt, rejected, rejectedPrompt] = trl;
      expect(result, JSON.stringify(pair)).toEqual({
        encoded: {
          row: index + 1,
          chosen: { ids: chosen, promptLength: chosenPrompt },
          rejected: { ids: rejected, promptLength: rejectedPrompt },
        },
      });
    });
  });
}
