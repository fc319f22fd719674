/**
 * Plot step: metrics.jsonl -> plots/<metric>.{vl.json,svg,png}. Running it again on the same rows gives the same bytes.
 */
import { join } from 'node:path';
import { DatasetInvalid } from '../../shared/errors.ts';
import { writeFileAtomic } from '../checkpoint/atomic.ts';
import { CHART_METRICS, chartSpec } from '../report/charts.ts';
import { METRICS_FILE, readMetrics, type LogRow } from '../report/metrics.ts';
import { renderPng, renderSvg, withDarkRules } from '../report/render.ts';

export const PLOTS_FOLDER = 'plots';

/** @param output - a run's folder
 *  @returns the files written, relative to it
 *  @throws DatasetInvalid where metrics.jsonl is missing or damaged; EnvironmentIncomplete without the font; DiskFull */
export async function plotRun({ output }: { output: string }): Promise<{ files: string[] }> {
  const rows = await rowsOf(output);
  const files: string[] = [];
  for (const metric of CHART_METRICS) {
    const spec = chartSpec(rows, metric);
    const svg = await renderSvg(spec);
    const contents = {
      'vl.json': `${JSON.stringify(spec, null, 1)}\n`,
      svg: `${withDarkRules(svg)}\n`,
      png: renderPng(svg),
    };
    for (const [extension, content] of Object.entries(contents)) {
      const file = `${PLOTS_FOLDER}/${metric.file}.${extension}`;
      await writeFileAtomic(join(output, file), content);
      files.push(file);
    }
  }
  return { files };
}

async function rowsOf(output: string): Promise<LogRow[]> {
  try {
    return await readMetrics(output);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
    throw new DatasetInvalid(
      `plots: ${join(output, METRICS_FILE)} is not there, so there is nothing to draw; give the output folder of a run that has trained`,
      { cause: error },
    );
  }
}
