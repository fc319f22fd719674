import { defineConfig } from 'vitest/config';

// unit: no server, no network, about a minute. e2e: real server, workers and trainers.
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: ['test/e2e/**', '**/node_modules/**'],
          pool: 'forks',
          testTimeout: 120_000,
          // TensorFlow's informational lines would drown the report.
          env: { TF_CPP_MIN_LOG_LEVEL: '2' },
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          pool: 'forks',
          fileParallelism: false,
          testTimeout: 600_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
});
