"""Checked by pyright, not run: the types of deps and output flow through an agent."""

from __future__ import annotations

from typing import assert_type

from pydantic import BaseModel

from agentkit import Agent, RunContext, RunResult
from agentkit.testing import TestModel


class City(BaseModel):
    name: str


def greet(context: RunContext[int], name: str) -> str:
    assert_type(context.deps, int)
    return f"{name} {context.deps}"


async def outputs() -> None:
    assert_type(await Agent(TestModel()).run("x"), RunResult[str])
    assert_type((await Agent(TestModel(), output_type=City).run("x")).output, City)
    assert_type(Agent(TestModel(), output_type=list[int]).run_sync("x").output, list[int])
    agent = Agent(TestModel(), tools=[greet], deps_type=int, output_type=bool)
    assert_type(agent, Agent[int, bool])
    async with agent.run_stream("x", deps=3) as stream:
        assert_type(stream.result, RunResult[bool])
    await agent.run("x", deps="three")  # pyright: ignore[reportArgumentType]
