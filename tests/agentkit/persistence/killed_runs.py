"""Runs that are killed with SIGKILL, each in a process of its own, and the tools in which they may be.

    python -m tests.agentkit.persistence.killed_runs

reads cases from standard input, one JSON object a line, and answers each with how its process ended. The imports
are paid once: a case is a fork of this process, taken before it has any thread.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

N_STEPS = 6
"""Tool calls of a run."""

Moment = Literal[
    "before_save", "in_save", "after_save", "before_call", "before_effect", "after_effect", "after_call"
]
"""`in_save`: all of a transaction is written, and its commit is next."""
Tools = Literal["server", "function"]
"""Whose tool is called: an MCP server's, about which a guardrail is asked, so that a response is stored before its
call; or a function, so that both are one write."""

SERVER = """
import json, os, signal, sys

world, kill_at, moment = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def send(id, **result):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}) + "\\n")
    sys.stdout.flush()

for line in sys.stdin:
    message = json.loads(line)
    method, id = message["method"], message.get("id")
    if method == "server/discover":
        error = {"code": -32601, "message": "Method not found"}
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": id, "error": error}) + "\\n")
        sys.stdout.flush()
    elif method == "initialize":
        info = {"name": "world", "version": "1"}
        send(id, protocolVersion="2025-11-25", capabilities={"tools": {}}, serverInfo=info)
    elif method == "tools/list":
        properties = {"key": {"type": "string"}}
        schema = {"type": "object", "properties": properties, "required": ["key"], "additionalProperties": False}
        send(id, tools=[{"name": "record", "description": "Record a key.", "inputSchema": schema}])
    elif method == "tools/call":
        key = message["params"]["arguments"]["key"]
        if key == f"step {kill_at}" and moment == "before_effect":
            os.kill(os.getppid(), signal.SIGKILL)
            sys.exit()
        with open(world, "a") as file:
            file.write(key + "\\n")
        if key == f"step {kill_at}" and moment == "after_effect":
            os.kill(os.getppid(), signal.SIGKILL)
            sys.exit()
        send(id, content=[{"type": "text", "text": "recorded " + key}])
"""
"""A real stdio server of the standard library only. Its effect on the world is a line in a file."""


@dataclass(frozen=True, slots=True)
class Case:
    """Where a run is killed."""

    folder: str
    moment: Moment
    at: int
    """Which save, or which call, counted from 0; -1 is never."""
    tools: Tools = "server"

    @property
    def journal(self) -> Path:
        return Path(self.folder) / "runs.db"

    @property
    def world(self) -> Path:
        return Path(self.folder) / "world.txt"


def agent_of(case: Case, *, armed: bool):
    """Return the agent of a case; unless `armed`, nothing kills it."""
    from agentkit import Agent, MCPToolset, ModelResponse
    from agentkit.messages import ModelMessage, TextPart
    from agentkit.models.base import ModelRequestParameters
    from agentkit.testing import FunctionModel, call

    def reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        n_said = sum(isinstance(message, ModelResponse) for message in messages)
        return ModelResponse((call("record", key=f"step {n_said}"),) if n_said < N_STEPS else (TextPart("done"),))

    in_tool = armed and case.moment in ("before_effect", "after_effect")
    keeper = _Killing(case) if armed else case.journal
    if case.tools == "server":
        arguments = (str(case.world), str(case.at if in_tool else -1), case.moment)
        # The taint rule would ask before the second call, whose tool says nothing of itself.
        world = MCPToolset.stdio(
            "python", "-c", SERVER, *arguments, id="world", mode="legacy", assume_harmless=True
        )
        return Agent(FunctionModel(reply), toolsets=[world], checkpointer=keeper)

    async def record(key: str) -> str:
        """Record a key."""
        is_last = in_tool and key == f"step {case.at}"
        if is_last and case.moment == "before_effect":
            os.kill(os.getpid(), signal.SIGKILL)
        with case.world.open("a") as file:
            file.write(key + "\n")
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)
        return f"recorded {key}"

    return Agent(FunctionModel(reply), tools=[record], checkpointer=keeper)


def _Killing(case: Case):
    from agentkit.messages import ToolCallPart
    from agentkit.persistence import RunJournal, SQLiteCheckpointer
    from agentkit.persistence.checkpointer import StoredStatus
    from agentkit.run.state import CallAnswer, RunState

    counts: dict[str, int] = {}

    def maybe_die(moment: Moment) -> None:
        n = counts[moment] = counts.get(moment, -1) + 1
        if (moment, n) == (case.moment, case.at):
            os.kill(os.getpid(), signal.SIGKILL)

    class Journal(RunJournal):
        def __init__(self, inner: RunJournal) -> None:
            self._inner = inner

        async def save(
            self,
            state: RunState,
            status: StoredStatus,
            *,
            starting: ToolCallPart | None = None,
            durable: bool = False,
        ) -> None:
            maybe_die("before_save")
            keeper.is_saving = True
            await self._inner.save(state, status, starting=starting, durable=durable)
            keeper.is_saving = False
            maybe_die("after_save")

        async def failed(self) -> None:
            await self._inner.failed()

        async def call_started(self, call: ToolCallPart, *, durable: bool) -> None:
            maybe_die("before_call")
            await self._inner.call_started(call, durable=durable)
            maybe_die("after_call")

        async def call_answered(self, answer: CallAnswer) -> None:
            await self._inner.call_answered(answer)

    class Keeper(SQLiteCheckpointer):
        is_saving = False

        async def create(
            self, state: RunState, *, agent_name: str | None = None, metadata: Mapping[str, str] | None = None
        ) -> RunJournal:
            journal = Journal(await super().create(state, agent_name=agent_name, metadata=metadata))
            connection = self.database._connection  # pyright: ignore[reportPrivateUsage]
            assert connection is not None
            connection.set_trace_callback(self._before)
            return journal

        def _before(self, statement: str) -> None:
            if self.is_saving and statement == "COMMIT":
                maybe_die("in_save")

    keeper = Keeper(case.journal)
    return keeper


def _run(case: Case) -> None:
    import anyio

    result = anyio.run(agent_of(case, armed=True).run, "record six keys")
    assert result.output == "done"


def main() -> None:
    """Serve cases until standard input ends."""
    import anyio._backends._asyncio  # noqa: F401 - all that a case needs, so that a fork is ready
    import mcp  # noqa: F401
    import mcp.client.streamable_http  # noqa: F401

    import agentkit.testing  # noqa: F401

    for line in sys.stdin:
        case = Case(**json.loads(line))
        child = os.fork()
        if child == 0:
            try:
                _run(case)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def as_line(case: Case) -> str:
    """Return a case as `main` reads it."""
    return json.dumps(asdict(case)) + "\n"


if __name__ == "__main__":
    main()
