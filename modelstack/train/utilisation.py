"""How much of a device a run uses: model FLOPs over the peak (MFU), and what the peak is.

A data sheet gives a GPU's peak (`modelstack.decide.devices`). A CPU's depends on its threads, its instructions and
its neighbours, so it is measured: the best of some products of square matrices and of the model's own shapes, in
the process that trains. A share of a measured peak says what better kernels could gain; it is no share of what the
maker promises.

FLOPs of a token are counted from the config (`architecture.counts`), with attention as the mask lets it through.
Beside it the plain formula of PaLM's appendix B (arXiv 2204.02311), 6 N + 12 L d T, which other codebases print: N
parameters that a token is multiplied with, L layers, d width of all heads together, T tokens of the context.
Embeddings that are only looked up are no work in either.

Letters: M rows, K inner, N columns of a matrix product.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.flops import training_flops_per_token
from modelstack.architecture.counts.parameters import count_parameters
from modelstack.decide.devices import DEVICES
from modelstack.errors import UserError

SQUARE = (2048, 2048, 2048)
"""Large enough that no more is gained, small enough to be over in a fraction of a second on two threads."""
N_RUNS = 10
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Names as in `decide.devices`. fp16 is left out: CPUs without it take minutes for one product."""
Shape = tuple[int, int, int]
"""M, K, N."""


@dataclass(frozen=True, slots=True)
class Peak:
    """FLOP/s that a device can do."""

    flops: float
    source: str
    """How it is known, for the report."""


@dataclass(frozen=True, slots=True)
class Utilisation:
    """What turns tokens and seconds into a share of the peak."""

    flops_per_token: float
    """Of forward and backward pass."""
    peak: Peak
    n_devices: int = 1

    def mfu(self, n_tokens: int, seconds: float) -> float | None:
        """Return model FLOPs over what the devices could have done; None where no time passed."""
        if seconds <= 0:
            return None
        return self.flops_per_token * n_tokens / seconds / (self.peak.flops * self.n_devices)


def utilisation(
    model: nn.Module,
    config: ModelConfig,
    *,
    context: int,
    rows: int,
    precision: str = "fp32",
    n_devices: int = 1,
) -> Utilisation:
    """Return the utilisation of a training of a model on the device that it lies on; measures a CPU's peak.

    Args:
        model: Its linear layers' shapes are measured too.
        config: Its FLOPs are counted.
        context: Tokens of a row.
        rows: Of a micro-batch.
        precision: "fp32" or "bf16", of the matrix products.
        n_devices: That share the run's tokens.

    Raises:
        UserError: The precision is not known.
    """
    flops = training_flops_per_token(config, context, mtp=config.mtp_loss_coef > 0)
    device = next(model.parameters()).device
    return Utilisation(flops, peak(device, precision, linear_shapes(model, rows * context)), n_devices)


def plain_flops_per_token(config: ModelConfig, context: int) -> float:
    """Return 6 N + 12 L d T."""
    heads = config.num_attention_heads * config.head_dim
    return 6 * count_parameters(config).active + 12 * config.num_hidden_layers * heads * context


def linear_shapes(model: nn.Module, n_tokens: int) -> tuple[Shape, ...]:
    """Return the different products of a model's linear layers for so many tokens."""
    shapes = {
        (n_tokens, module.in_features, module.out_features)
        for module in model.modules()
        if isinstance(module, nn.Linear)
    }
    return tuple(sorted(shapes))


def peak(device: torch.device, precision: str, shapes: Sequence[Shape] = ()) -> Peak:
    """Return a device's peak: a GPU's from its data sheet where that is known, any other's measured.

    Raises:
        UserError: The precision is not known.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r} is not known; known: {', '.join(PRECISIONS)}")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = sheet_of(name)
        if known is not None and precision in DEVICES[known].peak_flops:
            return Peak(DEVICES[known].peak_flops[precision], f"{name}: {DEVICES[known].source}")
    return measured_peak(str(device), precision, tuple(shapes), torch.get_num_threads())


def sheet_of(device_name: str) -> str | None:
    """Return the name in `decide.devices` of a GPU as CUDA names it ("NVIDIA H100 80GB HBM3" -> "h100")."""
    squeezed = device_name.lower().replace(" ", "")
    # A100 and H100 on PCIe cards have lower peaks than the SXM modules of the table.
    if "pcie" in squeezed or "nvl" in squeezed:
        return None
    return next((name for name in DEVICES if name in squeezed), None)


@cache
def measured_peak(device: str, precision: str, shapes: tuple[Shape, ...], threads: int) -> Peak:
    """Measure the best matrix product of a device; once in a process for the same question.

    Args:
        device: As torch names it.
        precision: "fp32" or "bf16".
        shapes: Measured beside `SQUARE`.
        threads: That torch uses on a CPU.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        measured = [(product_flops(shape, device, PRECISIONS[precision]), shape) for shape in (SQUARE, *shapes)]
    finally:
        torch.set_num_threads(before)
    best, (M, K, N) = max(measured)
    where = f"{threads} threads" if device == "cpu" else device
    return Peak(best, f"measured: {precision} product {M} x {K} x {N}, best of {N_RUNS}, {where}")


def product_flops(shape: Shape, device: str, dtype: torch.dtype, n_runs: int = N_RUNS) -> float:
    """Return the FLOP/s of the fastest of some products of a shape."""
    M, K, N = shape
    generator = torch.Generator().manual_seed(0)  # the training's random numbers stay as they are
    left = torch.randn(M, K, generator=generator).to(device, dtype)
    right = torch.randn(N, K, generator=generator).to(device, dtype).T  # as a linear layer holds its weight
    seconds = []
    for _ in range(n_runs + 1):  # the first one prepares
        _wait_for(device)
        started = time.perf_counter()
        torch.matmul(left, right)
        _wait_for(device)
        seconds.append(time.perf_counter() - started)
    return 2 * M * K * N / min(seconds[1:])


def mean_mfu(mfus: Iterable[float | None], seconds: Iterable[float]) -> float | None:
    """Return the mean of steps' utilisations, weighted by their time; None where none is known."""
    known = [(mfu, s) for mfu, s in zip(mfus, seconds, strict=True) if mfu is not None]
    total = sum(s for _, s in known)
    return sum(mfu * s for mfu, s in known) / total if total else None


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
