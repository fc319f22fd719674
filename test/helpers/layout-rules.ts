/**
 * The rules of layout.test.ts: who may import what, and what every file keeps to. Each carries a small example of what it
 * forbids.
 */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { cycles, reached, type Graph, type Import, type Module } from './import-graph.ts';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));
export const FOLDERS = ['shared', 'workflows', 'activities', 'workers', 'training', 'storage', 'cli', 'scripts'];

export const packageJson = JSON.parse(readFileSync(`${ROOT}/package.json`, 'utf8')) as {
  dependencies: Record<string, string>;
  devDependencies: Record<string, string>;
};

export interface Rule {
  name: string;
  /** One line for each place that breaks the rule. */
  violations(graph: Graph): string[];
  /** A repository that breaks it, with the start of the line that must say so. */
  broken: { files: Record<string, string>; says: string };
}

/** A rule on single imports: which are allowed in modules of `where`. */
function imports(where: RegExp, isAllowed: (each: Import, from: Module) => boolean): Rule['violations'] {
  return (graph) =>
    modules(graph, where).flatMap((module) =>
      module.imports
        .filter((each) => !isAllowed(each, module))
        .map(({ target, isType }) => `${module.path} imports ${isType ? 'types of ' : ''}${target}`),
    );
}

/** A rule on what modules of `where` load, directly or through others. */
function neverReaches(where: (path: string) => boolean, forbidden: RegExp, from = FOLDERS): Rule['violations'] {
  return (graph) =>
    [...graph.keys()]
      .filter((path) => where(path) && from.some((folder) => path.startsWith(`${folder}/`)))
      .flatMap((path) => {
        const found = reached(graph, path).filter((target) => forbidden.test(target));
        return found.map((target) => `${path} reaches ${target}`);
      });
}

function lines(where: RegExp, of: (module: Module) => number[], what: string): Rule['violations'] {
  return (graph) =>
    modules(graph, where).flatMap((module) => of(module).map((line) => `${module.path}:${line} ${what}`));
}

function modules(graph: Graph, where: RegExp): Module[] {
  return [...graph.values()].filter(({ path }) => where.test(path));
}

const within = (target: string, ...folders: string[]): boolean =>
  folders.some((folder) => target === folder || target.startsWith(`${folder}/`));
export const isTemporal = (target: string): boolean => target.startsWith('@temporalio/');

const TENSORFLOW = /^@tensorflow\/|^training\/tf\.ts$/;
const NO_TENSORFLOW = /^training\/(data|tokenizer|report|hub)\/|^training\/checkpoint\/safetensors\.ts$/;

export const importRules: Rule[] = [
  {
    name: 'shared/ imports zod and itself',
    violations: imports(/^shared\//, ({ target }) => target === 'zod' || within(target, 'shared')),
    broken: { files: { 'shared/a.ts': "import { join } from 'node:path';" }, says: 'shared/a.ts imports node:path' },
  },
  {
    name: 'shared/contract.ts and shared/errors.ts import nothing',
    violations: imports(/^shared\/(contract|errors)\.ts$/, () => false),
    broken: {
      files: { 'shared/contract.ts': "import type { A } from './records.ts';" },
      says: 'shared/contract.ts imports types of shared/records.ts',
    },
  },
  {
    name: 'workflows/ import Temporal and the contract; of all else types only, and nothing of Node',
    violations: imports(/^workflows\//, ({ target, kind, isType }) => {
      if (kind !== 'file') return ['@temporalio/workflow', '@temporalio/common'].includes(target);
      return isType || target === 'shared/contract.ts' || within(target, 'workflows');
    }),
    broken: {
      files: {
        'workflows/a.ts':
          "import type { T } from '../activities/cpu.ts'; import { resolveConfig } from '../shared/config.ts';",
      },
      says: 'workflows/a.ts imports shared/config.ts',
    },
  },
  {
    name: 'workflows/ load nothing of Node through others either',
    violations: neverReaches((path) => within(path, 'workflows'), /^node:/),
    broken: {
      files: {
        'workflows/a.ts': "import { x } from './b.ts';",
        'workflows/b.ts': "export { x } from '../shared/contract.ts';",
        'shared/contract.ts': "import 'node:fs'; export const x = 1;",
      },
      says: 'workflows/a.ts reaches node:fs',
    },
  },
  {
    name: 'training/ imports itself and shared/, and knows no Temporal',
    violations: imports(/^training\//, ({ target, kind }) =>
      kind === 'file' ? within(target, 'training', 'shared') : !isTemporal(target),
    ),
    broken: {
      files: { 'training/a.ts': "import { heartbeat } from '@temporalio/activity';" },
      says: 'training/a.ts imports @temporalio/activity',
    },
  },
  {
    name: 'reading data, tokenizing, reporting, fetching and safetensors never load TensorFlow',
    violations: neverReaches((path) => NO_TENSORFLOW.test(path), TENSORFLOW),
    broken: {
      files: {
        'training/data/a.ts': "import { b } from '../b.ts';",
        'training/b.ts': "import { tf } from './tf.ts'; export const b = tf;",
        'training/tf.ts': "export const tf = require('@tensorflow/tfjs-node-gpu');",
      },
      says: 'training/data/a.ts reaches @tensorflow/tfjs-node-gpu',
    },
  },
  {
    name: 'training/tf.ts is the one door to TensorFlow',
    violations: imports(/./, ({ target }, { path }) => !target.startsWith('@tensorflow/') || path === 'training/tf.ts'),
    broken: {
      files: { 'training/a.ts': "import type { Tensor } from '@tensorflow/tfjs';" },
      says: 'training/a.ts imports types of @tensorflow/tfjs',
    },
  },
  {
    name: 'storage/ knows neither training nor Temporal',
    violations: imports(/^storage\//, ({ target, kind }) =>
      kind === 'file' ? within(target, 'storage', 'shared') : !isTemporal(target),
    ),
    broken: { files: { 'storage/s3.ts': "import '../training/tf.ts';" }, says: 'storage/s3.ts imports training/tf.ts' },
  },
  {
    name: 'activities/ import shared/, training/ and storage/, and of Temporal what activities need',
    violations: imports(/^activities\//, ({ target, kind }) => {
      if (kind === 'file') return within(target, 'activities', 'shared', 'training', 'storage');
      return (
        !isTemporal(target) || ['@temporalio/activity', '@temporalio/client', '@temporalio/common'].includes(target)
      );
    }),
    broken: {
      files: { 'activities/a.ts': "import { Worker } from '@temporalio/worker';" },
      says: 'activities/a.ts imports @temporalio/worker',
    },
  },
  {
    name: 'in worker processes only the trainer child loads TensorFlow',
    violations: neverReaches((path) => path !== 'activities/trainer/child.ts', TENSORFLOW, ['activities', 'workers']),
    broken: {
      files: {
        'workers/run.ts': "import { createCpuActivities } from '../activities/cpu.ts';",
        'activities/cpu.ts': "import { evaluateRun } from '../training/steps/evaluate.ts';",
        'training/steps/evaluate.ts': "import { tf } from '../tf.ts';",
      },
      says: 'workers/run.ts reaches training/tf.ts',
    },
  },
  {
    name: 'workers/ start activities, and know workflows by path and training not at all',
    violations: imports(/^workers\//, ({ target, kind }) =>
      kind === 'file' ? within(target, 'workers', 'activities', 'storage', 'shared') : true,
    ),
    broken: {
      files: { 'workers/a.ts': "import { orpoFineTune } from '../workflows/finetune.ts';" },
      says: 'workers/a.ts imports workflows/finetune.ts',
    },
  },
  {
    name: 'nothing imports workflows/ but as types',
    violations: imports(/^(?!workflows\/)/, ({ target, isType }) => isType || !within(target, 'workflows')),
    broken: {
      files: { 'cli/a.ts': "export * from '../workflows/index.ts';" },
      says: 'cli/a.ts imports workflows/index.ts',
    },
  },
  {
    name: 'cli/ and scripts/ are imported by nobody else',
    violations: imports(
      /^(?!cli\/|scripts\/)/,
      ({ target, kind }) => kind !== 'file' || !within(target, 'cli', 'scripts'),
    ),
    broken: {
      files: { 'workers/a.ts': "import { say } from '../cli/output.ts';" },
      says: 'workers/a.ts imports cli/output.ts',
    },
  },
  {
    name: 'the command line loads a command only when it is called',
    violations: neverReaches((path) => path === 'cli/index.ts', /^@temporalio\/|^@tensorflow\/|^training\//),
    broken: {
      files: { 'cli/index.ts': "import { train } from './train.ts';", 'cli/train.ts': "import '@temporalio/client';" },
      says: 'cli/index.ts reaches @temporalio/client',
    },
  },
  {
    name: 'value imports never run in a circle',
    violations: (graph) => cycles(graph).map((circle) => circle.join(' → ')),
    broken: {
      files: { 'shared/a.ts': "import { b } from './b.ts';", 'shared/b.ts': "import { a } from './a.ts';" },
      says: 'shared/a.ts → shared/b.ts → shared/a.ts',
    },
  },
  {
    name: 'every package imported is a declared dependency',
    violations: imports(/./, ({ target, kind }, { path }) => {
      if (kind !== 'package' || target in packageJson.dependencies) return true;
      return path.startsWith('scripts/') && target in packageJson.devDependencies;
    }),
    broken: { files: { 'cli/a.ts': "import 'lodash';" }, says: 'cli/a.ts imports lodash' },
  },
  {
    name: 'every file imported exists, by its whole name',
    violations: (graph) =>
      imports(
        /./,
        ({ target, kind }) => kind !== 'file' || graph.has(target) || existsSync(`${ROOT}/${target}`),
      )(graph),
    broken: { files: { 'cli/a.ts': "import './nowhere.ts';" }, says: 'cli/a.ts imports cli/nowhere.ts' },
  },
];

const MAX_LINES = 300;
/** Put together here, so that this file does not break its own rule. */
const UNFINISHED = new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X'].join('|')})\\b`);

export const fileRules: Rule[] = [
  {
    name: 'the environment is read in cli/, workers/ and where the trainer is started',
    violations: lines(
      /^(?!cli\/|workers\/|activities\/trainer\/supervise\.ts$)/,
      ({ envReads }) => envReads,
      'reads process.env',
    ),
    broken: {
      files: { 'training/a.ts': "const home =\n  process.env['HOME'];" },
      says: 'training/a.ts:2 reads process.env',
    },
  },
  {
    name: 'only the command line, scripts and workers print',
    violations: lines(/^(?!cli\/|scripts\/)/, ({ consoleUses }) => consoleUses, 'uses console'),
    broken: { files: { 'training/a.ts': "console.log('x');" }, says: 'training/a.ts:1 uses console' },
  },
  {
    name: 'no default exports',
    violations: lines(/./, ({ defaultExports }) => defaultExports, 'exports a default'),
    broken: { files: { 'cli/a.ts': 'export default function a() {}' }, says: 'cli/a.ts:1 exports a default' },
  },
  {
    name: 'no non-null assertions',
    violations: lines(/./, ({ nonNullAssertions }) => nonNullAssertions, 'asserts with !'),
    broken: { files: { 'training/a.ts': 'const n = shape[0]!;' }, says: 'training/a.ts:1 asserts with !' },
  },
  {
    name: `no file is longer than ${MAX_LINES} lines`,
    violations: (graph) =>
      modules(graph, /./)
        .filter((module) => module.lines > MAX_LINES)
        .map((module) => `${module.path} has ${module.lines} lines`),
    broken: { files: { 'cli/a.ts': ';\n'.repeat(301) }, says: 'cli/a.ts has 301 lines' },
  },
  {
    name: 'nothing is left for later in comments',
    violations: lines(
      /./,
      ({ text }) => text.split('\n').flatMap((line, i) => (UNFINISHED.test(line) ? [i + 1] : [])),
      'is unfinished',
    ),
    broken: { files: { 'cli/a.ts': `// ${'TO' + 'DO'}: later` }, says: 'cli/a.ts:1 is unfinished' },
  },
  {
    name: 'every file opens with what it does',
    violations: (graph) =>
      modules(graph, /./)
        .filter(({ text }) => !text.startsWith('/**'))
        .map(({ path }) => `${path} has no opening comment`),
    broken: { files: { 'cli/a.ts': 'export const a = 1;' }, says: 'cli/a.ts has no opening comment' },
  },
];
