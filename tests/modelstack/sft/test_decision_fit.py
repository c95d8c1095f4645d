"""Fitting a prior: planted numbers are found, the limit is kept, files are what they were."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from modelstack.cli import app
from modelstack.data.examples import Call, Example, Message, Tool, write_examples
from modelstack.errors import UserError
from modelstack.sft.prior.fit import (
    decisions,
    fit_copying,
    fit_evidence,
    fit_prior,
    fitted,
    lines,
)
from modelstack.sft.prior.masses import (
    Asked,
    Copy,
    GoesOn,
    Mass,
    Origin,
    ask_choices,
    is_decision,
    read_masses,
    write_masses,
)
from modelstack.toolcalls.prior.choice import NO_TOOL
from modelstack.toolcalls.prior.lexical import CALL_EVIDENCE, KEY_EVIDENCE, DecisionPrior, EvidenceWeights

ORIGIN = Origin(examples_sha256="1" * 64, model_sha256="2" * 64)
TOOLS = tuple(Tool(name=name) for name in ("get_weather", "get_mail", "set_alarm"))


def asked(name: str, right: tuple[str, ...], scores: dict[str, float], masses: dict[str, float]) -> Asked:
    of = tuple(Mass(names=tuple(names.split("|")), mass=mass) for names, mass in masses.items())
    return Asked(id=name, right=right, scores=scores, masses=of)


def planted(n: int, weight: float, bias: float, seed: int = 0) -> list[Asked]:
    """Return examples whose right choice is drawn from what a model says and the planted prior."""
    rng = np.random.default_rng(seed)
    found: list[Asked] = []
    for number in range(n):
        names = [f"t{k}" for k in range(int(rng.integers(1, 6)))]
        scores = rng.beta(1, 2, size=len(names))
        p_none = float(rng.beta(1, 1))
        p_tools = rng.dirichlet(np.ones(len(names)))
        odds_call = (1 - p_none) / p_none * math.exp(weight * scores.max() - bias)
        right: tuple[str, ...] = ()
        if rng.random() < odds_call / (1 + odds_call):
            after = p_tools * np.exp(weight * (scores - scores.max()))
            right = (str(rng.choice(names, p=after / after.sum())),)
        masses = dict(zip(names, (p_tools * (1 - p_none)).tolist(), strict=True)) | {NO_TOOL: p_none}
        found.append(asked(str(number), right, dict(zip(names, scores.tolist(), strict=True)), masses))
    return found


@pytest.mark.parametrize(("weight", "bias"), [(4.0, 1.5), (0.0, 0.0), (8.0, -1.0)])
def test_planted_numbers_are_found(weight: float, bias: float) -> None:
    found = fit_prior(planted(4000, weight, bias), limit=1.0)
    assert found == pytest.approx((weight, bias), abs=0.35)


def test_the_fit_is_the_most_probable_one() -> None:
    some = planted(300, 3.0, 1.0)
    weight, bias = fit_prior(some, limit=1.0)
    least = decisions(some, weight, bias).log_loss
    for other in [(weight + 0.3, bias), (weight - 0.3, bias), (weight, bias + 0.2), (weight, bias - 0.2)]:
        assert decisions(some, *other).log_loss > least
    assert least < decisions(some, 0.0, 0.0).log_loss


@pytest.mark.parametrize("limit", [0.0, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_no_more_calls_are_abstained_from_than_the_limit_allows(limit: float, seed: int) -> None:
    some = planted(400, 2.0, 1.0, seed)
    weight, bias = fit_prior(some, limit)
    wrong = decisions(some, weight, bias).wrong_abstention
    assert wrong is not None and wrong.value <= limit
    free = decisions(some, *fit_prior(some, 1.0)).wrong_abstention
    assert free is not None and free.value > 0.2, "the limit would not have been felt"


def test_examples_that_nothing_contradicts_give_finite_numbers() -> None:
    scores = {"a": 0.5, "b": 0.0}
    calls = [asked(f"c{n}", ("a",), scores, {"a": 0.4, "b": 0.4, NO_TOOL: 0.2}) for n in range(40)]
    none = [asked(f"n{n}", (), {"a": 0.0, "b": 0.0}, {"a": 0.4, "b": 0.4, NO_TOOL: 0.2}) for n in range(10)]
    weight, bias = fit_prior([*calls, *none], 0.02)
    assert 0 < weight < 100 and 0 < bias < 100
    after = decisions([*calls, *none], weight, bias)
    assert [share.value for share in (after.right_tool, after.right_abstention) if share is not None] == [1, 1]


def test_a_group_is_judged_by_its_best_score_and_counts_for_the_right_tool_in_it() -> None:
    scores = {"get_a": 0.6, "get_b": 0.1, "search": 0.5}
    one = asked("1", ("get_a",), scores, {"search": 0.5, "get_a|get_b": 0.4, NO_TOOL: 0.1})
    before, after = decisions([one], 0.0, 0.0), decisions([one], 10.0, 0.0)
    assert before.right_tool is not None and before.right_tool.value == 0
    assert after.right_tool is not None and after.right_tool.value == 1
    calls = 0.9 * math.exp(6) / (0.9 * math.exp(6) + 0.1)
    tool = 0.4 / (0.4 + 0.5 * math.exp(-1))
    assert after.log_loss == pytest.approx(-math.log(calls * tool))


def test_an_abstention_without_doubt_says_nothing_of_the_tools() -> None:
    sure = asked("1", ("a",), {"a": 0.5, "b": 0.1}, {NO_TOOL: 1.0})
    found = decisions([sure], 0.0, 0.0)
    assert found.wrong_abstention is not None and found.wrong_abstention.value == 1
    assert math.isfinite(found.log_loss)
    called = decisions([sure], 0.0, -50.0).right_tool
    assert called is not None and called.value == 1


@pytest.mark.parametrize(
    ("some", "limit", "message"),
    [
        (planted(10, 1, 0), 0.02, "a fit needs at least 30"),
        ([], 0.02, "0 examples with calls and 0 abstentions"),
        ([each for each in planted(200, 1, 0) if each.right], 0.02, "0 abstentions"),
        (planted(200, 1, 0), 1.5, "is not a share"),
        (planted(200, 1, 0), math.nan, "is not a share"),
    ],
)
def test_what_cannot_be_fitted_is_refused(some: list[Asked], limit: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_prior(some, limit)


def test_a_prior_says_what_it_was_fitted_on_and_what_it_changed() -> None:
    some = planted(300, 3.0, 1.0)
    prior = fitted(some, ORIGIN, 1.0)
    assert prior.fitted is not None
    assert prior.fitted.n_calls + prior.fitted.n_abstentions == 300
    assert (prior.fitted.examples_sha256, prior.fitted.adapter_sha256) == ("1" * 64, None)
    assert prior.fitted.after.log_loss < prior.fitted.before.log_loss
    right = prior.fitted.after.right_abstention
    assert right is not None and right.low < right.value < right.high
    text = "\n".join(lines(prior))
    assert f"fitted on {prior.fitted.n_calls} examples with calls" in text and "wrong abstention" in text
    assert DecisionPrior.model_validate_json(prior.model_dump_json()) == prior


@pytest.mark.parametrize("names", [CALL_EVIDENCE, KEY_EVIDENCE])
def test_weights_of_evidence_are_the_planted_ones(names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, size=(6000, len(names))).astype(float)
    odds = rng.normal(0.5, 2.0, size=6000)
    planted_weights = np.array([2.0, 0.5, 1.5, 0.0])[: len(names)]
    goes_on = rng.random(6000) < 1 / (1 + np.exp(-(odds - 1.0 + x @ planted_weights)))
    decisions = tuple(
        GoesOn(goes_on=bool(on), log_odds=float(o), evidence=tuple(e))
        for on, o, e in zip(goes_on, odds, x.tolist(), strict=True)
    )
    weights, counted = fit_evidence(decisions, names)
    assert weights is not None and counted is not None
    assert weights.constant == pytest.approx(-1.0, abs=0.25)
    assert list(weights.weights) == list(names)
    assert list(weights.weights.values()) == pytest.approx(planted_weights.tolist(), abs=0.25)
    assert counted.n_goes_on + counted.n_ends == 6000
    assert counted.log_loss_after < counted.log_loss_before
    assert counted.right_after.value > counted.right_before.value
    field = "another_call" if names is CALL_EVIDENCE else "optional_keys"
    each = asked("1", ("a",), {"a": 0.5}, {"a": 1.0}).model_copy(update={field: decisions})
    prior = fitted([*planted(300, 3.0, 1.0), each], ORIGIN, 1.0)
    assert (prior.another_call if names is CALL_EVIDENCE else prior.optional_key) == weights
    assert f"constant {weights.constant:+.2f}, {names[0]} +" in "\n".join(lines(prior))


def test_decisions_of_one_sort_alone_fit_nothing() -> None:
    ends = GoesOn(goes_on=False, log_odds=0.3, evidence=(0.0,) * len(CALL_EVIDENCE))
    assert fit_evidence([ends, ends], CALL_EVIDENCE) == (None, None)
    assert fit_evidence([], CALL_EVIDENCE) == (None, None)
    with pytest.raises(ValueError, match="with missing evidence"):
        Asked.model_validate(asked("1", ("a",), {"a": 0.5}, {"a": 1.0}).model_dump() | {"optional_keys": (ends,)})


def test_a_prior_weighs_the_evidence_that_there_is_and_no_other() -> None:
    wrong = EvidenceWeights(constant=0.0, weights={"tool": 1.0})
    with pytest.raises(
        ValueError, match=r"another_call has weights for \['tool'\]; it needs \['tool', 'number', 'words'\]"
    ):
        DecisionPrior(lexical_weight=0.0, abstain_bias=0.0, another_call=wrong)


def test_a_bias_of_copying_is_the_planted_one() -> None:
    rng = np.random.default_rng(0)
    mass = rng.beta(2, 2, size=4000)
    is_copy = rng.random(4000) < 1 / (1 + (1 - mass) / mass * np.exp(-0.8))
    copies = tuple(Copy(kind="text", is_copy=bool(c), mass=float(m)) for c, m in zip(is_copy, mass, strict=True))
    each = asked("1", ("a",), {"a": 0.5}, {"a": 1.0}).model_copy(update={"copies": copies})
    bias, counted = fit_copying([each], "text")
    assert bias == pytest.approx(0.8, abs=0.15)
    assert counted is not None and (counted.n, counted.n_copies) == (4000, int(is_copy.sum()))
    assert fit_copying([each], "number") == (0.0, None)


def test_masses_are_read_as_they_were_written(tmp_path: Path) -> None:
    some = planted(5, 1.0, 0.0)
    goes_on = GoesOn(goes_on=True, log_odds=-1.25, evidence=(0.5, 1.0, 0.0))
    some[0] = some[0].model_copy(update={"another_call": (goes_on,)})
    write_masses(tmp_path / "m.jsonl", ORIGIN, some)
    assert read_masses(tmp_path / "m.jsonl") == (ORIGIN, some)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: the example: Invalid JSON"),
        ('{"id": "x", "right": [], "scores": {"a": 2}, "masses": [{"names": ["a"], "mass": 1}]}', "scores.a"),
        (
            '{"id": "x", "right": [], "scores": {"a": 0}, "masses": [{"names": ["a"], "mass": -1}]}',
            "masses.0.mass",
        ),
        (
            '{"id": "x", "right": [], "scores": {"a": 0}, "masses": [{"names": ["b"], "mass": 1}]}',
            "'b' has a mass",
        ),
        ('{"id": "x", "right": [], "scores": {}, "masses": []}', "scores"),
    ],
)
def test_a_wrong_line_of_masses_is_refused_by_its_number(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text(ORIGIN.model_dump_json() + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_masses(file)


def test_a_file_without_masses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="line 1"):
        read_masses(tmp_path / "empty")
    with pytest.raises(UserError, match="cannot be read"):
        read_masses(tmp_path / "none")


def example(n: int, **changes: object) -> Example:
    calls = () if n % 3 == 2 else (Call(name=TOOLS[n % 3].name),)
    values = {
        "id": str(n),
        "source": "toy",
        "license": "CC0-1.0",
        "split": "validation",
        "kind": "call" if calls else "irrelevant",
        "tools": TOOLS,
        "messages": (Message(role="user", content=f"weather or mail {n}?"),),
        "calls": calls,
    }
    return Example.model_validate(values | changes)


def test_a_decision_is_calls_or_an_abstention_in_reply_to_the_user() -> None:
    assert is_decision(example(0)) and is_decision(example(2))
    assert not is_decision(example(2, tools=()))
    assert not is_decision(example(2, kind="answer", reply="Fine."))
    after = (Message(role="user"), Message(role="assistant", calls=(Call(name="a"),)), Message(role="tool"))
    assert not is_decision(example(2, messages=after))


def test_a_model_is_asked_for_the_first_choice_alone(tiny_gguf: Path) -> None:
    from modelstack.inference.llama.engine import LlamaCppEngine

    told: list[int] = []
    with LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1) as engine:
        too_long = example(3, messages=(Message(role="user", content="long " * 2000),))
        found = ask_choices(engine, [example(0), example(2), too_long], told=told.append)
        assert max(engine.cached_tokens.values()) < 400
    assert told == [1, 2, 3]
    assert [(each.id, each.right) for each in found] == [("0", ("get_weather",)), ("2", ())]
    for each in found:
        assert sum(mass.mass for mass in each.masses) == pytest.approx(1, abs=1e-3)
        assert each.scores["get_weather"] == each.scores["get_mail"] > each.scores["set_alarm"] == 0


def test_a_model_is_asked_behind_each_call_of_its_own_whether_another_is_right(tiny_gguf: Path) -> None:
    from modelstack.inference.llama.engine import LlamaCppEngine

    calls = tuple(Call(name=tool.name) for tool in TOOLS)
    several = example(0, calls=calls, kind="multi")
    with LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1) as engine:
        found = ask_choices(engine, [example(1), several, example(2)])
    one, three, none = ([each.goes_on for each in asked.another_call] for asked in found)
    assert one == [False] and none == []
    assert 1 <= len(three) <= 3 and three == [True, True, False][: len(three)]
    assert all(math.isfinite(each.log_odds) for asked in found for each in asked.another_call)


def test_a_model_is_asked_along_the_values_of_a_call(tiny_gguf: Path) -> None:
    from modelstack.inference.llama.engine import LlamaCppEngine

    schema = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "copies": {"type": "integer"}},
        "required": ["text"],
    }
    arguments = ({"text": "weather"}, {"text": "weather", "copies": 12})
    examples = [
        example(n, tools=(Tool(name="print", parameters=schema),), calls=(Call(name="print", arguments=given),))
        for n, given in zip((0, 12), arguments, strict=True)
    ]
    with LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1) as engine:
        short, long = ask_choices(engine, examples)
    assert {copy.kind for copy in short.copies} == {"text"} and any(copy.is_copy for copy in short.copies)
    assert {copy.kind for copy in long.copies} == {"text", "number"}
    assert [key.goes_on for key in short.optional_keys] == [False]
    assert [key.goes_on for key in long.optional_keys] == [True]
    number = KEY_EVIDENCE.index("number")
    assert long.optional_keys[0].evidence[number] == 1


def test_the_command_fits_from_examples_and_again_from_their_masses(tiny_gguf: Path, tmp_path: Path) -> None:
    write_examples(tmp_path / "validation.jsonl", [example(n) for n in range(60)])
    out = tmp_path / "prior.json"
    arguments = [
        str(tmp_path / "validation.jsonl"),
        "--model",
        str(tiny_gguf),
        "--threads",
        "1",
        "--out",
        str(out),
    ]
    result = CliRunner().invoke(app, ["fit-prior", *arguments, "--examples", "50"])
    assert result.exit_code == 0, result.output
    assert "lexical weight" in result.output
    prior = DecisionPrior.read(out)
    assert prior.fitted is not None and prior.fitted.n_calls + prior.fitted.n_abstentions == 50
    again = tmp_path / "again.json"
    masses = tmp_path / "prior.masses.jsonl"
    result = CliRunner().invoke(app, ["fit-prior", str(masses), "--refit", "--out", str(again)])
    assert result.exit_code == 0, result.output
    assert json.loads(again.read_text(encoding="utf-8")) == json.loads(out.read_text(encoding="utf-8"))


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    write_examples(tmp_path / "v.jsonl", [example(0)])
    out = ["--out", str(tmp_path / "p.json")]
    result = CliRunner().invoke(app, ["fit-prior", str(tmp_path / "v.jsonl"), *out])
    assert result.exit_code == 1 and "--model FILE.gguf" in result.stderr
    result = CliRunner().invoke(app, ["fit-prior", str(tmp_path / "v.jsonl"), "--model", "no.gguf", *out])
    assert result.exit_code == 1 and "no.gguf" in result.stderr
    result = CliRunner().invoke(app, ["fit-prior", "v.jsonl", "--out", str(tmp_path / "none" / "p.json")])
    assert result.exit_code == 1 and "does not exist; create it" in result.stderr
