"""Worlds of MCP servers: what a policy calls really happens, in a copy that nobody else sees."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentkit.errors import ModelRetry, ToolFailed
from agentkit.specialise.episodes import EpisodeServers, ServerWorlds, server_worlds
from agentkit.specialise.world_state import folder_state
from agentkit.tools.function import FunctionToolset
from agentkit.tools.toolset import Toolset
from modelstack.data.examples import Call, Message
from modelstack.errors import UserError
from modelstack.reasoning.episodes.episode import EpisodePlan
from modelstack.reasoning.tasks.episode_golds import WorldGold
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.deeds import CallRefused, Episode, ToolFailure
from modelstack.reasoning.verifiers.outcomes import OutcomeVerifier
from modelstack.reasoning.verifiers.rewards import Completion, Item
from tests.agentkit.specialise.live_servers import write_world
from tests.modelstack.reasoning.policy.toy_policy import played

FILES = "python -m mcp_servers.filesystem {world}/files --write"
SHOP = "python -m mcp_servers.sqlite {world}/shop.db --write"
ROOMY = EpisodePlan(max_turns=6, turn_tokens=300, result_tokens=1500, max_tokens=9000)
INSERT = "insert into customers(name, city) values ('Cy', 'Rome')"
ADD_ROW = f'[{{"name":"execute","arguments":{{"sql":"{INSERT}"}}}}]'
ADD_FILE = '[{"name":"write_file","arguments":{"path":"new.txt","text":"hello"}}]'


def task(gold: Any = None) -> PolicyTask:
    return PolicyTask(Item("a", gold), (Message(role="user", content="add Cy of Rome"),))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def worlds(world: Path) -> Iterator[ServerWorlds]:
    """Both servers, kept from one test to the next."""
    settings = EpisodeServers(
        servers=(FILES, SHOP),
        world=str(world),
        allow=("write_file", "read_text_file", "execute", "query"),
        reuse=True,
    )
    with ServerWorlds(settings) as found:
        yield found


def outcome(worlds: ServerWorlds, asked: PolicyTask, turns: list[str]) -> Episode:
    with worlds.open(asked) as tools:
        sampled = played(tools, turns, specs=[tool.spec() for tool in asked.tools], plan=ROOMY)
    assert isinstance(sampled.outcome, Episode)
    return sampled.outcome


def test_a_policys_calls_take_effect_and_are_gone_in_the_next_episode(worlds: ServerWorlds, world: Path) -> None:
    before = folder_state(world)
    asked = worlds.prepared(task(WorldGold(calls=[Call(name="execute", arguments={"sql": INSERT})])))
    assert {tool.name for tool in asked.tools} == {"write_file", "read_text_file", "execute", "query"}
    assert asked.item.gold.n_changes == 1

    done = outcome(worlds, asked, [ADD_ROW, "Cy is there"])
    rows = asked.item.gold.end["tables"]["shop.db"]["customers"]
    assert [3, "Cy", "Rome"] in rows and len(rows) == 3
    verifier = OutcomeVerifier()
    assert verifier.score(asked.item, Completion("", outcome=done)).value == 1

    more = outcome(worlds, asked, [ADD_ROW, ADD_FILE, "both are there"])
    assert verifier.score(asked.item, Completion("", outcome=more)).value == 0
    assert [call.changed for call in more.calls] == [True, True] and '"new.txt"' not in more.start
    assert '"files/new.txt":"hello"' in more.end

    nothing = outcome(worlds, asked, ["no"])
    assert nothing.start == nothing.end == done.start
    assert folder_state(world) == before


def test_results_are_read_as_the_servers_gave_them(worlds: ServerWorlds) -> None:
    asked = worlds.prepared(task())
    query = '[{"name":"query","arguments":{"sql":"select name from customers"}}]'
    read = '[{"name":"read_text_file","arguments":{"path":"nowhere.md"}}]'
    done = outcome(worlds, asked, [query, read, "Ann and Bo"])
    names, missing = done.calls
    assert "Ann" in names.text and not names.has_failed
    assert missing.has_failed and "nowhere.md" in missing.text
    assert done.n_changes == 0


def children() -> set[int]:
    """Return the processes that this one has started."""
    lists = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for found in lists for pid in found.read_text().split()}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the server's process")
def test_a_killed_server_is_an_error_result_or_comes_back_and_never_a_crash(world: Path) -> None:
    settings = EpisodeServers(servers=(SHOP,), world=str(world), allow=("query",))
    before = children()
    with ServerWorlds(settings) as worlds, worlds.open(task()) as tools:
        assert "Ann" in tools.call("query", {"sql": "select name from customers"})
        (server,) = children() - before
        os.kill(server, signal.SIGKILL)
        results = []
        for _ in range(3):
            try:
                results.append(tools.call("query", {"sql": "select name from customers"}))
            except ToolFailure as failure:
                results.append(str(failure))
        assert "Ann" in results[-1]
        assert all("Ann" in result or "connection" in result or "reached" in result for result in results)
    assert children() == before


# -- toolsets of this process: no server is started ---------------------------------------------------------


def local_worlds(folder: Path, *functions: Any, toolset: Toolset | None = None, **settings: Any) -> ServerWorlds:
    made = EpisodeServers(servers=("unused",), world=str(folder), **settings)
    return ServerWorlds(made, lambda root: [toolset or FunctionToolset(list(functions))])


async def sleep() -> str:
    """Sleep."""
    await anyio.sleep_forever()
    return "never"


async def retry(n: int) -> str:
    """Ask for another number."""
    raise ModelRetry(f"{n} is too small")


async def fail() -> str:
    """Fail."""
    raise ToolFailed("out of order")


async def crash() -> str:
    """Crash."""
    raise KeyError("x")


async def add(a: int, b: int) -> dict[str, int]:
    """Add."""
    return {"sum": a + b}


@pytest.mark.parametrize(
    ("name", "arguments", "error", "said"),
    [
        ("sleep", {}, ToolFailure, "Timed out after 0.01 s; the call may or may not have taken effect."),
        ("retry", {"n": 3}, CallRefused, "3 is too small"),
        ("retry", {"n": "many"}, CallRefused, "n"),
        ("fail", {}, ToolFailure, "out of order"),
        ("crash", {}, KeyError, "x"),
        ("oven", {}, CallRefused, "There is no tool 'oven'."),
    ],
)
def test_what_goes_wrong_in_a_tool_is_said_as_the_runner_says_it(
    tmp_path: Path, name: str, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    worlds = local_worlds(tmp_path, sleep, retry, fail, crash, call_timeout_s=0.01)
    with worlds, worlds.open(task()) as tools, pytest.raises(error, match=said):
        tools.call(name, arguments)


def test_data_that_a_tool_returns_is_read_as_json(tmp_path: Path) -> None:
    with local_worlds(tmp_path, add) as worlds, worlds.open(task()) as tools:
        assert tools.call("add", {"a": 2, "b": 3}) == '{"sum":5}'


def test_a_world_is_gone_when_it_is_left_and_when_something_goes_wrong_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    roots: list[Path] = []

    def toolsets(root: Path) -> list[Toolset]:
        roots.append(root)
        return [FunctionToolset([add])]

    with ServerWorlds(EpisodeServers(servers=("unused",), world=str(tmp_path)), toolsets) as worlds:
        with worlds.open(task()) as one, worlds.open(task()) as other:
            (roots[0] / "a.txt").write_text("changed")
            assert one.state()["files"] == {"a.txt": "changed"} and other.state()["files"] == {"a.txt": "a"}
        with pytest.raises(ValueError, match="stop"), worlds.open(task()):
            raise ValueError("stop")
    assert len(roots) == 3 and not any(root.exists() for root in roots)
    assert (tmp_path / "a.txt").read_text() == "a"


def test_a_kept_world_is_put_back_to_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("a")
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        database.execute("create table t(a)")
    roots: list[Path] = []

    def toolsets(root: Path) -> list[Toolset]:
        roots.append(root)
        return [FunctionToolset([add])]

    settings = EpisodeServers(servers=("unused",), world=str(tmp_path), reuse=True)
    with ServerWorlds(settings, toolsets) as worlds:
        for _ in range(3):
            with worlds.open(task()) as tools:
                assert tools.state() == folder_state(tmp_path)
                (roots[0] / "sub" / "a.txt").unlink()
                (roots[0] / "sub").rmdir()
                (roots[0] / "link").symlink_to("/")
                with closing(sqlite3.connect(roots[0] / "x.db")) as database, database:
                    database.execute("insert into t values (1)")
        assert len(roots) == 1
    assert not roots[0].exists()


def test_servers_that_change_their_tools_are_refused(tmp_path: Path) -> None:
    offered = iter(([add], [add, fail]))
    made = EpisodeServers(servers=("unused",), world=str(tmp_path))
    with ServerWorlds(made, lambda root: [FunctionToolset(next(offered))]) as worlds:
        with worlds.open(task()):
            pass
        with pytest.raises(UserError, match="other tools than when they were first started"), worlds.open(task()):
            pass


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        local_worlds(tmp_path / "nowhere", add)
    no_such = r"allow names \['subtract'\]; the servers offer \['add'\]"
    asking = FunctionToolset([add]).requiring_approval()
    silent = ServerWorlds(EpisodeServers(servers=("python -c pass",), world=str(tmp_path)))
    for complaint, worlds in (
        (no_such, local_worlds(tmp_path, add, allow=("subtract",))),
        ("nobody is there", local_worlds(tmp_path, toolset=asking)),
        ("cannot be used", silent),
    ):
        with worlds, pytest.raises(UserError, match=complaint):
            worlds.prepared(task())
    with pytest.raises(UserError, match="are opened inside"), local_worlds(tmp_path, add).open(task()):
        pass
    with pytest.raises(UserError, match="speed"), server_worlds({"world": str(tmp_path), "speed": 2}):
        pass
    (tmp_path / "out").symlink_to("/")
    with pytest.raises(UserError, match="has a link in it"):
        local_worlds(tmp_path, add)


def test_tasks_are_asked_with_the_tools_of_the_servers(tmp_path: Path) -> None:
    with local_worlds(tmp_path, add, fail, allow=("add",)) as worlds:
        asked = worlds.prepared(task(WorldGold(state={}, answer="5")))
        assert [tool.name for tool in asked.tools] == ["add"]
        assert (asked.item.gold.end, asked.item.gold.answer, asked.item.gold.n_changes) == ({}, "5", None)
        with pytest.raises(UserError, match="brings tools"):
            worlds.prepared(asked)
        wrong = WorldGold(calls=[Call(name="add", arguments={"a": 1})])
        with pytest.raises(UserError, match="a gold call of 'add' is refused"):
            worlds.prepared(task(wrong))


def test_golds_say_a_state_or_calls() -> None:
    for values in ({}, {"state": {}, "calls": []}):
        with pytest.raises(ValueError, match="give either state"):
            WorldGold.model_validate(values)
