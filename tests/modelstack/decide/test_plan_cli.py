"""`modelstack plan`: the files that it leaves, and what it says to mistakes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from modelstack.cli import app
from modelstack.decide.plan_file import read_plan
from modelstack.decide.scaling_laws import BESIROGLU
from modelstack.errors import UserError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plan")
    result = run(
        *("--budget-flops", "1e20", "--device", "h100", "--tokens-served", "1e10", "--prompt-tokens", "3"),
        *("--out", str(out)),
    )
    assert result.exit_code == 0, result.output
    assert "expected loss" in result.output
    return out


def test_a_plan_is_read_back_as_it_was_written(folder: Path) -> None:
    plan = read_plan(folder)
    assert plan == read_plan(folder / "plan.json") == plan.sealed()
    assert plan.request.prompt_tokens == 3
    assert len(plan.fingerprint) == 64


def test_the_page_says_what_was_decided_and_shows_the_plot(folder: Path) -> None:
    plan, text = read_plan(folder), (folder / "plan.md").read_text(encoding="utf-8")
    for told in (f"{plan.model.n_parameters:,}", f"{plan.n_tokens:,}", "2503.04715", plan.fingerprint, "plan.png"):
        assert told in text
    for law in plan.expected:
        assert f"| {law.law.name} | {law.loss:.4f} |" in text
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_a_plan_changed_by_hand_is_refused(folder: Path, tmp_path: Path) -> None:
    values = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    values["n_tokens"] += 1
    (tmp_path / "plan.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(UserError, match="was changed after planning"):
        read_plan(tmp_path)


def test_a_plan_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan .*none is missing; `modelstack plan"):
        read_plan(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a plan"),
        ("[]", "is not a plan"),
        ('{"version": 0}', "version 0, not 1"),
        ('{"version": 1}', "is not a plan"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_plan(tmp_path)


def test_nano_plans_say_that_the_laws_are_extrapolated(tmp_path: Path) -> None:
    result = run("--hours", "0.3", "--preset", "nano-9m", "--context", "256", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "extrapolated" in result.output
    assert "extrapolated" in (tmp_path / "plan.md").read_text(encoding="utf-8")


def test_own_runs_give_one_more_law_to_plan_with(tmp_path: Path) -> None:
    runs = [
        {"n_parameters": N, "n_tokens": D, "loss": BESIROGLU.loss(N, D)}
        for N in (1e6, 3e6, 9e6, 3e7)
        for D in (1e7, 1e8, 1e9)
    ]
    file = tmp_path / "runs.jsonl"
    file.write_text("\n".join(map(json.dumps, runs)), encoding="utf-8")
    result = run(
        "--hours", "1", "--preset", "nano-9m", "--runs", str(file), "--law", "own", "--out", str(tmp_path / "plan")
    )
    assert result.exit_code == 0, result.output
    own, published = read_plan(tmp_path / "plan").expected[:2]
    assert (own.law.name, published.law.name) == ("own", "besiroglu")
    assert own.loss == pytest.approx(published.loss, rel=1e-3)


def test_own_devices_are_planned_with(tmp_path: Path) -> None:
    file = tmp_path / "devices.toml"
    file.write_text(
        "[devices.lab]\npeak_flops = {bf16 = 1e14}\nmemory_bytes = 48e9\nbandwidth = 9e11\nwatts = 300\n"
        "usd_per_hour = 0.0\n",
        encoding="utf-8",
    )
    out = tmp_path / "plan"
    result = run("--hours", "10", "--device", "lab", "--devices-file", str(file), "--out", str(out))
    assert result.exit_code == 0, result.output
    plan = read_plan(out)
    assert plan.training_flops == pytest.approx(1e14 * 0.4 * 36000)
    assert plan.training.usd == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "plan: exactly one of"),
        (("--hours", "1", "--device", "h10"), "nearest: 'h100'"),
        (("--hours", "1", "--law", "own"), "scaling law 'own' is not known"),
        (("--hours", "1", "--layout", "fsdp=2"), "layout 'fsdp=2'"),
        (("--hours", "1", "--preset", "none-such"), "no published size 'none-such'"),
        (("--hours", "1", "--precision", "fp8"), "no peak in precision 'fp8'"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments, "--out", str(tmp_path / "plan"))
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "plan").exists()


def test_a_law_is_fitted_to_runs_and_drawn(tmp_path: Path) -> None:
    runs = [
        {"n_parameters": N, "n_tokens": C / (6 * N), "loss": BESIROGLU.loss(N, C / (6 * N))}
        for C in (1e14, 1e15, 1e16)
        for N in (BESIROGLU.optimum(C).n_parameters * factor for factor in (0.4, 0.7, 1.2, 2.5))
    ]
    file, out = tmp_path / "runs.jsonl", tmp_path / "law"
    file.write_text("\n".join(map(json.dumps, runs)), encoding="utf-8")
    result = CliRunner().invoke(app, ["fit-law", str(file), "--out", str(out), "--bootstrap", "3"])
    assert result.exit_code == 0, result.output
    law = json.loads((out / "law.json").read_text(encoding="utf-8"))["law"]
    assert law["alpha"] == pytest.approx(BESIROGLU.alpha, rel=0.02)
    assert "N ~ C^0.51" in result.output
    assert (out / "isoflop.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_one_budget_are_too_few_for_exponents(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text('{"n_parameters": 1e6, "n_tokens": 2e7, "loss": 4.5}', encoding="utf-8")
    result = CliRunner().invoke(app, ["fit-law", str(file), "--out", str(tmp_path / "law")])
    assert result.exit_code == 1 and "1 runs of 1 sizes" in result.stderr
