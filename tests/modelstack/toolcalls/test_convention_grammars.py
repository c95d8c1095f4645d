"""What every convention promises: what its grammar lets through is read again, and content forges nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import tool_sets
import vocabularies
from driving import ENGINES, random_reply
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_tool_grammars import GOLD

from modelstack.inference.engine import ChoicePoint, Generation
from modelstack.inference.grammar import GrammarError
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls import (
    NO_TOOL,
    CompiledGrammar,
    GrammarCompiler,
    ResponseFormat,
    ResponseParseError,
    ToolSpec,
    tool_choices,
)
from modelstack.toolcalls.conventions import CONVENTIONS, JSON_LIST
from modelstack.toolcalls.free_form import read_free_reply
from modelstack.toolcalls.grammar.coverage import EngineName, UnsupportedSchemaError
from modelstack.toolcalls.grammar.tokens import TokenTable, is_set, legal_ids
from modelstack.toolcalls.grammar.tracking import TrackedGrammar
from modelstack.toolcalls.marks import Marks

NAMES = tuple(CONVENTIONS)
FOREIGN = tuple(name for name in NAMES if name != "ours")
WITH_OBJECTS = tuple(name for name in NAMES if CONVENTIONS[name].form.parameters is None)
BY_PARAMETER = tuple(name for name in NAMES if name not in WITH_OBJECTS)
AS_ARGUMENTS = tuple(name for name in BY_PARAMETER if CONVENTIONS[name].form.parameters.object_opening)  # type: ignore[union-attr]
"""Conventions that write objects as they write arguments."""
TRIGGERED = tuple(name for name in FOREIGN if CONVENTIONS[name].form.trigger)
X = {"type": "object", "properties": {"x": {"type": "string"}, "n": {"type": "integer"}}, "required": ["x"]}
TOOLS = (ToolSpec("get", "", X), ToolSpec("get_weather", "", X), ToolSpec("send", "", X))
in_every_convention = pytest.mark.parametrize("name", NAMES)
on_both_engines = pytest.mark.parametrize("engine", ENGINES)
with_and_without_marks = pytest.mark.parametrize("special", [True, False], ids=["marks", "plain text"])


@lru_cache
def vocabulary_of(name: str, special: bool) -> Vocabulary:
    """Return the small vocabulary, with a convention's marks as special tokens or without any."""
    small = vocabularies.small()
    marks = tuple(mark.encode() for mark in CONVENTIONS[name].marks) if special else ()
    marks = (*marks, b"", b"")  # unused ones, as many vocabularies have them
    n = len(small)
    return replace(
        small,
        token_bytes=small.token_bytes + marks,
        special_ids=small.special_ids | set(range(n, n + len(marks))),
        fingerprint="",
    )


@lru_cache
def compiler(name: str, special: bool, engine: EngineName) -> GrammarCompiler:
    return GrammarCompiler(vocabulary_of(name, special), engine, convention=CONVENTIONS[name])


def table(name: str, special: bool) -> TokenTable:
    vocabulary = vocabulary_of(name, special)
    return TokenTable(vocabulary, Marks(vocabulary, CONVENTIONS[name].marks))


def bound(name: str, special: bool, calls: list[tuple[str, Any]], tools: tuple[ToolSpec, ...] = ()) -> str:
    """Return calls with stand-ins for marks."""
    form = CONVENTIONS[name].form.bound(table(name, special).marks)
    return CONVENTIONS[name].render_calls(calls, tools, form)


def behind(compiled: CompiledGrammar, tokens: TokenTable, text: str) -> TrackedGrammar:
    """Return the grammar behind `text`; raises GrammarError where it is illegal."""
    grammar = compiled.start_tracked()
    for token in tokens.encode(text):
        grammar.advance(token)
    return grammar


@in_every_convention
@with_and_without_marks
@on_both_engines
def test_what_is_rendered_is_legal_and_is_read_again(name: str, special: bool, engine: EngineName) -> None:
    convention, tokens = CONVENTIONS[name], table(name, special)
    for tools in tool_sets.inline():
        compiled = compiler(name, special, engine).compile(ResponseFormat(tools))
        calls = [(tool.name, GOLD[tool.name]) for tool in tools]
        calls = calls[: convention.form.call_limit(len(calls))]
        grammar = behind(compiled, tokens, bound(name, special, calls, tools))
        assert grammar.accepting
        assert not grammar.lost
        parsed = compiled.parse(convention.render_calls(calls, tools))
        assert [(call, json.loads(arguments)) for call, arguments in parsed.calls] == calls
        assert compiled.violations(parsed) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc<>/"), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", WITH_OBJECTS)
@settings(max_examples=30, deadline=None)
@given(
    arguments=st.lists(
        st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), VALUES, max_size=3),
        min_size=1,
        max_size=3,
    )
)
def test_any_json_survives_the_round_trip(name: str, arguments: list[dict[str, Any]]) -> None:
    convention = CONVENTIONS[name]
    calls = [("get", each) for each in arguments][: convention.form.call_limit(3)]
    parsed = convention.parse(convention.render_calls(calls), ResponseFormat(TOOLS))
    assert [(call, json.loads(text)) for call, text in parsed.calls] == calls


@pytest.mark.parametrize("name", BY_PARAMETER)
@settings(max_examples=60, deadline=None)
@given(
    arguments=st.lists(
        st.dictionaries(st.text("abé_-.1", min_size=1, max_size=6), VALUES, max_size=3), min_size=1, max_size=3
    )
)
def test_any_declared_value_survives_the_round_trip(name: str, arguments: list[dict[str, Any]]) -> None:
    convention = CONVENTIONS[name]
    text = convention.form.parameters.text  # type: ignore[union-attr]
    assume(not text.is_raw or text.delimiter not in str(arguments))
    calls = [(f"tool_{at}", each) for at, each in enumerate(arguments)]
    tools = tuple(
        ToolSpec(
            tool, "", {"type": "object", "properties": {key: {"const": value} for key, value in each.items()}}
        )
        for tool, each in calls
    )
    parsed = convention.parse(convention.render_calls(calls), ResponseFormat(tools))
    assert [(call, json.loads(text)) for call, text in parsed.calls] == calls


@pytest.mark.parametrize("name", sorted(set(BY_PARAMETER) - set(AS_ARGUMENTS)))
@on_both_engines
def test_a_parameter_whose_name_could_be_taken_for_the_form_is_refused(name: str, engine: EngineName) -> None:
    taken = {"qwen3-coder": "a>\nb"}.get(name, "x=1, y")
    for parameter in (taken, "a\nb", "", *((")",) if "lfm2" in name else ())):
        schema = {"type": "object", "properties": {parameter: {"type": "string"}}}
        with pytest.raises(UnsupportedSchemaError, match="cannot be written in this convention"):
            compiler(name, True, engine).compile(ResponseFormat((ToolSpec("get", "", schema),)))


@pytest.mark.parametrize("name", AS_ARGUMENTS)
@with_and_without_marks
@on_both_engines
def test_a_name_that_could_be_taken_for_the_form_stands_between_delimiters(
    name: str, special: bool, engine: EngineName
) -> None:
    delimiter = CONVENTIONS[name].marks[2]
    names = ["a:b", "}", "", f"{delimiter}x", "plain", "x[0]"]
    inside = {"type": "object", "properties": {key: {"type": "integer"} for key in names}}
    schema = {"type": "object", "properties": {**inside["properties"], "inside": inside}}
    tools = (ToolSpec("get", "", schema),)
    arguments = {key: at for at, key in enumerate(names) if delimiter not in key}
    calls = [("get", {**arguments, "inside": arguments})]
    compiled = compiler(name, special, engine).compile(ResponseFormat(tools))
    assert behind(compiled, table(name, special), bound(name, special, calls, tools)).accepting
    text = CONVENTIONS[name].render_calls(calls, tools)
    assert f"{delimiter}a:b{delimiter}:0" in text and ",plain:4" in text
    ((_, read),) = compiled.parse(text).calls
    assert json.loads(read) == calls[0][1]


@pytest.mark.parametrize("name", AS_ARGUMENTS)
@with_and_without_marks
@on_both_engines
def test_a_text_holds_no_delimiter_and_so_forges_no_argument(name: str, special: bool, engine: EngineName) -> None:
    convention, tokens = CONVENTIONS[name], table(name, special)
    delimiter = convention.marks[2]
    compiled = compiler(name, special, engine).compile(ResponseFormat(TOOLS, answer=None))
    opened = bound(name, special, [("send", {"x": "@"})]).partition("@")[0]
    with pytest.raises(GrammarError):
        behind(compiled, tokens, f"{opened}a{delimiter}?")
    forged = f"a{delimiter},n:7,x:{delimiter}b"
    calls = [("send", {"x": forged})]
    assert behind(compiled, tokens, bound(name, special, calls)).accepting
    ((_, read),) = convention.parse(convention.render_calls(calls), ResponseFormat(TOOLS)).calls
    assert json.loads(read) == {"x": forged.replace(delimiter, delimiter[0] + "\\" + delimiter[1:])}


@pytest.mark.parametrize("name", AS_ARGUMENTS)
@with_and_without_marks
@on_both_engines
def test_members_that_are_not_declared_take_other_names_anywhere(
    name: str, special: bool, engine: EngineName
) -> None:
    labels = {"type": "object", "properties": {"b": {"type": "integer"}}, "additionalProperties": {"type": "null"}}
    schema = {"type": "object", "properties": {"labels": {**labels, "required": ["b"]}}, "required": ["labels"]}
    compiled = compiler(name, special, engine).compile(ResponseFormat((ToolSpec("get", "", schema),), answer=None))
    tokens = table(name, special)

    def written(members: str) -> str:
        form = CONVENTIONS[name].form.bound(tokens.marks)
        return f"{form.opening}get{{labels:{{{members}}}}}{form.closing}"

    for legal in ("b:1", "a:null,b:1,é c:null", "b:1,bb:null,a:null", "a:null,aa:null,b:1"):
        assert behind(compiled, tokens, written(legal)).accepting, legal
    for illegal in ("", "a:null", "b:null", "b:1,b:null", "b:1,a:1", "b:1,", "b:1,:null", "a,b:1"):
        with pytest.raises(GrammarError):
            behind(compiled, tokens, written(illegal))


@pytest.mark.parametrize("name", AS_ARGUMENTS)
def test_names_come_in_the_order_of_the_templates_whatever_the_schema_has(name: str) -> None:
    order = ["b", "A", "c"]
    inside = {"type": "object", "properties": {key: {"type": "boolean"} for key in order}}
    tool = ToolSpec("get", "", {**inside, "properties": {**inside["properties"], "B2": inside}})
    value = dict.fromkeys(order, True)
    text = CONVENTIONS[name].render_calls([("get", {**value, "B2": value})], (tool,))
    assert "{A:true,b:true,B2:{A:true,b:true,c:true},c:true}" in text
    compiled = compiler(name, False, "llguidance").compile(ResponseFormat((tool,)))
    assert behind(compiled, table(name, special=False), text).accepting
    with pytest.raises(GrammarError):
        behind(compiled, table(name, special=False), text.partition("{")[0] + "{b:true,A")


@pytest.mark.parametrize("name", BY_PARAMETER)
@pytest.mark.parametrize("limit", [{"minProperties": 2}, {"maxProperties": 1}])
def test_a_number_of_parameters_that_no_rule_counts_is_refused(name: str, limit: dict[str, int]) -> None:
    properties = {"x": {"type": "string"}, "y": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["x"]}
    with pytest.raises(UnsupportedSchemaError, match="cannot be enforced"):
        compiler(name, True, "llguidance").compile(ResponseFormat((ToolSpec("get", "", {**schema, **limit}),)))
    kept = {**schema, "minProperties": 1, "maxProperties": 2}
    assert compiler(name, True, "llguidance").compile(ResponseFormat((ToolSpec("get", "", kept),)))


def test_the_tokens_that_end_a_reply_of_calls_end_it_where_the_vocabulary_has_them() -> None:
    small = vocabularies.small()
    for name, end in (("functiongemma", b"<start_function_response>"), ("gemma4", b"<|tool_response>")):
        table = (*small.token_bytes, end)
        known = replace(small, token_bytes=table, special_ids=small.special_ids | {len(small)}, fingerprint="")
        assert CONVENTIONS[name].ending(known).end_ids == (*small.end_ids, len(small))
        assert CONVENTIONS[name].ending(known).fingerprint != known.fingerprint
        plain = replace(small, token_bytes=table, fingerprint="")
        assert CONVENTIONS[name].ending(plain) is plain
        assert CONVENTIONS["hermes"].ending(known) is known


@in_every_convention
@with_and_without_marks
@on_both_engines
def test_random_tokens_end_valid_within_the_budget(name: str, special: bool, engine: EngineName) -> None:
    vocabulary = vocabulary_of(name, special)
    rng = np.random.default_rng(11)
    kinds = set()
    sets = tool_sets.inline()[int(special) :: 2]  # each set with the marks or without them
    for i, tools in enumerate(sets):
        answer = None if i % 2 else "text"
        format_ = ResponseFormat(tools, answer=answer, parallel=i % 3 != 0, max_calls=3)
        compiled = compiler(name, special, engine).compile(format_)
        budget = max((160, 90)[i % 2], compiled.start().closing_reserve)
        text, grammar = random_reply(compiled, vocabulary, rng, budget, jump_ahead=i % 4 < 2)
        assert text is not None, f"cut at {budget} tokens: {tools[0].name}"
        assert not grammar.lost, text
        parsed = compiled.parse(text)
        kinds.add(parsed.kind)
        assert compiled.violations(parsed) == [], text
        if answer is None:
            assert parsed.kind == "calls"
    assert kinds == {"calls", "text"}


@pytest.mark.parametrize("name", FOREIGN)
@with_and_without_marks
@on_both_engines
def test_words_begin_like_no_call_and_hold_nothing_that_opens_one(
    name: str, special: bool, engine: EngineName
) -> None:
    tokens = table(name, special)
    compiled = compiler(name, special, engine).compile(ResponseFormat(TOOLS))
    form = CONVENTIONS[name].form
    for text in ("```json\n", "```\n{", '[{"name"', "{}", " hi", ""):
        with pytest.raises((GrammarError, AssertionError)):
            assert behind(compiled, tokens, text).accepting
    for text in ("hi", "`a` is 1", "``", "say { and [ and ```json", "a <tool"):
        assert behind(compiled, tokens, text).accepting, text
    if special and form.trigger:
        ids = tokens.vocabulary.encode(f"say {form.trigger}")
        grammar = compiled.start_tracked()
        with pytest.raises(GrammarError):
            for token in ids:
                grammar.advance(token)


@pytest.mark.parametrize("name", TRIGGERED)
@with_and_without_marks
@on_both_engines
def test_words_turn_into_calls_where_one_is_opened(name: str, special: bool, engine: EngineName) -> None:
    tokens, convention = table(name, special), CONVENTIONS[name]
    compiled = compiler(name, special, engine).compile(ResponseFormat(TOOLS))
    calls = [("send", {"x": "a"}), ("get", {"x": "b", "n": 2})]
    grammar = behind(compiled, tokens, "I look <it up.\n" + bound(name, special, calls))
    assert grammar.accepting
    assert not grammar.lost
    parsed = compiled.parse("I look <it up.\n" + convention.render_calls(calls))
    assert parsed.lead == "I look <it up.\n"
    assert [(call, json.loads(text)) for call, text in parsed.calls] == calls
    half = bound(name, special, calls)[: len(form_of(name, special).opening) + 3]
    assert not behind(compiled, tokens, "Well, " + half).accepting


def form_of(name: str, special: bool) -> Any:
    return CONVENTIONS[name].form.bound(table(name, special).marks)


@pytest.mark.parametrize("name", FOREIGN)
@on_both_engines
def test_a_mark_is_legal_where_the_form_has_it_and_nowhere_else(name: str, engine: EngineName) -> None:
    tokens = table(name, special=True)
    compiled = compiler(name, True, engine).compile(ResponseFormat(TOOLS, answer=None))
    text = bound(name, True, [("send", {"x": "a", "n": 7})])
    parameters = CONVENTIONS[name].form.parameters
    delimiter = "" if parameters is None else parameters.bound(tokens.marks).text.closing
    grammar = compiled.start_tracked()
    n_delimiters = 0
    for token in tokens.encode(text):
        wanted = {token} & set(tokens.marks.characters)
        if n_delimiters % 2:  # a text may end anywhere
            wanted.add(tokens.marks.ids[delimiter])
        assert {mark for mark in tokens.marks.characters if is_set(grammar.mask(), mark)} == wanted
        n_delimiters += tokens.marks.characters.get(token) == delimiter
        grammar.advance(token)
    with pytest.raises(GrammarError):
        key = '"x"' if parameters is None else parameters.key("x")
        inside = behind(compiled, tokens, text[: text.index("a", text.index(key) + len(key))])
        inside.advance(min(tokens.marks.characters, default=min(tokens.vocabulary.special_ids)))


@in_every_convention
@with_and_without_marks
@on_both_engines
def test_forced_tokens_are_what_the_masks_allow_one_by_one(name: str, special: bool, engine: EngineName) -> None:
    vocabulary = vocabulary_of(name, special)
    rng = np.random.default_rng(5)
    compiled = compiler(name, special, engine).compile(ResponseFormat(TOOLS[2:], answer=None))
    n_forced = 0
    for _ in range(5):
        grammar = compiled.start_tracked()
        for _ in range(30):
            for token in grammar.forced():
                assert legal_ids(grammar.mask(), len(vocabulary)).tolist() == [token]
                grammar.advance(token)
                n_forced += 1
            token = int(rng.choice(legal_ids(grammar.mask(), len(vocabulary))))
            if token in vocabulary.end_ids:
                break
            grammar.advance(token)
    assert n_forced >= 20


@in_every_convention
@with_and_without_marks
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), led=st.booleans())
def test_masses_of_choices_sum_to_one(name: str, special: bool, seed: int, led: bool) -> None:
    vocabulary, tokens, convention = vocabulary_of(name, special), table(name, special), CONVENTIONS[name]
    format_ = ResponseFormat(TOOLS)
    grammar = compiler(name, special, "llguidance").compile(format_).start()
    rng = np.random.default_rng(seed)
    wanted = [(str(rng.choice(["get", "get_weather", "send"])), {"x": "a"}) for _ in range(2)]
    wanted = wanted[: convention.form.call_limit(2)]
    lead = "Well. " if led and convention.form.trigger else ""
    reply = Generation()
    for step, token in enumerate(tokens.encode(lead + bound(name, special, wanted))):
        legal = legal_ids(grammar.mask(), len(vocabulary))
        probabilities = rng.dirichlet(np.full(len(legal), 0.3)).astype(np.float32)
        probabilities[legal == token] += np.float32(0.5)
        probabilities /= probabilities.sum()
        if grammar.choosing:
            reply.choices.append(ChoicePoint(step, legal.astype(np.int32), probabilities))
        reply.masked_logprobs.append(float(np.log(probabilities[legal == token][0])))
        reply.ids.append(token)
        reply.forced.append(len(legal) == 1)
        grammar.advance(token)
    choices = tool_choices(reply, vocabulary, format_, convention)
    assert [choice.name for choice in choices] == [call for call, _ in wanted]
    for choice in choices:
        assert choice.probability + sum(choice.alternatives.values()) == pytest.approx(1.0, abs=1e-4)
        assert 0 < choice.probability <= choice.p_call + 1e-6
    assert choices[0].p_call < 1
    assert (NO_TOOL,) in choices[0].alternatives or any(NO_TOOL in names for names in choices[0].alternatives)


@pytest.mark.parametrize("name", FOREIGN)
@with_and_without_marks
def test_tokens_of_a_call_in_another_form_stand_for_one_at_the_start_only(name: str, special: bool) -> None:
    tokens = table(name, special)
    compiled = compiler(name, special, "llguidance").compile(ResponseFormat(TOOLS))
    grammar = compiled.start_tracked()
    stand_in = grammar.stand_in
    assert stand_in is not None
    meant, token = stand_in
    assert not np.any(meant & grammar.mask())
    assert is_set(grammar.mask(), token)
    assert is_set(meant, tokens.vocabulary.encode("[")[0]) or CONVENTIONS[name].form.opening[0] == "["
    assert not is_set(meant, tokens.vocabulary.encode("h")[0])
    grammar.advance(tokens.vocabulary.encode("h")[0])
    assert grammar.stand_in is None
    assert (
        compiler(name, special, "llguidance").compile(ResponseFormat(TOOLS, answer=None)).start().stand_in is None
    )


def test_ours_has_no_stand_ins() -> None:
    assert compiler("ours", False, "llguidance").compile(ResponseFormat(TOOLS)).start().stand_in is None


@pytest.mark.parametrize("name", FOREIGN)
@on_both_engines
def test_a_text_that_the_grammar_allows_is_no_empty_reply(name: str, engine: EngineName) -> None:
    compiled = compiler(name, True, engine).compile(ResponseFormat(TOOLS))
    text = "\x1e"  # whitespace to Python alone
    assert behind(compiled, table(name, special=True), text).accepting
    assert compiled.parse(text).answer == text
    for blank in ("", " \n"):
        with pytest.raises(ResponseParseError):
            compiled.parse(blank)


@pytest.mark.parametrize("name", FOREIGN)
@on_both_engines
def test_words_are_the_abstention_where_a_convention_has_no_other(name: str, engine: EngineName) -> None:
    format_ = ResponseFormat(TOOLS, answer=None, abstain=True)
    compiled = compiler(name, True, engine).compile(format_)
    assert behind(compiled, table(name, special=True), "I cannot do that.").accepting
    parsed = compiled.parse("I cannot do that.")
    assert (parsed.abstained, parsed.answer) == (True, "I cannot do that.")
    must = compiler(name, True, engine).compile(ResponseFormat(TOOLS, answer=None))
    with pytest.raises(GrammarError):
        behind(must, table(name, special=True), "I")
    with pytest.raises(ResponseParseError):
        must.parse("I")


@in_every_convention
@on_both_engines
def test_structured_answers_stand_beside_calls(name: str, engine: EngineName) -> None:
    format_ = ResponseFormat(TOOLS, answer=X)
    compiled = compiler(name, True, engine).compile(format_)
    form = CONVENTIONS[name].form
    text = f'{form.result_prefix}{{"x"{form.notation.colon}"a"}}}}'
    assert behind(compiled, table(name, special=True), text).accepting
    assert compiled.parse(text).answer == {"x": "a"}
    calls = bound(name, True, [("get", {"x": "a"})])
    assert behind(compiled, table(name, special=True), calls).accepting


@pytest.mark.parametrize("name", FOREIGN)
def test_a_lenient_reader_takes_the_form_and_bare_or_fenced_json(name: str) -> None:
    convention, format_ = CONVENTIONS[name], ResponseFormat(TOOLS)
    calls = [("get", {"x": "a"})]
    for text in (
        convention.render_calls(calls),
        '```json\n{"name": "get", "arguments": {"x": "a"}}\n```',
        '{"name": "get", "arguments": {"x": "a"}}',
    ):
        (call,) = read_free_reply(text, format_, convention).calls
        assert (call[0], json.loads(call[1])) == calls[0]
    assert read_free_reply("No tool fits.", format_, convention).kind == "text"


@pytest.mark.parametrize("name", NAMES)
def test_replies_that_break_the_form_are_refused(name: str) -> None:
    convention, format_ = CONVENTIONS[name], ResponseFormat(TOOLS, max_calls=2)
    good = convention.render_calls([("get", {"x": "a"})])
    for text in (good[:-1], good + "x", convention.render_calls([("got", {"x": "a"})]), ""):
        with pytest.raises(ResponseParseError):
            convention.parse(text, format_)
    with pytest.raises(ResponseParseError):
        convention.parse(convention.render_calls([("get", {"x": "a"})] * 3), format_)


def test_keys_of_the_cache_tell_conventions_apart() -> None:
    format_ = ResponseFormat(TOOLS)
    vocabulary = vocabularies.small()
    keys = {GrammarCompiler(vocabulary, convention=CONVENTIONS[name]).cache_key(format_) for name in NAMES}
    assert len(keys) == len(NAMES)
    assert GrammarCompiler(vocabulary).convention is JSON_LIST


def test_a_text_is_read_as_what_its_schema_says() -> None:
    properties = {
        "zip": {"type": "string"},
        "either": {"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "integer"}]},
        "text": {"enum": ["1", "a"]},
        "n": {"type": ["number", "null"]},
        "free": {},
    }
    loop = {"anyOf": [{"$ref": "#/$defs/loop"}, {"$ref": "#/$defs/loop"}, {"type": "string"}]}
    tool = ToolSpec("get", "", {"type": "object", "properties": properties, "$defs": {"loop": loop}})
    values = {"zip": "007", "either": "1", "text": "1", "n": "2.5", "free": "True", "other": "x"}
    written = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    reply = f"<tool_call>\n<function=get>\n{written}</function>\n</tool_call>"
    ((_, arguments),) = CONVENTIONS["qwen3-coder"].parse(reply, ResponseFormat((tool,))).calls
    assert json.loads(arguments) == {
        **{"zip": "007", "either": 1, "text": "1", "n": 2.5, "free": True, "other": "x"},
    }


@pytest.mark.parametrize("name", BY_PARAMETER)
def test_lists_inside_each_other_without_end_are_refused_and_not_followed(name: str) -> None:
    form = CONVENTIONS[name].form
    assert form.parameters is not None
    deep = "[" * 100_000
    text = f"{form.opening}{form.name_prefix}get{form.name_suffix}{form.parameters.key('x')}{deep}"
    with pytest.raises(ResponseParseError):
        CONVENTIONS[name].parse(text, ResponseFormat(TOOLS))
