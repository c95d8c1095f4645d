"""Utilisation: peaks measured and from sheets, FLOPs of a token, and the share that a step reached."""

from collections.abc import Iterator

import pytest
import torch

from modelstack.architecture.counts.flops import training_flops_per_token
from modelstack.decide.devices import DEVICES
from modelstack.errors import UserError
from modelstack.train import utilisation as module
from modelstack.train.utilisation import (
    SMALL_SQUARE,
    SQUARE,
    Peak,
    Utilisation,
    linear_shapes,
    mean_mfu,
    measured_peak,
    measured_product,
    peak,
    plain_flops_per_token,
    sheet_of,
    utilisation,
)
from tests.modelstack.train.toy_runs import toy_config, toy_model


def test_utilisation_is_the_models_flops_over_all_devices_peak() -> None:
    share = Utilisation(flops_per_token=3e6, peak=Peak(1e9, "given"), n_devices=2)
    assert share.mfu(n_tokens=100, seconds=0.5) == pytest.approx(3e6 * 100 / 0.5 / 2e9)
    assert share.mfu(n_tokens=100, seconds=0.0) is None


def test_the_plain_formula_is_6_n_and_12_l_d_t() -> None:
    config = toy_config()
    V, D, F = config.vocab_size, 16, 32
    # Queries and outputs D x D, keys and values of one of two heads, gate, up and down, three norms, the head.
    N = 2 * D * D + 2 * D * D // 2 + 3 * D * F + 3 * D + V * D
    assert plain_flops_per_token(config, 64) == 6 * N + 12 * 1 * 16 * 64


def test_shapes_are_those_of_the_linear_layers() -> None:
    V = toy_config().vocab_size
    assert set(linear_shapes(toy_model(), 128)) == {
        (128, 16, 16),
        (128, 16, 8),
        (128, 16, 32),
        (128, 32, 16),
        (128, 16, V),
    }


@pytest.fixture
def nothing_measured() -> Iterator[None]:
    """Forget what was measured, before and after the test."""
    for cached in (measured_peak, measured_product):
        cached.cache_clear()
    yield
    for cached in (measured_peak, measured_product):
        cached.cache_clear()


@pytest.mark.usefixtures("nothing_measured")
def test_a_measured_peak_is_the_best_shape_and_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []
    threads: list[int] = []

    def flops(shape: tuple[int, int, int], device: str, dtype: torch.dtype) -> float:
        asked.append(shape)
        threads.append(torch.get_num_threads())
        return {SMALL_SQUARE: 5.0, (8, 16, 32): 7.0}.get(shape, 1.0)

    monkeypatch.setattr(module, "product_flops", flops)
    before = torch.get_num_threads()
    found = measured_peak("cpu", "bf16", ((4, 4, 4), (8, 16, 32)), 2)
    assert found.flops == 7.0
    assert found.source == "measured: bf16 product 8 x 16 x 32, best of 10, 2 threads"
    assert measured_peak("cpu", "bf16", ((4, 4, 4), (8, 16, 32)), 2) is found
    assert asked == [SMALL_SQUARE, (4, 4, 4), (8, 16, 32)]
    assert measured_peak("cpu", "bf16", ((4, 4, 4), (5, 5, 5)), 2).flops == 5.0
    assert asked[3:] == [(5, 5, 5)], "the other products of this precision on two threads are known"
    assert measured_peak("cpu", "fp32", (), 2).flops == 5.0 and asked[4:] == [SMALL_SQUARE]
    assert threads == [2] * 5
    measured_peak("cpu", "bf16", (), 3)
    measured_peak("cuda", "bf16", (), 1)
    assert asked[5:] == [SQUARE, SQUARE]
    assert torch.get_num_threads() == before


def test_a_product_is_timed_and_leaves_the_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    assert module.product_flops((16, 16, 16), "cpu", torch.float32, n_runs=3) > 0
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_counts_its_models_flops_and_asks_for_its_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def known(device: torch.device, precision: str, shapes: object) -> Peak:
        asked.append((device.type, precision, shapes))
        return Peak(2e9, "given")

    monkeypatch.setattr(module, "peak", known)
    model = toy_model()
    found = utilisation(model, model.config, context=64, rows=2, precision="bf16", n_devices=3)
    assert found == Utilisation(training_flops_per_token(model.config, 64), Peak(2e9, "given"), 3)
    assert asked == [("cpu", "bf16", linear_shapes(model, 128))]


@pytest.mark.parametrize(
    ("name", "sheet"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA H100 PCIe", None),
        ("Tesla T4", None),
    ],
)
def test_a_gpu_is_known_by_its_name(name: str, sheet: str | None) -> None:
    assert sheet_of(name) == sheet


def test_a_known_gpus_peak_is_its_sheets_and_an_unknown_ones_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["NVIDIA H100 80GB HBM3", "Tesla T4"]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index])
    monkeypatch.setattr(module, "measured_peak", lambda *question: Peak(1.0, str(question)))
    known = peak(torch.device("cuda", 0), "bf16")
    assert known.flops == DEVICES["h100"].peak_flops["bf16"]
    assert known.source.startswith("NVIDIA H100 80GB HBM3: ")
    unknown = peak(torch.device("cuda", 1), "bf16", [(1, 2, 3)])
    assert unknown.source == str(("cuda:1", "bf16", ((1, 2, 3),), torch.get_num_threads()))


def test_an_unknown_precision_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'fp16' is not known; known: fp32, bf16"):
        peak(torch.device("cpu"), "fp16")


def test_a_mean_weighs_steps_by_their_time() -> None:
    assert mean_mfu([0.2, None, 0.4], [1.0, 5.0, 3.0]) == pytest.approx((0.2 + 1.2) / 4)
    assert mean_mfu([None], [1.0]) is None
