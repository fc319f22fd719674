/**
 * Heartbeats that mean progress. `heartbeat()` only queues; Temporal sends it within the throttle.
 */
import { heartbeat } from '@temporalio/activity';

const INTERVAL_MS = 3_000;

/** Heartbeats while `body` has reported progress within `deadlineMs`, and never otherwise.
 *  @param body - gets a function to call on every sign of progress, with figures for the UI */
export async function withHeartbeat<T>(
  deadlineMs: number,
  body: (progress: (figures?: object) => void) => Promise<T>,
): Promise<T> {
  let latest: object = {};
  let at = Date.now();
  const timer = setInterval(() => {
    if (Date.now() - at < deadlineMs) heartbeat(latest);
  }, INTERVAL_MS);
  try {
    return await body((figures) => {
      at = Date.now();
      if (figures) latest = figures;
    });
  } finally {
    clearInterval(timer);
  }
}
