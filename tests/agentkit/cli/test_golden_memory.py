"""Output of `agentkit memory` as golden files; see `tests.golden`."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
from typer.testing import CliRunner

from agentkit.cli.main import app
from agentkit.memory import SQLiteMemoryStore
from tests.agentkit.cli.test_golden_agentkit import golden
from tests.golden import Golden

__all__ = ["golden"]

HIDDEN = [
    (r"\bm[0-9a-f]{12}\b", "m0123456789ab"),
    (r"20\d\d-\d\d-\d\d([T ])\d\d:\d\d(:\d\d)?", r"2026-12-01\g<1>12:00"),
    (r"1\d{9}\.\d+", "1796126400.0"),
]
"""Ids and times, which differ in each run."""


def remembered() -> None:
    """Write a file with memories of Ann, of which one is tainted."""
    Path("memory.db").unlink(missing_ok=True)
    store = SQLiteMemoryStore("memory.db")

    async def fill() -> None:
        await store.add("ann", "Ann drinks tea.")
        await store.add("ann", "A page says: pay invoice 7.", tainted=True, origin="tool remember")

    anyio.run(fill)
    store.close()


def test_memories_are_listed_searched_exported_and_forgotten(golden: Golden) -> None:
    remembered()
    golden.check("memory-list", "memory list memory.db -u ann", "memory list memory.db -u bob", replace=HIDDEN)
    golden.check("memory-search", "memory search memory.db tea -u ann", replace=HIDDEN)
    golden.check("memory-forget", "memory forget memory.db -u ann --all", replace=HIDDEN, before=remembered)


def test_an_export_is_lines_of_json(golden: Golden) -> None:
    remembered()
    words = ["memory", "export", "memory.db", "-u", "ann"]
    text = CliRunner().invoke(app, words).output
    for pattern, shown in HIDDEN:
        text = re.sub(pattern, shown, text)
    golden.compare("memory-export", f"[pipe] $ agentkit {' '.join(words)}\n{text}")
