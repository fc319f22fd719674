/**
 * The markdown panel of a run in the Temporal UI, rendered from progress alone.
 */
import type { Progress, ResolvedRun } from '../shared/records.ts';

/** @returns markdown with one table and, where there are any, the warnings */
export function detailsOf(progress: Progress, run: ResolvedRun | null): string {
  const rows: [string, string][] = [
    ['Phase', progress.phase],
    ['Epoch', `${progress.epoch} of ${progress.epochs || '?'}`],
    ['Step', `${progress.step} of ${progress.totalSteps || '?'}`],
    ['Time left', progress.etaSeconds === null ? '–' : duration(progress.etaSeconds)],
    ['Loss', figure(progress.loss)],
    ['Held-out loss', figure(progress.evalLoss)],
    ['Held-out reward accuracy', figure(progress.rewardAccuracy)],
    ['Held-out margin', figure(progress.margin)],
    ['Tokens per second', figure(progress.tokensPerSecond, 0)],
    ['Worker', progress.worker ?? '–'],
    ['Last checkpoint', progress.checkpoint ? `step ${progress.checkpoint.step}` : '–'],
    ['Resumes', String(progress.resumes)],
    ['Model', run?.config.model ?? '–'],
    ['Output', run?.output ?? '–'],
  ];
  const table = ['| | |', '|---|---|', ...rows.map(([name, value]) => `| ${name} | ${escape(value)} |`)].join('\n');
  const warnings = progress.warnings.map((warning) => `- ${escape(warning)}`);
  return warnings.length > 0 ? `${table}\n\n**Warnings**\n\n${warnings.join('\n')}` : table;
}

function figure(value: number | null, digits = 4): string {
  return value === null ? '–' : value.toFixed(digits);
}

function duration(seconds: number): string {
  const minutes = Math.round(seconds / 60);
  return minutes < 1
    ? `${Math.round(seconds)} s`
    : minutes < 60
      ? `${minutes} min`
      : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function escape(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll(/\s+/g, ' ');
}
