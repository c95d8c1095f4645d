"""Which replies of a run become examples: what went wrong is left out, what was rewritten is as rewritten."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from agentkit import Agent, ModelRetry
from agentkit.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from agentkit.middleware import Middleware, ModelCall
from agentkit.testing import ScriptedModel, call
from agentkit.testing.models import ScriptItem
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.tool import Tool, ToolOutput
from agentkit.tracing import export
from agentkit.tracing.evidence import Reason
from tests.agentkit.tracing.traced_runs import Runs, targets


def answered(reason: Reason, *script: ScriptItem, **options: Any) -> Any:
    return pytest.param(script, options, reason, id=reason.name.lower())


def out_of_time() -> Tool:
    import anyio

    async def run(arguments: dict[str, Any], context: Any) -> str:
        await anyio.sleep_forever()
        return ""

    return Tool(ToolDefinition("wait", "Wait."), run, json.loads, timeout_s=0.0)


class Softened(Middleware):
    """Changes the first reply."""

    async def model_request(self, request: ModelCall, call_next: Any) -> ModelResponse:
        response = await call_next(request)
        return replace(response, parts=response.parts) if request.context.step == 0 else response


def with_more(messages: Sequence[Any], context: Any) -> Sequence[Any]:
    """Change the first request."""
    return [*messages, ModelRequest((UserPromptPart("Be brief."),))] if context.step == 0 else messages


@pytest.mark.parametrize(
    ("script", "options", "reason"),
    [
        answered(Reason.CUT, ModelResponse((call("double", n=1),), finish_reason="length"), "Done."),
        answered(Reason.SERVER_ERROR, ModelResponse((call("double", n=1),), finish_reason="error"), "Done."),
        answered(Reason.EMPTY, ModelResponse(()), "Done."),
        answered(Reason.UNKNOWN_TOOL, call("triple", n=1), "Done."),
        answered(Reason.RETRIED, call("double", n="one"), "Done."),
        answered(Reason.FAILED, call("fail"), "Done."),
        answered(Reason.TIMED_OUT, call("wait"), "Done.", tools=[out_of_time()]),
        answered(Reason.CHANGED, call("double", n=1), "Done.", middleware=[Softened()]),
        answered(Reason.CHANGED, call("double", n=1), "Done.", history_processors=[with_more]),
        answered(
            Reason.UNCLEAR, [ToolCallPart("add", '{"a":1}', "x"), ToolCallPart("add", '{"a":2}', "x")], "Done."
        ),
    ],
)
def test_a_reply_that_went_wrong_is_not_learnt_and_what_mends_it_is(
    runs: Runs, script: Sequence[ScriptItem], options: dict[str, Any], reason: Reason
) -> None:
    runs.run(*script, **options)
    (example,), report = runs.export()
    assert report.replies_left_out == {reason: 1}
    assert example.reply == "Done." and example.messages[1].role == "assistant"


def test_a_reply_that_a_content_filter_stopped_is_not_learnt(runs: Runs) -> None:
    """The runtime ends such a run as "filtered"; a trace of another program may go on behind the reply."""
    filtered = runs.run(ModelResponse((TextPart("I"),), finish_reason="content_filter"))
    went_on = runs.run(call("double", n=1), "Done.")

    def stop(event: dict[str, Any]) -> None:
        if event["step"] == 1:
            event["response"]["finish_reason"] = "content_filter"

    runs.edit(went_on, "model_response", stop)
    (example,), report = runs.export()
    assert example.reply == "Done." and report.replies_left_out == {Reason.FILTERED: 1}
    assert report.runs_left_out == {"filtered": 1} and report.n_runs == 2
    assert filtered != went_on


def test_a_call_that_a_tool_sent_back_is_not_learnt(runs: Runs) -> None:
    runs.run(call("refuse", n=1), call("double", n=2), "Four.")
    examples, report = runs.export()
    assert targets(examples) == [[("double", {"n": 2})], "Four."]
    assert report.replies_left_out == {Reason.RETRIED: 1}
    assert [(m.name, m.content) for m in examples[0].messages if m.role == "tool"] == [("refuse", "1 is odd")]


def test_one_bad_call_spoils_the_reply(runs: Runs) -> None:
    runs.run([call("double", n=1), call("fail")], "Done.")
    examples, report = runs.export()
    assert targets(examples) == ["Done."] and report.replies_left_out == {Reason.FAILED: 1}


def test_a_result_that_was_taken_back_spoils_the_call(runs: Runs) -> None:
    run_id = runs.run(call("double", n=1), "Done.")
    runs.edit(
        run_id, "model_request", lambda event: [_block(part) for m in event["messages"] for part in m["parts"]]
    )
    examples, report = runs.export()
    assert targets(examples) == ["Done."] and report.replies_left_out == {Reason.FAILED: 1}


def _block(part: dict[str, Any]) -> None:
    if part["part_kind"] == "tool-return":
        part.update(content="Blocked.", is_error=True)


def test_a_call_that_was_denied_is_not_learnt(runs: Runs) -> None:
    denied, refused = runs.run(call("double", n=1), "Done."), runs.run(call("add", a=1), "Done.", prompt="Add.")
    runs.edit(denied, "tool_result", lambda event: event.update(outcome="not_run"))
    for kind in ("tool_call", "tool_result"):  # it never came so far
        runs.edit(refused, kind, lambda event: event.update(event_kind="tool_progress", progress=0.0))
    runs.edit(refused, "model_request", lambda event: [_block(p) for m in event["messages"] for p in m["parts"]])
    examples, report = runs.export()
    assert targets(examples) == ["Done.", "Done."]
    assert report.replies_left_out == {Reason.NOT_RUN: 2}


def test_an_answer_that_was_rejected_is_not_learnt_and_the_next_one_is(runs: Runs) -> None:
    agent: Agent[None, str] = Agent(ScriptedModel(["Eight", "Eight."]), trace=runs.folder)

    @agent.output_validator
    async def ends(context: Any, answer: str) -> str:
        if not answer.endswith("."):
            raise ModelRetry("End with a full stop.")
        return answer

    agent.run_sync("Twice four?")
    (example,), report = runs.export()
    assert example.reply == "Eight." and report.replies_left_out == {Reason.REJECTED: 1}
    assert [(m.role, m.content) for m in example.messages[1:]] == [
        ("assistant", "Eight"),
        ("user", "End with a full stop."),
    ]


def test_an_answer_that_was_rewritten_is_exported_as_rewritten(runs: Runs) -> None:
    agent: Agent[None, str] = Agent(ScriptedModel(["The key is 1234."]), trace=runs.folder)

    @agent.output_validator
    async def redact(context: Any, answer: str) -> str:
        return answer.replace("1234", "[key]")

    agent.run_sync("The key?")
    assert targets(runs.export()[0]) == ["The key is [key]."]
    assert b"1234" not in runs.out.read_bytes()


def test_arguments_that_were_rewritten_before_the_call_are_exported_as_rewritten(runs: Runs) -> None:
    run_id = runs.run(call("double", n=1234), "Done.")
    runs.edit(run_id, "tool_call", lambda event: event.update(arguments='{"n":0}'))
    examples, _ = runs.export()
    assert targets(examples) == [[("double", {"n": 0})], "Done."]
    assert examples[1].messages[1].calls[0].arguments == {"n": 0}
    assert b"1234" not in runs.out.read_bytes()


def test_a_result_is_exported_as_the_model_read_it(runs: Runs) -> None:
    run_id = runs.run(call("double", n=1), "Done.")
    runs.edit(run_id, "tool_result", lambda event: event.update(content="original", data="original"))
    assert runs.export()[0][1].messages[-1].content == "2"
    assert b"original" not in runs.out.read_bytes()


class Number(BaseModel):
    n: int


@pytest.mark.parametrize(("output_type", "text"), [(Number, '{"n":8}'), (str | None, '{"result":"8"}')])
def test_a_structured_answer_is_left_out_and_the_calls_before_it_are_not(
    runs: Runs, output_type: Any, text: str
) -> None:
    runs.run(call("double", n=4), text, output_type=output_type)
    examples, report = runs.export()
    assert targets(examples) == [[("double", {"n": 4})]]
    assert report.replies_left_out == {Reason.STRUCTURED: 1}


def loose(schema: dict[str, Any], name: str = "loose") -> Tool:
    """Return a tool that takes whatever it is given, as servers do that do not hold to their schemas."""

    async def run(arguments: dict[str, Any], context: Any) -> ToolOutput:
        return ToolOutput("done")

    return Tool(ToolDefinition(name, "Take it.", schema), run, lambda text: json.loads(text))


@pytest.mark.parametrize(
    ("schema", "arguments", "reason"),
    [
        ({"type": "object", "properties": {"n": {"type": "integer"}}}, {"n": "4"}, Reason.ARGUMENTS),
        ({"type": "object", "properties": {"n": {"type": "integer"}}}, {"m": 4}, Reason.ARGUMENTS),
        ({"type": "object", "properties": {"n": {"$ref": "https://example.org/n"}}}, {"n": 4}, Reason.SCHEMA),
        ({"type": "object", "properties": {"n": {"type": "number-ish"}}}, {"n": 4}, Reason.SCHEMA),
        ({"type": "object", "properties": {"n": {"$ref": "#"}}}, {"n": float("nan")}, Reason.UNWRITABLE),
    ],
)
def test_a_call_that_worked_must_fit_its_schema_too(
    runs: Runs, schema: dict[str, Any], arguments: dict[str, Any], reason: Reason
) -> None:
    runs.run(call("loose", **arguments), "Done.", tools=[loose(schema)])
    examples, report = runs.export()
    assert targets(examples) == ["Done."] and report.replies_left_out == {reason: 1}


FREE: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "object"}}}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("depth", [150, 230])
def test_one_example_that_readers_refuse_does_not_spoil_the_file(runs: Runs, depth: int) -> None:
    runs.run("Hello.")
    runs.run(call("loose", **nested(depth)), "Done.", tools=[loose(FREE)], prompt="Deep.")
    examples, report = runs.export()
    assert report.replies_left_out == ({Reason.UNWRITABLE: 2} if depth > 200 else {})
    assert targets(examples)[0] == "Hello."


@pytest.mark.parametrize("name", ['a"b', "", "x\n", "\ud800"])
def test_a_wild_name_in_the_conversation_leaves_out_what_follows_it(runs: Runs, name: str) -> None:
    run_id = runs.run(call("double", n=1), call("wild"), "Done.")
    text = (runs.folder / f"{run_id}.jsonl").read_text(encoding="utf-8")
    changed = text.replace('"tool_name":"wild"', f'"tool_name":{json.dumps(name)}')
    (runs.folder / f"{run_id}.jsonl").write_text(changed, encoding="utf-8")
    examples, report = runs.export()
    assert targets(examples) == [[("double", {"n": 1})]]
    assert report.replies_left_out == {Reason.UNKNOWN_TOOL: 1, Reason.UNWRITABLE: 1}


def test_arguments_that_are_no_object_are_shown_as_the_local_model_shows_them(runs: Runs) -> None:
    runs.run(ToolCallPart("double", "[4"), "Sorry.")
    (example,), _ = runs.export()
    assert example.messages[1].calls[0].arguments == {}


def test_an_answer_of_blanks_is_empty(runs: Runs) -> None:
    runs.run(" \n")
    assert runs.export()[1].replies_left_out == {Reason.EMPTY: 1}


def test_a_text_too_long_to_be_read_again_is_left_out(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "LONGEST_LINE", 2000)
    runs.run("x" * 1000, tools=())
    runs.run("x" * 2000, tools=())
    examples, report = runs.export()
    assert len(examples) == 1 and report.replies_left_out == {Reason.UNWRITABLE: 1}
