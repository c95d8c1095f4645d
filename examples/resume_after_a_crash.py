"""Resume a run whose process was killed in the middle, in another process; no booking is made twice."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agentkit import Agent, ModelMessage, ModelResponse, SQLiteCheckpointer, TextPart
from agentkit.models.base import ModelRequestParameters
from agentkit.testing import FunctionModel, call


def decide(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
    """Stand for a model: book the train, then the hotel, then answer."""
    n_replies = sum(isinstance(message, ModelResponse) for message in messages)
    replies = [call("book", what="train"), call("book", what="hotel"), TextPart("Both are booked.")]
    return ModelResponse((replies[n_replies],))


def make_agent(folder: Path, *, is_killed: bool = False) -> Agent:
    """Return the agent; with `is_killed` its process dies before it has booked the hotel."""

    def book(what: str) -> str:
        """Book something."""
        if is_killed and what == "hotel":
            os.kill(os.getpid(), signal.SIGKILL)
        with (folder / "bookings.txt").open("a") as file:
            file.write(what + "\n")
        return "booked"

    return Agent(FunctionModel(decide), tools=[book], checkpointer=folder / "runs.db")


if len(sys.argv) > 1:  # the child process
    make_agent(Path(sys.argv[1]), is_killed=True).run_sync("Book the train and the hotel.")
    sys.exit("the process was not killed")

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    child = subprocess.run([sys.executable, __file__, name])
    assert child.returncode == -signal.SIGKILL

    [run] = asyncio.run(SQLiteCheckpointer(folder / "runs.db").list_runs())
    agent = make_agent(folder)
    result = agent.resume_sync(run.run_id)
    # Whether the hotel was booked before the end is unknown, so a person looks and decides.
    [question] = result.pending
    print(f"{question.tool_name} {question.arguments}: {question.reason}")
    assert question.kind == "unknown"
    result = agent.resume_sync(run.run_id, [question.approve()])
    print(result.output)
    assert (folder / "bookings.txt").read_text().split() == ["train", "hotel"]
