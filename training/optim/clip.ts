/**
 * Gradient clipping by the norm of all gradients together, as torch.nn.utils.clip_grad_norm_ does it.
 */
import { tf, tidy, type Tensor } from '../tf.ts';

/** Added to the norm before dividing, as in torch. */
const EPSILON = 1e-6;

/** √Σg² over all gradients. Squares are summed per tensor in float32 and across tensors in float64. */
export async function globalNorm(gradients: Record<string, Tensor>): Promise<number> {
  const tensors = Object.values(gradients);
  if (tensors.length === 0) return 0;
  const squares = tidy(() => tf.stack(tensors.map((gradient) => tf.sum(tf.square(gradient)))));
  const values = (await squares.data()) as Float32Array;
  squares.dispose();
  return Math.sqrt(values.reduce((sum, value) => sum + value, 0));
}

/** What gradients are multiplied by so that their norm is at most maxNorm. */
export function clipFactor(norm: number, maxNorm: number | null): number {
  return maxNorm === null ? 1 : Math.min(1, maxNorm / (norm + EPSILON));
}
