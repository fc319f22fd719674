/**
 * Whose checkpoint is it? A run is known by its base's weights, its encoded pairs, its method and its training options;
 * a checkpoint of another one is refused rather than continued with other mathematics.
 */
import { createHash } from 'node:crypto';
import type { RunConfig } from '../../shared/config.ts';
import { CheckpointIncompatible } from '../../shared/errors.ts';
import type { EngineFingerprint, ModelRef } from '../../shared/records.ts';
import type { EncodedPair, EncodedSequence } from '../data/encoded.ts';
import { CHECKPOINT_FORMAT, type CheckpointMeta, type RunIdentity } from './checkpoint.ts';

/** @param pairs - the training split as token ids */
export function identityOf(config: RunConfig, model: ModelRef, pairs: readonly EncodedPair[]): RunIdentity {
  const { checkpointEverySteps: _steps, checkpointEverySeconds: _seconds, ...training } = config.training;
  return {
    base: model.weightsSha256,
    data: hashPairs(pairs),
    method: canonicalJson(config.method),
    training: canonicalJson({ orpo: config.orpo, training }),
  };
}

/** Refuses a checkpoint of another base, other data or another method; of other training options only within one lineage,
 *  since a corrected run goes on from the old one's checkpoint in a lineage of its own.
 *  @throws CheckpointIncompatible listing every difference */
export function mustBelong(meta: CheckpointMeta, path: string, run: { lineage: string; identity: RunIdentity }): void {
  const { identity, lineage } = run;
  const named: [keyof RunIdentity, string][] = [
    ['base', 'base weights'],
    ['data', 'training pairs'],
    ['method', 'method'],
  ];
  if (meta.lineage === lineage) named.push(['training', 'training options']);
  const problems = named
    .filter(([key]) => meta.identity[key] !== identity[key])
    .map(([key, name]) => `${name}: ${meta.identity[key]} there, ${identity[key]} here`);
  if (meta.checkpointFormat !== CHECKPOINT_FORMAT) {
    problems.push(`format: ${meta.checkpointFormat} there, ${CHECKPOINT_FORMAT} here`);
  }
  if (problems.length === 0) return;
  throw new CheckpointIncompatible(
    `checkpoint ${path}: belongs to another run\n${problems.map((problem) => `  - ${problem}`).join('\n')}\n` +
      'Give this run an output of its own, or continue with the config and data it was begun with',
    { problems },
  );
}

/** Why going on with this engine from a checkpoint of that one may end with other bits; empty where it cannot. */
export function inexactBecause(before: EngineFingerprint, now: EngineFingerprint): string[] {
  const keys = Object.keys(now) as (keyof EngineFingerprint)[];
  const changed = keys.filter((key) => before[key] !== now[key]);
  const reasons = changed.map((key) => `engine ${key} was ${before[key]}, is ${now[key]}`);
  if (now.step !== 'xla' && (now.threads > 1 || now.device === 'gpu')) {
    reasons.push(
      `the ${now.step} step on ${now.device === 'gpu' ? 'a GPU' : `${now.threads} threads`} does not repeat its bits`,
    );
  }
  return reasons;
}

/** sha256 over rows, ids and prompt lengths. */
export function hashPairs(pairs: readonly EncodedPair[]): string {
  const hash = createHash('sha256');
  const add = ({ ids, promptLength }: EncodedSequence): void => {
    hash.update(`${promptLength} ${ids.join(' ')}\n`);
  };
  for (const { row, chosen, rejected } of pairs) {
    hash.update(`${row}\n`);
    add(chosen);
    add(rejected);
  }
  return hash.digest('hex');
}

/** JSON with sorted keys: equal values give equal text. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}
