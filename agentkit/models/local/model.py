"""A model in this process: weights, KV cache and decoder are ours, so a call cannot be malformed.

The live tools are compiled into one grammar, the union of their calls and the final answer; the decoder masks
every token with it. Tool output is encoded as content and cannot produce a control token. The evaluated tokens of
a conversation stay in the KV cache, and a reply reports how many were reused.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anyio.to_thread

from agentkit.errors import ContextWindowExceeded, ModelError, UserError
from agentkit.messages import ModelMessage, ModelResponse
from agentkit.models.base import (
    Model,
    ModelDelta,
    ModelProfile,
    ModelRequestParameters,
    ModelSettings,
    OnDelta,
    ThinkingDelta,
    check_model_requests_allowed,
)
from agentkit.models.confidence import Calibration
from agentkit.models.local.monitor import Monitor, filtered, require_fitting
from agentkit.models.local.profiles import DEFAULT_PROFILE, PROFILES
from agentkit.models.local.refused_tools import RefusedTools
from agentkit.models.local.shipped import adapter_identity
from mcp_servers.distribution import install_command

if TYPE_CHECKING:
    from agentkit.models.local.transcript import Prompt, Transcripts
    from modelstack.align.monitor.probe import Probe
    from modelstack.inference.engine import ChoiceBias, Engine, GenerateRequest, LogitBias
    from modelstack.inference.thinking import ThoughtfulReply
    from modelstack.toolcalls.grammar.compiler import GrammarCompiler
    from modelstack.toolcalls.manner import Manner
    from modelstack.toolcalls.prior.lexical import DecisionPrior
    from modelstack.toolcalls.prior.reply_bias import ReplyTables

logger = logging.getLogger(__name__)

GrammarEngine = Literal["llguidance", "lm-format-enforcer"]
DEFAULT_MAX_TOKENS = 512
"""Default token limit of a reply; the grammar closes the reply before it is cut."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    engine: Engine
    compiler: GrammarCompiler | None
    """None if replies are not masked."""
    manner: Manner
    transcripts: Transcripts
    prior: DecisionPrior | None
    calibration: Calibration
    tables: ReplyTables
    probe: Probe | None


class LocalModel(Model):
    """An in-process model on llama.cpp. Requests of several runs take turns; loading happens on first use."""

    def __init__(
        self,
        model: str | Path | Engine = PROFILES[DEFAULT_PROFILE],
        *,
        lora: str | Path | None = None,
        prior: str | Path | DecisionPrior | None = None,
        calibration: str | Path | Calibration | None = None,
        grammar: GrammarEngine | None = "llguidance",
        unsupported_schema: Literal["refuse", "check"] = "check",
        context_window: int | None = None,
        jump_ahead: bool = True,
        abstain: bool | Literal["words"] = False,
        convention: str = "auto",
        thought_marks: tuple[str, str] | None = None,
        after_thought: str | None = None,
        prompt_cache_bytes: int | None = None,
        monitor: Monitor | None = None,
        **engine_options: Any,
    ) -> None:
        """Describe a model; nothing is loaded yet.

        Args:
            model: A catalog id (see `agentkit models list`), the path of a GGUF file, or a loaded engine. An id
                is the model without adapter; `resolve_model("local:small")` adds the shipped one.
            lora: Path of a GGUF LoRA adapter.
            prior: Lexical prior over tools given the words of a request, fitted for this model and adapter
                (`modelstack fit-prior`), or its file's path. It needs a grammar.
            calibration: Calibration of the probabilities of its choices, fitted for this model, adapter and prior
                (`agentkit calibrate`), or its file's path.
            grammar: Library that computes the token masks. None disables masking: replies are parsed leniently,
                calls may be malformed, and no probabilities are reported.
            unsupported_schema: Schema keywords that the grammar cannot enforce: refuse the tool, or check them
                after decoding and resample; "check" leaves out, with a warning, a tool that no grammar holds.
            context_window: Tokens that a conversation may hold; None takes the model's, at most 8192.
            jump_ahead: Evaluate tokens with one legal continuation as a block.
            abstain: Lets the model reply that no tool fits: `[]`, or words in a convention without such a form.
                With "words" it then says so in words, and the run is completed.
            convention: Convention in which tools are shown and calls are written: "ours", the name of another
                one, or "auto": ours with an adapter or a prior, else the one recognised in its chat template.
            thought_marks: Opening and closing mark of a thought, for `ModelSettings(thinking_tokens=...)`. None
                takes the convention's, `<think>` and `</think>` in most.
            after_thought: Text between the thought and the reply. None takes the convention's.
            prompt_cache_bytes: Maximum size of the prompt cache, which keeps the fixed part of prompts for later
                runs. 0 disables it, None takes the environment's AGENTKIT_PROMPT_CACHE_MB, else 1 GiB.
            monitor: Probes on the model's hidden states that stop unsafe requests and replies. An engine given as
                `model` must show the layers that they read (`state_layers`).
            engine_options: Passed to `modelstack.inference.llama.engine.LlamaCppEngine`.

        Raises:
            UserError: a mark of a thought is empty, or `prompt_cache_bytes` is negative.
        """
        if thought_marks is not None and not all(thought_marks):
            raise UserError(
                f"thought_marks={thought_marks!r}: both must have text, or no thought could be told apart."
            )
        if prompt_cache_bytes is not None and prompt_cache_bytes < 0:
            raise UserError(f"prompt_cache_bytes={prompt_cache_bytes} is negative: give 0 to keep nothing.")
        self._source = model
        self._lora = lora
        self._prior = prior
        self._calibration = calibration
        self._grammar_engine: GrammarEngine | None = grammar
        self._unsupported: Literal["refuse", "check"] = unsupported_schema
        self._refused = RefusedTools(self.name, unsupported_schema)
        self._jump_ahead = jump_ahead
        self._abstain: bool | Literal["words"] = abstain
        self._convention = convention
        self._thought_marks = thought_marks
        self._after_thought = after_thought
        self._prompt_cache_bytes = prompt_cache_bytes
        self._monitor = monitor
        self._engine_options: dict[str, Any] = {"context_window": context_window, **engine_options}
        self._load_lock = threading.Lock()
        self._books = threading.Lock()
        """Lock held while the transcripts or the compiler are used, never while the model computes."""
        self._loaded: _Loaded | None = None

    @property
    def name(self) -> str:
        """The catalog id, or the file's name."""
        return f"local:{Path(self._source).name}" if isinstance(self._source, str | Path) else "local:engine"

    @property
    def adapter(self) -> str | None:
        """Name and hash of the adapter: those of its stage, else of its file."""
        return None if self._lora is None else adapter_identity(Path(self._lora))

    @property
    def is_free(self) -> bool:
        """True: it runs in this process."""
        return True

    @property
    def profile(self) -> ModelProfile:
        """Capabilities of the model; the context window is known once the model is loaded."""
        return ModelProfile(
            grammar=self._grammar_engine is not None,
            logprobs=True,
            prefix_cache=True,
            context_window=self._loaded.engine.context_window if self._loaded is not None else None,
            parallel_tool_calls=True,
            native_output=True,
            inputs=frozenset(),
        )

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        """Continue the conversation in a worker thread; cancelling stops the decoder at its next token.

        Raises:
            ContextWindowExceeded: the conversation no longer fits.
            UserError: a tool's or the output's schema is refused, or the model cannot be loaded.
            ModelError: the engine failed.
            Exception: the error of `on_delta`, which also stops the decoder.
        """
        check_model_requests_allowed(self)
        stop, failed = threading.Event(), list[Exception]()
        tell = _on_loop(on_delta, stop, failed) if on_delta is not None else None
        work = partial(self._work, messages, parameters, tell, stop.is_set)
        try:
            response = await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        except Exception as error:
            if failed:
                raise failed[0] from error
            raise
        finally:
            stop.set()
        if failed:
            raise failed[0]
        return response

    def load(self) -> Engine:
        """Load the weights unless they are loaded, fetching them into the cache first if needed.

        Raises:
            UserError: the model or its runtime is missing; the message says how to get it.
        """
        with self._load_lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded.engine

    def close(self) -> None:
        """Free weights and cache; the next request loads them again."""
        with self._load_lock:
            if self._loaded is not None:
                self._loaded.engine.close()
            self._loaded = None

    def _load(self) -> _Loaded:
        try:
            from agentkit.models.local.prompt_cache import prompt_cache
            from agentkit.models.local.transcript import Transcripts
            from modelstack.inference.engine import EngineError
            from modelstack.inference.llama.engine import LlamaCppEngine
            from modelstack.inference.llama.trial_load import try_in_child
            from modelstack.inference.remembered import RememberedFacts
            from modelstack.toolcalls.prior.reply_bias import ReplyBias, ReplyTables
        except ImportError as error:
            raise UserError(f"{self.name!r} needs {error.name}: {install_command('local')}") from error
        prior, calibration = self._read_prior(), self._read_calibration()
        probe = None if self._monitor is None else self._monitor.read()
        try:
            if isinstance(self._source, str | Path):
                from agentkit.models.catalog.entries import CATALOG, local_path

                path = local_path(str(self._source), tell=logger.warning)
                states = prompt_cache(self._prompt_cache_bytes)
                if str(self._source) not in CATALOG:  # files of the catalog are known by their hashes
                    lora = [] if self._lora is None else [Path(self._lora)]
                    try_in_child([path, *lora], None if states is None else RememberedFacts(states.folder))
                options: dict[str, Any] = {"states": states, **self._engine_options}
                if probe is not None:
                    options["state_layers"] = probe.layers
                engine: Engine = LlamaCppEngine(path, lora_path=self._lora, **options)
            else:
                engine = self._source
        except EngineError as error:
            raise UserError(str(error)) from error
        if probe is not None:
            require_fitting(probe, engine)
        manner, compiler = self._manner(engine, prior)
        tables = ReplyTables(engine.vocabulary)
        ReplyBias.of(prior, "", (), tables)  # builds the prior's tables now, so that the first reply does not wait
        return _Loaded(engine, compiler, manner, Transcripts(manner), prior, calibration, tables, probe)

    def _manner(self, engine: Engine, prior: DecisionPrior | None) -> tuple[Manner, GrammarCompiler | None]:
        """Return how conversations are rendered, and the compiler of the replies' grammars."""
        from modelstack.errors import UserError as ModelstackError
        from modelstack.toolcalls.conventions import JSON_LIST
        from modelstack.toolcalls.grammar.compiler import GrammarCompiler
        from modelstack.toolcalls.manner import manner_for

        is_ours = self._lora is not None or prior is not None
        try:
            manner = manner_for(engine, self._convention, is_ours=is_ours, abstain=bool(self._abstain))
        except ModelstackError as error:
            raise UserError(str(error)) from error
        convention = manner.convention
        if prior is not None and convention is not JSON_LIST:
            raise UserError(
                f"a prior is fitted to replies in our own convention, and this model is to be spoken to in "
                f"{convention.name!r}: leave the prior out, or choose convention='ours'."
            )
        if self._grammar_engine is None:
            return manner, None
        try:
            vocabulary = convention.ending(engine.vocabulary)
            compiler = GrammarCompiler(vocabulary, self._grammar_engine, self._unsupported, convention=convention)
        except ValueError as error:
            raise UserError(str(error)) from error
        return manner, compiler

    @property
    def convention(self) -> tuple[str, str]:
        """Name of the model's convention, and the reason for it; loads the model.

        Raises:
            UserError: the model cannot be loaded.
        """
        self.load()
        assert self._loaded is not None
        return self._loaded.manner.convention.name, self._loaded.manner.why

    def _read_calibration(self) -> Calibration:
        if isinstance(self._calibration, str | Path):
            return Calibration.load(self._calibration)
        return self._calibration or Calibration()

    def _read_prior(self) -> DecisionPrior | None:
        from modelstack import errors
        from modelstack.toolcalls.prior.lexical import DecisionPrior, require_fitted_to

        if not isinstance(self._prior, str | Path):
            return self._prior
        try:
            prior = DecisionPrior.read(self._prior)
            require_fitted_to(prior, None if self._lora is None else Path(self._lora), self._prior)
        except (errors.UserError, OSError) as error:
            raise UserError(str(error)) from error
        return prior

    # -- in the worker thread -----------------------------------------------------------------------------

    def _work(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        tell: Callable[[ModelDelta], None] | None,
        cancelled: Callable[[], bool],
    ) -> ModelResponse:
        self.load()  # before the imports: it names the extra that is not installed
        from modelstack.inference.engine import ContextWindowError, EngineError
        from modelstack.inference.grammar import GrammarError

        try:
            return self._refused.around(parameters, lambda usable: self._reply(messages, usable, tell, cancelled))
        except ContextWindowError as error:
            raise ContextWindowExceeded(str(error)) from error
        except (EngineError, GrammarError) as error:
            raise ModelError(f"{self.name}: {error}") from error

    def _reply(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        tell: Callable[[ModelDelta], None] | None,
        cancelled: Callable[[], bool],
    ) -> ModelResponse:
        from agentkit.models.local.reply import (
            ends_with_user,
            has_abstained,
            request_text,
            response_format,
            structured_form,
            text_delta,
            to_response,
            tokens_of,
        )
        from agentkit.models.local.thought import with_thought
        from modelstack.inference.thought_reply import answering, joined
        from modelstack.toolcalls.convention import ResponseFormat
        from modelstack.toolcalls.decoding import decode_reply, is_cut_short
        from modelstack.toolcalls.prior.choice import ToolBias, tool_choices
        from modelstack.toolcalls.prior.reply_bias import ReplyBias

        loaded = self._loaded
        assert loaded is not None  # `load` was called
        thinks = parameters.settings.thinking_tokens is not None
        wanted = response_format(parameters, abstain=bool(self._abstain), messages=messages)
        with self._books:
            grammar = loaded.compiler.compile(wanted) if loaded.compiler is not None else None
            extend = partial(loaded.transcripts.extend, thinks=thinks, found=parameters.found_tools)
            prompt = extend(messages, parameters.tools, structured=parameters.output is not None)
        asked = request_text(messages)
        biases = (
            ToolBias.of(loaded.prior, asked, wanted, loaded.engine.vocabulary),
            ReplyBias.of(loaded.prior, asked, wanted.tools, loaded.tables),
        )
        settings = parameters.settings
        request = self._request(prompt, biases, settings, loaded.manner.end_ids)
        watch = None
        if self._monitor is not None and loaded.probe is not None:
            watch = self._monitor.watch(loaded.probe, judges_request=ends_with_user(messages))
            request = replace(request, watch=watch)
        thought = self._thought(loaded, request, settings.thinking_tokens, tell, cancelled)
        if watch is not None and watch.stop is not None:
            return filtered(watch, self.name, len(prompt.ids), tell)
        if thought is not None:
            request = answering(request, thought)
        decode = partial(
            decode_reply,
            loaded.engine,
            convention=loaded.manner.convention,
            stop=settings.stop,
            structured=structured_form(parameters.output),
            tell=None if tell is None else lambda piece, is_call: tell(text_delta(piece, is_call)),
            cancelled=cancelled,
        )
        reply = decode(request, wanted, grammar)
        if watch is not None and watch.stop is not None:
            return filtered(watch, self.name, len(prompt.ids), tell)
        choices = (
            tool_choices(reply.generation, loaded.engine.vocabulary, wanted, loaded.manner.convention)
            if grammar is not None
            else None
        )
        n_deciding = 0
        if self._abstain == "words" and wanted.answer == "text" and has_abstained(reply, without_words=True):
            n_deciding, deciding = len(reply.generation.ids), reply.generation.stats
            wanted = ResponseFormat()
            with self._books:
                grammar = loaded.compiler.compile(wanted) if loaded.compiler is not None else None
            reply = decode(replace(request, choice_bias=None), wanted, grammar)
            if watch is not None and watch.stop is not None:
                return filtered(watch, self.name, len(prompt.ids), tell)
            reply.generation.stats = deciding.then(reply.generation.stats)
        vocabulary, convention = loaded.engine.vocabulary, loaded.manner.convention
        is_cut = is_cut_short(reply, vocabulary, convention, is_masked=grammar is not None)
        response = to_response(self.name, len(prompt.ids), reply, choices, parameters.output, is_cut=is_cut)
        if self._abstain == "words" and response.text:
            usage = replace(response.usage, output_tokens=response.usage.output_tokens + n_deciding)
            response = replace(response, abstained=False, usage=usage)
        written = reply.generation
        if thought is not None:
            written = joined(thought, written, loaded.engine.vocabulary)
            response = with_thought(response, thought, written)
        response = loaded.calibration.applied(response)
        if tell is not None:
            grammar_key = loaded.compiler.cache_key(wanted) if loaded.compiler is not None else None
            tell(tokens_of(written, prompt, loaded.engine, grammar_key, loaded.manner))
        with self._books:
            loaded.transcripts.add_reply(prompt, written.ids, response)
        return response

    def _thought(
        self,
        loaded: _Loaded,
        request: GenerateRequest,
        thinking_tokens: int | None,
        tell: Callable[[ModelDelta], None] | None,
        cancelled: Callable[[], bool],
    ) -> ThoughtfulReply | None:
        """Generate a thought if thinking is enabled."""
        if thinking_tokens is None:
            return None
        if thinking_tokens < 0:
            raise UserError(
                f"thinking_tokens={thinking_tokens} is no budget: give 0 or more, or None for no thought."
            )
        from modelstack.inference.thinking import ThinkingBudget, ThoughtMarks
        from modelstack.inference.thought_reply import told_thought

        convention = loaded.manner.convention
        opening, closing = self._thought_marks or convention.thought_marks
        behind = convention.after_thought if self._after_thought is None else self._after_thought
        marks = ThoughtMarks(open=opening, close=closing)
        budget = ThinkingBudget(max_tokens=thinking_tokens, after_close=behind)
        told: Callable[[str], None] | None = None if tell is None else lambda text: tell(ThinkingDelta(text))
        return told_thought(loaded.engine, request, budget, marks, told, cancelled)

    def _request(
        self,
        prompt: Prompt,
        biases: tuple[ChoiceBias | None, LogitBias | None],
        settings: ModelSettings,
        end_ids: frozenset[int],
    ) -> GenerateRequest:
        from agentkit.models.local.reply import sampling_params
        from modelstack.inference.engine import GenerateRequest

        return GenerateRequest(
            prompt_ids=prompt.ids,
            max_tokens=settings.max_tokens or DEFAULT_MAX_TOKENS,
            fixed_tokens=prompt.n_fixed,
            conversation=prompt.transcript.key,
            end_ids=end_ids,
            sampling=sampling_params(settings),
            jump_ahead=self._jump_ahead,
            choice_bias=biases[0],
            logit_bias=biases[1],
        )


def _on_loop(on_delta: OnDelta, stop: threading.Event, failed: list[Exception]) -> Callable[[ModelDelta], None]:
    """Return a function for the worker thread that calls `on_delta` on the event loop, in order.

    Deltas of the worker are dropped after the request has ended, because it was cancelled. An error of `on_delta`
    is stored in `failed` and sets `stop`: the loop would only log what its callback raises.
    """
    loop = asyncio.get_running_loop()

    def deliver(delta: ModelDelta) -> None:
        if stop.is_set():
            return
        try:
            on_delta(delta)
        except Exception as error:  # raised again by `request`
            failed.append(error)
            stop.set()

    return lambda delta: loop.call_soon_threadsafe(deliver, delta) and None
