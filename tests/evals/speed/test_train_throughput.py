"""The training benchmark compares equal work, in turns, and holds its promises for eager steps only."""

import math
import sys
from pathlib import Path

import pytest
import torch

from evals.speed.registry import BENCHMARKS
from evals.speed.train_programs import PROGRAMS, Mode, Shape, Task, batches, build, losses, our_config, smallest
from evals.speed.train_throughput import check_equal_work, figures_of, flops_per_token, main, measure
from evals.speed.train_worker import task_from_json, task_to_json
from evals.speed.turns import Measured, Turns, ratio_by_turn
from modelstack.architecture.counts.parameters import count_parameters
from modelstack.train.utilisation import plain_flops_per_token

TINY = smallest(Shape())


def measured(*seconds: float, n_parameters: int = 1000, falls: bool = True) -> Measured:
    curve = [4.0, 3.0, 2.0, 1.0] if falls else [4.0, 4.0, 4.0, 4.0]
    turns = [[s, s, 50 * s] for s in seconds]
    return Measured(n_parameters, 2048.0, curve, turns, first_s=9.0, peak_mib=100.0)


def test_the_ratio_is_of_the_medians_of_turns_so_what_disturbs_one_turn_disturbs_both() -> None:
    ratio, low, high = ratio_by_turn(measured(1.0, 20.0).seconds, measured(1.5, 30.0).seconds)
    assert (ratio, low, high) == pytest.approx((1.5, 1.5, 1.5))


def test_another_size_of_model_is_not_compared() -> None:
    found = {"modelstack": measured(1.0), "litgpt": measured(1.0, n_parameters=1020)}
    with pytest.raises(RuntimeError, match="litgpt has 1020 parameters and ours 1000"):
        check_equal_work(found)
    found["litgpt"].n_parameters = 1009
    check_equal_work(found)


def test_a_program_whose_loss_does_not_fall_is_not_compared() -> None:
    with pytest.raises(RuntimeError, match="transformers does not learn"):
        check_equal_work({"transformers": measured(1.0, falls=False)})


def test_eager_speed_is_promised_and_compiled_speed_is_shown() -> None:
    found = {"modelstack": measured(1.0), "transformers": measured(1.2)}
    bounds: dict[Mode, float | None] = {"eager": 1.3, "compiled": None}
    for mode, bound in bounds.items():
        figures, comparisons = figures_of("fp32", mode, found, peak=1e9, shape=Shape())
        beside = next(figure for figure in figures if figure.name == "fp32: speed beside transformers")
        assert beside.value == pytest.approx(1.2) and beside.bound == bound
        assert beside.holds is (False if bound else None)
        assert comparisons[0].values["modelstack"] == pytest.approx(2048.0)
    assert any(figure.name == "fp32: first step of modelstack" and figure.value == 9.0 for figure in figures)


def test_mfu_is_of_the_same_formula_as_in_a_run() -> None:
    config = our_config(Shape(), "llama")
    one = measured(1.0, n_parameters=count_parameters(config).total)
    assert flops_per_token(one, Shape()) == plain_flops_per_token(config, 256)


def test_our_models_have_as_many_parameters_as_the_peers() -> None:
    llama = count_parameters(our_config(Shape(), "llama")).total
    matrices = 8 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 704)
    assert llama == matrices + 4096 * 256 + 17 * 256
    nanogpt = 8 * 12 * 256 * 256 + 4096 * 256 + 256 * 256 + 17 * 256  # its README's 12 L d^2, tables and norms
    assert abs(count_parameters(our_config(Shape(), "gpt2")).total / nanogpt - 1) < 0.01


def test_a_token_mostly_follows_from_the_one_before() -> None:
    shape = Shape()
    found = batches(shape)
    assert all(torch.equal(ids[:, 1:], labels[:, :-1]) for ids, labels in found)
    ids, labels = found[0]
    share = (labels == (ids * 5 + 1) % 64).float().mean()
    assert 0.85 < share < 0.95
    assert all(
        torch.equal(a, b)
        for one, other in zip(found, batches(shape), strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_a_task_survives_the_way_to_its_process() -> None:
    for task in (Task("litgpt", "bf16", "compiled", TINY), Task("nanoGPT", nanogpt=Path("/a/checkout"))):
        assert task_from_json(task_to_json(task)) == task


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("program", ["modelstack", "modelstack (gpt2)"])
def test_our_programs_learn_what_the_batches_hold(program: str, precision: str) -> None:
    step = losses(build(Task(program, precision, shape=TINY)), TINY)  # pyright: ignore[reportArgumentType]
    found = [step() for _ in range(40)]
    assert found[0] == pytest.approx(math.log(TINY.vocabulary), rel=0.05)
    assert sum(found[-8:]) < sum(found[:8]) - 4


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nanogpt", str(tmp_path)]) == 2
    assert "holds no model.py" in capsys.readouterr().out


def test_the_benchmark_is_registered_and_each_peer_has_one_of_ours_beside_it() -> None:
    assert BENCHMARKS["train_throughput"].module == "evals.speed.train_throughput"
    for program in PROGRAMS.values():
        if program.beside:
            assert PROGRAMS[program.beside].architecture == program.architecture
            assert not PROGRAMS[program.beside].beside


@pytest.mark.slow
def test_programs_take_turns_in_processes_of_their_own() -> None:
    here = Path(sys.executable)
    tasks = [(Task(name, shape=TINY), here) for name in ("modelstack", "transformers")]
    found = measure(tasks, Turns(n_warm=41, n_turns=2, n_steps=2), threads=1)
    check_equal_work(found)
    assert [len(one.values) for one in found.values()] == [45, 45]
    assert all(len(turn) == 2 for one in found.values() for turn in one.seconds)
    assert found["modelstack"].n_parameters == found["transformers"].n_parameters
    assert all(one.peak_mib > 50 for one in found.values())
