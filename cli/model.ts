/**
 * `./orpo model fetch`: brings a base into the cache.
 */
import { resolveBase } from '../training/hub/resolve.ts';
import { EXIT, say, sayJson } from './output.ts';
import { showDownload } from './prepare.ts';
import { cacheRoot } from './setup/cache.ts';

/** @returns exit code */
export async function fetchModel(name: string, options: { json?: boolean }): Promise<number> {
  const base = await resolveBase(name, { cacheDir: cacheRoot(process.env), log: say, onProgress: showDownload });
  if (options.json) sayJson(base);
  else say(`${name}: ${base.folder}\nsource: ${base.source}`);
  return EXIT.completed;
}
