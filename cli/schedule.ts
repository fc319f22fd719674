/**
 * `./orpo schedule create`: a Temporal Schedule of `orpoFineTune`. Every firing gets its own workflow id, hence its own
 * output folder, so that two never collide.
 */
import { ScheduleAlreadyRunning, ScheduleOverlapPolicy } from '@temporalio/client';
import { FINE_TUNE, WORKFLOW_QUEUE } from '../shared/contract.ts';
import { ConfigInvalid } from '../shared/errors.ts';
import { withClient } from './connection.ts';
import { readConfigFile } from './config-file.ts';
import { EXIT, say, sayJson } from './output.ts';

export interface ScheduleOptions {
  id: string;
  cron?: string;
  every?: string;
  timezone?: string;
  json?: boolean;
}

/** @returns exit code. @throws ConfigInvalid for a taken id, a missing time, or an output that every firing would share */
export async function createSchedule(configPath: string, options: ScheduleOptions): Promise<number> {
  const { input, config } = await readConfigFile(configPath);
  if (!options.cron === !options.every)
    throw new ConfigInvalid('schedule: give one of --cron "0 3 * * 1" or --every 7d');
  if (!config.output.includes('{workflowId}')) {
    throw new ConfigInvalid(
      `output: ${config.output} would be shared by every firing; put {workflowId} into it, as in "runs/{workflowId}"`,
    );
  }
  return withClient(async (client) => {
    try {
      await client.schedule.create({
        scheduleId: options.id,
        spec: {
          ...(options.cron ? { cronExpressions: [options.cron] } : {}),
          ...(options.every ? { intervals: [{ every: options.every as '7d' }] } : {}),
          ...(options.timezone ? { timezone: options.timezone } : {}),
        },
        action: {
          type: 'startWorkflow',
          workflowType: FINE_TUNE,
          taskQueue: WORKFLOW_QUEUE,
          workflowId: options.id,
          args: [input],
        },
        // One trainer a GPU: a firing waits for the one before; a firing missed for longer than this is dropped.
        policies: { overlap: ScheduleOverlapPolicy.BUFFER_ONE, catchupWindow: '1h', pauseOnFailure: true },
      });
    } catch (error) {
      if (error instanceof TypeError || isRefusal(error)) {
        throw new ConfigInvalid(
          `schedule: ${(error as Error).message}; give a cron expression of five fields, an interval as in 7d, a time zone as in Europe/Berlin`,
        );
      }
      if (!(error instanceof ScheduleAlreadyRunning)) throw error;
      throw new ConfigInvalid(
        `schedule: "${options.id}" exists already; give another --id, or delete it: temporal schedule delete --schedule-id ${options.id}`,
      );
    }
    const { nextActionTimes } = (await client.schedule.getHandle(options.id).describe()).info;
    const next = nextActionTimes[0]?.toISOString() ?? null;
    if (options.json) sayJson({ scheduleId: options.id, next });
    else
      say(
        `schedule ${options.id} made; it fires next at ${next}\nfire it now: temporal schedule trigger --schedule-id ${options.id}`,
      );
    return EXIT.completed;
  });
}

/** The server's own word that the schedule's times are wrong (gRPC INVALID_ARGUMENT). */
function isRefusal(error: unknown): boolean {
  const cause = error instanceof Error ? error.cause : null;
  return typeof cause === 'object' && cause !== null && 'code' in cause && cause.code === 3;
}
