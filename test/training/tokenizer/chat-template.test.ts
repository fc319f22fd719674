import { describe, expect, it } from 'vitest';
import { ModelInvalid, TokenizerMismatch } from '../../../shared/errors.ts';
import { compileChatTemplate } from '../../../training/tokenizer/chat-template.ts';

const messages = [
  { role: 'user', content: 'hi' },
  { role: 'assistant', content: 'ho' },
];
const render = (source: string) =>
  compileChatTemplate(source, { eos_token: '</s>' })(messages, { addGenerationPrompt: true });

describe('a chat template', () => {
  it('sees messages, special tokens and the generation flag, and no tools', () => {
    expect(
      render('{{ messages[1]["content"] }}{{ eos_token }}{{ 1 if add_generation_prompt }}{{ 2 if tools is none }}'),
    ).toBe('ho</s>12');
  });

  it('trims blocks as transformers does', () => {
    expect(render('{% for m in messages %}\n  {% if true %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}\nend\n')).toBe(
      'user\nassistant\nend',
    );
  });

  it('may ask for the date in English', () => {
    const now = new Date();
    expect(render('{{ strftime_now("%Y-%m-%d %% %Q") }}')).toMatch(/^\d{4}-\d\d-\d\d % %Q$/);
    expect(render('{{ strftime_now("%B") }}')).toBe(now.toLocaleDateString('en-US', { month: 'long' }));
  });

  it('has a range like Python', () => {
    expect(render('{% for i in range(5, 0, -2) %}{{ i }}{% endfor %}|{% for i in range(3) %}{{ i }}{% endfor %}')).toBe(
      '531|012',
    );
  });

  it.each([
    [
      '{{ raise_exception("roles must alternate") }}',
      'refuses a conversation of user, assistant: roles must alternate',
    ],
    ['{% for i in range(1000000000) %}{% endfor %}', 'range() of 1000000000 is over the limit of 100000'],
    ['{% for i in range(1, 5, 0) %}{% endfor %}', 'range() step must not be zero'],
  ])('%s is TokenizerMismatch', (source, message) => {
    expect(() => render(source)).toThrow(TokenizerMismatch);
    expect(() => render(source)).toThrow(message);
  });

  it('that is no Jinja is TokenizerMismatch', () => {
    expect(() => render('{% for m in messages %}')).toThrow(TokenizerMismatch);
    expect(() => render('{{ unclosed')).toThrow(/the chat template is not valid: /);
  });

  it('that loops for ever is stopped', () => {
    const source = '{% for a in range(90000) %}{% for b in range(90000) %}{{ a }}{% endfor %}{% endfor %}';
    const endless = compileChatTemplate(source, {}, { timeLimitMs: 200 });
    const start = performance.now();
    expect(() => endless(messages, { addGenerationPrompt: true })).toThrow(ModelInvalid);
    expect(performance.now() - start).toBeLessThan(5_000);
    expect(() => endless([], { addGenerationPrompt: true })).toThrow(/did not end within 0.2 s on 0 messages/);
  });
});
