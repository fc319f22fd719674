/**
 * A conversation rendered by the tokenizer's chat template, as transformers' apply_chat_template does it without tools
 * (transformers/utils/chat_template_utils.py): Jinja with trimmed blocks, the special tokens and a few helpers in scope.
 * A template comes with a model and is somebody else's program, so it gets a time limit.
 */
import { createContext, Script } from 'node:vm';
import { Environment, Interpreter, Template } from '@huggingface/jinja';
import { ModelInvalid, TokenizerMismatch } from '../../shared/errors.ts';
import type { Message } from '../data/preference.ts';

export type RenderChat = (messages: Message[], options: { addGenerationPrompt: boolean }) => string;

/** A conversation renders in well under a millisecond; a template that takes seconds never ends. */
const TIME_LIMIT_MS = 5_000;
/** As in Jinja's sandbox (MAX_RANGE). */
const MAX_RANGE = 100_000;

/** Compiles a template. @param specialTokens - `bos_token`, `eos_token`, … as the template may name them
 *  @throws TokenizerMismatch if it is no valid Jinja; the returned function throws TokenizerMismatch if the template
 *  refuses a conversation, ModelInvalid if it does not end */
export function compileChatTemplate(
  source: string,
  specialTokens: Record<string, string>,
  options: { timeLimitMs?: number } = {},
): RenderChat {
  const timeLimitMs = options.timeLimitMs ?? TIME_LIMIT_MS;
  const template = parse(source);
  return (messages, { addGenerationPrompt }) => {
    const scope = {
      ...GLOBALS,
      ...specialTokens,
      messages: messages.map(({ role, content }) => ({ role, content })),
      tools: null,
      documents: null,
      add_generation_prompt: addGenerationPrompt,
    };
    try {
      return withTimeLimit(() => render(template, scope), timeLimitMs);
    } catch (error) {
      throw renderError(error, messages, timeLimitMs);
    }
  };
}

function parse(source: string): Template {
  try {
    return new Template(source);
  } catch (error) {
    throw new TokenizerMismatch(`the chat template is not valid: ${reasonOf(error)}`, { cause: error });
  }
}

/** What transformers puts in every template's scope, `range` bounded as in Jinja's sandbox. */
const GLOBALS: Record<string, unknown> = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  range: boundedRange,
  strftime_now: (format: string) => strftime(new Date(), format),
  raise_exception: (message: string) => {
    throw new Error(message);
  },
};

/** As Template.render does, with our own globals in place of the library's. */
function render(template: Template, scope: Record<string, unknown>): string {
  const environment = new Environment();
  for (const [name, value] of Object.entries(scope)) environment.set(name, value);
  const result: unknown = new Interpreter(environment).run(template.parsed).value;
  return String(result);
}

/** The directives that chat templates use, in English as in Python's C locale. */
function strftime(date: Date, format: string): string {
  const english = (options: Intl.DateTimeFormatOptions) => date.toLocaleDateString('en-US', options);
  const two = (value: number) => String(value).padStart(2, '0');
  const directives: Record<string, string> = {
    '%Y': String(date.getFullYear()),
    '%m': two(date.getMonth() + 1),
    '%d': two(date.getDate()),
    '%b': english({ month: 'short' }),
    '%B': english({ month: 'long' }),
    '%a': english({ weekday: 'short' }),
    '%A': english({ weekday: 'long' }),
    '%H': two(date.getHours()),
    '%M': two(date.getMinutes()),
    '%S': two(date.getSeconds()),
    '%%': '%',
  };
  return format.replace(/%[a-zA-Z%]/g, (directive) => directives[directive] ?? directive);
}

/** Made once: a new V8 context costs more than a rendering. */
const sandbox: { work: () => string } = { work: () => '' };
const context = createContext(sandbox);
const script = new Script('work()');

/** Runs a synchronous function that V8 stops after the limit, wherever it is. */
function withTimeLimit(work: () => string, timeLimitMs: number): string {
  sandbox.work = work;
  const result: unknown = script.runInContext(context, { timeout: timeLimitMs });
  return String(result);
}

function boundedRange(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop];
  if (step === 0) throw new Error('range() step must not be zero');
  const count = Math.max(0, Math.ceil((to - from) / step));
  if (count > MAX_RANGE) throw new Error(`range() of ${count} is over the limit of ${MAX_RANGE}`);
  return Array.from({ length: count }, (_, index) => from + index * step);
}

function renderError(error: unknown, messages: Message[], timeLimitMs: number): Error {
  const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : null;
  if (code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') {
    return new ModelInvalid(
      `the chat template did not end within ${timeLimitMs / 1000} s on ${messages.length} messages; ` +
        'correct the template, or use data.promptFormat "plain"',
      { cause: error },
    );
  }
  const roles = messages.map(({ role }) => role).join(', ');
  return new TokenizerMismatch(`the chat template refuses a conversation of ${roles}: ${reasonOf(error)}`, {
    cause: error,
  });
}

function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.slice(0, 400);
}
