import { mkdtemp, readFile, readdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { serializeRows } from '../../../training/report/metrics.ts';
import { plotRun } from '../../../training/steps/plot.ts';
import { metricRows } from '../report/rows.ts';

const folderWith = async (text: string | null): Promise<string> => {
  const output = await mkdtemp(join(tmpdir(), 'plot-'));
  if (text !== null) await writeFile(join(output, 'metrics.jsonl'), text);
  return output;
};

const rows = metricRows({ steps: 12, epochs: 3 });

describe('plotRun', () => {
  it('writes spec, SVG and PNG of six metrics, and the same bytes when run again', async () => {
    const output = await folderWith(serializeRows(rows));
    const { files } = await plotRun({ output });
    const names = [
      'log_odds_chosen',
      'rewards_chosen',
      'rewards_rejected',
      'rewards_margins',
      'rewards_accuracies',
      'loss',
    ];
    expect(files).toEqual(names.flatMap((name) => ['vl.json', 'svg', 'png'].map((end) => `plots/${name}.${end}`)));
    expect((await readdir(join(output, 'plots'))).length).toBe(18);
    const bytes = () => Promise.all(files.map((file) => readFile(join(output, file), 'base64')));
    const before = await bytes();
    await plotRun({ output });
    expect(await bytes()).toEqual(before);
  });

  it('leaves out a last line that was being written', async () => {
    const output = await folderWith(`${serializeRows(rows)}{"type":"step","st`);
    const whole = await folderWith(serializeRows(rows));
    await Promise.all([plotRun({ output }), plotRun({ output: whole })]);
    const at = (folder: string) => readFile(join(folder, 'plots/loss.svg'), 'utf8');
    expect(await at(output)).toBe(await at(whole));
  });

  it('says which file is missing', async () => {
    const output = await folderWith(null);
    await expect(plotRun({ output })).rejects.toThrow(
      `plots: ${join(output, 'metrics.jsonl')} is not there, so there is nothing to draw; give the output folder of a run that has trained`,
    );
  });

  it('says which line is damaged', async () => {
    const output = await folderWith('{"type":"step","step":1,"epoch":1}\nrubbish\n');
    await expect(plotRun({ output })).rejects.toThrow(/metrics\.jsonl:2: not a row of metrics \(got "rubbish"\)/);
  });
});
