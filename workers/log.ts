/**
 * Structured logs of a worker: one JSON object a line on stderr (pino), the SDK's fields (workflow, run, attempt) kept.
 */
import type { LogEntry } from '@temporalio/worker';
import { pino } from 'pino';

const LEVELS = { TRACE: 'trace', DEBUG: 'debug', INFO: 'info', WARN: 'warn', ERROR: 'error' } as const;

export function createLog(): (entry: LogEntry) => void {
  const logger = pino({ base: undefined }, pino.destination({ fd: 2, sync: true }));
  return ({ level, message, meta }) => logger[LEVELS[level]](plain(meta), message);
}

function plain(meta: LogEntry['meta']): object {
  const { error, ...rest } = (meta ?? {}) as { error?: unknown };
  return error instanceof Error ? { ...rest, error: error.message } : rest;
}
