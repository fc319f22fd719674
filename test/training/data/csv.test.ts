import { describe, expect, it } from 'vitest';
import { DatasetInvalid } from '../../../shared/errors.ts';
import { failureOf, scratch } from './scratch.ts';

const { read } = scratch();
const HEADER = 'prompt,chosen,rejected\n';

describe('CSV', () => {
  it('is read as RFC 4180 has it: quotes, doubled quotes, commas and line breaks in cells', async () => {
    const { pairs } = await read('a.csv', 'prompt,chosen,rejected\r\n"a, ""b""","x\r\ny\n\nz",c\r\nd,"e",""" "\r\n');
    expect(pairs).toEqual([
      { row: 1, prompt: 'a, "b"', chosen: 'x\r\ny\n\nz', rejected: 'c' },
      { row: 2, prompt: 'd', chosen: 'e', rejected: '" ' },
    ]);
  });

  it('never coerces text', async () => {
    const { pairs } = await read('b.csv', `${HEADER}NA,null,007\n1e3, leading,trailing \nTrue,NaN,None\n`);
    expect(pairs.map(({ prompt, chosen, rejected }) => [prompt, chosen, rejected])).toEqual([
      ['NA', 'null', '007'],
      ['1e3', ' leading', 'trailing '],
      ['True', 'NaN', 'None'],
    ]);
  });

  it('may start with a byte order mark, have its columns anywhere and end without a line break', async () => {
    const { pairs } = await read('c.csv', '\ufeffrejected, chosen ,id,prompt\r\nr,c,1,p\r\nr2,c2,2,p2');
    expect(pairs).toEqual([
      { row: 1, prompt: 'p', chosen: 'c', rejected: 'r' },
      { row: 2, prompt: 'p2', chosen: 'c2', rejected: 'r2' },
    ]);
  });

  it('may use other column names, and reads every character of UTF-8', async () => {
    const columns = { prompt: 'Frage', chosen: 'gut ✓', rejected: 'schlecht' };
    const { pairs } = await read('d.csv', 'Frage,gut ✓,schlecht\n你好 🤦🏼‍♂️,Straße,مرحبا\n', { columns });
    expect(pairs).toEqual([{ row: 1, prompt: '你好 🤦🏼‍♂️', chosen: 'Straße', rejected: 'مرحبا' }]);
  });

  it('may mix line ends and have empty lines, which are no rows', async () => {
    const { pairs, report } = await read('e.csv', 'prompt,chosen,rejected\r\n\n\na,b,c\r\rd,e,f\n\r\ng,h,i\r\n\r\n');
    expect(pairs.map(({ row, prompt }) => [row, prompt])).toEqual([
      [1, 'a'],
      [2, 'd'],
      [3, 'g'],
    ]);
    expect(report.rows).toBe(3);
  });

  it('is read the same in pieces of any size as in one', async () => {
    // Larger than the 64 KiB that are read at once, with quotes, CRLF and three-byte characters at every offset.
    const rows = Array.from(
      { length: 4000 },
      (_, i) => `"frage ${i}\r\n""x""","gut ${'…'.repeat(i % 7)}",schlecht ${i}`,
    );
    const { pairs } = await read('f.csv', `prompt,chosen,rejected\r\n${rows.join('\r\n')}`);
    expect(pairs).toHaveLength(4000);
    pairs.forEach((pair, i) => {
      const expected = {
        row: i + 1,
        prompt: `frage ${i}\r\n"x"`,
        chosen: `gut ${'…'.repeat(i % 7)}`,
        rejected: `schlecht ${i}`,
      };
      expect(pair).toEqual(expected);
    });
  });

  it('reports every bad row with line, column and reason, in one error', async () => {
    const text = [
      'prompt,chosen,rejected', // line 1
      'fine,"two',
      'lines",ok', //               2-3
      ',b,c', //                    4
      '', //                        5
      'p,"   ",c', //               6
      'p,same, same ', //           7
      'fine,"two', //               8-9
      'lines",ok',
      'short,row', //               10
      'one,two,three,four', //      11
      'p,un"quoted,c', //           12
      'p,"quoted"x,c', //           13
      'How do I boil an egg?,How do I boil an egg? In water.,c', // 14
      'p,nul\0,c', //               15
      'last,good,one', //           16
    ].join('\r\n');
    const error = await failureOf(read('g.csv', text));
    expect(error).toBeInstanceOf(DatasetInvalid);
    const lines = error.problems?.map((problem) => problem.replace(/^.*g\.csv:/, '')) ?? [];
    expect(lines).toEqual([
      '4: "prompt" is empty',
      '6: "chosen" is empty but for white space',
      '7: chosen and rejected are equal',
      '8: is a duplicate of line 2',
      '10: has 2 cells, the header has 3; cells with commas need quotes',
      '11: has 4 cells, the header has 3; cells with commas need quotes',
      '12: "chosen" a quote inside a cell; write the cell in quotes and each quote in it twice (RFC 4180)',
      '13: "chosen" a quote inside a cell; write the cell in quotes and each quote in it twice (RFC 4180)',
      '14: "chosen" repeats the prompt; it must hold the answer only',
      '15: "chosen" contains a NUL character (U+0000)',
    ]);
    expect(error.message).toMatch(/g\.csv: 10 of 12 rows are bad\n {2}- .*g\.csv:4: "prompt" is empty\n/);
    expect(error.message).toContain('Correct them, or set data.skipInvalid to leave such rows out.');
  });

  it('leaves bad rows out when asked to, each in the report', async () => {
    const { pairs, report } = await read('h.csv', `${HEADER}a,b,c\n,b,c\nd,"e,f\n",g\nh,i,\n`, { skipInvalid: true });
    expect(pairs.map(({ row }) => row)).toEqual([1, 3]);
    expect(report).toMatchObject({ format: 'csv', rows: 4, pairs: 2 });
    expect(report.bad).toEqual([
      { line: 3, column: 'prompt', reason: 'is empty' },
      { line: 6, column: 'rejected', reason: 'is empty' },
    ]);
    expect(report.warnings).toEqual(['2 of 4 rows are bad and were left out (skipInvalid)']);
  });

  it('shows the first twenty of many bad rows and counts the rest', async () => {
    const error = await failureOf(read('i.csv', HEADER + 'p,,c\n'.repeat(50)));
    expect(error.problems).toHaveLength(50);
    expect(error.message.split('\n')).toHaveLength(1 + 20 + 1 + 1);
    expect(error.message).toContain('… and 30 more');
  });

  it('names line and column of bytes that are not UTF-8', async () => {
    const latin1 = Buffer.concat([Buffer.from(`${HEADER}a,"b\nb",c\ncaf`), Buffer.from([0xe9]), Buffer.from(',d,e\n')]);
    const error = await failureOf(read('j.csv', latin1));
    expect(error.problems?.[0]).toMatch(/j\.csv:4: "prompt" is not valid UTF-8; convert the file/);
  });

  it.each([
    ['', 'is empty (0 bytes); expected csv with preference pairs'],
    ['\n\n', 'has only empty lines; expected a header and rows'],
    [HEADER, 'has a header but no rows; expected preference pairs'],
    [
      'question,good,bad\n1,2,3\n',
      'has none of the columns "prompt", "chosen", "rejected"; found "question", "good", "bad". Map yours with data.columns',
    ],
    ['prompt,chosen\na,b\n', 'has no column "rejected"; found "prompt", "chosen". Map yours'],
    ['prompt;chosen;rejected\na;b;c\n', 'The file looks separated by ";": save it with commas'],
    ['prompt\tchosen\trejected\na\tb\tc\n', 'The file looks separated by tabs: save it with commas'],
    ['prompt,chosen,rejected,chosen\na,b,c,d\n', ':1: column "chosen" stands twice in the header'],
    ['prompt,cho"sen,rejected\na,b,c\n', ':1: the header is no CSV: a quote stands inside a name'],
    [`${HEADER}a,b,c\nd,"never closed,f\ng,h,i\n`, ':3: the record that starts here opens a quote that never closes'],
  ])('%j is one clear error', async (text, message) => {
    const error = await failureOf(read('k.csv', text));
    expect(error).toBeInstanceOf(DatasetInvalid);
    expect(error.message).toContain(message);
    expect(error.message).toContain('k.csv');
  });

  it('does not read a quote that never closes to the end of a huge file', async () => {
    const error = await failureOf(read('l.csv', `${HEADER}a,b,c\nd,"${'x,y\n'.repeat(5 * 2 ** 20)}`));
    expect(error.message).toMatch(
      /l\.csv:3: the record that starts here is over 16 MiB; is a quote in it never closed\?/,
    );
  });

  it('fails when every row is bad even if bad rows may be left out', async () => {
    const error = await failureOf(read('m.csv', `${HEADER}a,,c\n`, { skipInvalid: true }));
    expect(error.message).toContain('No usable row is left. Check data.columns and the file.');
  });

  it('stops when told to and reports progress in bytes', async () => {
    const text = HEADER + Array.from({ length: 30_000 }, (_, i) => `p${i},c,r\n`).join('');
    const controller = new AbortController();
    const seen: [number, number][] = [];
    const promise = read('n.csv', text, {
      signal: controller.signal,
      onProgress: (done, total) => {
        seen.push([done, total]);
        if (seen.length === 2) controller.abort();
      },
    });
    expect((await failureOf(promise)).name).toBe('AbortError');
    expect(seen[0]).toEqual([65_536, text.length]);
  });

  it('gives the sha256 of the source', async () => {
    // printf 'prompt,chosen,rejected\na,b,c\n' | sha256sum
    const { sourceSha256 } = await read('o.csv', `${HEADER}a,b,c\n`);
    expect(sourceSha256).toBe('77c50b9d36211ad7765e911674a55cb043d6ec9363d27393eab84738bed58f1a');
  });
});
