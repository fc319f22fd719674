/**
 * Which projections an adapter updates and what its tensors are called, as PEFT matches and names them (peft 0.21,
 * tuners/tuners_utils.py). Plain words and numbers: no tensors here.
 */
import { ConfigInvalid } from '../../shared/errors.ts';

/** The projections of each layer, in order of computing. */
export const PROJECTIONS = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
];

/** Hugging Face names of every projection in the layers, in order. */
export function linearModules(layerCount: number): string[] {
  return Array.from({ length: layerCount }, (_, layer) =>
    PROJECTIONS.map((part) => `model.layers.${layer}.${part}`),
  ).flat();
}

/** α/r, or α/√r where rsLora. */
export function loraScale(rank: number, alpha: number, rsLora: boolean): number {
  return rsLora ? alpha / Math.sqrt(rank) : alpha / rank;
}

/** Name of a factor in PEFT's file, after the module's Hugging Face name. */
export function loraName(module: string, factor: 'A' | 'B'): string {
  return `base_model.model.${module}.lora_${factor}.weight`;
}

/** The projections an adapter updates.
 *  @param linearModules - every projection of the decoder's layers (the output layer is not among them)
 *  @param targetModules - last parts of module names, as PEFT matches them, or `all-linear`
 *  @param layers - layer indices, null is all
 *  @throws ConfigInvalid naming targets and layers that the model does not have */
export function loraTargets(
  linearModules: string[],
  targetModules: 'all-linear' | string[],
  layers: number[] | null,
): string[] {
  const problems: string[] = [];
  if (targetModules !== 'all-linear') {
    const known = [...new Set(linearModules.map((module) => module.split('.').at(-1) ?? module))];
    for (const target of targetModules) {
      if (linearModules.some((module) => isTarget(module, target))) continue;
      problems.push(`method.targetModules: the model has no projection "${target}"; it has ${known.join(', ')}`);
    }
  }
  const count = new Set(linearModules.map(layerIndex)).size;
  for (const layer of layers ?? []) {
    if (layer >= count) problems.push(`method.layers: there is no layer ${layer}; the model has 0 to ${count - 1}`);
  }
  if (layers?.length === 0) problems.push('method.layers: is empty; give layer indices, or null for all layers');
  if (problems.length > 0) throw new ConfigInvalid(problems.join('\n'), { problems });
  return linearModules.filter(
    (module) =>
      (targetModules === 'all-linear' || targetModules.some((target) => isTarget(module, target))) &&
      (layers === null || layers.includes(layerIndex(module))),
  );
}

function isTarget(module: string, target: string): boolean {
  return module === target || module.endsWith(`.${target}`);
}

function layerIndex(module: string): number {
  return Number(/\.layers\.(\d+)\./.exec(module)?.[1]);
}
