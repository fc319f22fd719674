/** The part of parquetjs-lite 0.8.7 that parquet.ts uses; the package ships no types. */
declare module 'parquetjs-lite' {
  export interface FieldDefinition {
    type: 'INT32' | 'UTF8' | 'BYTE_ARRAY';
    optional?: boolean;
    compression?: 'UNCOMPRESSED' | 'GZIP' | 'SNAPPY';
    /** Without statistics the writer keeps no set of distinct values. */
    statistics?: boolean;
  }
  export class ParquetSchema {
    constructor(fields: Record<string, FieldDefinition>);
  }
  /** What the writer needs of a stream. */
  export interface Sink {
    write(bytes: Buffer, done: (error?: Error | null) => void): void;
    end(done: (error?: Error | null) => void): void;
  }
  export interface WriterOptions {
    /** Rows buffered before they are written. */
    rowGroupSize?: number;
    pageSize?: number;
    useDataPageV2?: boolean;
    pageIndex?: boolean;
  }
  export class ParquetWriter {
    static openStream(schema: ParquetSchema, sink: Sink, options?: WriterOptions): Promise<ParquetWriter>;
    appendRow(row: Record<string, number | string | Buffer>): Promise<void>;
    setMetadata(key: string, value: string): void;
    setRowGroupSize(rows: number): void;
    close(): Promise<void>;
  }
}
