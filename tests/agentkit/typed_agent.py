"""Checked by pyright, not run: the types of deps and output flow through an agent."""

# pyright: reportUnnecessaryTypeIgnoreComment=true
# An expected error that does not come is an error.

from __future__ import annotations

from typing import assert_type

from pydantic import BaseModel

from agentkit import Agent, ResumeOptions, RunContext, RunOptions, RunResult, UsageLimits
from agentkit.testing import TestModel


class City(BaseModel):
    name: str


class Country(BaseModel):
    name: str


def make_city(name: str) -> City: ...


async def find_country(context: RunContext[int], name: str) -> Country: ...


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


async def unions_and_functions() -> None:
    assert_type((await Agent(TestModel(), output_type=City | Country).run("x")).output, City | Country)
    assert_type((await Agent(TestModel(), output_type=City | None).run("x")).output, City | None)
    assert_type((await Agent(TestModel(), output_type=[City, Country]).run("x")).output, City | Country)
    assert_type((await Agent(TestModel(), output_type=make_city).run("x")).output, City)
    assert_type((await Agent(TestModel(), output_type=find_country).run("x")).output, Country)
    assert_type((await Agent(TestModel(), output_type=[make_city, Country]).run("x")).output, City | Country)
    mixed: Agent[None, City | Country] = Agent(TestModel(), output_type=[City, find_country])
    assert_type((await mixed.run("x")).output, City | Country)


async def outputs_are_never_none() -> None:
    result = await Agent(TestModel(), output_type=City).run("x")
    assert_type(result.output, City)
    assert_type(result.output_or_none, City | None)
    assert_type(result.output.name, str)


async def streams() -> None:
    agent = Agent(TestModel(), output_type=City)
    async with agent.run_stream("x") as stream:
        async for text in stream.text():
            assert_type(text, str)
        async for city in stream.partial_output():
            assert_type(city, City)
    with agent.run_stream_sync("x") as in_thread:
        for text in in_thread.text(whole=True):
            assert_type(text, str)
        for city in in_thread.partial_output():
            assert_type(city, City)
        assert_type(in_thread.result, RunResult[City])


async def options() -> None:
    agent = Agent(TestModel(), deps_type=int)
    given: RunOptions[int] = {"deps": 3, "limits": UsageLimits(request_limit=2)}
    await agent.run("x", **given)
    agent.run_sync("x", **given)
    async with agent.run_stream("x", **given), agent.iter("x", **given):
        pass
    resumed: ResumeOptions[int] = {"deps": 3}
    await agent.resume("run", **resumed)
    await agent.run("x", **resumed)
    await agent.run("x", limit=UsageLimits())  # pyright: ignore[reportCallIssue]
    await agent.resume("run", metadata={})  # pyright: ignore[reportCallIssue]
    wrong: RunOptions[str] = {"deps": "three"}
    await agent.run("x", **wrong)  # pyright: ignore[reportArgumentType]
    mistaken: RunOptions[int] = {"dep": 3}  # pyright: ignore[reportAssignmentType]
    assert mistaken


def tools() -> None:
    agent = Agent(TestModel(), deps_type=int)

    @agent.tool(timeout_s=3, on_error="raise")
    def add(a: int, b: int) -> int:
        return a + b

    assert_type(add(1, 2), int)

    @agent.tool
    def double(a: int) -> int:
        return 2 * a

    assert_type(double(1), int)
    agent.tool(timeout=3)  # pyright: ignore[reportCallIssue]
    agent.tool(on_error="tells")  # pyright: ignore[reportArgumentType]
