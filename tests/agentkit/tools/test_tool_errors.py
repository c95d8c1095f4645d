"""Exceptions that a tool did not declare: told to the model, or raised; the same in every arrangement."""

from __future__ import annotations

import concurrent.futures
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest

from agentkit import (
    Agent,
    AgentKitError,
    AgentRunError,
    ModelRetry,
    RunContext,
    SQLiteCheckpointer,
    ToolExecutionError,
    ToolFailed,
    UsageLimits,
    UserError,
    tool,
)
from agentkit.events import AgentEvent, ToolProgressEvent, ToolResultEvent
from agentkit.messages import ModelRequest, ToolReturnPart
from agentkit.persistence import InMemoryCheckpointer
from agentkit.testing import ScriptedModel, call
from agentkit.tools.function import function_tool
from agentkit.tools.told_errors import MAX_CHARS, told_error
from agentkit.tools.tool import Tool
from agentkit.tracing.reading import read_events
from tests.agentkit.arrangements import ARRANGEMENTS, Arrangement, Killed, World, by_turns, told

pytestmark = pytest.mark.anyio
OnError = Literal["tell", "raise"]


def raising(error: BaseException, *, on_error: OnError | None = None, name: str = "broken") -> Tool:
    async def broken() -> str:
        """Break."""
        raise error

    return function_tool(broken, on_error=on_error, name=name)


def results_of(messages: Any) -> list[ToolReturnPart]:
    parts = (part for m in messages if isinstance(m, ModelRequest) for part in m.parts)
    return [part for part in parts if isinstance(part, ToolReturnPart)]


# --- told ------------------------------------------------------------------------------------------------------


async def test_the_model_reads_the_class_and_message_and_goes_on() -> None:
    agent = Agent(ScriptedModel([call("broken"), "sorry"]), tools=[raising(KeyError("no such city"))])
    result = await agent.run("x")
    (part,) = results_of(result.messages)
    assert result.output == "sorry"
    assert (part.content, part.is_error) == ("The tool failed: KeyError: 'no such city'", True)


async def test_the_application_reads_the_whole_exception_in_the_event(tmp_path: Path) -> None:
    text = "cannot open /srv/app/data.db for password=hunter2hunter2"
    events: list[AgentEvent] = []
    agent = Agent(
        ScriptedModel([call("broken"), "sorry"]),
        tools=[raising(OSError(text))],
        on_event=events.append,
        trace=tmp_path,
    )
    result = await agent.run("x")
    (event,) = [event for event in events if isinstance(event, ToolResultEvent)]
    assert (event.outcome, event.error) == ("failed", f"OSError: {text}")
    assert event.content == results_of(result.messages)[0].content
    assert "/srv" not in event.content and "hunter2" not in event.content
    (trace,) = tmp_path.glob("run_*.jsonl")
    (stored,) = [event for _, event in read_events(trace) if isinstance(event, ToolResultEvent)]
    assert stored.error is not None and "/srv/app" in stored.error and "hunter2" not in stored.error


async def test_a_declared_failure_has_no_error_in_its_event() -> None:
    events: list[AgentEvent] = []
    agent = Agent(
        ScriptedModel([call("broken"), "sorry"]), tools=[raising(ToolFailed("closed"))], on_event=events.append
    )
    await agent.run("x")
    assert [event.error for event in events if isinstance(event, ToolResultEvent)] == [None]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", "The tool failed: ValueError."),
        ("two\n\n  lines", "The tool failed: ValueError: two lines"),
        ("no file /home/ann/keys.txt here", "The tool failed: ValueError: no file [path] here"),
        ("'/home/ann/My Files/keys.txt' is missing", "The tool failed: ValueError: [path] is missing"),
        (r"C:\Users\ann\keys.txt is missing", "The tool failed: ValueError: [path] is missing"),
        (r"\\server\share\keys is missing", "The tool failed: ValueError: [path] is missing"),
        ("~/keys and ../up/there and ./here", "The tool failed: ValueError: [path] and [path] and [path]"),
        ("file:///etc/passwd is closed", "The tool failed: ValueError: [path] is closed"),
        ("src/app/main.py is broken", "The tool failed: ValueError: [path] is broken"),
        ("and/or 3/4 of km/h on 1/2/2026", "The tool failed: ValueError: and/or 3/4 of km/h on 1/2/2026"),
        ("<b>x</b> is no number", "The tool failed: ValueError: <b>x</b> is no number"),
        ("in </srv/a> at:/srv/b", "The tool failed: ValueError: in <[path]> at:[path]"),
        ("s3://bucket/key.txt is closed", "The tool failed: ValueError: s3://bucket/key.txt is closed"),
        (
            "404 of https://api.test/v1/users.json",
            "The tool failed: ValueError: 404 of https://api.test/v1/users.json",
        ),
        ("https://ann:secretword@api.test/v1", "The tool failed: ValueError: https://[secret]@api.test/v1"),
        ("key sk-abcdefghij0123456789klmn", "The tool failed: ValueError: key [secret]"),
        ("AKIAABCDEFGHIJKLMNOP", "The tool failed: ValueError: [secret]"),
        ("bad\nTraceback (most recent call last):\n  File x\nKeyError: 1", "The tool failed: ValueError: bad"),
        ("lone \ud800 surrogate", "The tool failed: ValueError: lone \ufffd surrogate"),
    ],
)
def test_the_message_is_one_line_without_paths_secrets_and_tracebacks(message: str, expected: str) -> None:
    assert told_error(ValueError(message)) == expected


def test_a_private_key_in_a_message_is_not_told() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----"
    assert "MIIE" not in told_error(ValueError(f"cannot sign with {key}"))


def test_a_long_message_is_cut() -> None:
    text = told_error(ValueError("word " * 100_000))
    assert len(text) <= MAX_CHARS + len("The tool failed: ValueError: ") and text.endswith("...")


@pytest.mark.parametrize("piece", ["/a", "a/", "'/", "\\\\", "~/", "./", "C:/", "file:", "https://a "])
def test_a_hostile_message_is_cleaned_in_bounded_time(piece: str) -> None:
    told_error(ValueError(piece * 200_000))  # the suite's timeout is the bound


def test_an_exception_that_cannot_be_written_is_told_by_its_class() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert told_error(Silent()) == "The tool failed: Silent: (no message: RuntimeError)"


async def test_a_failure_that_repeats_reaches_the_limit_of_repeated_failures() -> None:
    n_tried = 0

    async def broken() -> str:
        nonlocal n_tried
        n_tried += 1
        raise KeyError(n_tried)

    model = ScriptedModel([call("broken"), call("broken"), call("broken"), "it does not work"])
    agent = Agent(model, tools=[broken], limits=UsageLimits(repeated_failures_limit=3))
    result = await agent.run("x")
    assert (result.status, result.output, n_tried) == ("limit_reached", "it does not work", 3)


async def test_a_sibling_keeps_its_result_beside_a_told_failure() -> None:
    async def quick() -> str:
        return "quick result"

    agent = Agent(ScriptedModel([[call("broken"), call("quick")], "done"]), tools=[raising(KeyError("x")), quick])
    result = await agent.run("x")
    assert [part.content for part in results_of(result.messages)] == [
        "The tool failed: KeyError: 'x'",
        "quick result",
    ]


async def test_a_tool_in_a_worker_thread_is_told_alike() -> None:
    def broken() -> str:
        raise ZeroDivisionError("in a thread")

    result = await Agent(ScriptedModel([call("broken"), "done"]), tools=[broken]).run("x")
    assert results_of(result.messages)[0].content == "The tool failed: ZeroDivisionError: in a thread"


# --- raised ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_agent", "of_tool", "expected"),
    [
        ("tell", None, "told"),
        ("tell", "raise", "raised"),
        ("raise", None, "raised"),
        ("raise", "tell", "told"),
    ],
)
async def test_the_tools_own_rule_goes_before_the_agents(
    of_agent: OnError, of_tool: OnError | None, expected: str
) -> None:
    agent = Agent(
        ScriptedModel([call("broken"), "done"]),
        tools=[raising(ZeroDivisionError("x"), on_error=of_tool)],
        on_tool_error=of_agent,
    )
    if expected == "told":
        assert (await agent.run("x")).output == "done"
    else:
        with pytest.raises(ToolExecutionError, match="'broken' raised ZeroDivisionError: x") as caught:
            await agent.run("x")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_the_decorators_set_the_rule_of_a_tool() -> None:
    @tool(on_error="raise")
    async def one() -> str:
        raise ZeroDivisionError

    assert function_tool(one).on_error == "raise"
    agent = Agent(ScriptedModel([call("two"), "done"]), on_tool_error="raise")

    @agent.tool(on_error="tell")
    async def two() -> str:
        raise ZeroDivisionError

    assert (await agent.run("x")).output == "done"


def test_a_rule_that_is_unknown_is_refused() -> None:
    given: Any = "tells"
    with pytest.raises(UserError, match='on_tool_error=\'tells\' must be "tell" or "raise"'):
        Agent(ScriptedModel([]), on_tool_error=given)
    with pytest.raises(UserError, match="on_error='tells'"):
        tool(on_error=given)


class OwnBase(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("x"), UserError),
        (AgentRunError("x"), AgentRunError),
        (AgentKitError("of another layer"), ToolExecutionError),
        (ExceptionGroup("of a task group", [KeyError(), AgentRunError("inner")]), ToolExecutionError),
        (concurrent.futures.CancelledError(), ToolExecutionError),
        (OwnBase(), OwnBase),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_errors_of_runs_and_exits_are_never_told(
    error: BaseException, expected: type[BaseException]
) -> None:
    with pytest.raises(expected) as caught:
        await Agent(ScriptedModel([call("broken")]), tools=[raising(error, on_error="tell")]).run("x")
    assert type(caught.value) is expected


async def test_a_cancellation_is_not_told() -> None:
    async def hang() -> str:
        scope.cancel()
        await anyio.sleep_forever()
        return ""

    model = ScriptedModel([call("hang"), "never"])
    with anyio.CancelScope() as scope:
        await Agent(model, tools=[hang]).run("x")
    assert scope.cancelled_caught and len(model.calls) == 1


async def test_a_result_without_json_form_is_the_authors_mistake() -> None:
    async def thing() -> object:
        return object()

    with pytest.raises(UserError, match="no JSON form"):
        await Agent(ScriptedModel([call("thing")]), tools=[thing]).run("x")


async def test_a_listener_that_raises_through_a_tool_is_not_told() -> None:
    def heard(event: AgentEvent) -> None:
        if isinstance(event, ToolProgressEvent):
            raise LookupError("listener")

    async def work(context: RunContext[None]) -> str:
        context.report_progress(1)
        return "done"

    with pytest.raises(LookupError, match="listener"):
        await Agent(ScriptedModel([call("work")]), tools=[work], on_event=heard).run("x")


async def test_a_journal_that_cannot_be_written_is_not_told() -> None:
    class Full(InMemoryCheckpointer):
        async def create(self, *args: Any, **kwargs: Any) -> Any:
            journal = await super().create(*args, **kwargs)

            async def full(*_: Any, **__: Any) -> None:
                raise OSError("disk is full")

            journal.call_started = full  # pyright: ignore[reportAttributeAccessIssue]
            return journal

    async def work(n: int) -> str:
        return "done"

    agent = Agent(ScriptedModel([[call("work", n=1), call("work", n=2)]]), tools=[work], checkpointer=Full())
    with pytest.raises(OSError, match="disk is full"):
        await agent.run("x")


async def test_an_inner_run_that_fails_ends_the_outer_run() -> None:
    inner = Agent(ScriptedModel([]), name="inner")
    outer = Agent(ScriptedModel([call("inner", task="x"), "never"]), tools=[inner.as_tool("Works.")])
    with pytest.raises((AssertionError, ToolExecutionError)):
        await outer.run("x")


async def test_a_retry_is_no_error() -> None:
    attempts: list[int] = []

    async def flaky(context: RunContext[None]) -> str:
        attempts.append(context.retry)
        if not context.retry:
            raise ModelRetry("again")
        raise KeyError("x")

    result = await Agent(ScriptedModel([call("flaky"), call("flaky"), "done"]), tools=[flaky]).run("x")
    assert (attempts, result.output) == ([0, 1], "done")


# --- every arrangement -----------------------------------------------------------------------------------------


def by_name(arrangement: Arrangement) -> str:
    return arrangement.name


def journals(tmp_path: Path) -> dict[str, Path | None]:
    return {"journal": tmp_path / "runs.db", "no journal": None}


@pytest.mark.parametrize("stored", ["journal", "no journal"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=by_name)
async def test_a_told_error_is_read_and_the_run_goes_on(
    arrangement: Arrangement, stored: str, tmp_path: Path
) -> None:
    done: list[str] = []

    async def after() -> str:
        """Work."""
        done.append("after")
        return "worked"

    # In code the failed call ends the code, and a step of a plan is not done when its call failed.
    is_last = arrangement.needs_code or arrangement.name.startswith("planned")
    tools = [raising(ZeroDivisionError("in /srv/secret.py")), function_tool(after)]
    calls = [call("broken")] if is_last else [call("broken"), call("after")]
    result = await arrangement.build(tools, calls, journals(tmp_path)[stored]).run("x")
    assert (result.output, done) == ("done", [] if is_last else ["after"])
    everything = json.dumps([part.content for part in results_of(result.messages)])
    assert "/srv" not in everything
    if arrangement.name in ("alone", "handed over", "planned", "in code"):
        assert "ZeroDivisionError: in [path]" in everything


@pytest.mark.parametrize("stored", ["journal", "no journal"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=by_name)
async def test_a_raised_error_ends_the_run_with_one_error(
    arrangement: Arrangement, stored: str, tmp_path: Path
) -> None:
    tools = [raising(ZeroDivisionError("x"), on_error="raise")]
    agent = arrangement.build(tools, [call("broken")], journals(tmp_path)[stored])
    with pytest.raises(ToolExecutionError, match="'broken' raised ZeroDivisionError: x") as caught:
        await agent.run("x")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.state is not None


async def test_a_told_failure_is_stored_and_its_call_is_not_repeated_after_a_kill(tmp_path: Path) -> None:
    n_tried = 0

    async def broken() -> str:
        """Break."""
        nonlocal n_tried
        n_tried += 1
        raise KeyError("x")

    world = World(dies_at=5)

    def agent() -> Agent[None, str]:
        replies = by_turns([call("broken"), call("pay", amount=5)], "done")
        tools = [broken, replace(world.pay(), sequential=True)]  # it begins when the other call has ended
        return Agent(replies, tools=tools, checkpointer=tmp_path / "runs.db")

    with pytest.raises(Killed):
        await agent().run("x")
    (summary,) = await SQLiteCheckpointer(tmp_path / "runs.db").list_runs()
    stopped = await agent().resume(summary.run_id)
    assert [pending.tool_name for pending in stopped.pending] == ["pay"]
    result = await agent().resume(summary.run_id, [stopped.pending[0].settle("paid")])
    assert (result.output, n_tried, world.paid) == ("done", 1, [5])
    assert [part.content for part in results_of(result.messages)] == ["The tool failed: KeyError: 'x'", "paid"]


async def test_code_catches_a_told_error_as_a_failed_call() -> None:
    pytest.importorskip("pydantic_monty")
    from agentkit.tools.code_mode import CodeMode

    code = "try:\n    broken()\nexcept RuntimeError as error:\n    print(error)"
    model = by_turns(call("run_python", code=code), "done")
    result = await Agent(model, tools=[raising(KeyError("x"))], code_mode=CodeMode()).run("x")
    assert told(result) == ["The tool failed: KeyError: 'x'"]
