"""What a compiled grammar promises, on both engines."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tool_sets
import vocabularies
from driving import ENGINES, accepts, after, compiler, end_tokens_match, may_follow, random_reply
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.inference.grammar import GrammarError
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls import (
    GrammarCompiler,
    ResponseFormat,
    ToolSpec,
    parse_response,
    render_answer,
    render_calls,
)
from modelstack.toolcalls.grammar.coverage import EngineName
from modelstack.toolcalls.grammar.tokens import is_set, legal_ids

S = {"type": "string"}
X = {"type": "object", "properties": {"x": S, "n": {"type": "integer"}}, "required": ["x"]}
TOOLS = (ToolSpec("get", "", X), ToolSpec("get_weather", "", X), ToolSpec("send", "", X))
on_both_engines = pytest.mark.parametrize("engine", ENGINES)
GOLD: dict[str, Any] = {
    "read_file": {"path": "a/b.txt"},
    "write_file": {"path": "x", "content": 'line\n"quoted" \\ \t é 日本 😀 \x01\x7f'},
    "get": {"x": ""},
    "get_weather": {"city": "Paris", "days": -3},
    "get_we": {},
    "add": {"a": 1.5, "b": -2e10},
    "now": {},
    "tree": {
        "root": {"label": "a", "child": {"label": "b", "more": [{"label": "c"}, {"label": "d", "more": []}]}}
    },
    "search": {"query": "abc", "limit": 0, "site": "b.org"},
    "set_mode": {"mode": {"level": 2}},
    "tags": {"tags": ["a", "b", "c"]},
    "point": {"at": [1, -0.5]},
    "book": {"date": "2024-02-29", "email": "a.b@c-d.org"},
    "plate": {"code": "AB-123"},
    "note": {"text": "twelve chars"},
    "either": {"v": {"k": "x"}},
    "shape": {"s": {"kind": "box", "w": 1, "h": 2}},
    "meta": {"labels": {"a": "b", "é\n": ""}, "free": {"x": [1, {"y": None}]}},
    "merged": {"a": "x", "b": 1},
    "wide": {f"field_{i}": i % 2 == 0 for i in range(8)},
    "deep": {"a": {"b": {"c": {"d": [1, 2]}}}},
    "quoted": {'a"b\\c': "x", "é": "tab\there"},
    "anything": {"v": [None, True, {"a": "b"}, "", -1.5]},
    "last.one/v2": {"n": 100},
}
WRONG: dict[str, list[Any]] = {
    "read_file": [{}, {"path": 1}, {"path": "a", "x": 1}],
    "get_we": [{"x": 1}],
    "tree": [{"root": {}}, {"root": {"label": "a", "child": {"label": 1}}}],
    "search": [{"query": "ab"}, {"query": "abc", "site": "c.org"}],
    "set_mode": [{"mode": "offf"}, {"mode": False}, {"mode": {"level": 3}}],
    "tags": [{"tags": ["a"]}, {"tags": ["a"] * 5}],
    "point": [{"at": [1]}, {"at": [1, 2, 3]}],
    "book": [{"date": "2023-02-29", "email": "a@b.c"}, {"date": "2024-01-01", "email": "a@b"}],
    "plate": [{"code": "AB-1234"}, {"code": "ab-123"}],
    "note": [{"text": "thirteen char"}, {"text": 1}],
    "either": [{"v": {"k": 1}}, {"v": True}, {"v": [1]}],
    "shape": [{"s": {"kind": "box", "r": 1}}, {"s": {"kind": "ball"}}],
    "meta": [{"labels": {"a": 1}}],
    "last.one/v2": [{"n": 11}, {"n": 1000}, {"n": "1"}],
}


@on_both_engines
@pytest.mark.parametrize("tools", tool_sets.inline(), ids=lambda tools: tools[0].name)
def test_gold_calls_are_legal_and_wrong_ones_are_not(engine: EngineName, tools: tuple[ToolSpec, ...]) -> None:
    format_ = ResponseFormat(tools)
    compiled = compiler(engine).compile(format_)
    every = [(tool.name, GOLD[tool.name]) for tool in tools]
    assert accepts(compiled, render_calls(every, tools))
    for tool in tools:
        assert accepts(compiled, render_calls([(tool.name, GOLD[tool.name])], tools))
        for wrong in WRONG.get(tool.name, []):
            text = render_calls([(tool.name, wrong)], tools)
            assert not accepts(compiled, text), text
            assert compiled.violations(parse_response(text, format_))


@on_both_engines
def test_the_recogniser_follows_every_gold_call(engine: EngineName) -> None:
    for tools in tool_sets.inline():
        compiled = compiler(engine).compile(ResponseFormat(tools))
        for tool in tools:
            assert not after(compiled, render_calls([(tool.name, GOLD[tool.name])], tools)).lost


@on_both_engines
@pytest.mark.parametrize(
    ("options", "legal", "illegal"),
    [
        (
            {},
            ["hi", 'say "[]"\n\n{', '[{"name":"get","arguments":{"x":""}}]'],
            ["[]", " hi", "\thi", "{", '{"result":1}'],
        ),
        ({"abstain": True}, ["[]", "hi"], ["[ ]", "[],"]),
        ({"answer": None}, ['[{"name":"send","arguments":{"x":"a","n":1}}]'], ["hi", "[]"]),
        (
            {"answer": X},
            ['{"result":{"x":"a"}}'],
            ["hi", '{"result":{}}', '{"x":"a"}', '{"result":{"x":"a"}} '],
        ),
        (
            {"parallel": False},
            ['[{"name":"get","arguments":{"x":""}}]'],
            ['[{"name":"get","arguments":{"x":""}},{"name":"get","arguments":{"x":""}}]'],
        ),
        (
            {"max_calls": 2},
            ['[{"name":"get","arguments":{"x":""}},{"name":"get","arguments":{"x":""}}]'],
            ["[" + ",".join(['{"name":"get","arguments":{"x":""}}'] * 3) + "]"],
        ),
    ],
)
def test_each_option_of_a_format_allows_its_forms_only(
    engine: EngineName, options: dict[str, Any], legal: list[str], illegal: list[str]
) -> None:
    compiled = compiler(engine).compile(ResponseFormat(TOOLS, **options))
    assert [text for text in legal if not accepts(compiled, text)] == []
    assert [text for text in illegal if accepts(compiled, text)] == []


@on_both_engines
def test_formats_without_tools_allow_answers_only(engine: EngineName) -> None:
    assert accepts(compiler(engine).compile(ResponseFormat(abstain=True)), "[]")
    assert not may_follow(compiler(engine).compile(ResponseFormat()), "", "[")
    assert accepts(compiler(engine).compile(ResponseFormat(answer={"enum": [1, 12]})), '{"result":1}')


@on_both_engines
def test_white_space_between_tokens_is_illegal(engine: EngineName) -> None:
    compiled = compiler(engine).compile(ResponseFormat(TOOLS, answer=None))
    assert not may_follow(compiled, "[", " ")
    assert not may_follow(compiled, '[{"name":"get","arguments":{', "\n")
    assert not may_follow(compiled, '[{"name":"get","arguments":{"x":', " ")


@on_both_engines
def test_a_tool_that_is_not_there_cannot_be_written(engine: EngineName) -> None:
    fewer = compiler(engine).compile(ResponseFormat(TOOLS[:1], answer=None))
    assert may_follow(compiler(engine).compile(ResponseFormat(TOOLS, answer=None)), '[{"name":"', "send")
    assert not may_follow(fewer, '[{"name":"', "s")
    assert not may_follow(fewer, '[{"name":"get', "_")


@on_both_engines
def test_control_tokens_are_never_legal_and_their_text_is_only_text(engine: EngineName) -> None:
    vocabulary = vocabularies.small()
    compiled = compiler(engine).compile(ResponseFormat(TOOLS))
    grammar = after(compiled, "a <|im_end|> b")
    assert grammar.accepting
    for place in (
        compiled.start_tracked(),
        grammar,
        after(compiled, '[{"name":"get","arguments":{"x":"<|im_'),
    ):
        mask = place.mask()
        assert not any(is_set(mask, i) for i in vocabulary.special_ids - set(vocabulary.end_ids))
        assert end_tokens_match(place, vocabulary)
        with pytest.raises(GrammarError):
            place.advance(min(vocabulary.special_ids))


@on_both_engines
def test_end_tokens_are_legal_exactly_where_a_reply_may_end(engine: EngineName) -> None:
    vocabulary = vocabularies.small()
    compiled = compiler(engine).compile(ResponseFormat(TOOLS, abstain=True))
    text = render_calls([("get", {"x": "é日"}), ("send", {"x": "", "n": 10})], TOOLS)
    for reply in (text, "[]", "hi é"):
        grammar = compiled.start_tracked()
        for token in vocabulary.encode(reply):
            assert end_tokens_match(grammar, vocabulary)
            grammar.advance(token)
        assert grammar.accepting
        assert end_tokens_match(grammar, vocabulary)
        assert grammar.finished == (reply != "hi é")
        grammar.advance(vocabulary.end_ids[1])
        assert grammar.finished
        assert legal_ids(grammar.mask(), len(vocabulary)).tolist() == sorted(vocabulary.end_ids)
        grammar.rollback(1)
        assert grammar.finished == (reply != "hi é")


@on_both_engines
def test_an_illegal_token_raises_and_changes_nothing(engine: EngineName) -> None:
    vocabulary = vocabularies.small()
    grammar = after(compiler(engine).compile(ResponseFormat(TOOLS, answer=None)), '[{"name":"get')
    before = grammar.mask().copy()
    for illegal in (vocabulary.encode("x")[0], vocabulary.end_ids[0], len(vocabulary), -1):
        with pytest.raises(GrammarError):
            grammar.advance(illegal)
    assert np.array_equal(grammar.mask(), before)
    for token in vocabulary.encode('","arguments":{"x":""}}]'):
        grammar.advance(token)
    assert grammar.finished


@on_both_engines
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_rolling_back_is_the_same_as_never_having_gone(engine: EngineName, seed: int, data: Any) -> None:
    vocabulary = vocabularies.small()
    rng = np.random.default_rng(seed)
    sets = tool_sets.inline()
    compiled = compiler(engine).compile(ResponseFormat(sets[seed % len(sets)], abstain=True))
    grammar, taken = compiled.start_tracked(), []
    for _ in range(25):
        token = int(rng.choice(legal_ids(grammar.mask(), len(vocabulary))))
        if token in vocabulary.end_ids:
            break
        grammar.advance(token)
        taken.append(token)
    back = data.draw(st.integers(0, len(taken)))
    grammar.rollback(back)
    fresh = compiled.start_tracked()
    for token in taken[: len(taken) - back]:
        fresh.advance(token)
    assert np.array_equal(grammar.mask(), fresh.mask())
    assert np.array_equal(grammar.closing(), fresh.closing())
    assert grammar.forced() == fresh.forced()
    assert (grammar.accepting, grammar.finished, grammar.choosing) == (
        fresh.accepting,
        fresh.finished,
        fresh.choosing,
    )
    assert grammar.closing_reserve == fresh.closing_reserve


def test_rolling_back_too_far_is_an_error() -> None:
    grammar = compiler("llguidance").compile(ResponseFormat(TOOLS)).start()
    with pytest.raises(GrammarError):
        grammar.rollback(1)


@on_both_engines
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_forced_tokens_are_what_the_masks_allow_one_by_one(engine: EngineName, seed: int) -> None:
    vocabulary = vocabularies.small()
    rng = np.random.default_rng(seed)
    sets = tool_sets.inline()
    grammar = compiler(engine).compile(ResponseFormat(sets[seed % len(sets)], answer=None)).start_tracked()
    for _ in range(40):
        forced = grammar.forced()
        for token in forced:
            assert legal_ids(grammar.mask(), len(vocabulary)).tolist() == [token]
            grammar.advance(token)
        token = int(rng.choice(legal_ids(grammar.mask(), len(vocabulary))))
        if token in vocabulary.end_ids:
            return
        grammar.advance(token)


@on_both_engines
def test_forced_text_is_tokenised_as_the_model_would(engine: EngineName) -> None:
    vocabulary = vocabularies.small()
    grammar = compiler(engine).compile(ResponseFormat(TOOLS[2:], answer=None)).start()
    forced = grammar.forced()
    text = vocabulary.decode(forced)
    assert '[{"name":"send","arguments":{"x":"'.startswith(text)
    assert len(text) >= 30
    assert forced == vocabulary.encode('[{"name":"send","arguments":{"x":"')[: len(forced)]


@on_both_engines
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), steps=st.integers(0, 40))
def test_closing_is_legal_and_ends_within_the_reserve(engine: EngineName, seed: int, steps: int) -> None:
    vocabulary = vocabularies.small()
    rng = np.random.default_rng(seed)
    sets = tool_sets.inline()
    compiled = compiler(engine).compile(ResponseFormat(sets[seed % len(sets)], answer=None))
    grammar, written = compiled.start_tracked(), b""
    for _ in range(steps):
        token = int(rng.choice(legal_ids(grammar.mask(), len(vocabulary))))
        if token in vocabulary.end_ids:
            return
        grammar.advance(token)
        written += vocabulary.token_bytes[token]
    reserve = grammar.closing_reserve
    for _ in range(reserve):
        closing = grammar.closing()
        assert not np.any(closing & ~grammar.mask())
        token = int(rng.choice(legal_ids(grammar.closing(), len(vocabulary))))
        if token in vocabulary.end_ids:
            break
        grammar.advance(token)
        written += vocabulary.token_bytes[token]
    assert grammar.accepting
    assert compiled.violations(compiled.parse(written.decode())) == []


@on_both_engines
def test_a_recursive_value_is_closed_without_going_deeper(engine: EngineName) -> None:
    vocabulary = vocabularies.small()
    compiled = compiler(engine).compile(ResponseFormat(tool_sets.inline()[4], answer=None))
    grammar = after(compiled, '[{"name":"tree","arguments":{"root":{"label":"a","child":{"label":"b"')
    written = ""
    while not grammar.finished:
        token = int(legal_ids(grammar.closing(), len(vocabulary))[0])
        grammar.advance(token)
        written += vocabulary.decode([token])
    assert written == "}}}}]"


@on_both_engines
def test_a_half_written_pattern_is_closed_by_its_shortest_rest(engine: EngineName) -> None:
    vocabulary = vocabularies.small()
    schema = {"type": "object", "properties": {"u": {"type": "string", "format": "uuid"}}, "required": ["u"]}
    compiled = compiler(engine).compile(ResponseFormat((ToolSpec("t", "", schema),), answer=None))
    start = '[{"name":"t","arguments":{"u":"123e4567-e8'
    grammar, written = after(compiled, start), start
    for _ in range(grammar.closing_reserve):
        if grammar.finished:
            break
        token = int(legal_ids(grammar.closing(), len(vocabulary))[0])
        grammar.advance(token)
        written += vocabulary.decode([token])
    assert compiled.violations(compiled.parse(written)) == []


@on_both_engines
def test_choosing_is_true_from_the_start_to_the_end_of_each_name(engine: EngineName) -> None:
    compiled = compiler(engine).compile(ResponseFormat(TOOLS, abstain=True))
    text = render_calls([("get", {"x": "a"}), ("get_weather", {"x": "b"})], TOOLS)
    vocabulary = vocabularies.small()
    grammar = compiled.start_tracked()
    seen = []
    for character in text:
        seen.append("1" if grammar.choosing else "0")
        for token in vocabulary.encode(character):
            grammar.advance(token)
    expected = "".join(
        "1" if naming else "0"
        for part, naming in [
            ('[{"name":"get"', True),
            (',"arguments":{"x":"a"}},', False),
            ('{"name":"get_weather"', True),
            (',"arguments":{"x":"b"}}]', False),
        ]
        for _ in part
    )
    assert "".join(seen) == expected
    assert compiled.start().choosing
    assert not after(compiled, "hello").choosing
    assert after(compiled, "[").choosing


@on_both_engines
def test_the_decision_between_a_call_and_an_answer_falls_at_the_bracket(engine: EngineName) -> None:
    vocabulary = vocabularies.small()
    compiled = compiler(engine).compile(ResponseFormat(TOOLS, abstain=True))
    decision = compiled.start().decision
    assert decision is not None
    texts = {vocabulary.token_bytes[i] for i in legal_ids(decision & compiled.start().mask(), len(vocabulary))}
    assert b"[" in texts
    assert all(text.startswith(b"[") and not text.startswith(b"[]") for text in texts)
    behind = after(compiled, "[").decision
    assert behind is not None
    assert is_set(behind, vocabulary.encode("{")[0])
    assert not is_set(behind, vocabulary.encode("]")[0])
    for elsewhere in ('[{"name":"', "hi", '[{"name":"get","arguments":{"x":"'):
        assert after(compiled, elsewhere).decision is None
    assert compiler(engine).compile(ResponseFormat(TOOLS, answer=None)).start().decision is None
    assert compiler(engine).compile(ResponseFormat()).start().decision is None


def test_lm_format_enforcer_takes_properties_in_any_order_once_each_and_all_required() -> None:
    schema = {"type": "object", "properties": {"a": S, "b": S, "c": S}, "required": ["a", "c"]}
    tools = (ToolSpec("t", "", schema),)
    free = compiler("lm-format-enforcer").compile(ResponseFormat(tools, answer=None))
    fixed = compiler("llguidance").compile(ResponseFormat(tools, answer=None))
    opening = '[{"name":"t","arguments":'
    assert accepts(free, opening + '{"c":"","a":"","b":""}}]')
    assert not accepts(fixed, opening + '{"c":"","a":"","b":""}}]')
    for wrong in ('{"a":"","a":"","c":""}', '{"c":"","b":""}', '{"a":"","c":"",}'):
        assert not accepts(free, opening + wrong + "}]")


@on_both_engines
def test_a_number_that_no_double_holds_is_never_offered(engine: EngineName) -> None:
    vocabulary = vocabularies.small()
    tools = (ToolSpec("t", "", {"type": "object", "properties": {"v": {"type": "number"}}, "required": ["v"]}),)
    compiled = compiler(engine).compile(ResponseFormat(tools, answer=None))
    opening = '[{"name":"t","arguments":{"v":'
    digit = vocabulary.encode("9")[0]
    assert is_set(after(compiled, opening + "9e30").mask(), digit) is False
    assert is_set(after(compiled, opening + "9e3").mask(), digit) is True


@on_both_engines
def test_a_recursive_reference_to_the_whole_document_works(engine: EngineName) -> None:
    schema = {"type": "object", "properties": {"v": S, "next": {"$ref": "#"}}, "required": ["v"]}
    compiled = compiler(engine).compile(ResponseFormat((ToolSpec("t", "", schema),), answer=None))
    assert accepts(compiled, '[{"name":"t","arguments":{"v":"a","next":{"v":"b","next":{"v":"c"}}}}]')
    assert not accepts(compiled, '[{"name":"t","arguments":{"v":"a","next":{"w":"b"}}}]')


@on_both_engines
def test_structured_answers_follow_their_schema(engine: EngineName) -> None:
    answer = {
        "type": "object",
        "properties": {"total": {"type": "integer"}, "items": {"type": "array", "items": S}},
        "required": ["total"],
    }
    format_ = ResponseFormat(TOOLS, answer=answer)
    compiled = compiler(engine).compile(format_)
    text = render_answer({"items": ["a"], "total": 3}, format_)
    assert text == '{"result":{"total":3,"items":["a"]}}'
    assert accepts(compiled, text)
    assert compiled.violations(parse_response(text, format_)) == []
    assert compiled.violations(parse_response('{"result":{"total":"3"}}', format_)) != []


@on_both_engines
def test_compiling_twice_gives_the_cached_grammar_and_the_cache_forgets_the_oldest(
    engine: EngineName,
) -> None:
    small = GrammarCompiler(vocabularies.small(), engine, cache_size=2)
    formats = [ResponseFormat(TOOLS[:k]) for k in (1, 2, 3)]
    first = small.compile(formats[0])
    assert small.compile(ResponseFormat(TOOLS[:1])) is first
    small.compile(formats[1])
    small.compile(formats[2])
    assert small.compile(formats[0]) is not first


def test_keys_of_the_cache_tell_engine_policy_and_format_apart() -> None:
    format_ = ResponseFormat(TOOLS)
    keys = {compiler(engine, policy).cache_key(format_) for engine in ENGINES for policy in ("refuse", "check")}
    assert len(keys) == 4
    assert compiler("llguidance").cache_key(ResponseFormat(TOOLS[:2])) not in keys


@pytest.mark.parametrize("arguments", [{"engine": "outlines"}, {"unsupported": "ignore"}])
def test_unknown_engines_and_policies_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not known"):
        GrammarCompiler(vocabularies.small(), **arguments)


def test_a_vocabulary_that_cannot_write_json_is_refused() -> None:
    poor = Vocabulary((b"a", b"b", b"</s>"), frozenset({2}), (2,), lambda text: [0] * len(text))
    with pytest.raises(ValueError, match="no token for"):
        GrammarCompiler(poor)


def test_importing_the_package_loads_neither_engine() -> None:
    code = (
        "import sys, json, modelstack.toolcalls;"
        "engines = ('llguidance', 'lmformatenforcer', 'torch', 'llama_cpp');"
        "print(json.dumps([name for name in engines if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@on_both_engines
def test_a_hostile_pattern_in_a_schema_costs_no_more_than_another(engine: EngineName) -> None:
    schema = {
        "type": "object",
        "properties": {"p": {"type": "string", "pattern": "^(a+)+$"}},
        "required": ["p"],
    }
    format_ = ResponseFormat((ToolSpec("t", "", schema),), answer=None)
    compiled = compiler(engine).compile(format_)
    text, _ = random_reply(compiled, vocabularies.small(), np.random.default_rng(0), 120)
    assert text is not None
    assert compiled.violations(compiled.parse(text)) == []
