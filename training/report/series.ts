/**
 * A metric's values over steps as a curve: gaps, thinning to what a picture can show, smoothing. Pure arithmetic.
 */

/** One value of a curve at a step or an epoch; `value` null where it was not finite. */
export interface Point {
  at: number;
  value: number | null;
}

/** The values of `name` in the order of `at`; of rows at the same place the last one counts. Rows without the name are
 *  left out. @param at - which column says where a row stands */
export function curve(
  rows: readonly { step: number; epoch: number; [name: string]: unknown }[],
  name: string,
  at: 'step' | 'epoch',
): Point[] {
  const points = new Map<number, Point>();
  for (const row of rows) {
    if (!(name in row)) continue;
    const value = row[name];
    points.set(row[at], { at: row[at], value: isFinite(value) ? value : null });
  }
  return [...points.values()].sort((a, b) => a.at - b.at);
}

/** Whether a JSON value is a number that can be drawn. */
export function isFinite(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

/** Leaves at most about `limit` points: of each run of neighbours the lowest and the highest, both as they are and in
 *  order, so that no spike is lost. Runs without any finite value become one gap.
 *  @returns the points, and how many points one run spans (1: nothing left out) */
export function thin(points: readonly Point[], limit: number): { points: Point[]; span: number } {
  const span = Math.max(1, Math.ceil((2 * points.length) / limit));
  if (points.length <= limit) return { points: [...points], span: 1 };
  const kept: Point[] = [];
  for (let start = 0; start < points.length; start += span) kept.push(...extremes(points.slice(start, start + span)));
  return { points: kept, span };
}

function extremes(run: readonly Point[]): Point[] {
  let low: Point | undefined;
  let high: Point | undefined;
  for (const point of run) {
    if (point.value === null) continue;
    if (low === undefined || point.value < (low.value ?? Infinity)) low = point;
    if (high === undefined || point.value > (high.value ?? -Infinity)) high = point;
  }
  if (low === undefined || high === undefined) return run.slice(0, 1);
  if (low === high) return [low];
  return low.at < high.at ? [low, high] : [high, low];
}

/** Centred moving average over `window` neighbouring points (an odd count); near the ends over those of them that are
 *  there. Gaps are skipped; a point that is a gap itself stays one. */
export function movingAverage(points: readonly Point[], window: number): Point[] {
  const half = Math.floor(window / 2);
  const sums = [0];
  const counts = [0];
  for (const { value } of points) {
    sums.push((sums.at(-1) ?? 0) + (value ?? 0));
    counts.push((counts.at(-1) ?? 0) + (value === null ? 0 : 1));
  }
  return points.map((point, i) => {
    if (point.value === null) return { at: point.at, value: null };
    const [from, to] = [Math.max(0, i - half), Math.min(points.length, i + half + 1)];
    const sum = (sums[to] ?? 0) - (sums[from] ?? 0);
    return { at: point.at, value: sum / ((counts[to] ?? 0) - (counts[from] ?? 0)) };
  });
}

/** Window for `count` points: a tenth of them, odd, at most 101; below 12 points no smoothing (1). */
export function smoothingWindow(count: number): number {
  if (count < 12) return 1;
  const tenth = Math.max(5, Math.round(count / 10));
  return Math.min(101, tenth % 2 === 1 ? tenth : tenth + 1);
}

/** Every n-th of `points`, first and last included, at most about `limit`. For curves that are smooth already. */
export function sample<T>(points: readonly T[], limit: number): T[] {
  const stride = Math.max(1, Math.ceil(points.length / limit));
  return points.filter((_, i) => i % stride === 0 || i === points.length - 1);
}

/** Range of an axis that shows all `values` with a little air; one value alone gets a range around it. */
export function paddedRange(values: readonly number[]): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const air = high > low ? (high - low) * 0.06 : Math.max(Math.abs(high) * 0.1, 0.01);
  return [low - air, high + air];
}
