"""What is learnt from a template equals what the template renders, or is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.tokenizer.chat import ChatFormat, ChatMessage, Role
from modelstack.tokenizer.chat_template import TemplateNotComposable, learn_format
from modelstack.tokenizer.template_sandbox import TemplateError, compile_template
from tests.modelstack.tokenizer.templates import (
    CHATML,
    COMPOSABLE,
    FORGETFUL,
    GEMMA,
    LAST_TURN_SYSTEM,
    LLAMA3,
    MISTRAL,
)

BOS, EOS = "<s>", "</s>"


def rendering(template: str, messages: list[ChatMessage], *, add_generation_prompt: bool = False) -> str:
    render = compile_template(template, bos_token=BOS, eos_token=EOS)
    text = render([{"role": m.role, "content": m.content} for m in messages], add_generation_prompt)
    return text if text.startswith(BOS) else BOS + text


def learn(template: str) -> ChatFormat:
    return learn_format(template, bos_token=BOS, eos_token=EOS)


@st.composite
def alternating(draw: st.DrawFn) -> list[ChatMessage]:
    """A conversation that every template accepts, apart from the system prompt."""
    n_turns = draw(st.integers(1, 8))
    contents = draw(st.lists(st.text(max_size=30), min_size=n_turns, max_size=n_turns))
    roles: list[Role] = ["user" if i % 2 == 0 else "assistant" for i in range(n_turns)]
    return [ChatMessage(role, content) for role, content in zip(roles, contents, strict=True)]


@pytest.mark.parametrize("name", COMPOSABLE)
@settings(max_examples=40, deadline=None)
@given(messages=alternating(), system=st.none() | st.text(min_size=1, max_size=20))
def test_the_composition_equals_the_templates_own_rendering(
    name: str, messages: list[ChatMessage], system: str | None
) -> None:
    learnt = learn(COMPOSABLE[name])
    if system is not None and name != "mistral":
        messages = [ChatMessage("system", system), *messages]
    assert learnt.render(messages) == rendering(COMPOSABLE[name], messages)
    if messages[-1].role == "user":
        assert learnt.render(messages, add_generation_prompt=True) == rendering(
            COMPOSABLE[name], messages, add_generation_prompt=True
        )


def test_the_real_template_of_smollm2_is_learnt_with_its_default_system_prompt(smollm2_gguf: Path) -> None:
    from modelstack.inference.llama.model import LlamaWeights

    weights = LlamaWeights(smollm2_gguf)
    template = weights.chat_template()
    weights.free()
    assert template is not None
    learnt = learn_format(template)
    assert learnt.default_system == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert learnt.generation["tool"] == "<|im_start|>assistant\n"
    messages = [ChatMessage("user", "hi"), ChatMessage("assistant", "call"), ChatMessage("tool", "42")]
    render = compile_template(template, bos_token="", eos_token="")
    assert learnt.render(messages) == render([{"role": m.role, "content": m.content} for m in messages], False)


def test_a_begin_token_that_the_template_leaves_out_is_put_first() -> None:
    assert learn(CHATML).starts["user"] == "<s><|im_start|>user\n"
    assert learn(LLAMA3).starts["user"].count("<s>") == 1


def test_blanks_around_contents_are_dropped_where_the_template_drops_them() -> None:
    assert learn(LLAMA3).trimmed == {"system", "user", "assistant", "tool"}
    assert "system" not in learn(GEMMA).trimmed
    assert learn(CHATML).trimmed == frozenset()


def test_without_a_system_role_the_prompt_opens_the_first_user_turn() -> None:
    learnt = learn(MISTRAL)
    messages = [ChatMessage("system", "Be brief."), ChatMessage("user", "Hi")]
    assert learnt.render(messages) == "<s>[INST] Be brief.\n\nHi [/INST]"


def test_a_system_prompt_that_moves_is_not_used_as_the_template_has_it() -> None:
    learnt = learn(LAST_TURN_SYSTEM)
    messages = [
        ChatMessage("system", "S"),
        ChatMessage("user", "U"),
        ChatMessage("assistant", "A"),
        ChatMessage("user", "V"),
    ]
    assert learnt.render(messages) == "<s>[INST]S\n\nU[/INST]A</s>[INST]V[/INST]"


def test_without_a_tool_role_a_result_becomes_a_marked_user_turn() -> None:
    messages = [ChatMessage("user", "U"), ChatMessage("assistant", "A"), ChatMessage("tool", "42")]
    assert learn(MISTRAL).render(messages) == "<s>[INST] U [/INST] A</s>[INST] Tool result:\n42 [/INST]"
    assert (
        learn(GEMMA)
        .render(messages, add_generation_prompt=True)
        .endswith("<start_of_turn>user\nTool result:\n42<end_of_turn>\n<start_of_turn>model\n")
    )


def test_orders_that_the_template_forbids_are_joined_by_the_usual_openings() -> None:
    messages = [ChatMessage("user", "A"), ChatMessage("user", "B")]
    assert learn(MISTRAL).render(messages) == "<s>[INST] A [/INST][INST] B [/INST]"


def test_a_system_turn_that_the_format_cannot_place_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="put it first"):
        learn(MISTRAL).render_turn("system", "x", previous="user")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (FORGETFUL, "when a user turn follows|does not|cannot|ends with"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "once and in order"),
        ("{% if %}", "not a valid Jinja template"),
        ("{{ raise_exception('never') }}", "never"),
        ("{% for m in messages|reverse %}<{{ m.content }}>{% endfor %}", "in order"),
        ("x" * 200_000, "characters"),
    ],
    ids=["forgetful", "twice", "invalid", "refuses", "reversed", "long"],
)
def test_what_cannot_be_composed_is_refused_with_the_reason(template: str, reason: str) -> None:
    with pytest.raises(TemplateNotComposable, match=reason):
        learn(template)


HOSTILE = {
    "endless": "{% for i in range(1000) %}{% for j in range(1000) %}{% for k in range(1000) %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "long range": "{{ range(1000000000)|list }}",
    "repeat": "{{ 'a' * 1000000000 }}",
    "power": "{{ 2 ** 1000000000 }}",
    "pad": "{{ 'a'.ljust(1000000000) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "center": "{{ 'x'|center(1000000000) }}",
    "doubling": "{% set n=namespace(x='aa') %}{% for i in range(99) %}{% set n.x=n.x~n.x %}{% endfor %}{{ n.x }}",
    "doubling by plus": "{% set n=namespace(x='aa') %}{% for i in range(99) %}{% set n.x=n.x+n.x %}{% endfor %}",
    "nesting": "{% set n=namespace(x='aa') %}{% for i in range(99) %}{% set n.x=[n.x,n.x] %}{% endfor %}{{ n.x }}",
    "squaring": "{% set n=namespace(x=3) %}{% for i in range(99) %}{% set n.x=n.x*n.x %}{% endfor %}",
    "join": "{{ [1,2,3]|join('a' ~ 'b') }}{{ range(1000)|join(range(1000)|join(range(1000)|join('abc'))) }}",
    "replace": "{% set a='aaaaaaaaaa' %}{% set b=a|replace('a',a) %}{% set c=b|replace('a',b) %}"
    "{% set d=c|replace('a',c) %}{{ d }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__.keys() }}",
    "mutation": "{{ messages.append(1) }}",
    "file": "{% include '/etc/passwd' %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_soon_and_get_nothing(name: str) -> None:
    with pytest.raises(TemplateError):
        compile_template(HOSTILE[name], bos_token="", eos_token="")([{"role": "user", "content": "x"}], False)
