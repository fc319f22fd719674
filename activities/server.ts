/**
 * What activities ask of the Temporal server: whether an output's owner still runs, and which search attributes exist.
 */
import { WorkflowNotFoundError, type Client } from '@temporalio/client';
import { SEARCH_ATTRIBUTES } from '../shared/contract.ts';
import { processRuns, type Owner } from '../training/steps/resolve-run.ts';

/** Whether the workflow (or, for `--local`, the process) that claimed an output still works on it. */
export async function ownerRuns(client: Client, owner: Owner): Promise<boolean> {
  if (owner.pid !== undefined) return processRuns(owner);
  try {
    const description = await client.workflow.getHandle(owner.workflowId, owner.runId).describe();
    return description.status.name === 'RUNNING';
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return false;
    throw error;
  }
}

/** Whether all of the project's search attributes are registered in the client's namespace. */
export async function searchAttributesExist(client: Client): Promise<boolean> {
  const { customAttributes } = await client.connection.operatorService.listSearchAttributes({
    namespace: client.options.namespace,
  });
  return Object.keys(SEARCH_ATTRIBUTES).every((name) => name in (customAttributes ?? {}));
}
