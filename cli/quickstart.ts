/**
 * `./orpo quickstart`: the whole way once. Prepares engine, Temporal CLI and base model, runs the bundled example as a
 * workflow on a private server, shows what came out. Its run stays in the database that `./orpo dev` opens.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { withClient } from './connection.ts';
import { readConfigFile } from './config-file.ts';
import { homeFolder, serverFiles } from './dev.ts';
import { EXIT, say } from './output.ts';
import { prepareBase, prepareEngine, prepareTemporal } from './prepare.ts';
import { startStack } from './stack.ts';
import { followToEnd, start } from './train.ts';

const CONFIG = fileURLToPath(new URL('../examples/quickstart.json', import.meta.url));

export interface QuickstartOptions {
  keep?: boolean;
  json?: boolean;
}

/** @returns exit code */
export async function quickstart(options: QuickstartOptions): Promise<number> {
  const home = homeFolder();
  const { input, config } = await readConfigFile(CONFIG, { ifExists: 'new', output: join(home, 'runs', 'quickstart') });
  await prepareEngine('auto');
  const cli = await prepareTemporal();
  const base = await prepareBase(config.model);
  say(`base model: ${base.source}`);

  const files = serverFiles(home);
  const stack = await startStack({ cli, ...files, home });
  const stop = async (): Promise<void> => {
    if (!options.keep) await stack.stop();
  };
  const onSignal = (): void => void stack.stop().finally(() => process.exit(EXIT.detached));
  process.once('SIGTERM', onSignal);
  try {
    const id = `quickstart-${randomBytes(3).toString('hex')}`;
    say(`workflow ${id} on a private Temporal server; its UI: ${stack.server.uiUrl}`);
    const code = await withClient(async (client) => {
      await start(client, id, input);
      return followToEnd(client, id, { json: options.json === true });
    }, stack.server.address);
    if (code === EXIT.completed && !options.json)
      say('\nnext: ./orpo dev    (opens the Temporal UI on http://127.0.0.1:8233, with this run in it)');
    if (options.keep) {
      say(`kept: server ${stack.server.address} (process ${stack.server.pid}), worker process ${stack.worker.pid}`);
      stack.worker.unref();
    }
    return code;
  } finally {
    process.off('SIGTERM', onSignal);
    await stop();
  }
}
