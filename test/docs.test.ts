/**
 * Generated documentation is up to date, and what documentation names exists: files, commands, scripts, variables.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { generatedFiles } from '../scripts/docs.ts';
import { SEARCH_ATTRIBUTES } from '../shared/contract.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

const pages = [
  ...readdirSync(ROOT).filter((name) => name.endsWith('.md')),
  ...readdirSync(join(ROOT, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
];

describe('generated files', () => {
  it.each(['docs/configuration.md', 'examples/run-config.schema.json'])(
    '%s is what npm run docs writes',
    async (path) => {
      expect(read(path), `${path} is out of date: run npm run docs`).toBe((await generatedFiles())[path]);
    },
  );
});

describe.each(pages)('%s', (page) => {
  const text = read(page);

  it('links to files that exist', () => {
    const links = [...text.matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)].map((match) => match[1] ?? '');
    expect(links.filter((link) => !existsSync(join(ROOT, dirname(page), link)))).toEqual([]);
  });

  it('names commands that exist', () => {
    const known = new Set(
      [...read('cli/index.ts').matchAll(/\.command\('([\w-]+)'\)|^ {2}\['([\w-]+)'/gm)].map((m) => m[1] ?? m[2]),
    );
    const named = [...text.matchAll(/\.\/orpo ([a-z][\w-]*)/g)].map((match) => match[1]);
    expect(named.filter((name) => !known.has(name))).toEqual([]);
  });

  it('names npm scripts that exist', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
    const named = [...text.matchAll(/npm run ([\w:-]+)/g)].map((match) => match[1] ?? '');
    expect(named.filter((name) => !(name in scripts))).toEqual([]);
  });
});

describe('docs/configuration.md', () => {
  it('lists every variable of ours that the program reads', () => {
    const sources = ['cli', 'workers', 'activities', 'training'].flatMap((folder) =>
      readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
        .filter((name) => name.endsWith('.ts'))
        .map((name) => read(join(folder, name))),
    );
    const names = sources.flatMap((source) => [...source.matchAll(/\benv\['(ORPO_\w+|TEMPORAL_\w+)'\]/g)]);
    const page = read('docs/configuration.md');
    expect(names.length).toBeGreaterThan(3);
    expect(names.map((match) => match[1]).filter((name) => !page.includes(`\`${name}\``))).toEqual([]);
  });
});

describe('docs/dependencies.md', () => {
  it('says of every package why it is here', () => {
    const { dependencies, devDependencies } = JSON.parse(read('package.json')) as Record<
      string,
      Record<string, string>
    >;
    const page = read('docs/dependencies.md');
    const names = Object.keys({ ...dependencies, ...devDependencies }).filter(
      (name) => !name.startsWith('@temporalio/'),
    );
    expect(names.filter((name) => !page.includes(`**${name}**`))).toEqual([]);
  });
});

describe('docker-compose.yml', () => {
  it('registers every search attribute with its type', () => {
    const registered = [...read('docker-compose.yml').matchAll(/- --search-attribute\n\s+- (\w+)=(\w+)/g)];
    const types = Object.fromEntries(registered.map(([, name, type]) => [name, type?.toUpperCase()]));
    expect(types).toEqual(SEARCH_ATTRIBUTES);
  });
});

describe('Dockerfile', () => {
  it('is let see every path that it copies', () => {
    const visible = read('.dockerignore')
      .split('\n')
      .filter((line) => line.startsWith('!'));
    const copied = [...read('Dockerfile').matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap((match) =>
      (match[1] ?? '').split(' '),
    );
    expect(copied.length).toBeGreaterThan(8);
    expect(copied.filter((path) => !visible.includes(`!${path}`))).toEqual([]);
    expect(copied.filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
  });
});
