"""oneDNN multiplies where MKL is slow and nothing is rounded; elsewhere all stays as torch has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modelstack.architecture import cpu_products
from modelstack.architecture.cpu_products import is_by_onednn, keeps_fp32, multiply_by_onednn

ZEN_5 = {"cpu_name": "AMD EPYC", "avx512_f": True, "amx_tile": False}


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend to be on a machine."""
    cpu_products._is_faster_and_exact.cache_clear()
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def be(**capabilities: Any) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: ZEN_5 | capabilities, raising=False)

    yield be
    cpu_products._is_faster_and_exact.cache_clear()


def test_on_this_machine_products_are_fp32s_whoever_multiplies() -> None:
    multiply_by_onednn()
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(300, 200, generator=generator), torch.randn(200, 100, generator=generator)
    exact = left.double() @ right.double()
    # An fp32 sum of 200 products is off by 200 * 2^-24 of their sizes at most; bf16 factors by 2^-8.
    bound = 200 * 2.0**-24 * (left.abs().double() @ right.abs().double())
    assert ((left @ right - exact).abs() <= bound).all()
    assert keeps_fp32(64, 64, 64)


def test_where_onednn_is_faster_it_multiplies_and_a_second_call_changes_nothing(
    on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on()
    monkeypatch.setattr(cpu_products, "keeps_fp32", lambda *size: True)  # whatever this machine is
    assert multiply_by_onednn()
    assert multiply_by_onednn()
    assert is_by_onednn()
    assert torch.get_float32_matmul_precision() == "medium"  # asking is no error: nothing is said in two ways


@pytest.mark.parametrize(
    "machine",
    [
        {"cpu_name": "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz"},
        {"avx512_f": False},
        {"amx_tile": True},
        {"cpu_name": ""},
    ],
    ids=["Intel", "AVX2 only", "AMX", "nameless"],
)
def test_other_machines_stay_with_torchs_choice(on: Any, machine: dict[str, Any]) -> None:
    on(**machine)
    assert not multiply_by_onednn()
    assert not is_by_onednn()


def test_beside_a_gpu_and_without_mkl_nothing_is_changed(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        assert not multiply_by_onednn()
    cpu_products._is_faster_and_exact.cache_clear()
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not multiply_by_onednn()


def test_rounded_factors_are_seen_and_the_permission_is_taken_back(
    on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on()
    product = torch.Tensor.__matmul__

    def rounded(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return product(left.bfloat16().float(), right.bfloat16().float())

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert not keeps_fp32(64, 64, 64)
    assert not multiply_by_onednn()
    assert not is_by_onednn()
