"""What counts as the exact reply, and how sure a share of them is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelstack.data.examples import Call, Example, Message, Tool
from modelstack.errors import UserError
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.sft.prior.exact_calls import (
    Answered,
    Question,
    ask,
    chosen,
    is_exact,
    lines,
    measured,
    share_interval,
)
from modelstack.toolcalls.convention import ParsedResponse
from modelstack.toolcalls.prior.lexical import DecisionPrior

TOOL = Tool(name="add", parameters={"type": "object", "properties": {"a": {"type": "number"}, "b": {}}})


def example(name: str = "one", **values: Any) -> Example:
    given = {"kind": "call", "calls": (Call(name="add", arguments={"a": 1, "b": "x"}),)} | values
    return Example(
        id=name, source="toy", license="CC0-1.0", tools=(TOOL,), messages=(Message(role="user"),), **given
    )


def replied(*calls: tuple[str, str]) -> ParsedResponse:
    return ParsedResponse(calls=calls)


@pytest.mark.parametrize(
    ("arguments", "is_right"),
    [
        ('{"a":1,"b":"x"}', True),
        ('{"b":"x","a":1.0}', True),
        ('{"a":1,"b":"X"}', False),
        ('{"a":true,"b":"x"}', False),
        ('{"a":"1","b":"x"}', False),
        ('{"a":1}', False),
    ],
)
def test_a_call_is_right_where_every_value_is(arguments: str, is_right: bool) -> None:
    assert is_exact(example(), replied(("add", arguments))) is is_right


def test_the_order_of_calls_does_not_count_and_their_number_does() -> None:
    two = (Call(name="add", arguments={"a": 1}), Call(name="add", arguments={"a": 2}))
    wanted = example(kind="parallel", calls=two)
    assert is_exact(wanted, replied(("add", '{"a":2}'), ("add", '{"a":1}')))
    assert not is_exact(wanted, replied(("add", '{"a":1}'), ("add", '{"a":1}')))
    assert not is_exact(wanted, replied(("add", '{"a":1}')))
    assert not is_exact(wanted, replied(("add", '{"a":1}'), ("add", '{"a":2}'), ("add", '{"a":2}')))


def test_an_abstention_and_words_are_told_apart() -> None:
    abstain = example(kind="irrelevant", calls=())
    words = example(kind="clarify", calls=(), reply="Which b?")
    empty, text = ParsedResponse(abstained=True, kind="abstention"), ParsedResponse(answer="Hm?", kind="text")
    assert is_exact(abstain, empty) and not is_exact(abstain, text)
    assert is_exact(words, text) and not is_exact(words, empty)
    assert not is_exact(abstain, replied(("add", "{}"))) and not is_exact(words, replied(("add", "{}")))
    assert not is_exact(example(), empty)


def test_figures_are_of_all_and_of_each_kind() -> None:
    abstain = example("two", kind="irrelevant", calls=())
    answered = [Answered(example(), "[...]", True), Answered(abstain, "Hm", False), Answered(abstain, "[]", True)]
    everything, call, irrelevant = measured(answered)
    assert (everything.name, everything.value, everything.n) == ("exact replies", 2 / 3, 3)
    assert (call.name, call.value, call.n) == ("exact replies, call", 1.0, 1)
    assert (irrelevant.value, irrelevant.n) == (0.5, 2)
    assert [each.name for each in measured(answered[1:])] == ["exact replies"]
    assert '"reply": "Hm"' in list(lines(answered))[1]
    with pytest.raises(UserError, match="there are no examples to decode"):
        measured([])


@pytest.mark.parametrize(("n_right", "n"), [(0, 5), (5, 5), (1, 1), (37, 200), (199, 200)])
def test_the_interval_is_wilsons(n_right: int, n: int) -> None:
    from scipy.stats import binomtest

    theirs = binomtest(n_right, n).proportion_ci(0.95, method="wilson")
    assert share_interval(n_right, n) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_a_model_is_asked_under_a_prior(tiny_gguf: Path) -> None:
    tools = (Tool(name="get_weather"), Tool(name="add_numbers"))
    one = Example(
        id="1", source="toy", license="CC0-1.0", kind="call", tools=tools,
        messages=(Message(role="user", content="add the numbers"),), calls=(Call(name="add_numbers"),),
    )  # fmt: skip
    named: list[set[str]] = []
    with LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1) as engine:
        question = Question(one, engine.encode_template("<|im_start|>user\nadd the numbers<|im_end|>\n"))
        for prior in (
            DecisionPrior(lexical_weight=0.0, abstain_bias=90.0),
            DecisionPrior(lexical_weight=90.0, abstain_bias=-90.0),
        ):
            (answered,) = ask(engine, [question], prior=prior)
            named.append({name for name in ("get_weather", "add_numbers") if name in answered.text})
    assert named[0] == set()
    assert "get_weather" not in named[1]


def test_which_examples_are_asked_depends_on_seed_and_ids_alone() -> None:
    examples = [example(str(n)) for n in range(20)]
    picked = [each.id for each in chosen(examples, 5, seed=1)]
    assert picked == [each.id for each in chosen(examples[::-1], 5, seed=1)]
    assert picked != [each.id for each in chosen(examples, 5, seed=2)]
    assert len(chosen(examples, 50, seed=1)) == 20
