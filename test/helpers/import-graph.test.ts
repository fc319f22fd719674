/**
 * The reader of imports that the layout's rules stand on.
 */
import { describe, expect, it } from 'vitest';
import { graphOf, type Import } from './import-graph.ts';

describe('the import reader', () => {
  const read = (text: string): Import[] => graphOf({ 'cli/a.ts': text }).get('cli/a.ts')?.imports ?? [];

  it.each([
    ["import type { A } from './b.ts';", { target: 'cli/b.ts', isType: true }],
    // With verbatimModuleSyntax this loads the module for its side effects.
    ["import { type A } from './b.ts';", { target: 'cli/b.ts', isType: false }],
    ["export type { A } from '../b.ts';", { target: 'b.ts', isType: true }],
    ["export * from './b.ts';", { target: 'cli/b.ts', isType: false }],
    ["const b = await import('./b.ts');", { target: 'cli/b.ts', isDynamic: true }],
    ["const b = require('@scope/name/part');", { target: '@scope/name', kind: 'package' }],
    ["type B = import('zod').ZodType;", { target: 'zod', isType: true }],
    ["import fs from 'fs';", { target: 'node:fs', kind: 'builtin' }],
    ["import 'node:fs/promises';", { target: 'node:fs/promises', kind: 'builtin' }],
  ])('%s', (text, expected) => {
    expect(read(text)).toEqual([expect.objectContaining(expected)]);
  });

  it('sees no import in text', () => {
    expect(read("const text = \"import x from 'y'\"; // import z from 'z'")).toEqual([]);
  });
});
