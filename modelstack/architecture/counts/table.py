"""The counts of several models as rows of text: the output of `modelstack count`.

Bytes are decimal (GB = 10^9), as in published sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.flops import count_flops, decode_flops
from modelstack.architecture.counts.memory import (
    WEIGHT_FORMATS,
    cache_bytes,
    cache_bytes_by_kind,
    cache_bytes_per_token,
    decode_intensity,
    weight_bytes,
)
from modelstack.architecture.counts.parameters import EMBEDDING, FINAL_NORM, HEAD, ParameterCount, count_parameters
from modelstack.architecture.counts.registry import ATTENTION_FORMULAS, FEED_FORWARD_FORMULAS
from modelstack.architecture.counts.residual import RESIDUAL_FORMULAS
from modelstack.errors import UserError

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
"""Prefixes of powers of 1000; parameter counts use B instead of G."""
PARTS = (
    EMBEDDING,
    *ATTENTION_FORMULAS,
    *FEED_FORWARD_FORMULAS,
    *dict.fromkeys(part for part, _ in RESIDUAL_FORMULAS.values()),
    FINAL_NORM,
    HEAD,
)
"""Parts in the order in which a token passes through them."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Sequence length, batch and data sizes for which models are compared."""

    context: int = 8192
    """Tokens per sequence."""
    batch: int = 1
    """Number of sequences decoded together."""
    value_bytes: int = 2
    """Bytes per cached value."""
    training_tokens: float | None = None

    def __post_init__(self) -> None:
        """Reject numbers that are not positive.

        Raises:
            UserError: A number is not positive.
        """
        for name in ("context", "batch", "value_bytes", "training_tokens"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} {value} must be above 0")


@dataclass(frozen=True, slots=True)
class Row:
    """A quantity of all models; "" if it does not apply to a model."""

    label: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A titled group of rows."""

    title: str
    rows: tuple[Row, ...]


def sections(configs: Sequence[ModelConfig], workload: Workload) -> list[Section]:
    """Return all counts of the models, one column per model in the given order."""
    return [_parameters(configs), _flops(configs, workload), _bytes(configs, workload)]


def quantity(value: float, unit: str = "") -> str:
    """Return three significant digits with a prefix, for example 16.1 GB."""
    power = 0
    while abs(value) >= 999.5 and power < len(PREFIXES) - 1:
        value, power = value / 1000, power + 1
    digits = 0 if power == 0 and value == int(value) else max(0, 2 - len(str(int(abs(value)))) + 1)
    return f"{value:.{digits}f} {PREFIXES[power]}{unit}".rstrip()


def _parameters(configs: Sequence[ModelConfig]) -> Section:
    counts = [count_parameters(config) for config in configs]
    rows = [
        _row("all", (f"{count.total:,}" for count in counts)),
        _row("active per token", (_share(count.active, count) for count in counts)),
        _row("active, with the embedding table", (_share(count.active_with_embedding, count) for count in counts)),
    ]
    rows += [
        _row(f"  {part}", (_number(count.parts[part].total) if part in count.parts else "" for count in counts))
        for part in PARTS
    ]
    rows.append(_row("on top: multi-token prediction", (_number(count.mtp.total) for count in counts)))
    rows += [
        _row(f"buffer: {name}", (_number(count.buffers.get(name, (0, 0))[0]) for count in counts))
        for name in dict.fromkeys(name for count in counts for name in count.buffers)
    ]
    return Section("parameters", _without_empty(rows))


def _flops(configs: Sequence[ModelConfig], workload: Workload) -> Section:
    context, tokens = workload.context, workload.training_tokens
    causal = [count_flops(config, context) for config in configs]
    full = [count_flops(config, context, attention="full") for config in configs]
    decoding = [decode_flops(config, context) for config in configs]
    rows = [
        _row(f"forward, a token of {context:,}", (_flop(count.forward / context) for count in causal)),
        _row("  the same, masked pairs computed too", (_flop(count.forward / context) for count in full)),
        _row(f"training, a token of {context:,}", (_flop(count.training / context) for count in causal)),
        _row(f"decoding a token after {context:,}", (_flop(flops) for flops in decoding)),
    ]
    if tokens is not None:
        whole = (f"{count.training / context * tokens:.3g} FLOP" for count in causal)
        rows.append(_row(f"training on {quantity(tokens)} tokens", whole))
    return Section("FLOPs (causal; a multiply-add is two)", _without_empty(rows))


def _bytes(configs: Sequence[ModelConfig], workload: Workload) -> Section:
    context, batch, size = workload.context, workload.batch, workload.value_bytes
    per_token = [cache_bytes_per_token(config, size) for config in configs]
    kinds = [cache_bytes_by_kind(config, context, size) for config in configs]
    intensity = [decode_intensity(config, context, batch, "bf16", size) for config in configs]
    rows = [
        _row(f"weights, {storage}", (quantity(weight_bytes(config, storage), "B") for config in configs))
        for storage in WEIGHT_FORMATS
    ]
    rows += [
        _row("cache, each further token", (quantity(each, "B") for each in per_token)),
        _row(
            f"cache, {batch} x {context:,} tokens",
            (quantity(cache_bytes(config, context, batch, size), "B") for config in configs),
        ),
    ]
    rows += [
        _row(f"  {kind}", (quantity(batch * held[kind], "B") if kind in held else "" for held in kinds))
        for kind in PARTS
    ]
    rows.append(
        _row(f"decoding {batch} after {context:,}, bf16 weights", (f"{each:.2f} FLOP/B" for each in intensity))
    )
    return Section(f"bytes ({size} a cached value)", _without_empty(rows))


def _row(label: str, cells: Iterable[str]) -> Row:
    return Row(label, tuple(cells))


def _without_empty(rows: list[Row]) -> tuple[Row, ...]:
    """Return the rows without those that are empty for all models."""
    return tuple(row for row in rows if any(row.cells))


def _number(n: int) -> str:
    return quantity(n).replace(" G", " B") if n else ""


def _share(n: int, count: ParameterCount) -> str:
    return f"{_number(n)} ({n / count.total:.1%})" if n != count.total else _number(n)


def _flop(value: float) -> str:
    return quantity(value, "FLOP")
