"""Utilisation of a device: model FLOPs divided by the peak (MFU), and the peak itself.

A data sheet gives a GPU's peak (`modelstack.decide.devices`). A CPU's peak depends on its threads, its
instructions and other load. It is therefore measured in the training process: the best of several products of
square matrices and of the model's own shapes. A fraction of a measured peak shows the possible gain of better
kernels; it is not a fraction of the vendor's figure.

FLOPs per token are counted from the config (`architecture.counts`), with causal attention. The plain formula of
PaLM's appendix B (arXiv 2204.02311), which other code bases report, is also given: 6 N + 12 L d T, with N
parameters that a token is multiplied by, L layers, d width of all heads together, T tokens of the context. Neither
counts embeddings that are only looked up.

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
"""M, K, N of the test product: larger ones are not faster."""
SMALL_SQUARE, N_SMALL_THREADS = (1024, 1024, 1024), 2
"""Test product for this many threads of a CPU: as fast as `SQUARE`, in an eighth of its two seconds."""
N_RUNS = 10
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Types by their names in `decide.devices`. fp16 is excluded: CPUs without it take minutes for one product."""
Shape = tuple[int, int, int]
"""M, K, N of a product."""


@dataclass(frozen=True, slots=True)
class Peak:
    """Peak FLOP/s of a device."""

    flops: float
    source: str
    """Origin of the number, for the report."""


@dataclass(frozen=True, slots=True)
class Utilisation:
    """Conversion of tokens and seconds to a fraction of the peak."""

    flops_per_token: float
    """FLOPs of forward and backward pass."""
    peak: Peak
    n_devices: int = 1

    def mfu(self, n_tokens: int, seconds: float) -> float | None:
        """Return model FLOPs divided by the devices' peak over the time; None for a time of 0."""
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
    """Return the utilisation for training a model on its current device; measures the peak of a CPU.

    Args:
        model: The model; products of its linear layers' shapes are measured too.
        config: The config whose FLOPs are counted.
        context: Tokens per row.
        rows: Rows per micro-batch.
        precision: Precision of the matrix products, "fp32" or "bf16".
        n_devices: Number of devices that share the run's tokens.

    Raises:
        UserError: The precision is unknown.
    """
    flops = training_flops_per_token(config, context, mtp=config.mtp_loss_coef > 0)
    device = next(model.parameters()).device
    return Utilisation(flops, peak(device, precision, linear_shapes(model, rows * context)), n_devices)


def plain_flops_per_token(config: ModelConfig, context: int) -> float:
    """Return 6 N + 12 L d T."""
    heads = config.num_attention_heads * config.head_dim
    return 6 * count_parameters(config).active + 12 * config.num_hidden_layers * heads * context


def linear_shapes(model: nn.Module, n_tokens: int) -> tuple[Shape, ...]:
    """Return the distinct products of a model's linear layers for `n_tokens` tokens."""
    shapes = {
        (n_tokens, module.in_features, module.out_features)
        for module in model.modules()
        if isinstance(module, nn.Linear)
    }
    return tuple(sorted(shapes))


def peak(device: torch.device, precision: str, shapes: Sequence[Shape] = ()) -> Peak:
    """Return a device's peak: from the data sheet for a known GPU, measured for all other devices.

    Raises:
        UserError: The precision is unknown.
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
    """Return the name in `decide.devices` of a GPU from CUDA's name ("NVIDIA H100 80GB HBM3" -> "h100")."""
    squeezed = device_name.lower().replace(" ", "")
    # A100 and H100 on PCIe cards have lower peaks than the SXM modules of the table.
    if "pcie" in squeezed or "nvl" in squeezed:
        return None
    return next((name for name in DEVICES if name in squeezed), None)


@cache
def measured_peak(device: str, precision: str, shapes: tuple[Shape, ...], threads: int) -> Peak:
    """Measure the best matrix product of a device; results are cached within the process, for each shape too.

    Args:
        device: Device name as in torch.
        precision: "fp32" or "bf16".
        shapes: Shapes measured in addition to the square.
        threads: Number of torch's threads on a CPU.
    """
    square = SMALL_SQUARE if device == "cpu" and threads <= N_SMALL_THREADS else SQUARE
    measured = [(measured_product(shape, device, precision, threads), shape) for shape in (square, *shapes)]
    best, (M, K, N) = max(measured)
    where = f"{threads} threads" if device == "cpu" else device
    return Peak(best, f"measured: {precision} product {M} x {K} x {N}, best of {N_RUNS}, {where}")


@cache
def measured_product(shape: Shape, device: str, precision: str, threads: int) -> float:
    """Return the FLOP/s of a product on `threads` of torch's threads, measured once in a process."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return product_flops(shape, device, PRECISIONS[precision])
    finally:
        torch.set_num_threads(before)


def product_flops(shape: Shape, device: str, dtype: torch.dtype, n_runs: int = N_RUNS) -> float:
    """Return the FLOP/s of the fastest of `n_runs` products of a shape."""
    M, K, N = shape
    generator = torch.Generator().manual_seed(0)  # leaves the random state of training unchanged
    left = torch.randn(M, K, generator=generator).to(device, dtype)
    right = torch.randn(N, K, generator=generator).to(device, dtype).T  # the layout of a linear layer's weight
    seconds = []
    for _ in range(n_runs + 1):  # the first run is a warm-up
        _wait_for(device)
        started = time.perf_counter()
        torch.matmul(left, right)
        _wait_for(device)
        seconds.append(time.perf_counter() - started)
    return 2 * M * K * N / min(seconds[1:])


def mean_mfu(mfus: Iterable[float | None], seconds: Iterable[float]) -> float | None:
    """Return the mean utilisation of steps, weighted by their time; None if none is known."""
    known = [(mfu, s) for mfu, s in zip(mfus, seconds, strict=True) if mfu is not None]
    total = sum(s for _, s in known)
    return sum(mfu * s for mfu, s in known) / total if total else None


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
