/**
 * The repository's modules and what they import, read by TypeScript's own parser, for rules about layout.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { posix } from 'node:path';
import ts from 'typescript';

export interface Import {
  /** Path from the root for files of the repository, package name (`zod`, `@scope/name`), or `node:name`. */
  target: string;
  kind: 'file' | 'package' | 'builtin';
  /** `import type` and `export type`: nothing is left of it at run time. */
  isType: boolean;
  /** `import()`: loaded when reached. */
  isDynamic: boolean;
}

export interface Module {
  path: string;
  text: string;
  lines: number;
  imports: Import[];
  /** Line numbers. */
  defaultExports: number[];
  envReads: number[];
  consoleUses: number[];
  nonNullAssertions: number[];
}

export type Graph = Map<string, Module>;

/** @param files - text by path from the root */
export function graphOf(files: Record<string, string>): Graph {
  return new Map(Object.entries(files).map(([path, text]) => [path, parse(path, text)]));
}

/** Every TypeScript file below the given folders. */
export function graphOfFolders(root: string, folders: string[]): Graph {
  const files: Record<string, string> = {};
  for (const folder of folders) {
    const names = readdirSync(posix.join(root, folder), { recursive: true, encoding: 'utf8' });
    for (const name of names.filter((each) => each.endsWith('.ts')).sort()) {
      const path = posix.join(folder, name);
      files[path] = readFileSync(posix.join(root, path), 'utf8');
    }
  }
  return graphOf(files);
}

/** Whatever a module loads with itself: its value imports and theirs. Paths and package names, the module left out.
 *  @param follow - which imports count; static value imports by default */
export function reached(
  graph: Graph,
  from: string,
  follow = (each: Import) => !each.isType && !each.isDynamic,
): string[] {
  const seen = new Set<string>();
  const visit = (path: string): void => {
    for (const each of graph.get(path)?.imports.filter(follow) ?? []) {
      if (seen.has(each.target)) continue;
      seen.add(each.target);
      visit(each.target);
    }
  };
  visit(from);
  seen.delete(from);
  return [...seen].sort();
}

/** Circles of value imports, each once, as the paths from a module back to itself. */
export function cycles(graph: Graph): string[][] {
  const found: string[][] = [];
  const done = new Set<string>();
  const visit = (path: string, trail: string[]): void => {
    const at = trail.indexOf(path);
    if (at >= 0) found.push([...trail.slice(at), path]);
    if (at >= 0 || done.has(path)) return;
    const next = graph.get(path)?.imports.filter((each) => each.kind === 'file' && !each.isType) ?? [];
    for (const { target } of next) visit(target, [...trail, path]);
    done.add(path);
  };
  for (const path of graph.keys()) visit(path, []);
  return found;
}

function parse(path: string, text: string): Module {
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.ES2022, true);
  const module: Module = {
    path,
    text,
    lines: text.split('\n').length - (text.endsWith('\n') ? 1 : 0),
    imports: [],
    defaultExports: [],
    envReads: [],
    consoleUses: [],
    nonNullAssertions: [],
  };
  const visit = (node: ts.Node): void => {
    const line = source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1;
    const imported = importOf(node);
    if (imported) module.imports.push({ ...resolve(path, imported.specifier), ...imported.how });
    if (isDefaultExport(node)) module.defaultExports.push(line);
    if (isEnvRead(node)) module.envReads.push(line);
    if (ts.isPropertyAccessExpression(node) && node.expression.getText(source) === 'console')
      module.consoleUses.push(line);
    if (ts.isNonNullExpression(node)) module.nonNullAssertions.push(line);
    ts.forEachChild(node, visit);
  };
  visit(source);
  return module;
}

type Found = { specifier: string; how: Pick<Import, 'isType' | 'isDynamic'> };

function importOf(node: ts.Node): Found | null {
  const found = (specifier: ts.Node | undefined, isType: boolean, isDynamic = false): Found | null =>
    specifier && ts.isStringLiteralLike(specifier) ? { specifier: specifier.text, how: { isType, isDynamic } } : null;
  if (ts.isImportDeclaration(node)) return found(node.moduleSpecifier, node.importClause?.isTypeOnly ?? false);
  if (ts.isExportDeclaration(node)) return found(node.moduleSpecifier, node.isTypeOnly);
  if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) return found(node.argument.literal, true);
  if (!ts.isCallExpression(node)) return null;
  if (node.expression.kind === ts.SyntaxKind.ImportKeyword) return found(node.arguments[0], false, true);
  const isRequire = ts.isIdentifier(node.expression) && node.expression.text === 'require';
  return isRequire ? found(node.arguments[0], false) : null;
}

function resolve(from: string, specifier: string): Pick<Import, 'target' | 'kind'> {
  if (specifier.startsWith('.')) return { target: posix.join(posix.dirname(from), specifier), kind: 'file' };
  if (isBuiltin(specifier)) return { target: `node:${specifier.replace(/^node:/, '')}`, kind: 'builtin' };
  const parts = specifier.split('/');
  return { target: parts.slice(0, specifier.startsWith('@') ? 2 : 1).join('/'), kind: 'package' };
}

function isDefaultExport(node: ts.Node): boolean {
  if (ts.isExportAssignment(node)) return true;
  if (ts.isExportSpecifier(node)) return node.name.text === 'default';
  const modifiers = ts.canHaveModifiers(node) ? ts.getModifiers(node) : undefined;
  return modifiers?.some(({ kind }) => kind === ts.SyntaxKind.DefaultKeyword) ?? false;
}

/** `process.env`, or `env` taken out of `process` or `node:process`. */
function isEnvRead(node: ts.Node): boolean {
  if (ts.isPropertyAccessExpression(node)) return node.getText() === 'process.env';
  if (ts.isImportDeclaration(node)) {
    return /^(node:)?process$/.test((node.moduleSpecifier as ts.StringLiteral).text) && /\benv\b/.test(node.getText());
  }
  return (
    ts.isVariableDeclaration(node) && node.initializer?.getText() === 'process' && /\benv\b/.test(node.name.getText())
  );
}
