"""Overrides of an agent's model, tools and deps within a context and the tasks started in it; for tests."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from agentkit.models.base import Model
from agentkit.tools.toolset import Toolset

NOTHING: Any = object()
"""Stands for deps that are not overridden; None is a value."""


@dataclass(frozen=True, slots=True)
class Override:
    """Replacements; None, or `NOTHING` for deps, replaces nothing."""

    model: Model | None = None
    toolsets: tuple[Toolset, ...] | None = None
    deps: Any = NOTHING


_overrides: ContextVar[dict[int, Override]] = ContextVar("agentkit_overrides")


@contextmanager
def overridden(agent: object, override: Override) -> Generator[None]:
    """Apply an override to `agent` within this context."""
    token = _overrides.set({**_overrides.get({}), id(agent): override})
    try:
        yield
    finally:
        _overrides.reset(token)


def override_of(agent: object) -> Override:
    """Return the current override of an agent."""
    return _overrides.get({}).get(id(agent)) or Override()
