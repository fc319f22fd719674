/**
 * Words for a config's problems and for what its fields allow, read from the annotated JSON Schema, so that messages and
 * documentation cannot differ from the definition.
 */
import type { z } from 'zod';

/** A JSON Schema node with the annotations of config-schema.ts. */
export interface ConfigNode {
  type?: string;
  description?: string;
  default?: unknown;
  const?: unknown;
  enum?: unknown[];
  minimum?: number;
  exclusiveMinimum?: number;
  maximum?: number;
  exclusiveMaximum?: number;
  properties?: Record<string, ConfigNode>;
  required?: string[];
  items?: ConfigNode;
  anyOf?: ConfigNode[];
  oneOf?: ConfigNode[];
  allowed?: string;
  unit?: string;
  later?: string[] | true;
}

type Issue = z.core.$ZodIssue;
type Path = readonly PropertyKey[];

/** One line a problem: path, what was got, what is allowed.
 *  @param root - annotated schema; @param input - what was parsed */
export function problemLines(issue: Issue, root: ConfigNode, input: unknown): string[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => `${dotted([...issue.path, key])}: ${unknownKey(issue.path, key, root, input)}`);
  }
  const nodes = nodesAt(root, issue.path);
  const must = [...new Set(nodes.map(allowedText))].join(' or ');
  const got = valueAt(input, issue.path);
  if (got === undefined) return [`${dotted(issue.path)}: missing; give ${must}`];
  const isPlanned = nodes.some(({ later }) => later === true || later?.includes(String(got)));
  return [`${dotted(issue.path)}: got ${shown(got)}; ${isPlanned ? 'not supported yet; ' : ''}must be ${must}`];
}

/** What a field may be, in words. */
export function allowedText(node: ConfigNode): string {
  if (node.allowed !== undefined) return node.allowed;
  const choices = node.anyOf ?? node.oneOf;
  if (choices) return choices.map(allowedText).join(' or ');
  if ('const' in node) return String(node.const);
  if (node.enum) return listed(node.enum.map(String));
  if (node.properties) return `an object with ${listed(Object.keys(node.properties), 'and')}`;
  if (node.items) return `a list, each ${allowedText(node.items)}`;
  if (node.type === 'integer') return `a whole number${bounds(node)}`;
  if (node.type === 'number') return `a number${bounds(node)}`;
  if (node.type === 'boolean') return 'true or false';
  return node.type === 'string' ? 'a text that is not empty' : String(node.type);
}

function bounds({ minimum, exclusiveMinimum, exclusiveMaximum }: ConfigNode): string {
  const parts = [
    ...(exclusiveMinimum === undefined ? [] : [`above ${exclusiveMinimum}`]),
    ...(minimum === undefined ? [] : [`of at least ${minimum}`]),
    ...(exclusiveMaximum === undefined ? [] : [`below ${exclusiveMaximum}`]),
  ];
  return parts.length > 0 ? ` ${parts.join(' and ')}` : '';
}

function listed(words: string[], conjunction = 'or'): string {
  return words.length < 2 ? words.join('') : `${words.slice(0, -1).join(', ')} ${conjunction} ${words.at(-1)}`;
}

const SHOWN_CHARS = 60;

/** A value as JSON, cut to a line's length. */
export function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > SHOWN_CHARS ? `${text.slice(0, SHOWN_CHARS)}…` : text;
}

function dotted(path: Path): string {
  return path.length > 0 ? path.map(String).join('.') : 'config';
}

function valueAt(input: unknown, path: Path): unknown {
  let value = input;
  for (const key of path) value = (value as Record<PropertyKey, unknown> | null | undefined)?.[key];
  return value;
}

/** Nodes that describe a path; several where alternatives differ by a `kind`. */
function nodesAt(root: ConfigNode, path: Path): ConfigNode[] {
  let nodes = [root];
  for (const step of path) {
    nodes = nodes
      .flatMap(alternatives)
      .flatMap((node) => (typeof step === 'number' ? node.items : node.properties?.[String(step)]) ?? []);
  }
  return nodes;
}

function alternatives(node: ConfigNode): ConfigNode[] {
  const inner = node.anyOf ?? node.oneOf;
  return inner ? inner.flatMap(alternatives) : [node];
}

function unknownKey(path: Path, key: string, root: ConfigNode, input: unknown): string {
  const places = nodesAt(root, path).flatMap(alternatives);
  const kind = (valueAt(input, path) as { kind?: unknown }).kind;
  const owner = places.find(({ properties }) => properties?.['kind'] && Object.hasOwn(properties, key));
  if (owner) {
    const other = String(owner.properties?.['kind']?.const);
    return `belongs to kind "${other}", got kind "${String(kind)}"; remove it, or set ${dotted([...path, 'kind'])} to "${other}"`;
  }
  const own = places.filter(({ properties }) => !properties?.['kind'] || properties['kind'].const === kind);
  const known = [...new Set(own.flatMap((node) => Object.keys(node.properties ?? {})))];
  const near = nearest(key, known);
  if (near !== null) return `unknown key; did you mean "${near}"?`;
  const elsewhere = paths(root).find((at) => normal(at.at(-1) ?? '') === normal(key));
  if (elsewhere) return `unknown key here; did you mean "${elsewhere.join('.')}"?`;
  return `unknown key; known keys: ${known.join(', ')}`;
}

function paths(node: ConfigNode, at: string[] = []): string[][] {
  return alternatives(node).flatMap(({ properties }) =>
    Object.entries(properties ?? {}).flatMap(([key, inner]) => [[...at, key], ...paths(inner, [...at, key])]),
  );
}

function normal(key: string): string {
  return key.toLowerCase().replaceAll(/[_-]/g, '');
}

function nearest(key: string, known: string[]): string | null {
  const ranked = known.map((name) => ({ name, distance: editDistance(normal(key), normal(name)) }));
  ranked.sort((a, b) => a.distance - b.distance);
  const best = ranked[0];
  return best && best.distance <= Math.max(1, Math.floor(normal(key).length / 3)) ? best.name : null;
}

/** Edits that turn one word into another: a letter added, dropped, changed, or two neighbours swapped. */
function editDistance(a: string, b: string): number {
  const table = Array.from({ length: a.length + 1 }, (_, i) => [i]);
  const at = (i: number, j: number): number => table[i]?.[j] ?? (i === 0 ? j : Infinity);
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const change = at(i - 1, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1);
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      const swap = isSwap ? at(i - 2, j - 2) + 1 : Infinity;
      table[i]?.push(Math.min(change, swap, at(i - 1, j) + 1, at(i, j - 1) + 1));
    }
  }
  return at(a.length, b.length);
}
