/**
 * Hidden states to next-token negative log-likelihoods, over the positions that count and in chunks of them, so that
 * logits never stand whole: one chunk of [C, V] at a time, its cross-entropy and gradient from one fused op.
 * Because each position's likelihood depends on its own hidden state alone, ∂nll/∂hidden can be taken in the same pass
 * before the loss is known, and weighted afterwards (exact; reference: Liger-Kernel's fused linear losses do likewise).
 * Shapes: P positions, C positions of a chunk, D hidden, V vocabulary.
 */
import { matMul, sparseCrossEntropy, tf, tidy, type Tensor } from '../tf.ts';

/** Positions whose logits stand at once: 256 × 49,152 × 4 bytes = 50 MB. Larger chunks are no faster. */
const CHUNK_POSITIONS = 256;

/** @param hidden - float32 [P, D], after the final norm  @param head - float32 [V, D]  @param targets - int32 [P]
 *  @param wantGradient - whether to return gradient too
 *  @returns nll float32 [P]; gradient float32 [P, D], each row of its own nll with respect to its hidden state */
export function tokenLosses(hidden: Tensor, head: Tensor, targets: Tensor, wantGradient: boolean) {
  const nll: Tensor[] = [];
  const gradients: Tensor[] = [];
  return tidy(() => {
    for (const [start, size] of chunks(hidden.shape[0] ?? 0)) {
      const chunk = tidy(() => {
        const logits = matMul(tf.slice(hidden, [start, 0], [size, -1]), head, false, true); // [C, V]
        const { loss, gradient } = sparseCrossEntropy(logits, tf.slice(targets, [start], [size]));
        return { loss, gradient: wantGradient ? matMul(gradient, head) : null }; // [C], [C, D]
      });
      nll.push(chunk.loss);
      if (chunk.gradient) gradients.push(chunk.gradient);
    }
    return { nll: tf.concat(nll, 0), gradient: wantGradient ? tf.concat(gradients, 0) : null };
  });
}

/** Gradient of Σ weights·nll with respect to the output layer, for when it trains. Computes the logits again.
 *  @param weights - float32 [P]  @returns float32 [V, D] */
export function headGradient(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor): Tensor {
  let total = tf.zerosLike(head);
  for (const [start, size] of chunks(hidden.shape[0] ?? 0)) {
    const next = tidy(() => {
      const rows = tf.slice(hidden, [start, 0], [size, -1]); // [C, D]
      const { gradient } = sparseCrossEntropy(matMul(rows, head, false, true), tf.slice(targets, [start], [size]));
      const scaled = tf.mul(rows, tf.reshape(tf.slice(weights, [start], [size]), [size, 1]));
      return tf.add(total, matMul(gradient, scaled, true, false));
    });
    total.dispose();
    total = next;
  }
  return total;
}

/** @returns pairs of first position and number of positions */
function chunks(positions: number): [number, number][] {
  const starts = Array.from({ length: Math.ceil(positions / CHUNK_POSITIONS) }, (_, index) => index * CHUNK_POSITIONS);
  return starts.map((start) => [start, Math.min(CHUNK_POSITIONS, positions - start)]);
}
