/**
 * Distances between arrays of numbers, for tests with stated tolerances.
 */

/** Largest absolute difference. Lengths must agree. */
export function maxAbsDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`lengths differ: ${a.length} and ${b.length}`);
  let worst = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs((a[i] ?? Number.NaN) - (b[i] ?? Number.NaN));
    if (!(difference <= worst)) worst = difference;
  }
  return worst;
}

/** Largest absolute difference over the largest magnitude of b. */
export function relativeDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let scale = 0;
  for (let i = 0; i < b.length; i++) scale = Math.max(scale, Math.abs(b[i] ?? 0));
  return maxAbsDifference(a, b) / scale;
}
