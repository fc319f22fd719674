/**
 * Trains the perceptron of mlp.ts under XLA in a process of its own and prints the digest of all variables.
 */
import { createHash } from 'node:crypto';
import { feedsOf, initialValues, mlpProgram, numbers, VARIABLES } from './mlp.ts';

const session = await mlpProgram().load({ xla: true });
session.set(initialValues());
for (let step = 1; step <= 10; step++) numbers(session.run('step', feedsOf(step, 0.01)));
const values = session.read(Object.keys(VARIABLES));
const digest = createHash('sha256');
for (const name of Object.keys(VARIABLES))
  digest.update(Buffer.from((values[name]?.buffer ?? new ArrayBuffer(0)) as ArrayBuffer));
console.log(digest.digest('hex'));
