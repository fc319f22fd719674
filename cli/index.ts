/**
 * The command line. Each command lives in a file of its own and is loaded only when called, so that `--help` is quick
 * and needs neither engine nor server.
 */
import { Command, Option } from 'commander';
import { command, EXIT } from './output.ts';

const program = new Command('orpo')
  .description('Preference fine-tuning (ORPO) of small language models as a durable Temporal workflow')
  .showHelpAfterError()
  .configureOutput({ outputError: (text, write) => write(text) })
  .exitOverride((error) => process.exit(error.exitCode === 0 ? EXIT.completed : EXIT.usage));

const run =
  <A extends unknown[]>(body: (...args: A) => Promise<number>) =>
  (...args: A) =>
    command(() => body(...args));
const example = (text: string): string => `\nExample:\n  ${text}`;

program
  .command('quickstart')
  .description('set everything up, fine-tune the bundled example with a private server, show the results')
  .option('--keep', 'leave the private server and worker running afterwards')
  .option('--json', 'end with one JSON line')
  .addHelpText('after', example('./orpo quickstart'))
  .action(run(async (options: object) => (await import('./quickstart.ts')).quickstart(options)));

program
  .command('test')
  .description('set everything up and run the whole test suite')
  .argument('[filters...]', 'only test files whose path contains one of these')
  .addHelpText('after', example('./orpo test'))
  .action(run(async (filters: string[]) => (await import('./test.ts')).test(filters)));

program
  .command('doctor')
  .description('list every part this needs, found or missing, and how to fix it')
  .option('--json', 'end with one JSON line')
  .addHelpText('after', example('./orpo doctor'))
  .action(
    run(async (options: { json?: boolean }) => (await import('./doctor.ts')).doctor({ json: options.json === true })),
  );

program
  .command('train')
  .description('start a run and follow it')
  .argument('<config>', 'JSON file (docs/configuration.md)')
  .option('--id <workflowId>', "the run's workflow id")
  .option('--out <folder>', "output folder instead of the config's")
  .option('--detach', 'start only, print the id')
  .option('--local', 'the same steps in this process, without Temporal')
  .option('--plain', 'lines instead of progress bars')
  .option('--json', 'end with one JSON line')
  .addHelpText('after', example('./orpo train examples/quickstart.json'))
  .action(
    run(async (config: string, options: { local?: boolean; out?: string }) =>
      options.local
        ? (await import('./local.ts')).trainLocally(config, options)
        : (await import('./train.ts')).train(config, options),
    ),
  );

program
  .command('watch')
  .description('follow runs that go on (all of them without ids)')
  .argument('[ids...]')
  .option('--plain', 'lines instead of progress bars')
  .addHelpText('after', example('./orpo watch'))
  .action(run(async (ids: string[], options: object) => (await import('./runs.ts')).watch(ids, options)));

program
  .command('status')
  .description('list runs, or show one')
  .argument('[id]')
  .option('--json', 'end with one JSON line')
  .addHelpText('after', example('./orpo status'))
  .action(run(async (id: string | undefined, options: object) => (await import('./runs.ts')).status(id, options)));

for (const [name, update, about] of [
  ['pause', 'pause', 'write a checkpoint, free the device and wait'],
  ['resume', 'resume', 'go on with a paused run'],
  ['stop', 'stop', 'write a checkpoint, then evaluate, plot and save what there is'],
  ['stop-after-epoch', 'stopAfterEpoch', 'finish the running epoch, then evaluate, plot and save'],
] as const) {
  program
    .command(name)
    .description(about)
    .argument('<id>')
    .option('--json', 'end with one JSON line')
    .addHelpText('after', example(`./orpo ${name} my-run`))
    .action(run(async (id: string, options: object) => (await import('./runs.ts')).control(update, id, options)));
}

const schedule = program.command('schedule').description('Temporal Schedules of runs');
schedule
  .command('create')
  .description('train again and again; every firing writes its own folder')
  .argument('<config>')
  .requiredOption('--id <scheduleId>')
  .option('--cron <expression>', 'five-field cron expression')
  .option('--every <duration>', 'interval, as in 7d or 12h')
  .option('--timezone <name>', 'of the cron expression', 'UTC')
  .option('--json', 'end with one JSON line')
  .addHelpText('after', example('./orpo schedule create config.json --id weekly --cron "0 3 * * 1"'))
  .action(
    run(async (config: string, options: { id: string }) =>
      (await import('./schedule.ts')).createSchedule(config, options),
    ),
  );

program
  .command('split')
  .description('validate a preference file and split it by prompt, without training')
  .argument('<config>', 'run config, or a .csv, .jsonl or .parquet file')
  .requiredOption('--out <folder>')
  .option('--json', 'end with one JSON line')
  .addHelpText('after', example('./orpo split pairs.csv --out splits'))
  .action(run(async (config: string, options: { out: string }) => (await import('./split.ts')).split(config, options)));

const model = program.command('model').description('base models');
model
  .command('fetch')
  .description('bring a base model into the cache and say where it came from')
  .argument('<model>', 'preset, hub id, folder or .gguf file')
  .option('--json', 'end with one JSON line')
  .addHelpText('after', example('./orpo model fetch smollm2-135m-instruct'))
  .action(run(async (name: string, options: object) => (await import('./model.ts')).fetchModel(name, options)));

program
  .command('worker')
  .description("run this machine's workers until SIGTERM")
  .addOption(new Option('--role <role>').choices(['all', 'workflow', 'cpu', 'gpu']).default('all'))
  .addOption(new Option('--device <device>').choices(['auto', 'cpu', 'gpu']).default('auto'))
  .addHelpText('after', example('./orpo worker --role gpu --device cpu'))
  .action(run(async (options: { role: 'all'; device: 'auto' }) => (await import('./worker.ts')).worker(options)));

program
  .command('dev')
  .description('start a Temporal server with its UI and all workers, until Ctrl-C')
  .addHelpText('after', example('./orpo dev'))
  .action(run(async () => (await import('./dev.ts')).dev()));

await program.parseAsync();
