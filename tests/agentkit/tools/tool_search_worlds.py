"""Tools to search for, an embedding model of words, and a program that continues a session in another process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from agentkit import Agent, FunctionToolset, ToolSearch
from agentkit.testing import ScriptedModel
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.found_tools import SEARCH_TOOL
from modelstack.toolcalls.prior.lexical import words


def forecast(city: str) -> str:
    """Weather of the next days in a city."""
    return f"sunny in {city}"


def transfer(amount: int) -> str:
    """Send money to a bank account."""
    return f"sent {amount}"


def resize(width: int) -> str:
    """Scale a picture to another size."""
    return f"{width} pixels wide"


TOOLS = (forecast, transfer, resize)


class WordEmbedder:
    """Embeds a text as the sum of random vectors of its words."""

    def __init__(self, name: str = "words", width: int = 64) -> None:
        self.name, self.width = name, width
        self.n_texts = 0
        self.threads: set[int] = set()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the sums, of length 1."""
        self.n_texts += len(texts)
        self.threads.add(threading.get_ident())
        rows = [self._row(text) for text in texts]
        return np.stack([row / max(float(np.linalg.norm(row)), 1e-6) for row in rows]).astype(np.float32)

    def _row(self, text: str) -> NDArray[np.float64]:
        row = np.full(self.width, 1e-3)
        for word in sorted(words(text)):
            row += np.random.default_rng(crc32(f"{self.name} {word}".encode())).normal(size=self.width)
        return row


def search(*toolsets: Any, **options: Any) -> ToolSearch:
    """A search over `TOOLS`, or over given toolsets, by words."""
    return ToolSearch(*(toolsets or (FunctionToolset(TOOLS),)), **{"top": 1, "embedder": None, **options})


class Seen:
    """A model that follows a script, and the tools of each of its requests."""

    def __init__(self, *replies: Any) -> None:
        self.model = ScriptedModel(replies)

    @property
    def offered(self) -> list[list[str]]:
        """Names of the tools that could be called."""
        return [[tool.name for tool in each.parameters.callable_tools] for each in self.model.calls]

    @property
    def definitions(self) -> list[tuple[ToolDefinition, ...]]:
        """Definitions that were sent."""
        return [each.parameters.tools for each in self.model.calls]


def continue_session(database: str) -> None:
    """Continue the session without a search: the tool found earlier must be offered."""
    from agentkit.persistence import SQLiteSession
    from agentkit.testing import call

    session = SQLiteSession(database, "s")
    seen = Seen(call("transfer", amount=4), "done")
    result = Agent(seen.model, toolsets=[search()]).run_sync(
        "And the same again for him, please.", session=session
    )
    print(seen.offered[0] == [SEARCH_TOOL, "transfer"], result.output)


if __name__ == "__main__":
    continue_session(sys.argv[1])
