"""The benchmark of sparse autoencoders: equal batches for both programs, and differences over seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("torch", reason="needs torch (extra `train`)")

from evals.speed.sae import KNOWN, REAL, result_of, write_states
from evals.speed.sae_worker import OURS, PEER, SaeTask, TimedBatches, work
from modelstack.align.sae.sae_folder import load_sae


def a_task(folder: Path, **changes: object) -> SaeTask:
    states_ND = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    with (folder / "states.bf16").open("wb") as file:
        write_states(file, states_ND)
    values: dict[str, object] = {
        "program": OURS,
        "states": str(folder / "states.bf16"),
        "width": 8,
        "out": str(folder / "sae"),
        "latents": 24,
        "k": 3,
        "tokens": 64 * 4,
        "batch": 16,
        "rate": 1e-3,
        "warmup": 1,
        "decay": 3,
        "seed": 0,
        "threads": 1,
    }
    return SaeTask(**values | changes)  # pyright: ignore[reportArgumentType]


def test_programs_get_the_same_batches_each_state_once_a_round(tmp_path: Path) -> None:
    task = a_task(tmp_path)
    first, again = TimedBatches(task), TimedBatches(a_task(tmp_path, program=PEER))
    one_round = [next(first) for _ in range(4)]
    assert all(torch.equal(each, next(again)) for each in one_round)
    rows = {tuple(row) for batch in one_round for row in batch.tolist()}
    assert len(rows) == 64 and one_round[0].dtype == torch.float32
    other = TimedBatches(a_task(tmp_path, seed=1))
    assert not torch.equal(next(other), one_round[0])
    assert first.seconds > 0


def test_our_trainer_leaves_a_folder_and_its_speed(tmp_path: Path) -> None:
    figures = work(a_task(tmp_path))
    assert figures["tokens_per_s"] == pytest.approx(256 / figures["seconds"])
    assert load_sae(tmp_path / "sae").autoencoder.config.n_latents == 24


def test_figures_are_means_with_differences_by_seed() -> None:
    def figures(recovered: float, speed: float) -> dict[str, float]:
        rest = {"explained_variance": 0.8, "alive": 0.99, "l0": 32.0}
        return {"loss_recovered": recovered, "tokens_per_s": speed, "seconds": 1.0} | rest

    found = {
        OURS: [figures(0.98, 400.0), figures(0.97, 300.0), figures(0.99, 500.0)],
        PEER: [figures(0.95, 100.0), figures(0.96, 100.0), figures(0.97, 100.0)],
    }
    result = result_of(REAL, found, 1e-6)
    by_name = {figure.name: figure for figure in result.figures}
    recovered = by_name["loss recovered, real states"]
    assert recovered.value == pytest.approx(0.98) and recovered.holds
    assert recovered.low is not None and recovered.low < 0.97
    difference = by_name["loss recovered, real states, ours - SAELens"]
    assert difference.value == pytest.approx(0.02) and difference.bound is None
    assert by_name["speed beside SAELens, real states"].value == pytest.approx(4)
    assert result.comparisons[0].values == {OURS: 400.0, PEER: 100.0}
    slow = {OURS: found[PEER], PEER: found[OURS]}
    broken = {figure.name for figure in result_of(REAL, slow, 0.1).broken}
    assert broken == {
        "loss recovered, real states",
        "speed beside SAELens, real states",
        "difference of outputs in SAELens, real states",
    }
    known = [each | {"mcc": 0.9, "f1": 0.8} for each in found[OURS]]
    assert not result_of(KNOWN, {OURS: known}, None).broken
