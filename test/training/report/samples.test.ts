import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { escapeMarkdown, readSamples, samplesMarkdown } from '../../../training/report/samples.ts';
import { SAMPLES } from './finished-run.ts';

const folder = (): Promise<string> => mkdtemp(join(tmpdir(), 'samples-'));

describe('samples', () => {
  it('are read back as written, and are none where there is no file', async () => {
    const output = await folder();
    expect(await readSamples(output)).toEqual([]);
    await writeFile(join(output, 'samples.json'), JSON.stringify(SAMPLES));
    expect(await readSamples(output)).toEqual(SAMPLES);
  });

  it.each(['{"prompt": 1', '{}', '[{"prompt":"a"}]'])('refuse a damaged file: %s', async (text) => {
    const output = await folder();
    await writeFile(join(output, 'samples.json'), text);
    await expect(readSamples(output)).rejects.toThrow(
      `${join(output, 'samples.json')}: not a list of samples (prompt, chosen, rejected, before, after); run the evaluation again: it writes the file anew`,
    );
  });

  it('stand in Markdown with all four answers', () => {
    const page = samplesMarkdown(SAMPLES.slice(0, 1));
    for (const text of Object.values(SAMPLES[0] ?? {})) expect(page).toContain(text);
  });

  it('are escaped so that Markdown shows them as they are', () => {
    expect(escapeMarkdown('1. *a* _b_ [c](d) <e> | `f` $x$ ~~g~~ &amp;\n+ h\n= i')).toBe(
      '1\\. \\*a\\* \\_b\\_ \\[c\\](d) \\<e\\> \\| \\`f\\` \\$x\\$ \\~\\~g\\~\\~ \\&amp;\n\\+ h\n\\= i',
    );
  });
});
