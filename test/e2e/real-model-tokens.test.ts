/** Needs the folder of SmolLM2-135M-Instruct in ORPO_TEST_BASE; its fixtures are from scripts/reference. */
import { beforeAll, describe } from 'vitest';
import { loadTokenizer } from '../../training/tokenizer/load.ts';
import type { Tokenizer } from '../../training/tokenizer/tokenizer.ts';
import { itMatchesReference } from '../training/tokenizer/reference-tokens.ts';

const base = process.env['ORPO_TEST_BASE'] ?? '';

const hint = base === '' ? ' (skipped: set ORPO_TEST_BASE to its folder, which `./orpo model fetch` makes)' : '';

describe.skipIf(base === '')(`the tokenizer of SmolLM2-135M-Instruct${hint}`, () => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(base);
  });
  itMatchesReference('smollm2', () => tokenizer);
});
