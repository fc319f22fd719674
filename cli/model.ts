/**
 * `./orpo model fetch`: brings a base into the cache.
 */
import { EXIT, say, sayJson } from './output.ts';
import { prepareBase } from './prepare.ts';

/** @returns exit code */
export async function fetchModel(name: string, options: { json?: boolean }): Promise<number> {
  const base = await prepareBase(name);
  if (options.json) sayJson(base);
  else say(`${name}: ${base.folder}\nsource: ${base.source}`);
  return EXIT.completed;
}
