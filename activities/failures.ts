/**
 * Named errors of the trade become Temporal failures: the class name is the type, and the type decides about retries.
 */
import { ApplicationFailure, CancelledFailure } from '@temporalio/activity';
import { NON_RETRYABLE } from '../shared/contract.ts';
import { OrpoError } from '../shared/errors.ts';

/** Runs an activity's body; lets cancellation and failures through, names the rest.
 *  @throws ApplicationFailure with the error's class name as type and its problems as details */
export async function named<T>(body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (error instanceof ApplicationFailure || error instanceof CancelledFailure) throw error;
    if (!(error instanceof OrpoError)) throw error;
    throw ApplicationFailure.create({
      message: error.message,
      type: error.name,
      nonRetryable: (NON_RETRYABLE as readonly string[]).includes(error.name),
      details: error.problems.length > 0 ? [error.problems.slice(0, 100)] : [],
      cause: error,
    });
  }
}
