/** Checkpoints of a few numbers, for laws of their folders. */
import type { Checkpoint } from '../../training/checkpoint/checkpoint.ts';
import { NOTHING_YET } from '../../training/early-stopping.ts';
import { stepRow } from '../../training/report/metrics.ts';

/** A checkpoint after so many steps; its weights and rows tell which one it is. */
export function smallCheckpoint(step: number, token: number, lineage = 'main'): Checkpoint {
  const one = (data: number[]) => ({ 'layer.a': { shape: [2, 1], data: Float32Array.from(data) } });
  return {
    meta: {
      checkpointFormat: 1,
      lineage,
      token,
      configHash: 'c0ffee',
      position: { step, epoch: 0, cursor: step * 4 },
      totalSteps: 10,
      seed: 42,
      over: null,
      stopping: NOTHING_YET,
      identity: { base: 'ba5e', data: 'da7a', method: '{"kind":"lora"}', training: '{"seed":42}' },
      engine: {
        library: 'test',
        device: 'cpu',
        step: 'eager',
        precision: 'float32',
        threads: 1,
        microBatch: 2,
        cpuModel: 'test',
      },
    },
    state: { weights: one([step, token]), firstMoments: one([0.5, -0]), secondMoments: one([1e-30, 3e38]), step },
    rows: Array.from({ length: step }, (_, index) =>
      stepRow({ step: index + 1, epoch: (index + 1) / 10, pairs: 4 }, { loss: 1 / (index + 3) }),
    ),
  };
}
