"""Model request with concurrent checks of its input and of the text written so far."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from agentkit.guardrails.verdicts import Block
from agentkit.messages import ModelResponse
from agentkit.models.base import ModelDelta, OnDelta, TextDelta


async def ask_beside(
    ask: Callable[..., Awaitable[ModelResponse]],
    *,
    check_input: Callable[[], Awaitable[Block | None]] | None,
    check_text: Callable[[str], Block | None] | None,
    on_delta: OnDelta | None,
) -> ModelResponse | Literal["input", "output"]:
    """Return the response after every check has decided, or the kind of text that was blocked.

    A block stops the model at once, and no delta is passed on after it. Before it, a delta is passed on after
    `check_text` has seen its text.

    Raises:
        Exception: the error of the model or of a check.
    """
    import anyio

    response: ModelResponse | None = None
    watch = _Watch(check_text, on_delta)
    hears = on_delta is not None or check_text is not None
    async with anyio.create_task_group() as tasks:
        watch.stop = tasks.cancel_scope.cancel
        if check_input is not None:
            tasks.start_soon(watch.hold, check_input)
        try:
            response = await ask(on_delta=watch.hear if hears else None)
        except Exception as error:
            watch.fail(error)
    if watch.error is not None:
        raise watch.error
    if watch.blocked is not None:
        return watch.blocked
    assert response is not None  # only an error or a block stops the model
    return response


class _Watch:
    """Findings of the checks; the first block or error stops the request."""

    def __init__(self, check_text: Callable[[str], Block | None] | None, on_delta: OnDelta | None) -> None:
        self.error: Exception | None = None
        self.blocked: Literal["input", "output"] | None = None
        self._check_text = check_text
        self._on_delta = on_delta
        self.stop: Callable[[], object] = lambda: None
        self._written = ""

    def fail(self, error: Exception) -> None:
        self.error = self.error or error
        self.stop()

    async def hold(self, check_input: Callable[[], Awaitable[Block | None]]) -> None:
        try:
            self._found("input", await check_input())
        except Exception as error:
            self.fail(error)

    def hear(self, delta: ModelDelta) -> None:
        if self.blocked is not None or self.error is not None:
            return
        if self._check_text is not None and isinstance(delta, TextDelta):
            self._written += delta.text
            try:
                self._found("output", self._check_text(self._written))
            except Exception as error:
                self.fail(error)
            if self.blocked is not None or self.error is not None:
                return
        if self._on_delta is not None:
            self._on_delta(delta)

    def _found(self, what: Literal["input", "output"], block: Block | None) -> None:
        if block is not None:
            self.blocked = self.blocked or what
            self.stop()
