import { describe, expect, test } from 'vitest';
import { resolveConfig } from '../../../shared/config.ts';
import { CheckpointIncompatible } from '../../../shared/errors.ts';
import type { ModelRef } from '../../../shared/records.ts';
import { canonicalJson, identityOf, inexactBecause, mustBelong } from '../../../training/checkpoint/identity.ts';
import { smallCheckpoint } from '../../helpers/checkpoints.ts';
import { tinyPairs } from '../../helpers/tiny-run.ts';

const { meta } = smallCheckpoint(3, 1);
const model = { weightsSha256: 'ba5e' } as ModelRef;
const config = (training: object) => resolveConfig({ data: { source: 'x.csv' }, training });

describe('whose checkpoint', () => {
  test('a run is known by base, pairs, method and training options, not by how often it saves', () => {
    const pairs = tinyPairs(3);
    const identity = identityOf(config({}), model, pairs);
    expect(identityOf(config({ checkpointEverySteps: 7, checkpointEverySeconds: 9 }), model, pairs)).toEqual(identity);
    expect(identityOf(config({ learningRate: 2e-4 }), model, pairs).training).not.toBe(identity.training);
    expect(identityOf(config({}), model, tinyPairs(4)).data).not.toBe(identity.data);
    expect(identityOf(config({}), model, [...pairs].reverse()).data).not.toBe(identity.data);
  });

  test('every difference is named at once', () => {
    const identity = { ...meta.identity, base: 'other', data: 'other', method: '{}' };
    const check = () => mustBelong(meta, '/run/c', { lineage: 'main', identity });
    expect(check).toThrow(CheckpointIncompatible);
    expect(check).toThrow('checkpoint /run/c: belongs to another run');
    expect(check).toThrow('base weights: ba5e there, other here');
    expect(check).toThrow('training pairs: da7a there, other here');
    expect(check).toThrow('method: {"kind":"lora"} there, {} here');
  });

  test('other training options are refused within a lineage and allowed in a corrected one', () => {
    const identity = { ...meta.identity, training: '{"seed":1}' };
    expect(() => mustBelong(meta, 'c', { lineage: 'main', identity })).toThrow('training options: {"seed":42} there');
    expect(() => mustBelong(meta, 'c', { lineage: 'second', identity })).not.toThrow();
  });

  test('a checkpoint of another form is refused', () => {
    const newer = { ...meta, checkpointFormat: 2 as 1 };
    expect(() => mustBelong(newer, 'c', { lineage: 'main', identity: meta.identity })).toThrow(
      'format: 2 there, 1 here',
    );
  });

  test('exactness needs the same engine and one that repeats its bits', () => {
    const { engine } = meta;
    expect(inexactBecause(engine, engine)).toEqual([]);
    expect(inexactBecause(engine, { ...engine, cpuModel: 'b' })).toEqual(['engine cpuModel was test, is b']);
    const two = { ...engine, threads: 2 };
    expect(inexactBecause(two, two)).toEqual(['the eager step on 2 threads does not repeat its bits']);
    const gpu = { ...engine, device: 'gpu' as const };
    expect(inexactBecause(gpu, gpu)).toEqual(['the eager step on a GPU does not repeat its bits']);
    const xla = { ...two, step: 'xla' as const };
    expect(inexactBecause(xla, xla)).toEqual([]);
  });

  test('canonical JSON does not depend on the order of keys', () => {
    expect(canonicalJson({ b: [{ d: 1, c: null }], a: 'x' })).toBe('{"a":"x","b":[{"c":null,"d":1}]}');
  });
});
