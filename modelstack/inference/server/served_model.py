"""A model behind the protocols: conversations to prompts, replies to text, calls and thoughts.

Any number of threads may ask for replies; the engine runs them in common batches. The grammar of each reply is
compiled from its tools and schema, so calls are valid in every combination of the protocols' options.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from modelstack.errors import UserError
from modelstack.inference.engine import Engine, GenerateRequest, Generation
from modelstack.inference.server.remembered_replies import RememberedReplies
from modelstack.inference.server.telling import Tell, Telling
from modelstack.inference.server.turns import (
    CompletionRequest,
    FinishReason,
    ReplyRequest,
    ServedReply,
    ThoughtPiece,
    Turn,
)
from modelstack.inference.server.visible_tokens import VisibleTokens
from modelstack.inference.thinking import ThinkingBudget, ThoughtfulReply, ThoughtMarks
from modelstack.inference.thought_reply import answering, joined, told_thought
from modelstack.tokenizer.chat import ChatEncoder, Role
from modelstack.toolcalls.convention import ResponseFormat, digits_wanted
from modelstack.toolcalls.conventions import JSON_LIST, Convention
from modelstack.toolcalls.conventions.reading import words_end
from modelstack.toolcalls.decoding import Reply, ReplyListener, decode_reply, is_cut_short
from modelstack.toolcalls.grammar.compiler import CompiledGrammar, GrammarCompiler
from modelstack.toolcalls.manner import AUTO, Manner, manner_for
from modelstack.toolcalls.prior.choice import ToolBias
from modelstack.toolcalls.prior.lexical import DecisionPrior, open_request
from modelstack.toolcalls.prior.reply_bias import ReplyBias, ReplyTables

if TYPE_CHECKING:
    from modelstack.align.monitor.watch import Watch

Cancelled = Callable[[], bool]
NewWatch = Callable[[bool], "Watch"]


@dataclass(frozen=True, slots=True)
class _Prompt:
    ids: list[int]
    n_fixed: int
    """Tokens before the first words of the user."""
    conversation: str


class ServedModel:
    """Engine with its conversation format, its grammars and its adapters."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        adapters: Sequence[str] = (),
        convention: str = AUTO,
        has_adapter: bool = False,
        prior: DecisionPrior | None = None,
        new_watch: NewWatch | None = None,
    ) -> None:
        """Prepare the model's conversation format and the tables of its grammars.

        Args:
            engine: The model.
            name: Name under which clients ask for it.
            adapters: Names of adapters that the engine holds; each is a model to the clients.
            convention: How tools are shown and calls are written: "auto", "ours" or another name.
            has_adapter: Whether an adapter that modelstack trained is part of the engine's weights.
            prior: Prior over tools that was fitted to this model.
            new_watch: Makes the monitor's watch of each reply, from whether the user's words come last; None: no
                reply is watched.

        Raises:
            UserError: The convention does not exist or is not the model's, or the prior is of another convention.
            ValueError: The vocabulary lacks single characters, so that no grammar can be enforced.
        """
        self.engine = engine
        self.name = name
        self.adapters = tuple(adapters)
        is_ours = has_adapter or prior is not None
        self._manner: Manner = manner_for(engine, convention, is_ours=is_ours, abstain=False)
        if prior is not None and self.convention is not JSON_LIST:
            raise UserError(
                f"a prior is fitted to replies in our own convention, and this model writes "
                f"{self.convention.name!r}; leave the prior out"
            )
        vocabulary = self.convention.ending(engine.vocabulary)
        self._compiler = GrammarCompiler(vocabulary, unsupported="check", convention=self.convention)
        self._prior = prior
        self._new_watch = new_watch
        self._tables = ReplyTables(engine.vocabulary)
        self._replies = RememberedReplies()
        self._names = itertools.count(1)
        self._lock = threading.Lock()
        """Held while compiler, encoders or remembered replies are used, never while the model computes."""

    @property
    def convention(self) -> Convention:
        """Convention in which calls are written."""
        return self._manner.convention

    @property
    def why_convention(self) -> str:
        """Reason for this convention."""
        return self._manner.why

    def adapter_of(self, name: str) -> str | None:
        """Return the adapter that a client's model name stands for; None: the base.

        Raises:
            KeyError: There is no such model.
        """
        if name == self.name:
            return None
        if name in self.adapters:
            return name
        raise KeyError(name)

    def reply(self, request: ReplyRequest, tell: Tell | None = None, cancelled: Cancelled = bool) -> ServedReply:
        """Write a reply. It blocks; call it from any thread.

        Args:
            request: Conversation and options.
            tell: Receives the pieces of the reply, from any thread that uses the engine.
            cancelled: Called between tokens; True ends the reply.

        Raises:
            UserError: The tools or the conversation cannot be shown to this model, or no reply was found that
                follows a schema.
            ContextWindowError: The conversation and one token do not fit.
            EngineError: The backend failed.
        """
        try:
            wanted = _wanted(request)
            with self._lock:
                grammar = self._compiler.compile(wanted)
                prompt = self._prompt(request)
        except ValueError as error:  # names, schemas, turns that the format does not have
            raise UserError(str(error)) from error
        asked = open_request([(turn.role, turn.text) for turn in request.turns])
        vocabulary = self.engine.vocabulary
        generate = GenerateRequest(
            prompt.ids,
            request.max_tokens or self.engine.context_window,
            fixed_tokens=prompt.n_fixed,
            conversation=prompt.conversation,
            end_ids=self._manner.end_ids,
            sampling=request.sampling,
            adapter=request.adapter,
            expected_ids=vocabulary.encode(request.expected) if request.expected else (),
            choice_bias=ToolBias.of(self._prior, asked, wanted, vocabulary),
            logit_bias=ReplyBias.of(self._prior, asked, wanted.tools, self._tables),
        )
        wrapper = "" if request.answer_schema is None else self.convention.form.result_prefix
        generate, tokens = self._reporting(generate, request.n_top_logprobs, wrapper)
        watch = None
        if self._new_watch is not None:
            watch = self._new_watch(bool(request.turns) and request.turns[-1].role == "user")
            generate = replace(generate, watch=watch)
        before = self._thought(generate, request.thinking_tokens, tell, cancelled)
        if watch is not None and watch.stop is not None:
            return _filtered(watch.stop.n_tokens, len(prompt.ids))
        if before is not None:
            generate = answering(generate, before)
        telling = None if tell is None else Telling(tell, tokens, self.convention, wanted.tools)
        reply = self._decoded(generate, request, wanted, grammar, telling, cancelled)
        if watch is not None and watch.stop is not None:
            return _filtered(watch.stop.n_tokens, len(prompt.ids))
        served = self._with_logprobs(self._served(reply, before, prompt), reply, tokens)
        if telling is not None:
            telling.finish(served.text, served.logprobs, served.calls)
        if before is None and served.stopped_by is None:  # thoughts are not part of later prompts
            past = [(name, json.loads(arguments)) for name, arguments in served.calls]
            with self._lock:
                text = self._manner.said(served.text, past)
                self._replies.add(prompt.ids, text, reply.generation.ids, prompt.conversation)
        return served

    def complete(
        self, request: CompletionRequest, tell: Tell | None = None, cancelled: Cancelled = bool
    ) -> ServedReply:
        """Continue tokens without a grammar. It blocks; call it from any thread.

        Raises:
            ContextWindowError: The prompt and one token do not fit.
            EngineError: The backend failed.
        """
        generate = GenerateRequest(
            request.prompt_ids,
            request.max_tokens,
            conversation=f"completion {next(self._names)}",
            end_ids=frozenset() if request.ignores_end else None,
            sampling=request.sampling,
            adapter=request.adapter,
        )
        generate, tokens = self._reporting(generate, request.n_top_logprobs)
        watch = None if self._new_watch is None else self._new_watch(False)  # this prompt is no user's turn
        generate = replace(generate, watch=watch)
        telling = None if tell is None else Telling(tell, tokens)
        hear = None if telling is None else telling.hear
        listener = ReplyListener(self.engine.vocabulary, request.stop, hear, convention=None)
        generation = self.engine.generate(
            generate,
            on_tokens=listener.hear,
            cancelled=lambda: listener.stopped_by is not None or cancelled(),
        )
        if watch is not None and watch.stop is not None:
            return _filtered(watch.stop.n_tokens, len(request.prompt_ids))
        is_cut = generation.finish_reason == "length"
        text = listener.text
        logprobs = ()
        if tokens is not None:
            tokens.read(generation)
            logprobs = tokens.before(None if listener.stopped_by is None else len(text))
        if telling is not None:
            telling.finish(text, logprobs)
        return replace(
            self._measured(generation, len(request.prompt_ids)),
            text=text,
            finish_reason="length" if is_cut else "stop",
            stopped_by=listener.stopped_by,
            logprobs=logprobs,
        )

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text to continue, with the begin token if the model's texts have one."""
        vocabulary = self.engine.vocabulary
        begin = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
        return begin + vocabulary.encode(text)

    def _prompt(self, request: ReplyRequest) -> _Prompt:
        thinks = request.thinking_tokens is not None
        encoder = self._manner.encoder(request.tools, thinks=thinks)
        n_system = next((n for n, turn in enumerate(request.turns) if turn.role != "system"), len(request.turns))
        texts = [turn.text for turn in request.turns[:n_system]]
        system = self._manner.system_text(texts, request.tools, structured=request.answer_schema is not None)
        ids: list[int] = encoder.encode_turn("system", system).ids if system else []
        last: Role | None = "system" if system else None
        n_fixed, conversation = 0, ""
        for number, turn in enumerate(request.turns[n_system:]):
            if number == 0:
                n_fixed = len(ids) + len(encoder.opening_ids(turn.role, previous=last))
            known = self._known_reply(encoder, ids, turn, last)
            if known is None:
                marks = self._manner.marks if turn.role in ("assistant", "tool") else None
                ids = ids + encoder.encode_turn(turn.role, self._text(turn), previous=last, marks=marks).ids
            else:
                ids, conversation = known
            last = turn.role
        opening = self._manner.reply_opening(encoder, last or "user", thinks=thinks)
        return _Prompt(ids + opening, n_fixed, conversation or f"conversation {next(self._names)}")

    def _known_reply(
        self, encoder: ChatEncoder, ids: list[int], turn: Turn, previous: Role | None
    ) -> tuple[list[int], str] | None:
        """Return the tokens up to the end of an assistant's turn that was written here, and its conversation."""
        if turn.role != "assistant":
            return None
        prompt_ids = ids + self._manner.reply_opening(encoder, previous or "user", thinks=False)
        found = self._replies.find(prompt_ids, self._text(turn))
        if found is None:
            return None
        return prompt_ids + found.ids.tolist() + encoder.assistant_suffix_ids, found.conversation

    def _text(self, turn: Turn) -> str:
        """Return the content of a turn, with stand-ins for special tokens."""
        if turn.role == "tool":
            write = self._manner.retry if turn.is_error else self._manner.result
            return write(turn.tool_name, turn.text)
        if turn.role == "assistant":
            return self._manner.said(turn.text, [(call.name, call.arguments) for call in turn.calls])
        return turn.text

    def _thought(
        self, generate: GenerateRequest, thinking_tokens: int | None, tell: Tell | None, cancelled: Cancelled
    ) -> ThoughtfulReply | None:
        if thinking_tokens is None:
            return None
        opening, closing = self.convention.thought_marks
        marks = ThoughtMarks(open=opening, close=closing)
        budget = ThinkingBudget(max_tokens=thinking_tokens, after_close=self.convention.after_thought)
        said: Callable[[str], None] | None = None if tell is None else lambda text: tell(ThoughtPiece(text))
        return told_thought(self.engine, generate, budget, marks, said, cancelled)

    def _reporting(
        self, generate: GenerateRequest, n_top_logprobs: int | None, wrapper: str = ""
    ) -> tuple[GenerateRequest, VisibleTokens | None]:
        """Return a request that reports its tokens, and where it does; None: they are not asked for."""
        if n_top_logprobs is None:
            return generate, None
        tokens = VisibleTokens(self.engine.vocabulary.token_bytes, wrapper)
        return replace(generate, n_top_logprobs=n_top_logprobs, on_progress=tokens.read), tokens

    def _decoded(
        self,
        generate: GenerateRequest,
        request: ReplyRequest,
        wanted: ResponseFormat,
        grammar: CompiledGrammar,
        telling: Telling | None,
        cancelled: Cancelled,
    ) -> Reply:
        """Decode a reply; where a schema is checked only at its end, nothing is told yet."""
        reply = decode_reply(
            self.engine,
            generate,
            wanted,
            grammar,
            self.convention,
            stop=request.stop,
            structured=None if request.answer_schema is None else "bare",
            tell=None if telling is None or grammar.coverage.checked else telling.hear,
            cancelled=cancelled,
        )
        if reply.parsed is not None and (violations := grammar.violations(reply.parsed)) and not cancelled():
            checked = ", ".join(sorted({repr(use.keyword) for use in grammar.coverage.checked}))
            raise UserError(
                f"no reply was found that follows the schema: {violations[0]}. No grammar enforces {checked} of "
                "it; leave that out, or check it afterwards"
            )
        return reply

    def _with_logprobs(self, served: ServedReply, reply: Reply, tokens: VisibleTokens | None) -> ServedReply:
        """Return a reply with the log-probabilities of the tokens of its text and of its calls."""
        if tokens is None:
            return served
        tokens.read(reply.generation)
        if served.calls:
            calls_at = words_end(reply.text, self.convention.form) or 0
            words = tokens.before(calls_at, are_whole=True)
            return replace(served, logprobs=words, call_logprobs=tokens.before(None)[len(words) :])
        is_cut = reply.stopped_by is not None or (reply.parsed is not None and reply.parsed.kind == "structured")
        return replace(served, logprobs=tokens.before(tokens.first + len(served.text) if is_cut else None))

    def _served(self, reply: Reply, before: ThoughtfulReply | None, prompt: _Prompt) -> ServedReply:
        vocabulary = self.engine.vocabulary
        generation = reply.generation if before is None else joined(before, reply.generation, vocabulary)
        words, calls = self._parts(reply)
        finish: FinishReason = "tool_calls" if calls else "stop"
        if is_cut_short(reply, vocabulary, self.convention, is_masked=True):
            finish = "length"
        return replace(
            self._measured(generation, len(prompt.ids)),
            text=words,
            calls=calls,
            thought="" if before is None else before.thought.strip(),
            n_thought=0 if before is None else len(before.ids),
            finish_reason=finish,
            stopped_by=reply.stopped_by,
        )

    def _parts(self, reply: Reply) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Return the words, or the JSON of the answer, and the calls of a reply."""
        parsed, prefix = reply.parsed, self.convention.form.result_prefix
        if parsed is None:  # cut short
            return reply.text.removeprefix(prefix), ()
        if parsed.kind == "structured":
            return reply.text[len(prefix) : -1], ()
        if parsed.kind == "calls":
            return parsed.lead.strip(), parsed.calls
        return str(parsed.answer), ()

    def _measured(self, generation: Generation, n_prompt: int) -> ServedReply:
        """Return the counts of a generation, without its content."""
        stats = generation.stats
        return ServedReply(
            "",
            n_prompt=n_prompt,
            n_cached=min(stats.reused_tokens, n_prompt),
            n_written=len(generation.ids),
            n_drafted=stats.drafted_tokens,
            n_accepted=stats.accepted_tokens,
            n_evaluations=stats.forward_calls,
            first_token_s=stats.first_token_s,
            decode_s=stats.decode_s,
        )


def _filtered(n_written: int, n_prompt: int) -> ServedReply:
    """Return a reply that the monitor stopped: pieces that were told stay told, and nothing more is said."""
    return ServedReply("", finish_reason="content_filter", n_prompt=n_prompt, n_written=n_written)


def _wanted(request: ReplyRequest) -> ResponseFormat:
    """Return the legal replies.

    Raises:
        ValueError: A name of a tool is given twice, or no reply would be legal.
    """
    may_call = request.callable
    tools = tuple(tool for tool in request.tools if may_call is None or tool.name in may_call)
    answer: Any = "text" if request.answer_schema is None else request.answer_schema
    texts = (turn.text for turn in request.turns if turn.role in ("user", "tool"))
    return ResponseFormat(
        tools, None if request.must_call else answer, request.parallel, max_digits=digits_wanted(texts)
    )
