/**
 * Queries, updates and signals of `orpoFineTune`, typed. Names stand in shared/contract.ts.
 */
import { defineQuery, defineSignal, defineUpdate } from '@temporalio/workflow';
import type { RunConfig } from '../shared/config.ts';
import { QUERIES, REPORT_PROGRESS, UPDATES } from '../shared/contract.ts';
import type { CheckpointRef, Progress } from '../shared/records.ts';

/** What every control update answers: where the run stands after it. */
export interface ControlAnswer {
  phase: Progress['phase'];
  step: number;
  checkpoint: CheckpointRef | null;
}

export const progressQuery = defineQuery<Progress>(QUERIES.progress);
export const configQuery = defineQuery<RunConfig | null>(QUERIES.config);
export const artifactsQuery = defineQuery<Record<string, string>>(QUERIES.artifacts);

export const pauseUpdate = defineUpdate<ControlAnswer>(UPDATES.pause);
export const resumeUpdate = defineUpdate<ControlAnswer>(UPDATES.resume);
export const stopUpdate = defineUpdate<ControlAnswer>(UPDATES.stop);
export const stopAfterEpochUpdate = defineUpdate<ControlAnswer>(UPDATES.stopAfterEpoch);

export const reportProgressSignal = defineSignal<[Partial<Progress>]>(REPORT_PROGRESS);
