"""Deltas for a listener, held back until their reply is accepted."""

from __future__ import annotations

from agentkit.models.base import FilterDelta, ModelDelta, OnDelta, TokensDelta


class HeldDeltas:
    """The deltas of a reply."""

    def __init__(self, on_delta: OnDelta | None, *, hold: bool) -> None:
        """Pass deltas on to `on_delta` as they come, or with `hold` once they are released."""
        self._on_delta = on_delta
        self._hold = hold
        self._held: list[ModelDelta] = []
        self.delivered = False
        """True once a part of the reply was delivered."""

    def push(self, delta: ModelDelta) -> None:
        """Pass on or hold back a delta."""
        if self._hold:
            self._held.append(delta)
        elif self._on_delta is not None:
            self.delivered = self.delivered or not isinstance(delta, TokensDelta | FilterDelta)
            self._on_delta(delta)

    def release(self, *, only_tokens: bool = False) -> None:
        """Pass on the held deltas; for a rejected reply `only_tokens`, which traces record."""
        self._hold = False
        for delta in self._held:
            if isinstance(delta, TokensDelta | FilterDelta) or not only_tokens:
                self.push(delta)
        self._held.clear()
