"""Writer and chooser based on a model in this process; choices are scored by log-probability.

The conversation is encoded with the model's chat format, its contents separately from control tokens, so no text
can open or close a turn. The options are scored as the next words of the assistant and share the prompt's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio.to_thread

from modelstack.inference.engine import ContextWindowError, GenerateRequest, SamplingParams
from modelstack.inference.scoring import ScoringEngine, continuation_logprob
from modelstack.preferences.constitution.asking import Turn, Unanswered
from modelstack.preferences.constitution.feedback import normalised
from modelstack.tokenizer.chat import ChatMessage
from modelstack.tokenizer.chat_template import chat_encoder

_CONVERSATION = "constitution"
_SHOWN = 12


class EngineModel:
    """`Writer` and `Chooser` based on an engine, which handles one request at a time."""

    def __init__(self, engine: ScoringEngine, name: str | None = None) -> None:
        """Wrap a loaded engine.

        Args:
            engine: Loaded engine; the caller closes it.
            name: Name of the model; None: the beginning of the engine's fingerprint.
        """
        self._engine = engine
        self._name = name
        self._encoder = chat_encoder(engine)

    @property
    def name(self) -> str:
        """Given name, or one made from the engine's fingerprint."""
        if self._name is None:
            self._name = f"engine {self._engine.fingerprint[:_SHOWN]}"
        return self._name

    async def write(self, turns: Sequence[Turn], *, seed: int, max_tokens: int, temperature: float) -> str:
        """Return the next turn of the assistant; greedy decoding at temperature 0.

        Raises:
            Unanswered: The conversation exceeds the context window.
            EngineError: The backend failed.
        """
        work = partial(self._write, turns, seed, max_tokens, temperature)
        return await anyio.to_thread.run_sync(work)

    async def choose(self, turns: Sequence[Turn], options: Sequence[str], *, seed: int) -> tuple[float, ...]:
        """Return the probabilities of the options, normalised over them; the seed has no effect.

        Raises:
            Unanswered: The conversation exceeds the context window.
            EngineError: The backend failed.
        """
        return await anyio.to_thread.run_sync(partial(self._choose, turns, options))

    def _write(self, turns: Sequence[Turn], seed: int, max_tokens: int, temperature: float) -> str:
        request = GenerateRequest(
            self._prompt_ids(turns),
            max_tokens,
            conversation=_CONVERSATION,
            sampling=SamplingParams(temperature=temperature, seed=seed),
            end_ids=self._encoder.end_ids,
        )
        try:
            generation = self._engine.generate(request)
        except ContextWindowError as error:
            raise Unanswered(str(error)) from error
        return self._engine.vocabulary.decode(generation.ids)

    def _choose(self, turns: Sequence[Turn], options: Sequence[str]) -> tuple[float, ...]:
        ids = self._prompt_ids(turns)
        options_ids = [self._encoder.content_ids(option) for option in options]
        # `continuation_logprob` would cut off the beginning of a long context, and the judge would see only a
        # part.
        n_tokens = len(ids) + max(map(len, options_ids)) - 1
        if n_tokens > self._engine.context_window:
            raise Unanswered(f"{n_tokens} tokens are more than the window of {self._engine.context_window}")
        return normalised(
            [
                continuation_logprob(self._engine, ids, option_ids, conversation=_CONVERSATION).logprob
                for option_ids in options_ids
            ]
        )

    def _prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        messages = [ChatMessage(turn.role, turn.content) for turn in turns]
        return self._encoder.encode(messages).ids + self._encoder.generation_ids(messages[-1].role)
