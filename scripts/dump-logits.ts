/**
 * Writes this project's logits of a few fixed token sequences, for comparing with PEFT's and transformers'
 * (scripts/reference/check_adapter.py).
 *
 *   npx tsx scripts/dump-logits.ts --base FOLDER [--adapter FOLDER] --out FILE.safetensors
 */
import { parseArgs } from 'node:util';
import { writeSafetensors, type TensorSource } from '../training/checkpoint/safetensors.ts';
import { readAdapterShape } from '../training/checkpoint/adapter.ts';
import { nextTokenLogits } from '../training/logits.ts';
import { disposeDecoder, loadDecoder } from '../training/model/load.ts';
import { createRandom } from '../training/random.ts';

const { values } = parseArgs({
  options: { base: { type: 'string' }, adapter: { type: 'string' }, out: { type: 'string' } },
});
if (!values.base || !values.out) {
  console.error('usage: npx tsx scripts/dump-logits.ts --base FOLDER [--adapter FOLDER] --out FILE.safetensors');
  process.exit(2);
}
const method = values.adapter
  ? {
      ...(await readAdapterShape(values.adapter)),
      kind: 'lora' as const,
      initFrom: values.adapter,
      dropout: 0,
      bias: 'none' as const,
    }
  : null;
const decoder = await loadDecoder(values.base, method, 0);
const tensors: TensorSource[] = [];
for (const [index, length] of [12, 30, 7].entries()) {
  const random = createRandom('dump-logits', index);
  const ids = Array.from({ length }, () => random.below(decoder.config.vocab_size));
  const shape = [length, decoder.config.vocab_size];
  tensors.push({ name: `ids.${index}`, dtype: 'I32', shape: [length], data: Int32Array.from(ids) });
  tensors.push({ name: `logits.${index}`, dtype: 'F32', shape, data: nextTokenLogits(decoder, ids) });
}
disposeDecoder(decoder);
await writeSafetensors(values.out, tensors);
