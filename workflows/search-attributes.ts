/**
 * Search attributes of a run (shared/contract.ts lists names and types). Written only where an activity found them
 * registered: an unknown attribute would fail the workflow task for ever.
 */
import { defineSearchAttributeKey, type SearchAttributeUpdatePair } from '@temporalio/common';
import { SEARCH_ATTRIBUTES } from '../shared/contract.ts';
import type { Progress, ResolvedRun } from '../shared/records.ts';

const model = defineSearchAttributeKey('OrpoModel', SEARCH_ATTRIBUTES.OrpoModel);
const dataset = defineSearchAttributeKey('OrpoDataset', SEARCH_ATTRIBUTES.OrpoDataset);
const phase = defineSearchAttributeKey('OrpoPhase', SEARCH_ATTRIBUTES.OrpoPhase);
const epoch = defineSearchAttributeKey('OrpoEpoch', SEARCH_ATTRIBUTES.OrpoEpoch);
const evalLoss = defineSearchAttributeKey('OrpoEvalLoss', SEARCH_ATTRIBUTES.OrpoEvalLoss);
const rewardAccuracy = defineSearchAttributeKey('OrpoRewardAcc', SEARCH_ATTRIBUTES.OrpoRewardAcc);

export function searchAttributesOf(run: ResolvedRun, progress: Progress): SearchAttributeUpdatePair[] {
  return [
    { key: model, value: run.config.model.slice(-200) },
    { key: dataset, value: (run.config.data.source.split('/').at(-1) ?? '').slice(-200) },
    { key: phase, value: progress.phase },
    { key: epoch, value: progress.epoch },
    ...(progress.evalLoss === null ? [] : [{ key: evalLoss, value: progress.evalLoss }]),
    ...(progress.rewardAccuracy === null ? [] : [{ key: rewardAccuracy, value: progress.rewardAccuracy }]),
  ];
}
