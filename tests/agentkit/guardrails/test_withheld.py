"""What a guardrail blocks: no later run, session, journal or model gets it, however the run was made."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, ModelRetry, RunContext
from agentkit.guardrails import Allow, Block, Rewrite, Verdict, input_guardrail, output_guardrail
from agentkit.guardrails.guardrail import Mode
from agentkit.limits import UsageLimits
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart, text_of
from agentkit.persistence import InMemorySession, SQLiteSession
from agentkit.planning import PlanTemplate, TemplateStep
from agentkit.results import RunResult
from agentkit.run.decide import ANSWER_WITHHELD, MESSAGE_WITHHELD
from agentkit.testing import ScriptedModel, call

pytestmark = pytest.mark.anyio
SECRET = "the code is 1234"
QUESTION = ModelRequest((UserPromptPart("what is it?"),))


@output_guardrail
async def no_codes(text: str, context: RunContext[Any]) -> Verdict:
    return Block("the code") if "1234" in text else Allow()


@output_guardrail(streaming=True)
def no_codes_so_far(text: str, context: RunContext[Any]) -> Verdict:
    return Block("the code") if "1234" in text else Allow()


def no_insults(mode: Mode) -> Any:
    @input_guardrail(mode=mode)
    async def check(text: str, context: RunContext[Any]) -> Verdict:
        return Block("rude") if "fool" in text else Allow()

    return check


async def look() -> str:
    """Look."""
    return "seen"


def texts(messages: tuple[ModelMessage, ...]) -> list[str]:
    return [text_of(part.content) for m in messages for part in m.parts if not hasattr(part, "arguments")]  # pyright: ignore[reportAttributeAccessIssue]


async def run(agent: Agent[None, str], session: SQLiteSession) -> RunResult[str]:
    return await agent.run("what is it?", session=session)


async def run_stream(agent: Agent[None, str], session: SQLiteSession) -> RunResult[str]:
    async with agent.run_stream("what is it?", session=session) as stream:
        return await stream.finish()


async def resume(agent: Agent[None, str], session: SQLiteSession) -> RunResult[str]:
    """Its process ends before the guardrail is asked."""
    async with agent.iter("what is it?", session=session) as begun:
        await begun.advance()
        await begun.advance()
        run_id = begun.state.run_id
    return await agent.resume(run_id, session=session)


Way = Callable[[Agent[None, str], SQLiteSession], Awaitable[RunResult[str]]]


@pytest.mark.parametrize("way", [run, run_stream, resume])
async def test_a_blocked_answer_is_in_no_history(way: Way, tmp_path: Path) -> None:
    file = tmp_path / "runs.db"
    session = SQLiteSession(file, "s")
    agent = Agent(ScriptedModel([SECRET, "Anything else?"]), guardrails=[no_codes], checkpointer=file)
    result = await way(agent, session)
    assert (result.status, result.output_or_none, result.usage.requests) == ("refused", None, 1)
    question, reply = (await session.load()).messages
    assert (question, texts((reply,))) == (QUESTION, [ANSWER_WITHHELD])
    assert result.messages == (question, reply)
    assert (await agent.resume(result.run_id, session=session)).status == "refused"
    with sqlite3.connect(file) as connection:
        assert not [body for (body,) in connection.execute("SELECT body FROM messages") if "1234" in body]
    again = await agent.run("and now?", session=session)
    assert texts(again.messages) == ["what is it?", ANSWER_WITHHELD, "and now?", "Anything else?"]


async def test_an_answer_that_is_blocked_while_it_is_streamed_leaves_a_reply() -> None:
    session = InMemorySession()
    agent = Agent(ScriptedModel([call("look"), SECRET]), tools=[look], guardrails=[no_codes_so_far])
    result = await agent.run("what is it?", session=session)
    assert result.status == "refused"
    assert texts((await session.load()).messages) == ["what is it?", "seen", ANSWER_WITHHELD]


async def test_an_answer_that_is_blocked_at_a_limit_goes_with_its_calls() -> None:
    last = ModelResponse((TextPart(SECRET), call("look")))
    agent = Agent(ScriptedModel([last]), tools=[look], guardrails=[no_codes], limits=UsageLimits(request_limit=1))
    result = await agent.run("what is it?")
    assert (result.status, texts(result.messages)) == ("refused", ["what is it?", ANSWER_WITHHELD])


async def test_the_history_has_a_rewritten_answer_as_it_was_given_out(tmp_path: Path) -> None:
    @output_guardrail
    async def hide(text: str, context: RunContext[Any]) -> Verdict:
        return Rewrite(text.replace("1234", "****"))

    session = SQLiteSession(tmp_path / "runs.db", "s")
    agent = Agent(ScriptedModel([SECRET]), guardrails=[hide], checkpointer=tmp_path / "runs.db")
    result = await agent.run("what is it?", session=session)
    assert (result.output, result.status) == ("the code is ****", "completed")
    assert texts((await session.load()).messages) == ["what is it?", "the code is ****"]
    assert (await agent.resume(result.run_id)).messages == result.messages


async def test_a_rewritten_answer_that_a_validator_rejects_is_mended_from_there() -> None:
    @output_guardrail
    async def hide(text: str, context: RunContext[Any]) -> Verdict:
        return Rewrite(text.replace("1234", "****"))

    model = ScriptedModel([SECRET, "no code"])
    agent = Agent(model, guardrails=[hide])

    @agent.output_validator
    async def without_stars(context: RunContext[Any], output: str) -> str:
        if "*" in output:
            raise ModelRetry("no stars")
        return output

    assert (await agent.run("what is it?")).output == "no code"
    assert "1234" not in str(model.calls[1].messages) and "****" in str(model.calls[1].messages)


@pytest.mark.parametrize("mode", ["blocking", "parallel"])
async def test_a_blocked_prompt_is_in_no_history(mode: Mode, tmp_path: Path) -> None:
    file = tmp_path / "runs.db"
    session = SQLiteSession(file, "s")
    plan = PlanTemplate([TemplateStep("Look for: {task}", "look")])
    agent = Agent(
        ScriptedModel([call("look")]), tools=[look], planner=plan, guardrails=[no_insults(mode)], checkpointer=file
    )
    result = await agent.run("you fool", session=session)
    assert (result.status, result.messages) == ("refused", ())
    assert (await session.load()).messages == ()
    assert (await agent.resume(result.run_id)).status == "refused"
    with sqlite3.connect(file) as connection:
        assert not connection.execute("SELECT body FROM messages").fetchall()
        assert "fool" not in str(connection.execute("SELECT head FROM runs").fetchall())


@pytest.mark.parametrize("mode", ["blocking", "parallel"])
async def test_an_interruption_is_checked_before_the_model_reads_it(mode: Mode) -> None:
    model, session = ScriptedModel([call("look"), "never"]), InMemorySession()
    agent = Agent(model, tools=[look], guardrails=[no_insults(mode)])
    async with agent.iter("what is it?", session=session) as begun:
        while len(model.calls) == 0:
            await begun.advance()
        begun.interrupt("hurry, you fool")
        result = await begun.finish()
    assert (result.status, len(model.calls)) == ("refused", 1)
    assert texts((await session.load()).messages) == ["what is it?", "seen", MESSAGE_WITHHELD]


async def test_an_interruption_is_read_as_the_guardrails_rewrite_it() -> None:
    @input_guardrail
    async def polite(text: str, context: RunContext[Any]) -> Verdict:
        return Rewrite(text.replace("fool", "friend")) if "fool" in text else Allow()

    model = ScriptedModel([call("look"), "done"])
    async with Agent(model, tools=[look], guardrails=[polite]).iter("what is it?") as begun:
        while len(model.calls) == 0:
            await begun.advance()
        begun.interrupt("hurry, you fool")
        result = await begun.finish()
    assert (result.output, texts(result.messages)[-2:]) == ("done", ["hurry, you friend", "done"])
