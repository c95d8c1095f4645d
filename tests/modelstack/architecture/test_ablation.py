"""An ablation: paired runs that continue where they stopped, and a table that claims no more than it saw."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from modelstack.architecture.ablation.choices import (
    BASE,
    BASE_CHOICE,
    CHOICES,
    DEFAULT,
    Choice,
    chosen,
    read_recipe,
)
from modelstack.architecture.ablation.report import Row, draw, markdown, paired_interval, rows_of
from modelstack.architecture.ablation.running import Outcomes, Plan, run
from modelstack.architecture.ablation.text import Text, read_text
from modelstack.architecture.ablation.training import Budget, Outcome, schedule, train
from modelstack.architecture.config import build
from modelstack.cli import app
from modelstack.errors import UserError

TINY: dict[str, Any] = BASE | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "layer_types": ("full_attention",) * 2,
    "mlp_layer_types": ("dense",) * 2,
}
BUDGET = Budget(steps=4, rows=2, length=32)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def text() -> Text:
    return read_text([])


def test_every_choice_changes_the_base_and_can_be_built() -> None:
    base = build(BASE)
    fingerprints = {choice.config(base).fingerprint() for choice in CHOICES.values()}
    assert base.fingerprint() not in fingerprints
    assert len(fingerprints) == len(CHOICES)
    assert len(DEFAULT) == 6


def test_choices_meant_to_be_of_equal_size_are() -> None:
    from modelstack.architecture.counts.parameters import count_parameters

    base = build(BASE)
    size = count_parameters(base).total
    assert count_parameters(CHOICES["relu2"].config(base)).total == size
    active = count_parameters(CHOICES["moe"].config(base)).active_with_embedding
    assert active == pytest.approx(size, rel=0.01)  # the routers are more


def test_a_run_learns_and_is_the_same_twice(text: Text) -> None:
    budget = Budget(steps=30, rows=4, length=32)
    first, again = (train(build(TINY), text, budget, seed=1) for _ in range(2))
    assert first.curve == again.curve
    assert first.curve[-1][0] == 30
    assert first.bits_per_byte < first.curve[0][1] - 0.5
    assert train(build(TINY), text, budget, seed=2).curve != first.curve


def test_a_run_that_blows_up_is_an_outcome(text: Text) -> None:
    outcome = train(build(TINY), text, BUDGET.model_copy(update={"learning_rate": 1e30}), seed=0)
    assert outcome.diverged
    assert math.isnan(outcome.bits_per_byte)


def test_the_schedule_goes_up_and_down_to_nearly_nothing() -> None:
    shares = [schedule(step, 100) for step in range(100)]
    assert shares[9] == 1.0 and shares[0] == pytest.approx(0.1)
    assert all(a > b for a, b in zip(shares[10:], shares[11:], strict=False))
    assert 0 < shares[-1] < 0.02


def test_batches_depend_on_seed_and_step_alone(text: Text) -> None:
    assert torch.equal(text.batch(1, 7, 2, 16), text.batch(1, 7, 2, 16))
    assert not torch.equal(text.batch(1, 7, 2, 16), text.batch(1, 8, 2, 16))
    assert not torch.equal(text.batch(1, 7, 2, 16), text.batch(2, 7, 2, 16))


def test_no_document_is_trained_on_and_measured_on(tmp_path: Path) -> None:
    documents = [f"document {n} " * 80 for n in range(400)]
    lines = [json.dumps({"text": document}) for document in documents]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = read_text([tmp_path / "a.jsonl"])
    training, held_out = found.training.tobytes().decode(), found.held_out.tobytes().decode()
    for document in documents:
        assert (document in training) != (document in held_out)
    assert 0.04 < len(held_out) / len(training) < 0.25


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(UserError, match="at least 16384 of each"):
        read_text([tmp_path / "a.txt"])


def plan(*choices: Choice, seeds: int = 2) -> Plan:
    return Plan(build(TINY), choices, BUDGET, tuple(range(seeds)), ())


GQA = Choice("gqa", "one KV head", {"num_key_value_heads": 1})


@pytest.mark.slow
def test_finished_runs_are_kept_and_changed_ones_made_anew(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []
    first = run(plan(GQA), tmp_path, n_processes=2)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert first.keys() == {("base", 0), ("base", 1), ("gqa", 0), ("gqa", 1)}
    (tmp_path / "gqa-1.json").unlink()
    (tmp_path / "base-0.json").write_text("{")

    def finished(name: str, seed: int, outcome: Outcome) -> None:
        calls.append((name, seed))

    again = run(plan(GQA), tmp_path, n_processes=1, on_finished=finished)
    assert {key: outcome.curve for key, outcome in again.items()} == {key: o.curve for key, o in first.items()}
    assert sorted(calls) == sorted(first)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"gqa-1.json", "base-0.json"}
    changed = Choice("gqa", "one KV head and more", {"num_key_value_heads": 1, "qk_norm": "head"})
    run(plan(changed), tmp_path, n_processes=1)
    assert (tmp_path / "gqa-0.json").stat().st_mtime_ns != after["gqa-0.json"]
    assert (tmp_path / "base-1.json").stat().st_mtime_ns == after["base-1.json"]


def outcomes_of(**bits: list[float]) -> Outcomes:
    return {
        (name, seed): Outcome(value, ((1, value),), 1.0, diverged=math.isnan(value))
        for name, values in bits.items()
        for seed, value in enumerate(values)
    }


def row(name: str, rows: list[Row]) -> Row:
    return next(r for r in rows if r.name == name)


def test_a_difference_is_shown_only_where_its_interval_leaves_zero() -> None:
    outcomes = outcomes_of(
        base=[3.0, 3.2, 3.1], gqa=[3.1, 3.31, 3.2], other=[2.8, 3.4, 3.2], third=[2.9, 3.1, 3.0]
    )
    choices = (GQA, Choice("other", "", {"qk_norm": "head"}), Choice("third", "", {"rms_norm_eps": 1e-5}))
    rows = rows_of(plan(*choices, seeds=3), outcomes)
    assert [r.verdict for r in rows] == ["", "worse", "not shown", "better"]
    assert row("gqa", rows).difference == pytest.approx(0.1033, abs=1e-3)


def test_the_interval_is_students() -> None:
    from scipy import stats

    differences = [0.1, 0.3, 0.15, 0.2]
    mean, low, high = paired_interval(differences)
    expected = stats.t.interval(0.95, 3, loc=mean, scale=stats.sem(differences))
    assert (low, high) == pytest.approx(expected)
    assert math.isnan(paired_interval([0.1])[1])


def test_a_diverged_run_is_said_and_not_averaged_away() -> None:
    rows = rows_of(plan(GQA, seeds=3), outcomes_of(base=[3.0, 3.0, 3.0], gqa=[2.0, math.nan, 2.0]))
    assert row("gqa", rows).verdict == "diverged in 1 of 3"


def test_report_and_plot_are_written(tmp_path: Path) -> None:
    the_plan = plan(GQA)
    outcomes = outcomes_of(base=[3.0, 3.2], gqa=[3.1, 3.3])
    rows = rows_of(the_plan, outcomes)
    text = markdown(the_plan, rows, "somewhere", 12.0)
    assert "| gqa | 3.200 | +0.100 ±0.000 | worse |" in text and "text: somewhere" in text and "took 12 s" in text
    draw(the_plan, rows, outcomes, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_recipe_is_read_and_its_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('[base]\nhidden_size = 64\n[choices.wide]\nabout = "wider"\nintermediate_size = 512\n')
    base, choices = read_recipe(path)
    assert base.hidden_size == 64
    assert choices["wide"].config(base).intermediate_size == 512
    for content, message in (
        ("[bas]\nx = 1", r"\['bas'\] are not known"),
        ("[base]\nhidden_size = 64", "nothing to compare"),
        ("[choices.a]\nhiden_size = 3", "nearest: 'hidden_size'"),
        ("[choices.a", "not TOML"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            read_recipe(path)


def test_an_unknown_choice_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="'gpa' is not known; known: gqa"):
        chosen(["gpa"], CHOICES)
    assert BASE_CHOICE.name not in CHOICES


@pytest.mark.slow
def test_the_command_prints_the_table_and_leaves_report_and_plot(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    keys = {key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items()}
    recipe.write_text("\n".join(["[base]", *(f"{k} = {json.dumps(v)}" for k, v in keys.items())]))
    with recipe.open("a") as file:
        file.write("\n[choices.nope]\nabout = 'no positions'\nposition_embedding = 'none'\n")
    options = ["--steps", "2", "--rows", "2", "--length", "32", "--seeds", "1", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["ablate", "--recipe", str(recipe), *options])
    assert result.exit_code == 0, result.output
    assert "nope" in result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "base-0.json", "nope-0.json", "ablation.md", "ablation.png",
    }  # fmt: skip
