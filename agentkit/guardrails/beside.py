"""Asking a model while checks run beside it: of what it was sent, and of what it has written so far."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agentkit.guardrails.verdicts import Block
from agentkit.messages import ModelResponse
from agentkit.models.model import ModelDelta, OnDelta, TextDelta


async def ask_beside(
    ask: Callable[..., Awaitable[ModelResponse]],
    *,
    check_input: Callable[[], Awaitable[Block | None]] | None,
    check_text: Callable[[str], Block | None] | None,
    on_delta: OnDelta | None,
) -> ModelResponse | None:
    """Return the response once every check has decided; None where one blocked, which stops the model at once.

    A piece of text is passed on only after `check_text` has seen it.

    Raises:
        Exception: what the model or a check raised.
    """
    import anyio

    response: ModelResponse | None = None
    watch = _Watch(check_text, on_delta)
    async with anyio.create_task_group() as tasks:
        watch.stop = tasks.cancel_scope.cancel
        if check_input is not None:
            tasks.start_soon(watch.hold, check_input)
        try:
            response = await ask(on_delta=watch.hear if check_text is not None else on_delta)
        except Exception as error:
            watch.fail(error)
    if watch.error is not None:
        raise watch.error
    return None if watch.block is not None else response


class _Watch:
    """What the checks have found; the first finding stops everything."""

    def __init__(self, check_text: Callable[[str], Block | None] | None, on_delta: OnDelta | None) -> None:
        self.error: Exception | None = None
        self.block: Block | None = None
        self._check_text = check_text
        self._on_delta = on_delta
        self.stop: Callable[[], object] = lambda: None
        self._written = ""

    def fail(self, error: Exception) -> None:
        self.error = self.error or error
        self.stop()

    async def hold(self, check_input: Callable[[], Awaitable[Block | None]]) -> None:
        try:
            self._found(await check_input())
        except Exception as error:
            self.fail(error)

    def hear(self, delta: ModelDelta) -> None:
        if self.block is not None or self.error is not None:
            return
        if self._check_text is not None and isinstance(delta, TextDelta):
            self._written += delta.text
            try:
                self._found(self._check_text(self._written))
            except Exception as error:
                self.fail(error)
            if self.block is not None or self.error is not None:
                return
        if self._on_delta is not None:
            self._on_delta(delta)

    def _found(self, block: Block | None) -> None:
        if block is not None:
            self.block = self.block or block
            self.stop()
