/**
 * Preference pairs from Parquet files of any writer (pyarrow, pandas, Hugging Face datasets, Spark), read by hyparquet
 * one row group at a time. Cells may be text or lists of role/content structs. The split files that this project writes
 * (parquet.ts) are read back as what they were.
 */
import { parquetMetadataAsync, parquetReadObjects } from 'hyparquet';
import type { FileMetaData } from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import { DatasetInvalid } from '../../shared/errors.ts';
import { openAsyncBuffer } from './parquet.ts';
import type { RandomAccessFile } from './parquet.ts';
import { FORM_KEY } from './split-files.ts';
import type { SniffedSource } from './sniff.ts';
import { decodeUtf8, missingColumns } from './source.ts';
import type { SourceOptions } from './source.ts';
import { PARTS } from './report.ts';

/** Reads every row. @throws DatasetInvalid for a broken file or one without the columns */
export async function readParquet(source: SniffedSource, options: SourceOptions): Promise<void> {
  const file = await openAsyncBuffer(source.path);
  try {
    const metadata = await parquetMetadataAsync(file).catch((error: unknown) => {
      throw broken(source.path, error);
    });
    checkColumns(source.path, metadata, options);
    await readRowGroups(source.path, file, metadata, options);
  } finally {
    await file.close();
  }
}

function checkColumns(path: string, metadata: FileMetaData, options: SourceOptions): void {
  const names = topLevelNames(metadata);
  const missing = PARTS.map((part) => options.columns[part]).filter((name) => !names.includes(name));
  if (missing.length > 0) throw new DatasetInvalid(missingColumns(path, options.columns, missing, names));
}

/** Names of the schema's top-level fields; the schema is a list in depth-first order under one root. */
function topLevelNames(metadata: FileMetaData): string[] {
  const [, ...elements] = metadata.schema;
  const names: string[] = [];
  let openChildren = 0;
  for (const element of elements) {
    if (openChildren === 0) names.push(element.name);
    else openChildren--;
    openChildren += element.num_children ?? 0;
  }
  return names;
}

async function readRowGroups(
  path: string,
  file: RandomAccessFile,
  metadata: FileMetaData,
  options: SourceOptions,
): Promise<void> {
  const { prompt, chosen, rejected } = options.columns;
  const isOwnSplit = (metadata.key_value_metadata ?? []).some(({ key }) => key === FORM_KEY);
  const wanted = isOwnSplit ? [prompt, chosen, rejected, 'form'] : [prompt, chosen, rejected];
  const total = Number(metadata.num_rows);
  let start = 0;
  for (const group of metadata.row_groups) {
    options.signal?.throwIfAborted();
    const end = start + Number(group.num_rows);
    const rows = await parquetReadObjects({
      file,
      metadata,
      columns: [...new Set(wanted)],
      rowStart: start,
      rowEnd: end,
      compressors,
      parsers: { stringFromBytes: (bytes: Uint8Array | undefined) => bytes && decodeUtf8(bytes) },
    }).catch((error: unknown) => {
      throw broken(path, error);
    });
    rows.forEach((cells: Record<string, unknown>, index) => {
      const row = start + index + 1;
      const parse = isOwnSplit && cells['form'] === 'messages' ? parseMessages : (cell: unknown) => cell;
      const values = {
        prompt: parse(cells[prompt]),
        chosen: parse(cells[chosen]),
        rejected: parse(cells[rejected]),
      };
      options.onRecord({ row, line: row, cells: values, problems: [] });
    });
    start = end;
    options.onProgress?.(start, total);
  }
}

/** Messages as split-files.ts writes them; text that is no JSON stays text and is refused there as any other. */
function parseMessages(cell: unknown): unknown {
  try {
    return JSON.parse(String(cell)) as unknown;
  } catch {
    return cell;
  }
}

function broken(path: string, error: unknown): DatasetInvalid {
  const why = error instanceof Error ? error.message : String(error);
  return new DatasetInvalid(`${path}: cannot be read as Parquet (${why}); copy or write the file again`, {
    cause: error,
  });
}
