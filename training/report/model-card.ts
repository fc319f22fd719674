/**
 * The model card (README.md) of an adapter or a fully tuned model, in the form of the Hugging Face hub: front matter in
 * YAML (huggingface.co/docs/hub/model-cards), then what was trained on what, how well it did, how to load it, and what
 * not to expect.
 */
import { CHART_METRICS } from './charts.ts';
import { comparisons, grouped, measuredOn, otherMetrics, percent, VERDICTS } from './numbers.ts';
import { withoutFolders, type RunFile } from './run-file.ts';
import { sampleMarkdown, type Sample } from './samples.ts';

export interface CardContent {
  run: RunFile;
  samples: readonly Sample[];
  /** The base's id on the hub and its licence there; null where unknown. */
  hubId: string | null;
  licence: string | null;
}

const SHOWN_SAMPLES = 3;
const SHOWN_PLOTS = [
  'rewards_accuracies',
  'rewards_margins',
  'log_odds_chosen',
  'rewards_chosen',
  'rewards_rejected',
  'loss',
];

/** The card's text; the same content gives the same bytes. Images stand in `plots/` beside it. */
export function modelCard(content: CardContent): string {
  const { run } = content;
  const parts = [
    frontMatter(content),
    `# ${withoutFolders(run.base.model)}, fine-tuned with ORPO\n\n${introduction(run)}`,
    `## Results\n\n${results(run)}`,
    `## Use\n\n${usage(content)}`,
    `## Curves\n\n${plots()}`,
    samplesSection(content.samples),
    `## Training\n\n${trainingTable(run)}`,
    `## Where it comes from\n\n${provenance(run)}`,
    `## Limits\n\n${limits(run)}`,
  ];
  return `${parts.filter((part) => part !== '').join('\n\n')}\n`;
}

function frontMatter({ run, hubId, licence }: CardContent): string {
  const isFull = run.config.method.kind === 'full';
  const lines = [
    ...(hubId === null
      ? []
      : [`base_model: ${yaml(hubId)}`, `base_model_relation: ${isFull ? 'finetune' : 'adapter'}`]),
    ...(licence === null ? [] : [`license: ${yaml(licence)}`]),
    `library_name: ${isFull ? 'transformers' : 'peft'}`,
    'pipeline_tag: text-generation',
    'tags:',
    ...['orpo', ...(isFull ? [] : [run.config.method.kind]), 'preference-optimization'].map((tag) => `  - ${tag}`),
  ];
  return `---\n${lines.join('\n')}\n---`;
}

/** A JSON string is a YAML string too. */
function yaml(text: string): string {
  return /^[A-Za-z][\w./-]*$/.test(text) ? text : JSON.stringify(text);
}

function introduction({ config, training, data, base }: RunFile): string {
  const { method } = config;
  const adapter =
    method.kind === 'lora' && method.initFrom !== null
      ? 'a LoRA adapter, trained on from another one'
      : 'a LoRA adapter';
  const how = method.kind === 'full' ? 'all weights' : adapter;
  return (
    `Preference fine-tuning by ORPO ([arXiv 2403.07691](https://arxiv.org/abs/2403.07691)): ${how}, ` +
    `${grouped(base.trainable)} trained parameters, ${grouped(data.counts.train)} pairs, ` +
    `${grouped(training.steps)} optimiser steps.`
  );
}

function results({ metrics }: RunFile): string {
  if (!metrics) return 'No held-out pairs were set apart, so nothing was measured.';
  const rows = comparisons(metrics).map(
    ({ name, before, after, difference, interval, verdict }) =>
      `| ${name} | ${before} | ${after} | ${difference} (${interval}) | ${VERDICTS[verdict]} |`,
  );
  const others = otherMetrics(metrics).map(({ name, before, after }) => `| \`${name}\` | ${before} | ${after} | | |`);
  return [
    `Measured on ${measuredOn(metrics)}. Intervals: 95%, paired bootstrap over pairs. ` +
      `Always preferring the shorter answer would be right on ${percent(metrics.shorterWins)} of them.`,
    '',
    '| | before | after | difference (95% interval) | |',
    '|---|---|---|---|---|',
    ...rows,
    ...others,
  ].join('\n');
}

function usage({ run, hubId }: CardContent): string {
  const base = hubId ?? '<folder of the base model>';
  const code =
    run.config.method.kind === 'full'
      ? [
          'from transformers import AutoModelForCausalLM, AutoTokenizer',
          '',
          'here = "."  # this folder',
          'model = AutoModelForCausalLM.from_pretrained(here)',
        ]
      : [
          'from peft import PeftModel',
          'from transformers import AutoModelForCausalLM, AutoTokenizer',
          '',
          'here = "."  # this folder',
          `base = AutoModelForCausalLM.from_pretrained(${JSON.stringify(base)})`,
          'model = PeftModel.from_pretrained(base, here)',
        ];
  const rest = ['tokenizer = AutoTokenizer.from_pretrained(here)'];
  return ['```python', ...code, ...rest, '```', ...weightsNote(run)].join('\n');
}

function weightsNote({ base, config }: RunFile): string[] {
  if (config.method.kind === 'full' || !/dequanti/i.test(base.source)) return [];
  return [
    '',
    `The adapter was trained on dequantised weights (${withoutFolders(base.source)}), which differ a little from those the hub serves; ` +
      'the results above hold for the weights it was trained on.',
  ];
}

function plots(): string {
  const ordered = SHOWN_PLOTS.flatMap((file) => CHART_METRICS.find((metric) => metric.file === file) ?? []);
  return ordered.map(({ name, meaning, file }) => `![${name}: ${meaning}](plots/${file}.png)`).join('\n\n');
}

function samplesSection(samples: readonly Sample[]): string {
  if (samples.length === 0) return '';
  const shown = samples.slice(0, SHOWN_SAMPLES).map(sampleMarkdown).join('\n');
  return `## Answers to held-out prompts\n\nGreedy decoding.\n\n${shown.trimEnd()}`;
}

function trainingTable({ config, engine, training }: RunFile): string {
  const { method, orpo, training: options } = config;
  const rows: [string, string | number][] = [
    ['method', method.kind],
    ...(method.kind === 'lora' && method.initFrom === null
      ? ([
          ['rank, alpha', `${method.rank}, ${method.alpha}${method.rsLora ? ' (rsLoRA)' : ''}`],
          ['target modules', [method.targetModules].flat().join(', ')],
        ] as [string, string][])
      : []),
    ['beta', orpo.beta],
    ['NLL over', `${orpo.nllScope}, mean by ${orpo.nllReduction}`],
    ['learning rate', `${options.learningRate}, ${options.schedule}, ${options.warmupSteps} warm-up steps`],
    ['pairs per step', options.batchSize],
    ['steps', `${training.steps} of ${training.totalSteps}`],
    ['weight decay, clipping', `${options.weightDecay}, ${options.maxGradNorm ?? 'off'}`],
    ['seed', options.seed],
    ['precision', engine.precision],
  ];
  const table = ['| | |', '|---|---|', ...rows.map(([name, value]) => `| ${name} | ${value} |`)].join('\n');
  const full = JSON.stringify(publicConfig(config), null, 2);
  return `${table}\n\n<details><summary>The full config</summary>\n\n\`\`\`json\n${full}\n\`\`\`\n\n</details>`;
}

/** The config without the machine's folders: a card is published. */
function publicConfig({ output: _output, limits: _limits, ifExists: _ifExists, ...config }: RunFile['config']): object {
  const { method } = config;
  return {
    ...config,
    model: withoutFolders(config.model),
    data: { ...config.data, source: withoutFolders(config.data.source) },
    method:
      method.kind === 'lora' && method.initFrom ? { ...method, initFrom: withoutFolders(method.initFrom) } : method,
  };
}

function provenance(run: RunFile): string {
  const { base, data, versions } = run;
  return [
    `- Base weights: ${withoutFolders(base.source)}; sha256 over the tensors \`${run.baseSha256}\``,
    `- Data: ${grouped(data.rows)} pairs (${data.counts.train} train, ${data.counts.validation} validation, ${data.counts.test} test` +
      `${data.dropped > 0 ? `; ${data.dropped} dropped as too long` : ''}); sha256 of the file \`${run.dataSha256}\``,
    `- Digest of the trained tensors: \`${run.digest}\``,
    `- Config: sha256 \`${run.configHash}\``,
    `- Software: ${Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', ')}`,
  ].join('\n');
}

function limits(run: RunFile): string {
  const { metrics, exact, inexactBecause, training } = run;
  const unsure = metrics ? comparisons(metrics).filter(({ verdict }) => verdict !== 'better') : [];
  return [
    '- Reward accuracy says which of two given answers the model finds likelier; it is no judgement of the text that the model writes by itself.',
    '- The figures hold for pairs like those of the data. Facts, safety and other languages or tasks were not measured.',
    ...(metrics ? [] : ['- Nothing was held out: there is no evidence that the model became better.']),
    ...unsure.map(({ name, verdict }) => `- ${name}: ${VERDICTS[verdict]} on the held-out pairs.`),
    ...(training.stop === 'done' || training.stop === 'epoch' ? [] : [`- Training ended early (${training.stop}).`]),
    ...(exact ? [] : [`- A repetition may differ in the last bits: ${inexactBecause.join('; ')}.`]),
  ].join('\n');
}
