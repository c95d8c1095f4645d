from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
import vocabularies
from driving import ENGINES, compiler
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.inference.engine import ChoicePoint, Generation
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls import NO_TOOL, ResponseFormat, ToolSpec, render_calls, tool_choices
from modelstack.toolcalls.grammar.coverage import EngineName
from modelstack.toolcalls.grammar.tokens import legal_ids
from modelstack.toolcalls.prior.choice import ToolBias
from modelstack.toolcalls.prior.lexical import DecisionPrior, lexical_scores

NOTHING = {"type": "object", "properties": {}}
TOOLS = tuple(ToolSpec(name, "", NOTHING) for name in ("get", "get_weather", "send"))
PIECES = [
    "[",
    '[{"name":"',
    '{"name":"',
    "get",
    "get_",
    "weather",
    "_weather",
    "send",
    "se",
    '"',
    '","',
    "arguments",
    '":{}}',
    "]",
    "],",
    ",",
    "hi",
    "ge",
    "t",
    "nd",
    "[]",
]
VOCABULARY = Vocabulary((*(piece.encode() for piece in PIECES), b"<end>"), frozenset({21}), (21,), lambda text: [])


def ids(*pieces: str) -> list[int]:
    return [PIECES.index(piece) for piece in pieces]


def point(step: int, masses: dict[str, float]) -> ChoicePoint:
    probabilities = np.array(list(masses.values()), dtype=np.float32)
    return ChoicePoint(step, np.array(ids(*masses), dtype=np.int32), probabilities)


def generation(pieces: Sequence[str], points: dict[int, dict[str, float]]) -> Generation:
    steps = ids(*pieces)
    forced = [k not in points for k in range(len(steps))]
    masked = [0.0 if k not in points else float(np.log(points[k][piece])) for k, piece in enumerate(pieces)]
    choices = [point(k, masses) for k, masses in points.items()]
    return Generation(steps, forced, [0.0] * len(steps), masked, [1] * len(steps), choices)


def test_a_call_among_three_tools_and_text() -> None:
    reply = generation(
        ['[{"name":"', "get_", "weather"],
        {0: {'[{"name":"': 0.8, "hi": 0.2}, 1: {"get": 0.25, "get_": 0.5, "send": 0.25}},
    )
    reply = generation(
        ['[{"name":"', "send", '","', "arguments", '":{}}', "]"],
        {0: {'[{"name":"': 0.8, "hi": 0.2}, 1: {"get": 0.25, "get_": 0.5, "send": 0.25}},
    )
    (choice,) = tool_choices(reply, VOCABULARY, ResponseFormat(TOOLS))
    assert choice.name == "send"
    assert choice.probability == pytest.approx(0.2)
    assert choice.p_call == pytest.approx(0.8)
    assert choice.probability_given_call == pytest.approx(0.25)
    assert choice.alternatives == pytest.approx(
        {("get_weather",): 0.4, ("get", "get_weather"): 0.2, (NO_TOOL,): 0.2}
    )


def test_a_name_that_is_the_beginning_of_another_is_told_apart_by_its_quote() -> None:
    reply = generation(
        ['[{"name":"', "get", '","', "arguments", '":{}}', "]"],
        {1: {"get": 0.9, "send": 0.1}, 2: {'","': 0.6, '"': 0.1, "_weather": 0.3}},
    )
    (choice,) = tool_choices(reply, VOCABULARY, ResponseFormat(TOOLS, answer=None))
    assert choice.name == "get"
    assert choice.probability == pytest.approx(0.9 * 0.7)
    assert choice.alternatives == pytest.approx({("get_weather",): 0.27, ("send",): 0.1})
    assert choice.p_call == 1.0


def test_another_spelling_of_the_same_tool_counts_for_it() -> None:
    reply = generation(['[{"name":"', "send", '","'], {1: {"send": 0.5, "se": 0.2, "get": 0.3}})
    (choice,) = tool_choices(reply, VOCABULARY, ResponseFormat(TOOLS, answer=None))
    assert choice.probability == pytest.approx(0.7)


def test_a_text_answer_reports_that_no_tool_was_called() -> None:
    reply = generation(["hi"], {0: {"hi": 0.7, "[": 0.3}})
    (choice,) = tool_choices(reply, VOCABULARY, ResponseFormat(TOOLS))
    assert (choice.name, choice.probability) == (NO_TOOL, pytest.approx(0.7))
    assert choice.p_call == pytest.approx(0.3)
    assert choice.alternatives == pytest.approx({("get", "get_weather", "send"): 0.3})


def test_an_abstention_is_decided_behind_the_bracket() -> None:
    reply = generation(["[", "]"], {0: {"[": 0.9, "hi": 0.1}, 1: {"]": 0.25, '{"name":"': 0.75}})
    (choice,) = tool_choices(reply, VOCABULARY, ResponseFormat(TOOLS, abstain=True))
    assert choice.name == NO_TOOL
    assert choice.probability == pytest.approx(0.1 + 0.9 * 0.25)
    assert choice.p_call == pytest.approx(0.9 * 0.75)


def test_each_call_of_a_reply_has_its_own_choice() -> None:
    reply = generation(
        ['[{"name":"', "send", '","', "arguments", '":{}}', ",", '{"name":"', "get_", "weather", '"'],
        {0: {'[{"name":"': 0.5, "hi": 0.5}, 1: {"send": 0.5, "get": 0.5}, 7: {"get_": 0.6, "send": 0.4}},
    )
    first, second = tool_choices(reply, VOCABULARY, ResponseFormat(TOOLS))
    assert (first.name, first.probability, first.p_call) == ("send", pytest.approx(0.25), pytest.approx(0.5))
    assert second.alternatives == pytest.approx({("send",): 0.4})
    assert (second.name, second.probability, second.p_call) == ("get_weather", pytest.approx(0.6), 1.0)


def test_without_a_distribution_the_masked_log_probability_is_used() -> None:
    reply = generation(['[{"name":"', "send", '"'], {})
    reply.forced[1], reply.masked_logprobs[1] = False, float(np.log(0.4))
    (choice,) = tool_choices(reply, VOCABULARY, ResponseFormat(TOOLS, answer=None))
    assert choice.probability == pytest.approx(0.4)
    assert sum(choice.alternatives.values()) == pytest.approx(0.6)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), parallel=st.booleans(), abstain=st.booleans())
def test_masses_sum_to_one_on_real_masks(engine: EngineName, seed: int, parallel: bool, abstain: bool) -> None:
    vocabulary = vocabularies.small()
    format_ = ResponseFormat(TOOLS, abstain=abstain)
    grammar = compiler(engine).compile(format_).start()
    rng = np.random.default_rng(seed)
    wanted = render_calls([(str(rng.choice(["get", "get_weather", "send"])), {}) for _ in range(1 + parallel)])
    reply = Generation()
    for step, token in enumerate(vocabulary.encode(wanted)):
        legal = legal_ids(grammar.mask(), len(vocabulary))
        probabilities = rng.dirichlet(np.full(len(legal), 0.3)).astype(np.float32)
        probabilities[legal == token] += np.float32(0.5)
        probabilities /= probabilities.sum()
        if grammar.choosing:
            reply.choices.append(ChoicePoint(step, legal.astype(np.int32), probabilities))
        at = np.flatnonzero(legal == token)
        reply.masked_logprobs.append(float(np.log(probabilities[at[0]])) if len(at) else 0.0)
        reply.ids.append(token)
        reply.forced.append(len(legal) == 1)
        grammar.advance(token)
    choices = tool_choices(reply, vocabulary, format_)
    assert [choice.name for choice in choices] == [c["name"] for c in json.loads(wanted)]
    for choice in choices:
        assert choice.probability + sum(choice.alternatives.values()) == pytest.approx(1.0, abs=1e-4)
        assert 0 <= choice.probability <= choice.p_call + 1e-6


PRIOR = DecisionPrior(lexical_weight=6.0, abstain_bias=1.0)
WEATHER = "What will the weather be?"


def added(
    request: str, written: Sequence[str], *tokens: str, format_: ResponseFormat | None = None
) -> list[float]:
    bias = ToolBias(PRIOR, request, format_ or ResponseFormat(TOOLS, abstain=True), VOCABULARY)
    found = bias(ids(*written), np.array(ids(*tokens), dtype=np.intp))
    return [0.0] * len(tokens) if found is None else found.tolist()


def test_a_prior_leaves_the_best_tool_where_it_is_and_lowers_the_others_by_their_distance() -> None:
    scores = lexical_scores(WEATHER, TOOLS)
    assert scores == pytest.approx({"get": 0, "get_weather": 1 / 3, "send": 0})
    assert added(WEATHER, ['[{"name":"'], "get_", "send", "se") == pytest.approx([0, -2, -2])


def test_a_beginning_of_several_names_is_judged_by_the_best_of_them() -> None:
    assert added(WEATHER, ['[{"name":"'], "get", "ge") == [0, 0]
    assert added(WEATHER, ['[{"name":"', "get"], "_weather", '"', '","') == pytest.approx([0, -2, -2])
    assert added("send it", ['[{"name":"'], "get", "get_", "send") == pytest.approx([-2, -2, 0])
    assert added("send it", ['[{"name":"', "get"], "_weather", '"') == pytest.approx([-2, -2])


def test_an_abstention_gains_its_bias_less_what_the_best_tool_has() -> None:
    assert added(WEATHER, [], "[]", '[{"name":"', "[") == pytest.approx([-1, 0, 0])
    assert added("who are you?", [], "[]", '[{"name":"', "[") == pytest.approx([1, 0, 0])
    assert added("who are you?", ["["], "]", '{"name":"') == pytest.approx([1, 0])


def test_an_answer_stands_to_a_call_as_it_stood() -> None:
    for request in (WEATHER, "who are you?"):
        assert added(request, [], "hi", '[{"name":"', "get") == [0, 0, 0]


@pytest.mark.parametrize("later", [[","], [",", '{"name":"'], [",", '{"name":"', "get"]])
def test_a_prior_is_silent_once_the_first_tool_is_named(later: list[str]) -> None:
    call = ['[{"name":"', "send", '","', "arguments", '":{}}']
    assert added(WEATHER, [*call, *later], "get", "get_", "send", '{"name":"', "_weather", "]") == [0] * 6
    assert added(WEATHER, ['[{"name":"', "get_"], "weather") == [0]


def test_without_a_prior_a_request_or_tools_there_is_no_bias() -> None:
    some, none = ResponseFormat(TOOLS), ResponseFormat()
    assert ToolBias.of(None, WEATHER, some, VOCABULARY) is None
    assert ToolBias.of(PRIOR, None, some, VOCABULARY) is None
    assert ToolBias.of(PRIOR, WEATHER, none, VOCABULARY) is None
    assert isinstance(ToolBias.of(PRIOR, WEATHER, some, VOCABULARY), ToolBias)


def test_one_tool_that_must_be_called_is_no_decision() -> None:
    only = ResponseFormat(TOOLS[:1], answer=None)
    assert added(WEATHER, ['[{"name":"'], "get", "ge", format_=only) == [0, 0]
