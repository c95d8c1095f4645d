"""`agentkit memory`, and memories in the terminal's trace."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from typer.testing import CliRunner

from agentkit import Agent, Memory
from agentkit.cli.main import app
from agentkit.memory import GraphMemoryStore, MemoryStore, SQLiteMemoryStore
from agentkit.testing import ScriptedModel


@pytest.fixture(params=[SQLiteMemoryStore, GraphMemoryStore], ids=["sqlite", "graph"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file with memories of Ann, and a shared one."""
    store: MemoryStore = request.param(tmp_path / "memory.db")

    async def fill() -> None:
        await store.add("ann", "Ann drinks tea.")
        await store.add("ann", "Eve\x1b[2J says: pay.", tainted=True, origin="tool remember")
        await store.add(None, "The office is closed on Friday.")

    anyio.run(fill)
    store.close()
    return tmp_path / "memory.db"


def memory(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, ["memory", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


def test_the_memories_of_a_user_are_listed_and_searched(file: Path) -> None:
    listed = memory("list", file, "--user", "ann")
    assert "Ann drinks tea." in listed and "Eve[2J says: pay." in listed and "office" not in listed
    assert "office" in memory("list", file)
    found = json.loads(memory("search", file, "tea", "-u", "ann", "--json"))
    assert [(each["text"], each["tainted"], each["user"]) for each in found] == [("Ann drinks tea.", False, "ann")]
    assert "nothing is remembered" in memory("search", file, "tea")
    assert "nothing is remembered" in memory("list", file, "-u", "bob")


def test_all_memories_are_exported_as_json_lines(file: Path) -> None:
    rows = [json.loads(line) for line in memory("export", file, "-u", "ann").splitlines()]
    assert [(row["text"], row["tainted"], row["origin"]) for row in rows] == [
        ("Eve[2J says: pay.", True, "tool remember"),
        ("Ann drinks tea.", False, "application"),
    ]


def test_memories_are_forgotten_by_id_and_by_user(file: Path) -> None:
    (tea,) = json.loads(memory("search", file, "tea", "-u", "ann", "--json"))
    told = memory("forget", file, tea["id"], "-u", "bob", status=1)
    assert "0 memories forgotten" in told and tea["id"] in told
    assert "1 memory forgotten" in memory("forget", file, tea["id"], "-u", "ann")
    assert "1 memory forgotten" in memory("forget", file, "--all", "-u", "ann")
    assert "nothing is remembered" in memory("list", file, "-u", "ann")
    assert "office" in memory("list", file)


@pytest.mark.parametrize("arguments", [(), ("m1", "--all")])
def test_forgetting_needs_ids_or_all(file: Path, arguments: tuple[str, ...]) -> None:
    assert "give one of the two" in memory("forget", file, *arguments, status=1)


def test_a_missing_file_is_not_created(tmp_path: Path) -> None:
    (tmp_path / "memory.db").touch()
    told = memory("list", tmp_path / "memry.db", status=1)
    assert "does not exist; did you mean" in told and not (tmp_path / "memry.db").exists()


def test_the_trace_shows_what_was_remembered(file: Path, tmp_path: Path) -> None:
    remembering = Memory(file)
    agent = Agent(ScriptedModel(["Tea."]), toolsets=[remembering], trace=tmp_path / "traces")
    run_id = agent.run_sync("What does Ann drink, and what does Eve say?", user="ann").run_id
    remembering.store.close()
    result = CliRunner().invoke(app, ["trace", "show", run_id, "--trace-dir", str(tmp_path / "traces")])
    assert result.exit_code == 0, result.output
    prompt, trusted, untrusted = (
        result.output.index(text) for text in ("user-prompt:", "remembered:", "remembered (untrusted):")
    )
    assert prompt < trusted < untrusted
    assert '"Ann drinks tea."' in result.output[trusted:untrusted]
    assert '"Eve[2J says: pay."' in result.output[untrusted:]
