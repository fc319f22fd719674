/**
 * `./orpo split`: validation and split alone, by the rules of a run.
 */
import { resolve } from 'node:path';
import { resolveConfig } from '../shared/config.ts';
import { splitFile } from '../training/steps/load-and-split.ts';
import { readConfigFile } from './config-file.ts';
import { EXIT, say, sayJson } from './output.ts';

/** @param path - a run config, or a data file to split by the defaults. @returns exit code */
export async function split(path: string, options: { out: string; json?: boolean }): Promise<number> {
  const config = path.endsWith('.json')
    ? (await readConfigFile(path)).config
    : resolveConfig({ data: { source: resolve(path) } });
  const dataset = await splitFile({ data: config.data, folder: resolve(options.out) });
  if (options.json) {
    sayJson(dataset);
    return EXIT.completed;
  }
  say(`${dataset.rows} pairs of ${config.data.source}`);
  for (const name of ['train', 'validation', 'test'] as const) {
    const file = dataset.splits[name];
    say(`  ${name.padEnd(10)} ${String(dataset.counts[name]).padStart(6)}  ${file?.uri ?? '–'}`);
  }
  for (const warning of dataset.warnings) say(`warning: ${warning}`);
  return EXIT.completed;
}
