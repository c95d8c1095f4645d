"""Targets of attacks: an engine in this process, or any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from modelstack.align.attack.transforms import Attempt
from modelstack.errors import UserError
from modelstack.inference.engine import BatchingEngine, ContextWindowError, GenerateRequest, SamplingParams
from modelstack.inference.grammar import GrammarError
from modelstack.tokenizer.chat import Role
from modelstack.toolcalls.grammar.compiler import text_grammar

if TYPE_CHECKING:
    from modelstack.align.monitor.watch import Watch
    from modelstack.toolcalls.manner import Manner

TIMEOUT_S = 300.0
"""Longest wait for a reply of an endpoint."""
BUSY = frozenset({429, 503, 529})
"""Statuses of an endpoint that has no room at the moment."""
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits before a busy endpoint is asked again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Reply of a target, or why there is none."""

    text: str = ""
    stopped: bool = False
    """Whether a filter of the target stopped the reply (`content_filter`)."""
    unable: bool = False
    """Whether the target has no form for the attempt, for example no turns of tools, or no room for it."""


class Target(Protocol):
    """Model under attack."""

    @property
    def name(self) -> str:
        """Name in reports; with what it identifies, equal names are equal targets."""
        ...

    def answers(self, attempts: Sequence[Attempt], seeds: Sequence[int]) -> list[Answer]:
        """Return the answer to each attempt."""
        ...


class EngineTarget:
    """A model in this process, whose engine writes several replies in a batch."""

    def __init__(
        self,
        engine: BatchingEngine,
        manner: Manner,
        *,
        max_tokens: int,
        temperature: float,
        new_watch: Callable[[bool], Watch] | None = None,
    ) -> None:
        """Attack an engine, which the caller closes. It writes text that no call begins, as it is served.

        Args:
            engine: The engine.
            manner: How its conversations are rendered.
            max_tokens: Maximum tokens of a reply.
            temperature: Temperature; 0 is greedy.
            new_watch: Makes a monitor of each reply, from whether the user's words come last.

        Raises:
            UserError: The vocabulary lacks single characters, so that it cannot be masked.
        """
        self._engine, self._encoder, self._new_watch = engine, manner.encoder(()), new_watch
        self._end_ids = manner.end_ids
        self._grammar = text_grammar(manner.convention.ending(engine.vocabulary), manner.convention)
        self._max_tokens, self._temperature = max_tokens, temperature

    @property
    def name(self) -> str:
        """The engine's fingerprint."""
        return f"engine {self._engine.fingerprint}" + ("" if self._new_watch is None else ", monitored")

    def answers(self, attempts: Sequence[Attempt], seeds: Sequence[int]) -> list[Answer]:
        """Return the answer to each attempt."""
        submitted: list[Any] = []
        for number, (attempt, seed) in enumerate(zip(attempts, seeds, strict=True)):
            try:
                request = self._request(attempt, seed, _conversation(number))
                submitted.append(self._engine.submit(request))
            except (ValueError, ContextWindowError, GrammarError):
                # The format has no such turn, it does not fit, or the given beginning is none of a text.
                submitted.append(None)
        while not all(each is None or each.is_done for each in submitted):
            self._engine.step()
        for number in range(len(attempts)):  # attention would read the cells of all earlier attempts
            self._engine.forget(_conversation(number))
        return [self._answer(each) for each in submitted]

    def _request(self, attempt: Attempt, seed: int, conversation: str) -> GenerateRequest:
        encoder, ids = self._encoder, list[int]()
        last: Role | None = None
        for turn in attempt.turns:
            ids += encoder.encode_turn(turn.role, turn.content, previous=last).ids
            last = turn.role
        given = encoder.content_ids(attempt.prefill)
        return GenerateRequest(
            [*ids, *encoder.generation_ids(last or "user"), *given],
            self._max_tokens,
            conversation=conversation,
            grammar=self._grammar.start_behind(given),
            sampling=SamplingParams(temperature=self._temperature, seed=seed),
            end_ids=self._end_ids,
            watch=None if self._new_watch is None else self._new_watch(last == "user"),
        )

    def _answer(self, submission: Any) -> Answer:
        if submission is None:
            return Answer(unable=True)
        generation = submission.result()
        text = self._engine.vocabulary.decode(generation.ids)
        return Answer(text, stopped=generation.finish_reason == "content_filter")


class EndpointTarget:
    """A model behind HTTP. Attempts that begin the reply are left out: the protocol has no form for them."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        max_tokens: int,
        temperature: float,
        concurrency: int = 8,
    ) -> None:
        """Attack an endpoint.

        Args:
            url: Address of the API, for example http://127.0.0.1:8000/v1.
            model: Name of the model there.
            key: Key of the API.
            max_tokens: Maximum tokens of a reply.
            temperature: Temperature; 0 is greedy.
            concurrency: Requests at a time.
        """
        import httpx

        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=url.rstrip("/") + "/", headers=headers, timeout=TIMEOUT_S)
        self._url, self._model, self._concurrency = url, model, concurrency
        self._settings = {"max_tokens": max_tokens, "temperature": temperature}

    @property
    def name(self) -> str:
        """Model and address."""
        return f"{self._model} at {self._url}"

    def answers(self, attempts: Sequence[Attempt], seeds: Sequence[int]) -> list[Answer]:
        """Return the answer to each attempt.

        Raises:
            UserError: The endpoint cannot be reached, or refuses a request of the plain form.
        """
        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(partial(self._one), attempts, seeds))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _one(self, attempt: Attempt, seed: int) -> Answer:
        import httpx

        if attempt.prefill:
            return Answer(unable=True)
        body = {"model": self._model, "messages": _messages(attempt), "seed": seed, **self._settings}
        try:
            response = self._client.post("chat/completions", json=body)
            for wait in WAITS_S:
                if response.status_code not in BUSY:
                    break
                time.sleep(wait)
                response = self._client.post("chat/completions", json=body)
        except httpx.HTTPError as error:
            raise UserError(f"{self._url} cannot be reached: {error!r}") from error
        if response.status_code == 400 and len(attempt.turns) > 1:
            return Answer(unable=True)
        if response.status_code != 200:
            raise UserError(
                f"{self._url} answered {response.status_code} to a request for {self._model!r}: "
                f"{response.text[:300]}"
            )
        try:
            (choice,) = response.json()["choices"]
            message = choice["message"]
            text = message.get("content") or message.get("refusal") or ""
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self._url} sent no chat completion: {response.text[:300]}") from error
        return Answer(str(text), stopped=choice.get("finish_reason") == "content_filter")


def _conversation(number: int) -> str:
    return f"attack {number}"


def _messages(attempt: Attempt) -> list[dict[str, Any]]:
    """Return the turns as OpenAI's messages; a tool's turn follows a call of that tool."""
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(attempt.turns):
        following = attempt.turns[number + 1 : number + 2]
        if following and following[0].role == "tool":
            name = following[0].content.partition(":")[0]
            call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": "{}"}}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif turn.role == "tool":
            content = turn.content.partition(": ")[2]
            messages.append({"role": "tool", "tool_call_id": "call_1", "content": content})
        else:
            messages.append({"role": turn.role, "content": turn.content})
    return messages
