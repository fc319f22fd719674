/**
 * A decoder in native memory: base weights from a Hugging Face folder, and what trains on top of them, made fresh or
 * taken from an adapter folder.
 */
import type { RunConfig } from '../../shared/config.ts';
import { adapterTensors, loadAdapter, type AdapterShape } from '../checkpoint/adapter.ts';
import type { NamedArray } from '../step/index.ts';
import { dispose, nativeTensor, type Tensor } from '../tf.ts';
import type { ModelConfig } from './config.ts';
import type { Decoder } from './decoder.ts';
import { initialFactorA } from './lora.ts';
import { loraScale } from './lora-names.ts';
import { openWeights } from './weights.ts';

/** @param method - null is the base model alone  @param seed - of a fresh adapter
 *  @throws ModelNotFound, ModelInvalid, ConfigInvalid where files or method do not fit */
export async function loadDecoder(folder: string, method: RunConfig['method'] | null, seed: number): Promise<Decoder> {
  const source = await openWeights(folder);
  const { config } = source;
  const adapter = method?.kind === 'lora' ? await initialAdapter(method, config, seed) : null;
  const weights: Record<string, Tensor> = {};
  for (const name of source.names) weights[name] = nativeTensor(await source.read(name), source.shapeOf(name));
  return { config, weights, trainsBase: method?.kind === 'full', adapter };
}

async function initialAdapter(
  method: Extract<RunConfig['method'], { kind: 'lora' }>,
  config: ModelConfig,
  seed: number,
): Promise<NonNullable<Decoder['adapter']>> {
  const { shape, weights } = method.initFrom
    ? await loadAdapter(method.initFrom, config)
    : { shape: method, weights: freshAdapter(method, config, seed) };
  const tensors = Object.entries(weights).map(([name, { data, shape: dims }]) => [name, nativeTensor(data, dims)]);
  return {
    scale: loraScale(shape.rank, shape.alpha, shape.rsLora),
    weights: Object.fromEntries(tensors) as Record<string, Tensor>,
  };
}

/** A random, B zero: the first step starts at the base model. */
function freshAdapter(shape: AdapterShape, config: ModelConfig, seed: number): Record<string, NamedArray> {
  return Object.fromEntries(
    Object.entries(adapterTensors(shape, config)).map(([name, dims]) => {
      const [rows = 0, columns = 0] = dims;
      const isA = name.endsWith('.lora_A.weight');
      const data = isA ? initialFactorA(rows, columns, seed, name) : new Float32Array(rows * columns);
      return [name, { shape: dims, data }];
    }),
  );
}

/** Frees everything the decoder holds. */
export function disposeDecoder(decoder: Decoder): void {
  dispose(decoder.weights);
  if (decoder.adapter) dispose(decoder.adapter.weights);
}
