import { describe, expect, it } from 'vitest';
import { EnvironmentIncomplete } from '../../shared/errors.ts';
import { engineInfo, loadTensorflow, nativeTensor, statelessUniform, tf } from '../../training/tf.ts';

describe('the door to TensorFlow', () => {
  it('names ./orpo doctor where the native library does not load', () => {
    const attempt = () =>
      loadTensorflow(() => {
        throw new Error('The Node.js native addon module (tfjs_binding.node) can not be found\nlong advice');
      });
    expect(attempt).toThrow(EnvironmentIncomplete);
    expect(attempt).toThrow(
      "engine: TensorFlow's native library does not load (The Node.js native addon module (tfjs_binding.node) can not be found); run ./orpo doctor",
    );
  });

  it('refuses another release of TensorFlow.js', () => {
    const attempt = () => loadTensorflow(() => ({ version: { 'tfjs-core': '4.23.1' } }));
    expect(attempt).toThrow('engine: TensorFlow.js 4.23.1 is installed, this program needs 4.22.x; run npm ci');
  });

  it('says which library computes where', () => {
    expect(engineInfo().library).toMatch(/^\d+\.\d+/);
    expect(['cpu', 'gpu']).toContain(engineInfo().device);
  });

  it('shares no memory between a native tensor and the array it was made of, whatever its alignment', () => {
    for (const length of [3, 1000, 100_000]) {
      for (let offset = 0; offset < 16; offset++) {
        const values = new Float32Array(new ArrayBuffer(4 * (length + offset)), 4 * offset).fill(1);
        const tensor = nativeTensor(values, [length]);
        values.fill(9);
        expect(tensor.dataSync().every((value) => value === 1)).toBe(true);
        tensor.dispose();
      }
    }
  });

  it('draws the same numbers from the same seed, in [0, 1)', () => {
    const draw = (seed: [number, number]) => [...statelessUniform([100], seed).dataSync()];
    const numbers = draw([1, 2]);
    expect(draw([1, 2])).toEqual(numbers);
    expect(draw([2, 1])).not.toEqual(numbers);
    expect(Math.min(...numbers)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...numbers)).toBeLessThan(1);
    expect(tf.memory().numTensors).toBeGreaterThan(0);
  });
});
