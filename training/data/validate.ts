/**
 * Which records are usable preference pairs, and why not. Every bad row is found, not only the first: missing or empty
 * cells, values that are no text, bad encoding, equal answers, the prompt repeated inside the answers, duplicates.
 * Text is kept as it stands; trimming is for comparison only.
 */
import { stableHash } from '../random.ts';
import type { Message, PreferencePair, TextOrMessages } from './preference.ts';
import { PARTS } from './report.ts';
import type { BadCell, Columns, Part } from './report.ts';
import { NOT_UTF8 } from './source.ts';
import type { Cell, SourceRecord } from './source.ts';

export interface Validator {
  add(record: SourceRecord): void;
  rows(): number;
  pairs: PreferencePair[];
  bad: BadCell[];
  /** What is unusual but usable, one line a kind. */
  warnings(): string[];
}

type Checked = { value: TextOrMessages } | { reason: string };

/** Collects pairs and problems of one source. @param lineWord - what `line` counts there: `line` or `row` */
export function createValidator(columns: Columns, lineWord: 'line' | 'row'): Validator {
  const pairs: PreferencePair[] = [];
  const bad: BadCell[] = [];
  const firstLineOf = new Map<string, number>();
  const notes = createNotes(lineWord);
  let rows = 0;
  const add = (record: SourceRecord): void => {
    rows++;
    const { row, line } = record;
    const found = record.problems.length > 0 ? { problems: record.problems } : toPair(record, columns);
    if ('problems' in found) {
      bad.push(...found.problems.map(({ column, reason }) => ({ line, column, reason })));
      return;
    }
    const { prompt, chosen, rejected } = found;
    const key = keyOf(prompt, chosen, rejected);
    const first = firstLineOf.get(key);
    if (first !== undefined) {
      bad.push({ line, column: null, reason: `is a duplicate of ${lineWord} ${first}` });
      return;
    }
    firstLineOf.set(key, line);
    notes.look({ row, prompt, chosen, rejected }, line, firstLineOf.get(keyOf(prompt, rejected, chosen)));
    pairs.push({ row, prompt, chosen, rejected });
  };
  return { add, rows: () => rows, pairs, bad, warnings: notes.lines };
}

function keyOf(...parts: TextOrMessages[]): string {
  return stableHash(...parts.map((part) => (typeof part === 'string' ? part : JSON.stringify(part))));
}

type PairOrProblems = Omit<PreferencePair, 'row'> | { problems: SourceRecord['problems'] };

function toPair(record: SourceRecord, columns: Columns): PairOrProblems {
  const checked = { prompt: check(record.cells.prompt), chosen: check(record.cells.chosen) };
  const rejected = check(record.cells.rejected);
  const all: [Part, Checked][] = [
    ['prompt', checked.prompt],
    ['chosen', checked.chosen],
    ['rejected', rejected],
  ];
  const problems = all.flatMap(([part, found]) =>
    'reason' in found ? [{ column: columns[part], reason: found.reason }] : [],
  );
  if ('reason' in checked.prompt || 'reason' in checked.chosen || 'reason' in rejected) return { problems };
  const pair = alignForms({ prompt: checked.prompt.value, chosen: checked.chosen.value, rejected: rejected.value });
  if ('reason' in pair) return { problems: [{ column: columns[pair.part], reason: pair.reason }] };
  const reasons = pairProblems(pair);
  return reasons.length > 0
    ? { problems: reasons.map(({ part, reason }) => ({ column: part && columns[part], reason })) }
    : pair;
}

/** One cell: non-empty text, or a list of messages with non-empty text. */
function check(cell: Cell): Checked {
  if (cell === undefined || cell === null) return { reason: 'is missing' };
  if (cell === NOT_UTF8) return { reason: 'is not valid UTF-8; convert the file (iconv -f WINDOWS-1252 -t UTF-8)' };
  if (typeof cell === 'string') {
    const reason = textProblem(cell);
    return reason === null ? { value: cell } : { reason };
  }
  if (Array.isArray(cell)) return checkMessages(cell as unknown[]);
  const kind = typeof cell === 'object' ? 'an object' : `a ${typeof cell} (${String(cell).slice(0, 40)})`;
  return { reason: `is ${kind}; expected text or a list of {role, content}` };
}

function textProblem(text: string): string | null {
  if (text.trim() === '') return text === '' ? 'is empty' : 'is empty but for white space';
  if (text.includes('\0')) return 'contains a NUL character (U+0000)';
  return /\p{Surrogate}/u.test(text) ? 'contains half of a surrogate pair, which is no character' : null;
}

function checkMessages(list: unknown[]): Checked {
  if (list.length === 0) return { reason: 'is an empty list of messages' };
  const messages: Message[] = [];
  for (const [index, item] of list.entries()) {
    const { role, content } = (typeof item === 'object' && item !== null ? item : {}) as Record<string, unknown>;
    const at = `message ${index + 1} of ${list.length}`;
    if (typeof role !== 'string' || role.trim() === '') return { reason: `${at} has no role` };
    if (content === NOT_UTF8) return { reason: `the content of ${at} is not valid UTF-8` };
    if (typeof content !== 'string') return { reason: `the content of ${at} is not text` };
    const reason = textProblem(content);
    if (reason !== null) return { reason: `the content of ${at} ${reason}` };
    messages.push({ role, content });
  }
  return { value: messages };
}

type Aligned = Omit<PreferencePair, 'row'> | { part: Part; reason: string };

/**
 * All three as text or all three as messages. A text prompt beside answers that are whole conversations is the form of
 * UltraFeedback: the prompt is then what both conversations begin with, as in TRL's maybe_extract_prompt.
 */
function alignForms(pair: Omit<PreferencePair, 'row'>): Aligned {
  const { prompt, chosen, rejected } = pair;
  if (typeof prompt === 'string' && typeof chosen === 'string' && typeof rejected === 'string') return pair;
  if (typeof prompt === 'string') {
    if (typeof chosen === 'string') return { part: 'chosen', reason: 'is text while "rejected" is a list of messages' };
    if (typeof rejected === 'string')
      return { part: 'rejected', reason: 'is text while "chosen" is a list of messages' };
    const shared = sharedMessages(chosen, rejected);
    if (shared === 0) return checkRoles([{ role: 'user', content: prompt }], chosen, rejected);
    return checkRoles(chosen.slice(0, shared), chosen.slice(shared), rejected.slice(shared));
  }
  const answer = (value: TextOrMessages) =>
    typeof value === 'string' ? [{ role: 'assistant', content: value }] : value;
  return checkRoles(prompt, answer(chosen), answer(rejected));
}

function sharedMessages(a: Message[], b: Message[]): number {
  let count = 0;
  while (count < Math.min(a.length, b.length) && sameMessage(a[count], b[count])) count++;
  // Equal answers are reported as such; they must not vanish into the prompt.
  return count === a.length || count === b.length ? Math.max(0, count - 1) : count;
}

function sameMessage(a: Message | undefined, b: Message | undefined): boolean {
  return a !== undefined && b !== undefined && a.role === b.role && a.content === b.content;
}

function checkRoles(prompt: Message[], chosen: Message[], rejected: Message[]): Aligned {
  const last = prompt.at(-1)?.role ?? '';
  if (!['user', 'tool', 'assistant'].includes(last)) {
    return { part: 'prompt', reason: `ends with a "${last}" message; the last must be of "user" (or "tool")` };
  }
  for (const [part, answer] of [
    ['chosen', chosen],
    ['rejected', rejected],
  ] as const) {
    const isPrefixed = prompt.length > 0 && prompt.every((message, index) => sameMessage(message, answer[index]));
    if (isPrefixed) return { part, reason: 'repeats the prompt; it must hold the answer only' };
    const role = answer[0]?.role;
    if (role !== 'assistant') return { part, reason: `starts with a "${role ?? ''}" message; expected "assistant"` };
  }
  return { prompt, chosen, rejected };
}

function pairProblems(pair: Omit<PreferencePair, 'row'>): { part: Part | null; reason: string }[] {
  const { prompt, chosen, rejected } = pair;
  if (trimmed(chosen) === trimmed(rejected)) return [{ part: null, reason: 'chosen and rejected are equal' }];
  if (typeof prompt !== 'string' || typeof chosen !== 'string' || typeof rejected !== 'string') return [];
  const start = prompt.trim();
  const repeats = { chosen: chosen.trimStart().startsWith(start), rejected: rejected.trimStart().startsWith(start) };
  // A short prompt may begin an answer by itself ("Good morning"); a long one is a copy.
  const isCopy = start.length >= 16 || start.split(/\s+/).length >= 3 || (repeats.chosen && repeats.rejected);
  const parts = PARTS.filter((part) => part !== 'prompt' && repeats[part]);
  return isCopy ? parts.map((part) => ({ part, reason: 'repeats the prompt; it must hold the answer only' })) : [];
}

function trimmed(value: TextOrMessages): string {
  return typeof value === 'string'
    ? value.trim()
    : JSON.stringify(value.map(({ role, content }) => [role, content.trim()]));
}

/** Counts of unusual things with the first few lines of each. */
function createNotes(lineWord: 'line' | 'row') {
  const kinds = {
    swapped: 'pairs whose answers stand the other way round in an earlier row (the preferences contradict each other)',
    replacement: 'pairs with U+FFFD, left by an earlier wrong decoding',
    startsWith: 'pairs in which one answer starts with the (short) prompt',
  };
  const found = new Map<keyof typeof kinds, number[]>();
  const note = (kind: keyof typeof kinds, line: number) => {
    found.set(kind, [...(found.get(kind) ?? []), line]);
  };
  const look = (pair: PreferencePair, line: number, swappedLine: number | undefined): void => {
    if (swappedLine !== undefined) note('swapped', line);
    const texts = [pair.prompt, pair.chosen, pair.rejected].map(trimmed);
    if (texts.some((text) => text.includes('\ufffd'))) note('replacement', line);
    const [prompt, chosen, rejected] = texts;
    if (typeof pair.prompt === 'string' && prompt !== undefined) {
      if (chosen?.startsWith(prompt) || rejected?.startsWith(prompt)) note('startsWith', line);
    }
  };
  const lines = () =>
    [...found].map(([kind, at]) => {
      const first = at.slice(0, 5).join(', ');
      return `${at.length} ${kinds[kind]}; first at ${lineWord} ${first}${at.length > 5 ? ', …' : ''}`;
    });
  return { look, lines };
}
