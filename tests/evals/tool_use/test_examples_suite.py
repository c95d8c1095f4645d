"""The suite on one's own examples: earlier turns are told, and only the model's reply is judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import UserError
from agentkit.messages import (
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.models.base import ModelSettings
from agentkit.testing import ScriptedModel, call
from evals.harness.suite import find_suite
from evals.tool_use.examples.suite import SUITE, conversation, load, score, solve
from modelstack.data.examples import Call, Example, Kind, Message, Tool, write_examples

RING = Tool(name="ring", parameters={"type": "object", "properties": {"door": {"type": "integer"}}})
KNOCK = Tool(name="knock")


def example(kind: Kind, *calls: Call, reply: str | None = None, **fields: Any) -> Example:
    given = {"messages": (Message(role="user", content="at door 2"),), "tools": (RING, KNOCK), **fields}
    return Example(id="one", source="own", license="Apache-2.0", kind=kind, calls=calls, reply=reply, **given)


async def judged(tmp_path: Path, of: Example, *reply: Any) -> tuple[float, dict[str, float]]:
    """Put an example to a model that gives `reply`."""
    path = tmp_path / "own.jsonl"
    write_examples(path, [of])
    (case,) = load({"file": str(path)})
    run = await solve(case, ScriptedModel(list(reply)), ModelSettings())
    found = score(case, run)
    return found.value, dict(found.numbers)


RIGHT = Call(name="ring", arguments={"door": 2})


@pytest.mark.anyio
async def test_calls_are_right_in_any_order_and_whatever_came_before(tmp_path: Path) -> None:
    earlier = (
        Message(role="user", content="at door 1"),
        Message(role="assistant", calls=(Call(name="ring", arguments={"door": 1}),)),
        Message(role="tool", content="rang"),
        Message(role="user", content="at door 2, then knock"),
    )
    both = example("multi", RIGHT, Call(name="knock"), messages=earlier)
    assert await judged(tmp_path, both, [call("knock"), call("ring", door=2)]) == (
        1.0,
        {"tool": 1.0, "first tool": 1.0},
    )
    assert await judged(tmp_path, both, call("ring", door=2)) == (0.0, {"tool": 0.0, "first tool": 1.0})
    assert await judged(tmp_path, both, [call("ring", door=3), call("knock")]) == (
        0.0,
        {"tool": 1.0, "first tool": 1.0},
    )


@pytest.mark.anyio
async def test_where_nothing_fits_an_explicit_abstention_is_counted_apart(tmp_path: Path) -> None:
    none = example("irrelevant")
    assert await judged(tmp_path, none, ModelResponse((), abstained=True)) == (
        1.0,
        {"tool": 1.0, "first tool": 1.0, "explicit": 1.0},
    )
    assert (await judged(tmp_path, none, "I cannot."))[1]["explicit"] == 0.0
    assert (await judged(tmp_path, none, call("knock")))[0] == 0.0


@pytest.mark.anyio
async def test_answers_in_words_are_only_held_to_calling_nothing(tmp_path: Path) -> None:
    words = example("answer", reply="It rang.")
    assert await judged(tmp_path, words, "Something else.") == (1.0, {"tool": 1.0, "first tool": 1.0})
    assert (await judged(tmp_path, words, call("knock")))[0] == 0.0


def test_turns_become_messages_and_each_result_answers_the_call_in_its_place() -> None:
    first, second = Call(name="ring", arguments={"door": 1}), Call(name="knock")
    messages = conversation(
        [
            Message(role="system", content="Be brief."),
            Message(role="user", content="Hello."),
            Message(role="assistant", content="Hello!"),
            Message(role="user", content="Ring and knock."),
            Message(role="assistant", calls=(first, second)),
            Message(role="tool", content="rang"),
            Message(role="tool", content="knocked"),
            Message(role="user", content="Thanks."),
        ]
    )
    assert messages == (
        ModelRequest((SystemPromptPart("Be brief."), UserPromptPart("Hello."))),
        ModelResponse((TextPart("Hello!"),)),
        ModelRequest((UserPromptPart("Ring and knock."),)),
        ModelResponse((ToolCallPart("ring", '{"door": 1}', "call_4_0"), ToolCallPart("knock", "{}", "call_4_1"))),
        ModelRequest(
            (
                ToolReturnPart("ring", "call_4_0", "rang"),
                ToolReturnPart("knock", "call_4_1", "knocked"),
                UserPromptPart("Thanks."),
            )
        ),
    )


def test_what_is_no_file_of_examples_is_told(tmp_path: Path) -> None:
    assert find_suite("examples") is SUITE
    with pytest.raises(UserError, match="-o file=EXAMPLES.jsonl"):
        load({})
    with pytest.raises(UserError, match="nearest: 'file'"):
        load({"fil": "x"})
    (tmp_path / "bad.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(UserError, match="line 1"):
        load({"file": str(tmp_path / "bad.jsonl")})
