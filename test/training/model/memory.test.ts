import { describe, expect, it } from 'vitest';
import type { ModelConfig } from '../../../training/model/config.ts';
import { stepMemoryBytes, type StepSize } from '../../../training/model/memory.ts';

const SMOLLM2: ModelConfig = {
  model_type: 'llama',
  vocab_size: 49152,
  hidden_size: 576,
  intermediate_size: 1536,
  num_hidden_layers: 30,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  head_dim: 64,
  max_position_embeddings: 8192,
  rms_norm_eps: 1e-5,
  rope_theta: 100000,
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: 2,
  pad_token_id: 2,
};
const LORA: StepSize = {
  ...{ parameters: 134_515_008, trainable: 4_884_480, rank: 16 },
  ...{ method: 'lora', microBatch: 1, longest: 128 },
};
const FULL: StepSize = { ...LORA, method: 'full', trainable: 134_515_008, rank: 0 };

describe('the memory estimate', () => {
  // Peak resident memory of two eager steps of SmolLM2-135M in a fresh process, in GB.
  it.each([
    ['LoRA, 1 pair of 128 tokens', LORA, 1.6],
    ['LoRA, 4 pairs of 256', { ...LORA, microBatch: 4, longest: 256 }, 3.73],
    ['LoRA, 8 pairs of 128', { ...LORA, microBatch: 8 }, 3.37],
    ['LoRA, 1 pair of 768', { ...LORA, longest: 768 }, 3.93],
    ['full, 1 pair of 128', FULL, 4.98],
  ])('is within a tenth of what was measured: %s', (_, size, measured) => {
    expect(stepMemoryBytes(SMOLLM2, size) / 1e9 / measured).toBeGreaterThan(0.9);
    expect(stepMemoryBytes(SMOLLM2, size) / 1e9 / measured).toBeLessThan(1.1);
  });

  it('grows linearly with pairs and with the square of long rows', () => {
    const at = (microBatch: number, longest: number) => stepMemoryBytes(SMOLLM2, { ...LORA, microBatch, longest });
    expect(at(3, 200) - at(2, 200)).toBeCloseTo(at(2, 200) - at(1, 200), 0);
    const attention = (longest: number) => at(1, 2 * longest) - 2 * at(1, longest) + at(1, 0);
    // What is quadratic: 2 sequences, 9 heads, 30 layers kept and four scores at work, 4 bytes.
    expect(attention(1000)).toBeCloseTo(4 * 34 * 2 * 9 * 2 * 1000 ** 2, -3);
  });
});
