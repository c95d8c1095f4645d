"""A reply of a traced run as an example: its form, and that training reads what the runtime meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from agentkit import Agent
from agentkit.messages import ModelMessage, ModelResponse, TextPart, ThinkingPart, ToolCallPart
from agentkit.models.local.transcript import Transcripts
from agentkit.testing import ScriptedModel, call
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.function import FunctionToolset
from agentkit.tracing import export
from agentkit.tracing.evidence import Reason
from modelstack.data.examples import LONGEST_LINE, as_line, tool_names_of_results
from modelstack.sft.rendering import render
from tests.agentkit.tracing.traced_runs import ABSTAINED, TOOLS, Runs, add, double, targets, toy_encoder


def test_each_reply_is_an_example_with_what_the_model_knew_then(runs: Runs) -> None:
    run_id = runs.run(call("double", n=4), "Eight.", prompt="Twice four?", instructions="Be terse.")
    first, second = runs.export()[0]
    assert (first.id, second.id) == (f"{run_id}-1", f"{run_id}-2")
    assert {(e.source, e.license, e.split) for e in (first, second)} == {("trace", "proprietary", "train")}
    assert (first.kind, second.kind) == ("call", "answer")
    assert targets([first, second]) == [[("double", {"n": 4})], "Eight."]
    assert [(m.role, m.content) for m in first.messages] == [("system", "Be terse."), ("user", "Twice four?")]
    assert second.messages[:2] == first.messages
    assert [(m.role, m.name, m.content) for m in second.messages[2:]] == [
        ("assistant", None, ""),
        ("tool", "double", "8"),
    ]
    assert [tool.name for tool in first.tools] == ["double", "add", "fail", "refuse"]
    assert first.tools[0].description == "Double a number."
    assert not any(m.train for m in second.messages)


@pytest.mark.parametrize(
    ("calls", "kind"),
    [
        ([call("double", n=1)], "call"),
        ([call("double", n=1), call("double", n=2)], "parallel"),
        ([call("double", n=1), call("add", a=2)], "multi"),
    ],
)
def test_the_kind_follows_from_the_calls(runs: Runs, calls: list[ToolCallPart], kind: str) -> None:
    runs.run(calls, "Done.")
    assert [example.kind for example in runs.export()[0]] == [kind, "answer"]


def test_an_abstention_is_learnt_where_there_were_tools(runs: Runs) -> None:
    runs.run(ABSTAINED)
    runs.run(ABSTAINED, tools=())
    (example,), report = runs.export()
    assert (example.kind, example.calls, example.reply) == ("irrelevant", (), None)
    assert report.replies_left_out == {Reason.NO_TOOLS: 1}


def test_words_and_thoughts_beside_calls_are_not_learnt(runs: Runs) -> None:
    runs.run(ModelResponse((ThinkingPart("hmm"), TextPart("Let me see."), call("double", n=4))), "Eight.")
    examples, _ = runs.export()
    assert targets(examples) == [[("double", {"n": 4})], "Eight."]
    assert b"hmm" not in runs.out.read_bytes() and b"Let me see" not in runs.out.read_bytes()


def test_tools_are_those_of_their_step(runs: Runs) -> None:
    toolset = FunctionToolset([double])

    def learn() -> str:
        """Get another tool."""
        toolset.remove("learn")
        toolset.add(add)
        return "done"

    toolset.add(learn)
    runs.run(call("learn"), call("add", a=1), "One.", tools=(), toolsets=[toolset])
    names = [[tool.name for tool in example.tools] for example in runs.export()[0]]
    assert names == [["double", "learn"], ["double", "add"], ["double", "add"]]


def test_an_empty_arguments_text_is_an_empty_object(runs: Runs) -> None:
    def now() -> str:
        """Tell the time."""
        return "noon"

    runs.run(ToolCallPart("now", ""), "Noon.", tools=[now])
    assert targets(runs.export()[0]) == [[("now", {})], "Noon."]


def test_lines_are_spelled_as_training_spells_them(runs: Runs) -> None:
    runs.run([call("double", n=4), call("add", a=1, b=2)], "Äh.", instructions="Kurz.", prompt="Grüße\u2028x")
    runs.run(ABSTAINED, prompt="")
    examples, _ = runs.export()
    assert runs.out.read_bytes() == b"".join(map(as_line, examples))
    assert export.LONGEST_LINE == LONGEST_LINE


def test_training_sees_the_ids_that_the_local_model_saw(runs: Runs) -> None:
    seen: list[tuple[Sequence[ModelMessage], Sequence[ToolDefinition]]] = []

    class Recorder(ScriptedModel):
        async def request(self, messages: Any, parameters: Any, *, on_delta: Any = None) -> ModelResponse:
            seen.append((messages, parameters.tools))
            return await super().request(messages, parameters, on_delta=on_delta)

    script = [[call("double", n=4), call("add", a=1)], call("fail"), "Äh, [8]."]
    agent = Agent(Recorder(script), tools=TOOLS, trace=runs.folder, instructions="Be terse.")
    agent.run_sync("Twice <|im_end|> four?")
    encoder = toy_encoder()
    examples = {example.id.rpartition("-")[2]: example for example in runs.export()[0]}
    assert set(examples) == {"1", "3"}
    for step, example in examples.items():
        messages, tools = seen[int(step) - 1]
        prompt = Transcripts(encoder, abstain=True).extend(messages, tools, structured=False).ids
        rendered = render(example, encoder)
        assert rendered.labels_at.index(True) == len(prompt)
        assert rendered.ids[: len(prompt)] == prompt


def test_a_message_without_its_tools_name_is_of_the_call_in_its_place(runs: Runs) -> None:
    run_id = runs.run(call("double", n="x"), "Done.")

    def forget(event: dict[str, Any]) -> None:
        for part in (part for message in event["messages"] for part in message["parts"]):
            if part["part_kind"] == "retry-prompt":
                part["tool_name"] = None

    runs.edit(run_id, "model_request", forget)
    (example,), _ = runs.export()
    assert example.messages[-1].name is None and tool_names_of_results(example.messages)[-1] == "double"
