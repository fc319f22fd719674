/**
 * `./orpo doctor`: every part this needs, found or missing, and how to fix it. Changes and fetches nothing.
 */
import { EXIT, say, sayJson } from './output.ts';
import { checkEverything } from './setup/checks.ts';
import type { Finding } from './setup/checks.ts';

const WORDS: Record<Finding['state'], string> = {
  found: 'found',
  missing: 'MISSING',
  warning: 'warning',
  optional: '-',
};

/** @returns exit code: 0 when all that is needed is there, 3 otherwise */
export async function doctor(options: { json?: boolean }): Promise<number> {
  const findings = await checkEverything(process.env);
  const width = Math.max(...findings.map(({ part }) => part.length));
  for (const finding of findings) for (const line of linesOf(finding, width)) say(line);
  const missing = findings.filter(({ state }) => state === 'missing');
  say();
  say(
    missing.length === 0 ? 'All that is needed is there.' : `Missing: ${missing.map(({ part }) => part).join(', ')}.`,
  );
  if (options.json) sayJson({ ok: missing.length === 0, parts: findings });
  return missing.length === 0 ? EXIT.completed : EXIT.environment;
}

function linesOf({ part, state, detail, fix }: Finding, width: number): string[] {
  const head = `${part.padEnd(width)}  ${WORDS[state].padEnd(7)}  `;
  const indent = ' '.repeat(head.length);
  const [first = '', ...rest] = detail.split('\n');
  return [head + first, ...rest.map((line) => indent + line), ...(fix ? [`${indent}→ ${fix}`] : [])];
}
