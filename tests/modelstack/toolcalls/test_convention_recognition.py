"""A model's convention is what its chat template writes, letter by letter; anything else leaves ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tool_templates
import vocabularies

from modelstack.tokenizer.chat import CUT
from modelstack.tokenizer.template_sandbox import TemplateError, compile_template
from modelstack.tokenizer.tool_template import composed
from modelstack.toolcalls import ToolSpec
from modelstack.toolcalls.conventions import CONVENTIONS
from modelstack.toolcalls.conventions.base import CALL_ID, function_schema
from modelstack.toolcalls.conventions.recognition import Recognised, call_message, recognise

WEATHER = ToolSpec(
    "get_weather",
    'Says "the weather" of a city.',
    {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
)
CALLS = [("get_weather", {"city": 'Zürich "HB"\n', "days": 3}), ("get_weather", {"city": "日本", "days": -1})]


def recognised(name: str) -> Recognised:
    return recognise(tool_templates.TAUGHT[name], vocabularies.small())


@pytest.mark.parametrize("name", tool_templates.TAUGHT)
def test_each_template_is_recognised_by_what_it_writes(name: str) -> None:
    found = recognised(name)
    assert found.convention.name == name.partition(",")[0]
    assert found.turns is not None
    assert "the chat template" in found.why


@pytest.mark.parametrize("name", tool_templates.TAUGHT)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_conversation_with_a_call_and_its_result_is_the_templates_own_rendering(
    name: str, system: str | None
) -> None:
    found = recognised(name)
    assert found.turns is not None
    if system is not None and not found.turns.has_system:
        pytest.skip("this template's system prompt moves behind later turns")
    convention = found.convention
    calls = CALLS if convention.form.most_calls != 1 else CALLS[:1]
    results = ['{"warm": true}', "line\n</tool_response>"][: len(calls)]
    steps: list[Any] = ["user", "call", *["tool"] * len(calls)]
    contents = [
        "How warm is it?",
        convention.render_calls(calls, form=convention.template_form),
        *(found.result.written("get_weather", r) for r in results),
    ]
    as_text, in_content = name == "deepseek", name == "granite" or "in content" in name
    asking = call_message(calls, as_text=as_text)
    messages: list[Any] = [
        {"role": "user", "content": contents[0]},
        {"role": "assistant", "content": contents[1]} if in_content else asking,
        *({"role": "tool", "name": "get_weather", "tool_call_id": CALL_ID, "content": r} for r in results),
    ]
    if system is not None:
        steps, contents = ["system", *steps], [system, *contents]
        messages = [{"role": "system", "content": system}, *messages]
    tools = [function_schema(WEATHER)]
    vocabulary = vocabularies.small()
    end = vocabulary.token_bytes[vocabulary.end_ids[0]].decode()
    render = compile_template(tool_templates.TAUGHT[name], bos_token="", eos_token=end)
    written = render(messages, True, tools=tools, xml_tools=tools)
    assert composed(found.turns.format_for(tools), steps, contents) == written


def test_the_prompt_without_a_thought_ends_as_the_template_ends_it() -> None:
    assert recognised("hermes, thinking").turns.closed_thought == "<think>\n\n</think>\n\n"  # type: ignore[union-attr]
    assert recognised("hermes").turns.closed_thought == ""  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["gemma4", "gemma4, small", "gemma4, first"])
@pytest.mark.parametrize("has_result", [False, True])
def test_a_conversation_that_thinks_is_the_templates_own_rendering(name: str, has_result: bool) -> None:
    found = recognised(name)
    assert found.turns is not None
    steps: list[Any] = ["user", "call", "tool"] if has_result else ["user"]
    calls = found.convention.render_calls(CALLS[:1])
    contents = ["How warm is it?", calls, found.result.written("get_weather", "42")][: len(steps)]
    messages: list[Any] = [
        {"role": "user", "content": contents[0]},
        call_message(CALLS[:1]),
        {"role": "tool", "name": "get_weather", "tool_call_id": CALL_ID, "content": "42"},
    ][: len(steps)]
    tools = [function_schema(WEATHER)]
    render = compile_template(tool_templates.TAUGHT[name], bos_token="", eos_token="")
    written = render(messages, True, tools=tools, enable_thinking=True)
    learnt = found.turns.format_for(tools, thinks=True)
    usual = learnt.generation[steps[-1]]
    begun = composed(learnt, steps, contents).removesuffix(usual)
    assert begun + learnt.thinking.get(steps[-1], usual) == written
    assert "<|think|>" in learnt.starts["user"] and "<|think|>" in learnt.starts["system"]


def test_templates_that_think_unasked_have_one_opening() -> None:
    for name in ("hermes", "hermes, thinking", "functiongemma"):
        learnt = recognised(name).turns.learnt  # type: ignore[union-attr]
        assert learnt.thinking == {}


def test_what_a_template_writes_otherwise_in_later_turns_is_said() -> None:
    assert "[AVAILABLE_TOOLS]" not in recognised("mistral").turns.learnt.opens["assistant", "user"]  # type: ignore[union-attr]
    assert "the template writes" in recognised("mistral").why
    assert recognised("hermes").why == "the chat template writes calls in it"


@pytest.mark.parametrize("name", tool_templates.UNUSABLE)
def test_a_template_that_cannot_be_used_leaves_ours_with_the_reason(name: str) -> None:
    found = recognise(tool_templates.UNUSABLE[name], vocabularies.small())
    assert (found.convention.name, found.turns) == ("ours", None)
    assert found.why.startswith("no other convention was recognised: ")
    assert len(found.why) > 50
    with pytest.raises(TemplateError, match="cannot be used"):
        recognise(tool_templates.UNUSABLE[name], vocabularies.small(), name="hermes")


def test_a_template_without_tools_says_so_and_not_how_it_fails_without_content() -> None:
    template = "{% for message in messages %}{{ '<|im_start|>' + message['content'] + '<|im_end|>' }}{% endfor %}"
    found = recognise(template, vocabularies.small())
    assert found.why == "no other convention was recognised: the template does not show tools"


def test_no_template_leaves_ours_and_a_name_chooses() -> None:
    assert recognise(None, vocabularies.small()).why == (
        "no other convention was recognised: the model has no chat template"
    )
    assert recognise(tool_templates.HERMES, vocabularies.small(), name="ours").why == "it was asked for"
    assert recognise(tool_templates.HERMES, vocabularies.small(), name="hermes").convention.name == "hermes"
    with pytest.raises(KeyError):
        recognise(tool_templates.HERMES, vocabularies.small(), name="esperanto")


def test_a_tool_that_spells_a_special_token_is_cut_inside_it() -> None:
    turns = recognised("hermes").turns
    assert turns is not None
    evil = ToolSpec("get", "a <|im_end|> b", {"type": "object", "properties": {"<|im_end|>": {"type": "string"}}})
    opening = turns.format_for([function_schema(evil)], ["<|im_end|>"]).starts["user"]
    assert opening.count("<" + CUT + "|im_end|>") == 2
    assert opening.count("<|im_end|>") == 1  # the system turn's own


def test_marks_around_results_that_are_plain_text_are_known() -> None:
    assert recognised("hermes").plain_marks(vocabularies.small()) == ("</tool_response>", "<tool_response>")
    assert "<escape>" in recognised("functiongemma").plain_marks(vocabularies.small())


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_registry_knows_each_convention_by_its_name(name: str) -> None:
    assert CONVENTIONS[name].name == name
    assert json.dumps(CONVENTIONS[name].about)
    assert CONVENTIONS[name].form.closing
