"""ACP: `agentkit acp` as a process, asked by the protocol's own client as an editor would."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from acp import RequestError, connect_to_agent, image_block, resource_link_block, text_block
from acp.schema import AllowedOutcome, DeniedOutcome, RequestPermissionResponse

pytestmark = pytest.mark.anyio
MODULE = """
from pathlib import Path
from tests.agentkit.serving.served_agents import clerk

def note(word):
    with Path("world.txt").open("a") as file:
        file.write(word + "\\n")

agent = clerk(note)
"""
ROOT = Path(__file__).parents[3]


class Editor:
    """Client that keeps what it is told, and answers requests for permission as told."""

    def __init__(self, answer: str | None = "allow") -> None:
        self.answer = answer
        self.updates: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.called = asyncio.Event()

    def on_connect(self, conn: Any) -> None:
        """Keep nothing."""

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        told = update.model_dump(by_alias=True, exclude_none=True)
        self.updates.append(told)
        if told.get("status") == "in_progress":
            self.called.set()

    async def request_permission(
        self, session_id: str, tool_call: Any, options: Any, **_: Any
    ) -> RequestPermissionResponse:
        self.asked.append(tool_call.title)
        assert [option.kind for option in options] == ["allow_once", "allow_always", "reject_once"]
        if self.answer is None:
            return RequestPermissionResponse(outcome=DeniedOutcome(outcome="cancelled"))
        return RequestPermissionResponse(outcome=AllowedOutcome(outcome="selected", option_id=self.answer))

    @property
    def text(self) -> str:
        """Text that the agent has said."""
        chunks = [each for each in self.updates if each["sessionUpdate"] == "agent_message_chunk"]
        return "".join(chunk["content"]["text"] for chunk in chunks)

    @property
    def ends(self) -> list[str]:
        """Statuses of the calls that ended."""
        return [each["status"] for each in self.updates if each.get("status") in ("completed", "failed")]


@asynccontextmanager
async def editing(folder: Path, editor: Editor) -> AsyncIterator[Any]:
    """Start the agent as an editor does, and yield the connection."""
    (folder / "desk.py").write_text(MODULE)
    command = [str(Path(sys.executable).with_name("agentkit")), "acp", "desk.py:agent", "--journal", "runs.db"]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent), "HOME": str(folder)},
    )
    connection: Any = connect_to_agent(editor, process.stdin, process.stdout)  # pyright: ignore[reportArgumentType]
    try:
        await connection.initialize(protocol_version=1)
        yield connection
    finally:
        await connection.close()
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 20) == 0


def effects(folder: Path) -> list[str]:
    file = folder / "world.txt"
    return file.read_text().split() if file.exists() else []


async def test_a_turn_is_told_and_the_conversation_is_loaded_again(tmp_path: Path) -> None:
    editor = Editor()
    async with editing(tmp_path, editor) as agent:
        session = (await agent.new_session(cwd=str(tmp_path), mcp_servers=[])).session_id
        link = resource_link_block("b", "file:///b")
        turn = await agent.prompt(session_id=session, prompt=[text_block("a"), link])
        assert turn.stop_reason == "end_turn" and effects(tmp_path) == ["a", "b:", "file:///b"]
        assert editor.text == "done: a b: file:///b" and editor.ends == ["completed"] * 3
        titles = [each["title"] for each in editor.updates if each["sessionUpdate"] == "tool_call"]
        assert titles[0] == 'file {"word": "a"}'
    again = Editor()
    async with editing(tmp_path, again) as agent:
        await agent.load_session(cwd=str(tmp_path), session_id=session, mcp_servers=[])
        assert again.text == editor.text and again.ends == editor.ends
        with pytest.raises(RequestError):
            await agent.load_session(cwd=str(tmp_path), session_id="another", mcp_servers=[])


@pytest.mark.parametrize(
    ("answer", "reason", "done"),
    [
        ("allow", "end_turn", ["shred1", "shred2"]),
        ("allow-all", "end_turn", ["shred1", "shred2"]),
        ("reject", "end_turn", []),
        (None, "cancelled", []),
    ],
)
async def test_a_call_that_waits_is_a_request_for_permission(
    tmp_path: Path, answer: str | None, reason: str, done: list[str]
) -> None:
    editor = Editor(answer)
    async with editing(tmp_path, editor) as agent:
        session = (await agent.new_session(cwd=str(tmp_path), mcp_servers=[])).session_id
        turn = await agent.prompt(session_id=session, prompt=[text_block("shred1 shred2")])
        assert turn.stop_reason == reason and effects(tmp_path) == done
        assert len(editor.asked) == (2 if answer in ("allow", "reject") else 1)
        assert "failed" in editor.ends if answer == "reject" else "failed" not in editor.ends


async def test_a_turn_is_cancelled_and_the_next_one_goes_on(tmp_path: Path) -> None:
    editor = Editor()
    async with editing(tmp_path, editor) as agent:
        session = (await agent.new_session(cwd=str(tmp_path), mcp_servers=[])).session_id
        turn = asyncio.create_task(agent.prompt(session_id=session, prompt=[text_block("wait")]))
        await asyncio.wait_for(editor.called.wait(), 20)
        await agent.cancel(session_id=session)
        assert (await turn).stop_reason == "cancelled"
        assert (await agent.prompt(session_id=session, prompt=[text_block("a")])).stop_reason == "end_turn"


async def test_what_cannot_be_done_is_an_error(tmp_path: Path) -> None:
    async with editing(tmp_path, Editor()) as agent:
        session = (await agent.new_session(cwd=str(tmp_path), mcp_servers=[])).session_id
        wrong = (([image_block("aGk=", "image/png")], "its bytes"), ([text_block("")], "must have words"))
        for prompt, told in wrong:
            with pytest.raises(RequestError) as refused:
                await agent.prompt(session_id=session, prompt=prompt)
            assert told in str(refused.value.data)
        with pytest.raises(RequestError) as failed:
            await agent.prompt(session_id=session, prompt=[text_block("boom")])
        assert "the model burst" in str(failed.value.data)
