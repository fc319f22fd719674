/**
 * Reads a run's config file and makes its paths absolute against the file's own folder (the default output against the
 * working directory), so that the config means the same wherever a worker runs.
 */
import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { resolveConfig, type RunConfig } from '../shared/config.ts';
import { ConfigInvalid } from '../shared/errors.ts';
import { looksLikePath } from '../training/steps/resolve-run.ts';

type Json = Record<string, unknown>;

/** @returns the given fields with absolute paths, and the full config they resolve to
 *  @throws ConfigInvalid for an unreadable file, broken JSON (with its position) or any wrong field */
export async function readConfigFile(path: string, overrides: Json = {}): Promise<{ input: Json; config: RunConfig }> {
  const text = await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    throw new ConfigInvalid(`config: cannot read ${resolve(path)} (${cause.code}); give the path of a JSON file`, {
      cause,
    });
  });
  let given: unknown;
  try {
    given = JSON.parse(text.replace(/^\uFEFF/, ''));
  } catch (cause) {
    throw new ConfigInvalid(`config: ${resolve(path)} is not JSON: ${(cause as Error).message}`, { cause });
  }
  resolveConfig(given);
  const input = { ...absolute(given as Json, dirname(resolve(path))), ...overrides };
  return { input, config: resolveConfig(input) };
}

function absolute(given: Json, folder: string): Json {
  const at = (value: unknown): unknown => (typeof value === 'string' ? resolve(folder, value) : value);
  const data = { ...(given['data'] as Json) };
  data['source'] = at(data['source']);
  const result: Json = { ...given, data };
  const { model, method, output } = given as { model?: string; method?: Json; output?: string };
  if (model !== undefined && looksLikePath(model)) result['model'] = at(model);
  if (method?.['initFrom']) result['method'] = { ...method, initFrom: at(method['initFrom']) };
  if (output === undefined) result['output'] = resolve('runs/{workflowId}');
  else if (!/^[a-z0-9]+:\/\//i.test(output)) result['output'] = at(output);
  return result;
}
