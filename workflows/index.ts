/** Every workflow of the project; the worker's `workflowsPath`. */
export { orpoFineTune } from './finetune.ts';
