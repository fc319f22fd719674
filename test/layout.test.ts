/**
 * Rules of the repository (docs/architecture.md, docs/conventions.md) as tests: who may import what, and what every file
 * keeps to. Each rule is shown to catch a small example of what it forbids.
 */
import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { NON_RETRYABLE } from '../shared/contract.ts';
import * as errors from '../shared/errors.ts';
import { graphOf, graphOfFolders } from './helpers/import-graph.ts';
import { fileRules, FOLDERS, importRules, isTemporal, packageJson, ROOT } from './helpers/layout-rules.ts';

const repository = graphOfFolders(
  ROOT,
  FOLDERS.filter((folder) => existsSync(`${ROOT}/${folder}`)),
);

describe.each([
  { kind: 'imports', rules: importRules },
  { kind: 'files', rules: fileRules },
])('$kind', ({ rules }) => {
  describe.each(rules)('$name', ({ violations, broken }) => {
    it('holds', () => expect(violations(repository)).toEqual([]));
    it('would be noticed', () => {
      const found = violations(graphOf(broken.files));
      expect(found.filter((line) => line.startsWith(broken.says))).not.toEqual([]);
    });
  });
});

describe('failure types', () => {
  const classes = Object.entries(errors).filter(
    ([, value]) => typeof value === 'function' && value.prototype instanceof errors.OrpoError,
  );

  it('that cannot be retried are names of classes in shared/errors.ts', () => {
    expect(NON_RETRYABLE.filter((name) => !classes.some(([known]) => known === name))).toEqual([]);
  });

  it('are the names that their errors carry', () => {
    for (const [name, value] of classes) {
      expect(new (value as typeof errors.OrpoError)('message').name).toBe(name);
    }
  });
});

describe('package.json', () => {
  it('has all Temporal packages at one version', () => {
    const versions = Object.entries(packageJson.dependencies).filter(([name]) => isTemporal(name));
    expect(versions.length).toBeGreaterThanOrEqual(7);
    expect(new Set(versions.map(([, version]) => version)).size).toBe(1);
  });

  it('has the libraries that the project was asked to stand on', () => {
    const asked = ['@tensorflow/tfjs-node-gpu', 'parquetjs-lite', 'vega', 'vega-lite', '@temporalio/testing'];
    expect(asked.filter((name) => !(name in packageJson.dependencies))).toEqual([]);
  });
});
