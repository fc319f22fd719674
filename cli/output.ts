/**
 * How commands talk: text for people on stdout, one JSON object as the last line with `--json`, failures on stderr with
 * an exit code (0 completed, 1 run failed, 2 usage/config/data, 3 environment, 4 canceled, 130 detached).
 */
import { ConfigInvalid, EnvironmentIncomplete, exitCodeOf } from '../shared/errors.ts';

export const EXIT = { completed: 0, failed: 1, usage: 2, environment: 3, canceled: 4, detached: 130 } as const;

export function say(text = ''): void {
  process.stdout.write(`${text}\n`);
}

export function warn(text: string): void {
  process.stderr.write(`${text}\n`);
}

export function sayJson(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** Runs a command's body; its number is the exit code, its errors are printed without stack unless they are bugs. */
export async function command(body: () => Promise<number>): Promise<void> {
  try {
    process.exitCode = await body();
  } catch (error) {
    process.exitCode = report(error);
  }
}

/** Prints a failure and returns its exit code. */
export function report(error: unknown): number {
  if (!(error instanceof Error)) {
    warn(`error: ${String(error)}`);
    return EXIT.failed;
  }
  const known = isNamed(error) ? error : fromServer(error);
  warn(known ? `error: ${known.message}` : (error.stack ?? error.message));
  return exitCodeOf((known ?? error).name);
}

/** What the server or the way to it answered, as one of our failures; null for anything else. */
function fromServer(error: Error): Error | null {
  if (error.name === 'WorkflowNotFoundError') {
    return new ConfigInvalid(`run: ${error.message}; ./orpo status lists the runs of this server`);
  }
  const cause = error.cause instanceof Error ? error.cause : error;
  const code = 'code' in cause && typeof cause.code === 'number' ? cause.code : null;
  if (code === null && error.name !== 'ServiceError') return null;
  return new EnvironmentIncomplete(
    `Temporal server: ${cause.message}; check TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE (or your profile)`,
  );
}

/** Named failures of this project, from any copy of the class: their message is all that a user needs. */
function isNamed(error: Error): boolean {
  return 'problems' in error;
}
