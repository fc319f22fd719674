/**
 * Progress of downloads: a bar on a terminal, a line every few seconds otherwise. All of it on stderr.
 */
import { SingleBar } from 'cli-progress';
import { formatBytes } from './cache.ts';

const LINE_EVERY_MS = 5_000;

export interface Meter {
  update(doneBytes: number, totalBytes: number | null, phase?: string): void;
  stop(): void;
}

/** Starts a meter; nothing is shown until its first update. */
export function startMeter(label: string, stream: NodeJS.WriteStream = process.stderr): Meter {
  return stream.isTTY ? barMeter(label, stream) : lineMeter(label, stream);
}

function barMeter(label: string, stream: NodeJS.WriteStream): Meter {
  const bar = new SingleBar({
    format: `  {phase} ${label} {bar} {percentage}%  {done} of {all}`,
    stream,
    barsize: 30,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    hideCursor: true,
    clearOnComplete: true,
  });
  let started = false;
  return {
    update: (doneBytes, totalBytes, phase = 'downloading') => {
      if (totalBytes === null) return;
      const shown = { done: formatBytes(doneBytes), all: formatBytes(totalBytes), phase };
      if (!started) bar.start(totalBytes, 0, shown);
      started = true;
      bar.setTotal(totalBytes);
      bar.update(Math.min(doneBytes, totalBytes), shown);
    },
    stop: () => {
      if (started) bar.stop();
    },
  };
}

function lineMeter(label: string, stream: NodeJS.WriteStream): Meter {
  let nextAt = Date.now() + LINE_EVERY_MS;
  return {
    update: (doneBytes, totalBytes, phase = 'downloading') => {
      if (Date.now() < nextAt) return;
      nextAt = Date.now() + LINE_EVERY_MS;
      const of = totalBytes === null ? '' : ` of ${formatBytes(totalBytes)}`;
      stream.write(`  ${phase} ${label}: ${formatBytes(doneBytes)}${of}\n`);
    },
    stop: () => {},
  };
}
