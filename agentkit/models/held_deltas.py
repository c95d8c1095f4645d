"""Deltas on their way to a listener, held back while it is not known whether their reply will be taken."""

from __future__ import annotations

from agentkit.models.model import ModelDelta, OnDelta, TokensDelta


class HeldDeltas:
    """One reply's deltas."""

    def __init__(self, on_delta: OnDelta | None, *, hold: bool) -> None:
        """Pass deltas on to `on_delta` as they come, or with `hold` once they are released."""
        self._on_delta = on_delta
        self._hold = hold
        self._held: list[ModelDelta] = []
        self.delivered = False
        """Something of the reply was heard."""

    def push(self, delta: ModelDelta) -> None:
        """Take a delta."""
        if self._hold:
            self._held.append(delta)
        elif self._on_delta is not None:
            self.delivered = self.delivered or not isinstance(delta, TokensDelta)
            self._on_delta(delta)

    def release(self, *, only_tokens: bool = False) -> None:
        """Pass on what was held; only the tokens, which are for traces, where the reply was not taken."""
        self._hold = False
        for delta in self._held:
            if isinstance(delta, TokensDelta) or not only_tokens:
                self.push(delta)
        self._held.clear()
