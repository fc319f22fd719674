import { describe, expect, it } from 'vitest';
import { DatasetInvalid } from '../../../shared/errors.ts';
import { failureOf, scratch } from './scratch.ts';

const { read } = scratch();
const line = (prompt: unknown, chosen: unknown, rejected: unknown) => JSON.stringify({ prompt, chosen, rejected });
const user = (content: string) => ({ role: 'user', content });
const assistant = (content: string) => ({ role: 'assistant', content });

describe('JSON lines', () => {
  it('are read with any line ends, empty lines between them and a byte order mark', async () => {
    const { pairs } = await read('a.jsonl', `\ufeff${line('a', 'b\n', 'c')}\r\n\n  \n${line('NA', '007', 'null')}`);
    expect(pairs).toEqual([
      { row: 1, prompt: 'a', chosen: 'b\n', rejected: 'c' },
      { row: 2, prompt: 'NA', chosen: '007', rejected: 'null' },
    ]);
  });

  it('may be longer than the pieces in which a file is read', async () => {
    const texts = Array.from({ length: 20 }, (_, i) => '…é'.repeat(20_000 + i));
    const { pairs } = await read('b.jsonl', texts.map((text) => line(text, 'x', 'y')).join('\n'));
    expect(pairs.map(({ prompt }) => prompt)).toEqual(texts);
  });

  it('may hold conversations', async () => {
    const prompt = [{ role: 'system', content: 'Be brief.' }, user('Why?')];
    const { pairs, report } = await read('c.jsonl', line(prompt, [assistant('Because.')], [assistant('It depends.')]));
    expect(pairs).toEqual([{ row: 1, prompt, chosen: [assistant('Because.')], rejected: [assistant('It depends.')] }]);
    expect(report.lengths.prompt.max).toBe('Be brief.Why?'.length);
  });

  it('may mix a conversation as prompt with answers as text', async () => {
    const { pairs } = await read('d.jsonl', line([user('Why?')], 'Because.', 'It depends.'));
    expect(pairs[0]).toEqual({
      row: 1,
      prompt: [user('Why?')],
      chosen: [assistant('Because.')],
      rejected: [assistant('It depends.')],
    });
  });

  it('may hold whole conversations beside a text prompt, whose shared start is then the prompt', async () => {
    const shared = [user('One?'), assistant('1'), user('Two?')];
    const text = line('One?', [...shared, assistant('2')], [...shared, assistant('3')]);
    const { pairs } = await read('e.jsonl', text);
    expect(pairs[0]).toEqual({ row: 1, prompt: shared, chosen: [assistant('2')], rejected: [assistant('3')] });
    const alone = await read('e2.jsonl', line('One?', [assistant('1')], [assistant('2')]));
    expect(alone.pairs[0]?.prompt).toEqual([user('One?')]);
  });

  it.each([
    ['{"prompt": "a", "chosen"', 'is not valid JSON: '],
    ['["a", "b", "c"]', 'is not a JSON object; every line must be one'],
    ['null', 'is not a JSON object'],
    ['{"prompt": "a", "chosen": "b"}', '"rejected" is missing'],
    [line('a', null, 'c'), '"chosen" is missing'],
    [line(42, 'b', 'c'), '"prompt" is a number (42); expected text or a list of {role, content}'],
    [line(true, 'b', 'c'), '"prompt" is a boolean (true)'],
    [line({ role: 'user' }, 'b', 'c'), '"prompt" is an object'],
    [line('a', 'half \ud83d', 'c'), '"chosen" contains half of a surrogate pair'],
    [line('a', 'b\0', 'c'), '"chosen" contains a NUL character (U+0000)'],
    [line('a', 'b', 'b '), 'chosen and rejected are equal'],
    [line([], 'b', 'c'), '"prompt" is an empty list of messages'],
    [line(['hi'], 'b', 'c'), '"prompt" message 1 of 1 has no role'],
    [line([{ role: 'user' }], 'b', 'c'), '"prompt" the content of message 1 of 1 is not text'],
    [line([user('x'), user(' ')], 'b', 'c'), '"prompt" the content of message 2 of 2 is empty but for white space'],
    [
      line([{ role: 'system', content: 'x' }], 'b', 'c'),
      '"prompt" ends with a "system" message; the last must be of "user"',
    ],
    [line([user('x')], [user('y')], [assistant('z')]), '"chosen" starts with a "user" message; expected "assistant"'],
    [line([user('x')], [user('x'), assistant('y')], [assistant('z')]), '"chosen" repeats the prompt'],
    [line('a', [assistant('b')], 'c'), '"rejected" is text while "chosen" is a list of messages'],
    [line('a', 'b', [assistant('c')]), '"chosen" is text while "rejected" is a list of messages'],
    [line('a', [user('a'), assistant('b')], [user('a'), assistant('b')]), 'chosen and rejected are equal'],
    [line([user('x')], [assistant('y')], [assistant('y ')]), 'chosen and rejected are equal'],
  ])('%s is reported with its line and reason', async (bad, reason) => {
    const error = await failureOf(read('f.jsonl', `${line('fine', 'one', 'two')}\n${bad}\n`));
    expect(error).toBeInstanceOf(DatasetInvalid);
    expect(error.problems).toHaveLength(1);
    expect(error.problems?.[0]).toContain(`f.jsonl:2: ${reason}`);
  });

  it('names the line of bytes that are not UTF-8', async () => {
    const text = Buffer.concat([
      Buffer.from(`${line('fine', 'one', 'two')}\n{"prompt": "`),
      Buffer.from([0xff]),
      Buffer.from('"}'),
    ]);
    const error = await failureOf(read('g.jsonl', text));
    expect(error.problems?.[0]).toContain('g.jsonl:2: is not valid UTF-8; convert the file');
  });

  it('survive a line of absurd size and one of absurd depth', async () => {
    const deep = `{"prompt": ${'['.repeat(1e6)}${']'.repeat(1e6)}, "chosen": "b", "rejected": "c"}`;
    const huge = line('x'.repeat(17 * 2 ** 20), 'b', 'c');
    const { pairs, report } = await read('h.jsonl', [huge, deep, line('fine', 'b', 'c')].join('\n'), {
      skipInvalid: true,
    });
    expect(pairs.map(({ row }) => row)).toEqual([3]);
    expect(report.bad.map(({ line: at, reason }) => [at, reason])).toEqual([
      [1, 'the line is over 16 MiB'],
      [2, 'message 1 of 1 has no role'],
    ]);
  });

  it('without the columns is one error that lists the keys found', async () => {
    const error = await failureOf(read('i.jsonl', '{"question": "a"}\n{"better": "b", "question": "c"}\n'));
    expect(error.message).toContain('none of the columns "prompt", "chosen", "rejected"; found "question", "better".');
  });

  it('of nothing but empty lines is an error', async () => {
    expect((await failureOf(read('j.jsonl', '\n \n'))).message).toContain('has only empty lines but no rows');
  });

  it('stops when told to', async () => {
    const controller = new AbortController();
    controller.abort();
    const error = await failureOf(read('k.jsonl', line('a', 'b', 'c'), { signal: controller.signal }));
    expect(error.name).toBe('AbortError');
  });
});
