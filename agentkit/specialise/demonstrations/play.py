"""Conversations from scripts played on running servers: every result in them is a real server's answer.

One set of servers serves all conversations: files, SQLite, and time; their only state is the world. Each
conversation gets a separate world, written into the same folder and database.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from agentkit.cli.options import mcp_toolsets
from agentkit.specialise.demonstrations import (
    clock,
    close_reading,
    exploring,
    file_changing,
    file_reading,
    table_changing,
    table_questions,
    tables,
    talk,
)
from agentkit.specialise.demonstrations.script import Maker, Script, Step, typed
from agentkit.specialise.demonstrations.world import World, clear_world, make_world, write_world
from agentkit.specialise.demonstrations.written import Kit, require_end, require_known_numbers, written_kits
from agentkit.specialise.live import LiveTool, Outcome, call, connected
from modelstack.data.examples import Call, Example, Message, Tool, check_example
from modelstack.data.tools.spoken import Scene, scene
from modelstack.errors import UserError
from modelstack.terminal.progress_bars import Tell

SOURCE, LICENSE = "house", "Apache-2.0"
_N_REQUESTS = (1, 1, 2, 3, 3, 4, 5)
_N_REQUESTS_UNPLACED = (1, 1, 1, 2)
"""Numbers of requests of a conversation, drawn evenly."""
_UNPLACED: Sequence[Maker] = (
    *exploring.UNPLACED, *close_reading.UNPLACED, *[*table_questions.QUESTIONS] * 4, *tables.UNPLACED,
    *[*talk.IMPOSSIBLE] * 2, file_changing.add_unplaced,
)  # fmt: skip
"""First requests that do not mention the place of the answer, drawn evenly."""
_P_CHANGES = 0.4
"""Probability that a request changes something, if the conversation allows changes."""
_P_READ_ONLY = 0.3
_P_WORDS, _P_IMPOSSIBLE = 0.17, 0.06
_P_ALL_TOOLS = 0.6
"""Probability that a conversation shows all tools of its servers."""
_INSTRUCTIONS = (
    "You are a helpful assistant.", "Be brief.", "You help with the files and the data of a small club.",
    "Answer in one or two sentences.", "Use the tools; do not guess.", "You are the assistant of a workshop.",
)  # fmt: skip
_SERVERS: Sequence[tuple[str, ...]] = (
    ("files",), ("files",), ("tables",), ("tables",), ("time",), ("files", "tables"), ("files", "time"),
    ("tables", "time"), *(("files", "tables", "time"),) * 8,
)  # fmt: skip
"""Servers of a conversation, drawn evenly."""


@dataclass(frozen=True, slots=True)
class House:
    """Tools of the running servers, and the location of their world."""

    tools: Mapping[str, Sequence[LiveTool]]
    folder: Path
    database: Path


@dataclass(slots=True)
class _Conversation:
    """Conversation so far."""

    messages: list[Message] = field(default_factory=list[Message])
    used: set[str] = field(default_factory=set[str])
    """Names of the tools that were called."""

    def text(self) -> str:
        """Return the text of all messages and calls before the last message."""
        return "\n".join(f"{message.content} {message.calls}" for message in self.messages[:-1])


class _NowhereError(Exception):
    """A script led nowhere, and the servers' world may differ from its description."""


@asynccontextmanager
async def running_house() -> AsyncGenerator[House]:
    """Start the servers on an empty world."""
    with TemporaryDirectory(prefix="demonstrations-") as root:
        folder, database = Path(root, "files"), Path(root, "data.db")
        folder.mkdir()
        write_world(World(), folder, database)
        commands = {
            "files": f"agentkit-mcp filesystem {folder} --write",
            "tables": f"agentkit-mcp sqlite {database} --write",
            "time": "agentkit-mcp time",
        }
        toolsets = [toolset for command in commands.values() for toolset in mcp_toolsets(command, pins=None)]
        async with connected(toolsets) as live:
            servers = list(dict.fromkeys(tool.server for tool in live))
            by_name = dict(zip(commands, servers, strict=True))
            yield House(
                {name: [tool for tool in live if tool.server == by_name[name]] for name in commands},
                folder,
                database,
            )


async def demonstrations(
    n: int, seed: int, is_clean: Callable[[Example], bool], told: Tell, *, unplaced: bool = False
) -> list[Example]:
    """Return up to `n` conversations.

    Args:
        n: Number to play; failed ones and repetitions of an evaluation are dropped.
        seed: Determines everything except clock times.
        is_clean: Whether an example repeats no evaluation.
        told: Receives the number of played conversations.
        unplaced: Whether conversations are short, have all servers, and start with a request that does not mention
            the place of the answer: the usual start in `agentkit chat`.
    """
    found: list[Example] = []
    async with running_house() as house:
        for number in range(n):
            now = scene("demonstrations", seed, number)
            played = await play(house, make_world(now), now, f"house-{seed}-{number}", unplaced=unplaced)
            if played is not None and is_clean(played):
                found.append(played)
            told("conversations", number + 1, n, f"{len(found)} kept")
    return found


async def written_demonstrations(seed: int, is_clean: Callable[[Example], bool], told: Tell) -> list[Example]:
    """Return the written conversations, played; `seed` decides which tools are shown besides the called ones.

    Raises:
        UserError: A conversation does not match its kit.
    """
    found: list[Example] = []
    async with running_house() as house:
        kits = list(written_kits())
        for n_played, kit in enumerate(kits, start=1):
            for number in range(len(kit.conversations)):
                played = await play_written(house, kit, number, scene(kit.name, seed, number))
                if is_clean(played):
                    found.append(played)
            told("kits", n_played, len(kits), f"{len(found)} conversations kept")
    return found


async def play(house: House, world: World, now: Scene, name: str, *, unplaced: bool = False) -> Example | None:
    """Play a conversation and return it; the world then has its changes. None: it led nowhere."""
    write_world(world, house.folder, house.database)
    servers = world.servers = tuple(house.tools) if unplaced else now.one(_SERVERS)
    live = {tool.name: tool for server in servers for tool in house.tools[server]}
    read_only = now.chance(_P_READ_ONLY)
    if read_only:
        live = {name: tool for name, tool in live.items() if tool.is_safe}
    reading, changing = _makers(servers)
    said = _Conversation()
    for number in range(now.one(_N_REQUESTS_UNPLACED if unplaced else _N_REQUESTS)):
        is_first = unplaced and number == 0 and not now.chance(_P_WORDS)
        maker = now.one(_UNPLACED) if is_first else _chosen(now, reading, () if read_only else changing)
        try:
            await _exchange(said, maker(world, now), live, lambda request: typed(now, request))
        except _NowhereError:
            return None
    if not said.messages:
        return None
    return _example(name, now, said, list(live.values()))


async def play_written(house: House, kit: Kit, number: int, now: Scene) -> Example:
    """Return a conversation of a kit, played in the kit's world.

    Raises:
        UserError: A call fails, an answer states an unknown number, or the final state differs.
    """
    clear_world(house.folder, house.database)
    kit.write(house.folder, house.database)
    conversation = kit.conversations[number]
    live = {tool.name: tool for server in conversation.servers for tool in house.tools[server]}
    said = _Conversation()
    name = f"{kit.name}-{number}"
    try:
        for turn in conversation.turns:
            await _exchange(said, turn.script(), live, str)
            require_known_numbers(turn, said.text())
        require_end(conversation.end, house.folder, house.database)
    except (_NowhereError, UserError) as error:
        raise UserError(f"conversation {number} of the kit {kit.name}: {error}") from error
    return _example(name, now, said, list(live.values()))


def _makers(servers: tuple[str, ...]) -> tuple[list[Maker], list[Maker]]:
    """Return the scripts that only read, and those that change something."""
    reading: list[Maker] = []
    changing: list[Maker] = []
    if "files" in servers:
        reading += file_reading.READING
        reading += [*exploring.FILES] * 2
        changing += file_changing.CHANGING
    if "tables" in servers:
        reading += tables.READING
        reading += [*table_questions.QUESTIONS] * len(tables.READING)
        reading += exploring.TABLES
        changing += [*table_changing.CHANGING] * 2
    if "time" in servers:
        reading += clock.TIME
    if "files" in servers and "tables" in servers:
        changing += [*clock.FILES_AND_TABLES] * 5
    if "files" in servers and "time" in servers:
        changing += [*clock.FILES_AND_TIME] * 3
    if "tables" in servers and "time" in servers:
        reading += [*clock.TABLES_AND_TIME] * 5
    return reading, changing


def _chosen(now: Scene, reading: Sequence[Maker], changing: Sequence[Maker]) -> Maker:
    if now.chance(_P_WORDS):
        return now.one(talk.WORDS)
    if now.chance(_P_IMPOSSIBLE):
        return now.one(talk.IMPOSSIBLE)
    return now.one(changing) if changing and now.chance(_P_CHANGES) else now.one(reading)


async def _exchange(
    said: _Conversation, script: Script, live: Mapping[str, LiveTool], worded: Callable[[str], str]
) -> None:
    """Play a script to its end.

    Raises:
        _NowhereError: A call failed or succeeded unexpectedly, or the script has no answer.
    """
    try:
        request = next(script)
    except StopIteration:
        return  # this world has nothing to ask for, and nothing was done
    assert isinstance(request, str)
    messages = [Message(role="user", content=worded(request))]
    used: set[str] = set()
    texts: Sequence[str] = ()
    try:
        step = next(script)
        while True:
            assert isinstance(step, Step)
            texts = await _results(step, live)
            used |= {each.name for each in step.calls}
            messages.append(Message(role="assistant", calls=step.calls, train=step.is_learnt))
            messages += [
                Message(role="tool", content=text, name=each.name)
                for each, text in zip(step.calls, texts, strict=True)
            ]
            step = script.send(texts)
    except StopIteration as end:
        if end.value is None:
            raise _NowhereError("there is no answer") from end
        answer = str(end.value)
    said.messages += [*messages, Message(role="assistant", content=answer, train=True)]
    said.used |= used


async def _results(step: Step, live: Mapping[str, LiveTool]) -> list[str]:
    """Return the servers' answers to a step's calls."""
    missing = [each.name for each in step.calls if each.name not in live]
    if missing:
        raise _NowhereError(f"the conversation has no tool {missing[0]}")
    outcomes = [await call(live[each.name], each.arguments) for each in step.calls]
    texts = [outcome.text for outcome in outcomes]
    if not _as_expected(step, outcomes):
        raise _NowhereError(f"{step.calls} was answered {texts}")
    return texts


def _as_expected(step: Step, outcomes: Sequence[Outcome]) -> bool:
    failed = any(outcome.is_error for outcome in outcomes)
    return failed if step.is_mistake else not failed or step.may_fail


def _example(name: str, now: Scene, said: _Conversation, live: Sequence[LiveTool]) -> Example:
    *messages, last = said.messages
    if now.chance(0.35):
        messages.insert(0, Message(role="system", content=now.one(_INSTRUCTIONS)))
    example = Example(
        id=name,
        source=SOURCE,
        license=LICENSE,
        kind="answer",
        tools=tuple(_shown(now, live, said.used, opens_with_words=not _first_calls(messages))),
        messages=tuple(messages),
        reply=last.content,
        abstain=False,
    )
    try:
        check_example(example)
    except UserError as error:
        raise AssertionError(
            f"a script made a call that its server took and its schema forbids: {error}"
        ) from error
    return example


def _first_calls(messages: Sequence[Message]) -> Sequence[Call]:
    """Return the calls of the first reply."""
    return next((message.calls for message in messages if message.role == "assistant"), ())


def _shown(now: Scene, live: Sequence[LiveTool], used: set[str], *, opens_with_words: bool) -> list[Tool]:
    """Return all tools, or the called ones with some others, in the servers' order.

    An answer without a call, for example to "what can you do?", may mention any of the tools.
    """
    if opens_with_words or now.chance(_P_ALL_TOOLS):
        return [tool.shown for tool in live]
    others = [tool.name for tool in live if tool.name not in used]
    kept = used | set(now.some(others, now.one((1, 2, 3, 4, 6))))
    return [tool.shown for tool in live if tool.name in kept]
