"""Library code does not block the event loop (BlockBuster raises where it would)."""

from __future__ import annotations

import pytest
from blockbuster import blockbuster_ctx

from agentkit import Agent, RunContext
from agentkit.testing import ScriptedModel, TestModel, call

pytestmark = pytest.mark.anyio


async def fetch(context: RunContext[None], n: int) -> int:
    """Fetch."""
    return n


def compute(n: int) -> int:
    """Compute, in a thread."""
    return n * 2


async def test_a_run_with_tools_and_events_never_blocks() -> None:
    agent = Agent(
        ScriptedModel([[call("fetch", n=1), call("compute", n=2)], "done"]),
        tools=[fetch, compute],
        output_type=str,
        on_event=lambda event: None,
    )
    await Agent(TestModel(), output_type=int).run("warm up: first use imports modules, which reads files")
    with blockbuster_ctx("agentkit"):
        result = await agent.run("x")
        async with Agent(TestModel(), tools=[fetch, compute]).run_stream("x") as stream:
            streamed = await stream.finish()
    assert result.output == "done"
    assert streamed.output == '{"fetch": 0, "compute": 0}'
