/**
 * Progress of downloads: a bar on a terminal, a line every few seconds otherwise. All of it on stderr.
 */
import { SingleBar } from 'cli-progress';
import { formatBytes } from './cache.ts';

const LINE_EVERY_MS = 5_000;

export interface Meter {
  update(doneBytes: number, totalBytes: number | null): void;
  stop(): void;
}

/** Starts a meter; nothing is shown until its first update. */
export function startMeter(label: string, stream: NodeJS.WriteStream = process.stderr): Meter {
  return stream.isTTY ? barMeter(label, stream) : lineMeter(label, stream);
}

function barMeter(label: string, stream: NodeJS.WriteStream): Meter {
  const bar = new SingleBar({
    format: `  ${label} {bar} {percentage}%  {done} of {total_}`,
    stream,
    barsize: 30,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    hideCursor: true,
    clearOnComplete: true,
  });
  let started = false;
  return {
    update: (doneBytes, totalBytes) => {
      if (totalBytes === null) return;
      const shown = { done: formatBytes(doneBytes), total_: formatBytes(totalBytes) };
      if (!started) bar.start(totalBytes, Math.min(doneBytes, totalBytes), shown);
      else bar.update(Math.min(doneBytes, totalBytes), shown);
      started = true;
    },
    stop: () => {
      if (started) bar.stop();
    },
  };
}

function lineMeter(label: string, stream: NodeJS.WriteStream): Meter {
  let nextAt = Date.now() + LINE_EVERY_MS;
  return {
    update: (doneBytes, totalBytes) => {
      if (Date.now() < nextAt) return;
      nextAt = Date.now() + LINE_EVERY_MS;
      const of = totalBytes === null ? '' : ` of ${formatBytes(totalBytes)}`;
      stream.write(`  ${label} ${formatBytes(doneBytes)}${of}\n`);
    },
    stop: () => {},
  };
}
