"""Code that calls tools: what it can do, what it cannot, and that its calls go the way of a model's own."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, FunctionToolset, ModelRetry, RunContext, ToolFailed, UsageLimits, UserError, tool
from agentkit.approvals.pending import Decision
from agentkit.errors import CheckpointError
from agentkit.events import AgentEvent, ToolCallEvent, ToolResultEvent
from agentkit.guardrails import (
    Allow,
    Block,
    CheckedCall,
    CheckedResult,
    Rewrite,
    Verdict,
    tool_call_guardrail,
    tool_result_guardrail,
)
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, RetryPromptPart, TextPart, ToolReturnPart
from agentkit.models.base import ModelRequestParameters
from agentkit.persistence.stored_state import state_from_json, state_to_json
from agentkit.results import RunResult
from agentkit.testing import FunctionModel, ScriptedModel, call
from agentkit.tools.code_mode import CodeMode
from agentkit.tools.tool import Tool
from agentkit.tracing.replies import read_run

pytest.importorskip("pydantic_monty")
pytestmark = pytest.mark.anyio


class World:
    """Tools with effects that can be counted."""

    def __init__(self) -> None:
        self.paid: list[int] = []

    def tools(self) -> list[Any]:
        async def look_up(order: int, detail: bool = False) -> dict[str, Any]:
            """Look an order up."""
            if order < 0:
                raise ModelRetry("order must not be negative")
            if order > 100:
                raise ToolFailed("there is no such order")
            return {"order": order, "price": order * 2, "detail": detail}

        async def pay_back(order: int) -> str:
            """Pay an order back."""
            self.paid.append(order)
            return f"paid {order}"

        return [look_up, pay_back]


def code(text: str) -> Any:
    return call("run_python", code=text)


async def run(
    text: str, *, tools: Sequence[Any] | None = None, mode: CodeMode | None = None, **options: Any
) -> Any:
    """Run a piece of code and return what the model was told of it."""
    model, mode = ScriptedModel([code(text), "done"]), mode or CodeMode()
    agent = Agent(model, tools=tools or World().tools(), code_mode=mode, **options)
    result = await agent.run("go")
    return told(result)


def told(result: RunResult[Any]) -> ToolReturnPart | RetryPromptPart:
    parts = [part for m in result.messages if isinstance(m, ModelRequest) for part in m.parts]
    return next(part for part in reversed(parts) if isinstance(part, (ToolReturnPart, RetryPromptPart)))


async def test_the_model_is_told_of_one_tool_that_names_the_functions() -> None:
    model = ScriptedModel(["hello"])
    await Agent(model, tools=World().tools(), code_mode=CodeMode()).run("hi")
    (definition,) = model.calls[0].parameters.tools
    assert definition.name == "run_python"
    assert "look_up(order:int, detail?:bool=false) - Look an order up." in definition.description
    assert "pay_back(order:int) - Pay an order back." in definition.description


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sum(look_up(n)['price'] for n in range(1, 4))", "12"),
        ("look_up(order=3, detail=True)['detail']", "true"),
        ("look_up(3, True)", '{"order": 3, "price": 6, "detail": true}'),
        ("x = look_up(1)\nprint('price', x['price'])", "price 2"),
        ("print('a')\n'b'", "a\nb"),
        ("x = 1", "(nothing was printed, and the last line has no value)"),
        ("import json\njson.dumps(look_up(1)['price'])", "2"),
        ("try:\n    look_up(-1)\nexcept ValueError as error:\n    print(error)", "order must not be negative"),
        ("try:\n    look_up(101)\nexcept RuntimeError as error:\n    print(error)", "there is no such order"),
        ("f = look_up\nf(2)['price']", "4"),
        ("[look_up(n)['price'] for n in (1, 2)]", "[2, 4]"),
        ("{1, 2}", "[1, 2]"),
        ("a = []\na.append(a)\nlen(a)", "1"),
    ],
)
async def test_code_computes_with_what_tools_give(text: str, shown: str) -> None:
    part = await run(text)
    assert (part.content, getattr(part, "is_error", None)) == (shown, False)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("print('so far')\n1 / 0", "ZeroDivisionError"),
        ("look_up(101)", "RuntimeError: there is no such order"),
        ("look_up(-1)", "ValueError: order must not be negative"),
        ("look_up('three')", "ValueError"),
        ("look_up(1, 2, 3)", "TypeError: look_up: takes 2 arguments, 3 were given"),
        ("look_up(1, order=1)", "TypeError: look_up: argument 'order' was given twice"),
        ("look_up(float('nan'))", "TypeError: look_up"),
        ("look_up(look_up)", "ValueError: Invalid arguments"),
        ("look_up({1, 2})", "TypeError: look_up"),
        ("list(map(lambda n: look_up(n)['price'], [1, 2]))", "NotImplementedError"),
        ("wipe_disk()", "NameError: name 'wipe_disk' is not defined"),
        ("print(wipe_disk)", "NameError"),
        ("open('/etc/passwd').read()", "PermissionError"),
        ("import os\nos.environ['HOME']", "not supported"),
        ("import os\nos.system('true')", "Error"),
        ("import subprocess", "ModuleNotFoundError"),
        ("import socket", "ModuleNotFoundError"),
        ("import datetime\ndatetime.datetime.now()", "not supported"),
        ("import time\ntime.time()", "not supported"),
        ("'a' * 10**9", "MemoryError"),
        ("def f():\n    return f()\nf()", "RecursionError"),
    ],
)
async def test_what_fails_or_is_not_there_is_told_as_an_error(text: str, error: str) -> None:
    part = await run(text)
    assert isinstance(part, ToolReturnPart) and part.is_error
    assert error in part.content
    if "so far" in text:
        assert part.text.startswith("so far\n")


async def test_code_that_never_ends_is_stopped() -> None:
    part = await run("print('begun')\nwhile True:\n    pass", mode=CodeMode(max_seconds=0.2))
    assert part.content.startswith("begun\n") and "TimeoutError" in part.content


async def test_what_cannot_be_read_as_code_goes_back_to_the_model() -> None:
    agent = Agent(ScriptedModel([code("1 +"), code("1 + 1"), "done"]), tools=World().tools(), code_mode=CodeMode())
    result = await agent.run("go")
    parts = [part for m in result.messages if isinstance(m, ModelRequest) for part in m.parts]
    (retry,) = [part for part in parts if isinstance(part, RetryPromptPart)]
    assert "SyntaxError" in retry.content
    assert told(result).content == "2"


async def test_functions_are_no_coroutines() -> None:
    part = await run("import asyncio\nawait asyncio.gather(look_up(1), look_up(2))")
    assert isinstance(part, RetryPromptPart) or part.is_error


async def test_long_output_is_cut_and_says_so() -> None:
    part = await run("for n in range(1000):\n    print('x' * 100)", mode=CodeMode(max_output_chars=500))
    assert part.content.startswith("x" * 100) and "after 500 characters is left out" in part.content
    part = await run("'y' * 5000", mode=CodeMode(max_output_chars=500))
    assert len(part.content) < 600 and "cut after 500 of 5,000 characters" in part.content


async def test_code_makes_so_many_calls_and_no_more() -> None:
    world = World()
    part = await run("for n in range(10):\n    pay_back(n)", tools=world.tools(), mode=CodeMode(max_calls=3))
    assert world.paid == [0, 1, 2] and "has made its 3 calls" in part.content


async def test_calls_of_code_count_for_the_runs_limit() -> None:
    world = World()
    agent = Agent(
        ScriptedModel([code("for n in range(10):\n    pay_back(n)"), "done"]),
        tools=world.tools(),
        code_mode=CodeMode(),
        limits=UsageLimits(tool_calls_limit=4),
    )
    result = await agent.run("go")
    assert (world.paid, result.usage.tool_calls, result.status) == ([0, 1, 2], 4, "limit_reached")
    assert "tool_calls_limit is reached" in told(result).content


def asking(world: World) -> list[Any]:
    look_up, _ = world.tools()

    @tool(requires_approval=True)
    async def pay_back(order: int) -> str:
        """Pay an order back."""
        world.paid.append(order)
        return f"paid {order}"

    return [look_up, pay_back]


TWICE = "first = pay_back(look_up(1)['order'])\nsecond = pay_back(2)\nprint(first, second)"


async def test_a_call_that_needs_approval_stops_the_code_and_nothing_runs_twice() -> None:
    world = World()
    looked: list[str] = []
    agent = Agent(
        ScriptedModel([code(TWICE), "done"]),
        tools=asking(world),
        code_mode=CodeMode(),
        on_event=lambda event: looked.append(event.tool_name) if isinstance(event, ToolResultEvent) else None,
    )
    asked = await agent.run("go")
    assert asked.status == "needs_approval" and world.paid == []
    (pending,) = asked.pending
    assert (pending.tool_name, pending.arguments) == ("pay_back", '{"order":1}')
    state = state_from_json(state_to_json(asked.state))
    asked = await agent.resume(state, [state.pending[0].approve()])
    assert world.paid == [1]
    assert (asked.pending[0].tool_name, asked.pending[0].arguments) == ("pay_back", '{"order":2}')
    result = await agent.resume(asked.state, [asked.pending[0].approve()])
    assert (result.output, world.paid, told(result).content) == ("done", [1, 2], "paid 1 paid 2")
    assert looked == ["look_up", "pay_back", "pay_back", "run_python"]
    assert result.usage.tool_calls == 4


async def test_code_reads_why_a_call_was_denied() -> None:
    world = World()
    agent = Agent(
        ScriptedModel([code("try:\n    pay_back(1)\nexcept RuntimeError as error:\n    print(error)"), "done"]),
        tools=asking(world),
        code_mode=CodeMode(),
    )
    asked = await agent.run("go")
    result = await agent.resume(asked.state, [asked.pending[0].deny("no money")])
    assert (world.paid, told(result).content) == ([], "Not allowed: no money")


async def test_an_approval_for_the_run_covers_later_calls_of_the_tool() -> None:
    world = World()
    agent = Agent(ScriptedModel([code(TWICE), "done"]), tools=asking(world), code_mode=CodeMode())
    asked = await agent.run("go")
    result = await agent.resume(asked.state, [asked.pending[0].approve(for_run=True)])
    assert (result.output, world.paid) == ("done", [1, 2])


async def test_an_approval_is_for_the_arguments_that_were_seen() -> None:
    world = World()
    agent = Agent(ScriptedModel([code(TWICE), "done"]), tools=asking(world), code_mode=CodeMode())
    asked = await agent.run("go")
    other: Decision = replace(asked.pending[0].approve(), digest="0" * 64)
    again = await agent.resume(asked.state, [other])
    assert again.status == "needs_approval" and world.paid == []


async def test_code_itself_may_need_approval() -> None:
    mode = CodeMode(requires_approval=True)
    agent = Agent(ScriptedModel([code("1 + 1"), "done"]), tools=World().tools(), code_mode=mode)
    asked = await agent.run("go")
    assert (asked.pending[0].tool_name, json.loads(asked.pending[0].arguments)) == (
        "run_python",
        {"code": "1 + 1"},
    )
    assert told(await agent.resume(asked.state, [asked.pending[0].approve()])).content == "2"


async def test_guardrails_judge_each_call_of_the_code() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    @tool_call_guardrail
    def nothing_back(checked: CheckedCall, context: RunContext[Any]) -> Verdict:
        seen.append((checked.tool.name, checked.arguments))
        return Block("nothing is paid back") if checked.tool.name == "pay_back" else Allow()

    world = World()
    part = await run("look_up(1)\npay_back(1)", tools=world.tools(), guardrails=[nothing_back])
    assert [name for name, _ in seen] == ["run_python", "look_up", "pay_back"]
    assert world.paid == [] and "nothing is paid back" in part.content


async def test_code_reads_results_as_guardrails_rewrote_them() -> None:
    @tool_result_guardrail
    def no_price(checked: CheckedResult, context: RunContext[Any]) -> Verdict:
        return (
            Rewrite(re.sub('"price": *[0-9]+', '"price":0', checked.text)) if "price" in checked.text else Allow()
        )

    part = await run("order = look_up(3)\n(order['order'], order['price'])", guardrails=[no_price])
    assert part.content == "[3, 0]"


async def test_hidden_characters_of_results_do_not_reach_the_model_through_code() -> None:
    async def page() -> str:
        """Return a page."""
        return "good\u200b \U000e0062morning"

    printed = await run("print(page())\npage()", tools=[page])
    assert printed.content == "good morning\ngood morning\n[4 hidden characters removed]"
    failed = await run("raise ValueError(page())", tools=[page])
    assert "ValueError: good morning" in failed.content


async def consequential_after_hearsay() -> tuple[World, Agent[None, str]]:
    world = World()
    look_up, pay_back = await FunctionToolset(world.tools()).list_tools(RunContext(deps=None))
    tools: list[Tool] = [replace(look_up, is_untrusted=True), replace(pay_back, is_consequential=True)]
    text = "pay_back(1)\nlook_up(1)\npay_back(2)"
    return world, Agent(ScriptedModel([code(text), "done"]), tools=tools, code_mode=CodeMode())


async def test_what_code_has_read_taints_its_later_calls() -> None:
    world, agent = await consequential_after_hearsay()
    asked = await agent.run("go")
    assert (asked.status, world.paid, asked.state.tainted) == ("needs_approval", [1], True)
    assert asked.pending[0].arguments == '{"order":2}'
    result = await agent.resume(asked.state, [asked.pending[0].approve()])
    assert (result.output, world.paid) == ("done", [1, 2])


class Killed(BaseException):
    """The process ends here."""


def mortal(world: World, dies_at: int, path: Path, *, idempotent: bool = False) -> Agent[None, str]:
    """Make an agent whose process dies while it pays order `dies_at` back."""

    async def pay_back(order: int) -> str:
        """Pay an order back."""
        world.paid.append(order)
        if order == dies_at:
            raise Killed
        return f"paid {order}"

    def reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        if isinstance(messages[-1], ModelRequest) and isinstance(messages[-1].parts[-1], ToolReturnPart):
            return ModelResponse((TextPart("done"),))
        return ModelResponse((code("print([pay_back(n) for n in (1, 2, 3)])"),))

    made = FunctionToolset([pay_back])._tools["pay_back"]  # pyright: ignore[reportPrivateUsage]
    tools = [replace(made, is_repeatable=idempotent)]
    return Agent(FunctionModel(reply), tools=tools, code_mode=CodeMode(), checkpointer=path)


async def run_until_killed(agent: Agent[None, str]) -> str:
    async with agent.iter("go") as started:
        with pytest.raises(Killed):
            await started.finish()
        return started.state.run_id


@pytest.mark.parametrize("dies_at", [1, 2, 3])
async def test_after_a_crash_what_had_run_is_not_repeated_and_the_rest_is_asked_about(
    tmp_path: Path, dies_at: int
) -> None:
    world = World()
    run_id = await run_until_killed(mortal(world, dies_at, tmp_path / "runs.db"))
    assert world.paid == list(range(1, dies_at + 1))
    agent = mortal(world, 0, tmp_path / "runs.db")
    asked = await agent.resume(run_id)
    (pending,) = asked.pending
    assert (asked.status, pending.kind, pending.arguments) == (
        "needs_approval",
        "unknown",
        f'{{"order":{dies_at}}}',
    )
    assert world.paid == list(range(1, dies_at + 1))
    again = await mortal(world, 0, tmp_path / "runs.db").resume(run_id)
    assert again.pending == (pending,)
    result = await agent.resume(run_id, [pending.settle("it was paid")])
    assert (result.output, world.paid) == ("done", [1, 2, 3])
    expected = [f"paid {n}" if n != dies_at else "it was paid" for n in (1, 2, 3)]
    assert told(result).content == str(expected)


async def test_after_a_crash_a_call_may_be_made_once_more_if_somebody_says_so(tmp_path: Path) -> None:
    world = World()
    run_id = await run_until_killed(mortal(world, 2, tmp_path / "runs.db"))
    agent = mortal(world, 0, tmp_path / "runs.db")
    asked = await agent.resume(run_id)
    result = await agent.resume(run_id, [asked.pending[0].approve()])
    assert (result.output, world.paid) == ("done", [1, 2, 2, 3])


async def test_after_a_crash_a_repeatable_call_is_made_again_without_asking(tmp_path: Path) -> None:
    world = World()
    run_id = await run_until_killed(mortal(world, 2, tmp_path / "runs.db", idempotent=True))
    result = await mortal(world, 0, tmp_path / "runs.db", idempotent=True).resume(run_id)
    assert (result.output, world.paid) == ("done", [1, 2, 2, 3])


async def test_random_numbers_are_the_same_when_the_code_runs_again() -> None:
    world = World()
    text = "import random\nn = random.randint(1, 10**9)\npay_back(n)\nprint(n)"
    agent = Agent(ScriptedModel([code(text), "done"]), tools=asking(world), code_mode=CodeMode())
    asked = await agent.run("go")
    result = await agent.resume(asked.state, [asked.pending[0].approve()])
    assert (result.status, [str(n) for n in world.paid]) == ("completed", [told(result).content])


async def test_code_that_goes_another_way_is_found_out() -> None:
    """A state edited by hand: the answer of the first call is that of another tool."""
    world = World()
    agent = Agent(ScriptedModel([code(TWICE), "done"]), tools=asking(world), code_mode=CodeMode())
    asked = await agent.run("go")
    answers = tuple(replace(part, tool_name="pay_back") for part in asked.state.answers)
    with pytest.raises(CheckpointError, match="must be the same"):
        await agent.resume(replace(asked.state, answers=answers), [asked.pending[0].approve()])
    assert world.paid == []


async def test_events_and_traces_tell_of_every_call(tmp_path: Path) -> None:
    events: list[AgentEvent] = []
    agent = Agent(
        ScriptedModel([code("look_up(1)\nlook_up(2)"), "done"]),
        tools=World().tools(),
        code_mode=CodeMode(),
        on_event=events.append,
        trace=tmp_path,
    )
    result = await agent.run("go")
    calls = [(event.tool_name, event.tool_call_id) for event in events if isinstance(event, ToolCallEvent)]
    outer = calls[0][1]
    assert calls == [("run_python", outer), ("look_up", f"{outer}.1"), ("look_up", f"{outer}.2")]
    (path,) = tmp_path.glob("*.jsonl")
    traced = read_run(path)
    assert [reply.response.text for reply in traced.replies] == ["", "done"]
    assert [event.tool_name for event in traced.replies[0].results] == ["run_python"]
    assert result.run_id in path.name


async def test_hand_overs_stay_calls() -> None:
    model = ScriptedModel([call("transfer_to_clerk", task="Pay.")])
    clerk = Agent(ScriptedModel(["paid"]), name="clerk")
    agent = Agent(model, tools=World().tools(), code_mode=CodeMode(), handoffs=[clerk], name="desk")
    result = await agent.run("go")
    assert [each.name for each in model.calls[0].parameters.tools] == ["run_python", "transfer_to_clerk"]
    assert (result.output, result.handed_to) == ("paid", "clerk")


async def test_names_that_are_none_in_python_are_changed() -> None:
    async def look(order: int) -> int:
        """Look."""
        return order

    (made,) = await FunctionToolset([look]).list_tools(RunContext(deps=None))
    tools = [made.renamed("fs-read"), made.renamed("class"), made.renamed("2nd")]
    part = await run("[fs_read(1), class_(2), _2nd(3)]", tools=tools)
    assert part.content == "[1, 2, 3]"
    with pytest.raises(UserError, match="would both be 'fs_read'"):
        await run("1", tools=[made.renamed("fs-read"), made.renamed("fs_read")])


async def test_without_the_sandbox_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    with pytest.raises(UserError, match=r"pip install .*\[code\]"):
        await run("1")


@pytest.mark.parametrize("wrong", [{"max_seconds": 0}, {"max_calls": -1}, {"max_memory_bytes": 0}])
def test_limits_that_nothing_meets_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="above zero"):
        CodeMode(**wrong)


async def test_a_sandbox_is_started_and_ended_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    import pydantic_monty

    threads: dict[str, set[int]] = {}

    class Watched:
        """A context of Monty's, and the threads in which it is used."""

        def __init__(self, name: str, real: Any) -> None:
            self._name, self._real = name, real

        def __enter__(self) -> Any:
            threads.setdefault(f"enter {self._name}", set()).add(threading.get_ident())
            entered = self._real.__enter__()
            return self if self._name == "pool" else entered

        def __exit__(self, *error: Any) -> None:
            threads.setdefault(f"exit {self._name}", set()).add(threading.get_ident())
            self._real.__exit__(*error)

        def checkout(self, **options: Any) -> Any:
            return Watched("session", self._real.checkout(**options))

    real = pydantic_monty.Monty
    monkeypatch.setattr(pydantic_monty, "Monty", lambda **options: Watched("pool", real(**options)))
    assert (await run("1 + 1")).content == "2"
    assert sorted(threads) == ["enter pool", "enter session", "exit pool", "exit session"]
    assert threading.get_ident() not in set().union(*threads.values())
