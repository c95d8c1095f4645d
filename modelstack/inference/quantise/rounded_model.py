"""Quantisation of a model, block by block: scales of the inputs (AWQ), then rounding (nearest or GPTQ).

Rounded are the linear layers of the blocks, and experts in the packed layout. Embedding, head, norms, routers and
layers with fewer than 32 inputs or outputs keep their numbers. Experts are rounded to nearest with every method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from modelstack.architecture.attention.grouped import GroupedQueryAttention
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.mlp import MLP
from modelstack.architecture.moe.experts import PackedExperts
from modelstack.architecture.norms import LayerNorm, RMSNormZeroCentred
from modelstack.architecture.rounded_weight import NumberFormat, RoundedWeight
from modelstack.errors import UserError
from modelstack.inference.quantise import awq
from modelstack.inference.quantise.calibration import InputMoments, for_each_block
from modelstack.inference.quantise.finished_blocks import FinishedBlocks
from modelstack.inference.quantise.gptq import round_by_gptq
from modelstack.inference.quantise.rounded_tensor import RoundedTensor
from modelstack.inference.quantise.rounding import round_weight

SMALLEST_SIDE = 32
"""Minimum inputs and outputs of a rounded layer: kernels of vLLM require multiples of 32."""
FormatOf = Callable[[str, tuple[int, ...]], NumberFormat | None]
"""Format of a weight, by name and shape; None: the weight is not rounded."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to quantise."""

    scales_inputs: bool
    """Whether inputs are scaled by AWQ."""
    is_gptq: bool
    """Whether weights are rounded by GPTQ; else to nearest."""

    @property
    def needs_text(self) -> bool:
        """Whether calibration text is required."""
        return self.scales_inputs or self.is_gptq


METHODS = {
    "rtn": Method(scales_inputs=False, is_gptq=False),
    "awq": Method(scales_inputs=True, is_gptq=False),
    "gptq": Method(scales_inputs=False, is_gptq=True),
    "awq-gptq": Method(scales_inputs=True, is_gptq=True),
}


@dataclass(frozen=True, slots=True)
class Quantised:
    """Rounded weights of a model, which holds them dequantised too."""

    weights: Mapping[str, RoundedWeight]
    """Rounded weights by their name in the model."""
    tensors: Sequence[RoundedTensor]
    """Report on each, in the order of the model."""


@dataclass(slots=True)
class _Run:
    """State of one quantisation."""

    config: ModelConfig
    names: Mapping[nn.Module, str]
    format_of: FormatOf
    method: Method
    scale_type: torch.dtype
    weights: dict[str, RoundedWeight] = field(default_factory=dict[str, RoundedWeight])
    tensors: list[RoundedTensor] = field(default_factory=list[RoundedTensor])


@torch.no_grad()
def quantise(
    model: CausalLM,
    format_of: FormatOf,
    method: Method,
    batches: Sequence[Tensor] = (),
    *,
    scale_type: torch.dtype = torch.bfloat16,
    finished: FinishedBlocks | None = None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> Quantised:
    """Round the weights of a model in place, and return them with a report on each.

    Args:
        model: The model, in fp32.
        format_of: Format of each weight.
        method: A value of `METHODS`.
        batches: Token ids [B, T] to calibrate on. Without any, errors of all inputs count alike.
        scale_type: Type that stores the scales.
        finished: Blocks that an earlier run finished; receives those that this run finishes.
        on_block: Called with the number of finished blocks and of all.

    Raises:
        UserError: The method requires calibration text, the model has weights that are not finite, or nothing in
            the model can be rounded.
    """
    if method.needs_text and not batches:
        raise UserError("this method requires calibration text; give some, or use the method rtn")
    run = _Run(
        model.config, {module: name for name, module in model.named_modules()}, format_of, method, scale_type
    )

    def restore(number: int, block: nn.Module) -> bool:
        found = None if finished is None else finished.restore(number, block)
        if found is None:
            return False
        run.weights.update(found[0])
        run.tensors.extend(found[1])
        return True

    def change(number: int, block: nn.Module, moments: Mapping[nn.Module, InputMoments]) -> None:
        n_before = len(run.tensors)
        if method.scales_inputs:
            _scale_inputs(run, block, moments)
        for module in block.modules():
            if type(module) is nn.Linear:
                _round_linear(run, module, moments.get(module))
            elif isinstance(module, PackedExperts):
                for part in ("gate_up_proj", "down_proj"):
                    _round_parameter(run, f"{run.names[module]}.{part}", getattr(module, part))
        new = run.tensors[n_before:]
        if finished is not None and new:
            finished.save(number, block, {each.name: run.weights[each.name] for each in new}, new)
        on_block(number + 1, len(model.model.layers))

    for_each_block(model, batches, change, restore)
    if not run.weights:
        raise UserError(
            "no weight of this model can be rounded to this format: all are too small, or their rows are no "
            "multiples of the group; choose smaller groups or one scale per channel"
        )
    return Quantised(run.weights, run.tensors)


def can_round(shape: tuple[int, ...]) -> bool:
    """Return whether a weight is large enough to be rounded."""
    return min(shape[-2:]) >= SMALLEST_SIDE


def _format(run: _Run, name: str, shape: tuple[int, ...]) -> NumberFormat | None:
    number_format = run.format_of(name, shape) if can_round(shape) else None
    return number_format if number_format is not None and number_format.fits(shape) else None


def _round_linear(run: _Run, layer: nn.Linear, moments: InputMoments | None) -> None:
    name = f"{run.names[layer]}.weight"
    number_format = _format(run, name, tuple(layer.weight.shape))
    if number_format is None:
        return
    second_moment = None if moments is None else moments.second_moment_KK
    _check_finite(name, layer.weight, second_moment)
    rounded = _rounded(run, layer.weight, number_format, second_moment)
    _replace(run, name, layer.weight, rounded, second_moment)


def _round_parameter(run: _Run, name: str, weight: Tensor) -> None:
    number_format = _format(run, name, tuple(weight.shape))
    if number_format is None:
        return
    _check_finite(name, weight, None)
    _replace(run, name, weight, round_weight(weight, number_format, None, run.scale_type), None)


def _rounded(
    run: _Run, weight: Tensor, number_format: NumberFormat, second_moment_KK: Tensor | None
) -> RoundedWeight:
    if run.method.is_gptq:
        assert second_moment_KK is not None, "the method requires text"
        return round_by_gptq(weight, number_format, second_moment_KK, run.scale_type)
    importance = None if second_moment_KK is None else second_moment_KK.diagonal()
    return round_weight(weight, number_format, importance, run.scale_type)


def _replace(
    run: _Run, name: str, weight: Tensor, rounded: RoundedWeight, second_moment_KK: Tensor | None
) -> None:
    """Store a rounded weight, and put it dequantised in the place of the weight."""
    new, shape = rounded.dequantised(), tuple(weight.shape)
    output_error = None
    if second_moment_KK is not None:
        whole = awq.output_error(weight, torch.zeros_like(weight), second_moment_KK)
        output_error = awq.output_error(weight, new, second_moment_KK) / max(whole, 1e-30)
    weight_error = float((weight - new).square().sum() / weight.square().sum().clamp(min=1e-30))
    bits = rounded.format.bits_per_weight(shape, rounded.scale.element_size() * 8)
    run.weights[name] = rounded
    run.tensors.append(RoundedTensor(name, rounded.format, weight.numel(), bits, weight_error, output_error))
    weight.copy_(new)


def _check_finite(name: str, weight: Tensor, second_moment_KK: Tensor | None) -> None:
    if not weight.isfinite().all():
        raise UserError(f"{name} contains infinite numbers or NaN; use a checkpoint before the divergence")
    if second_moment_KK is not None and not second_moment_KK.isfinite().all():
        raise UserError(f"the input of {name} overflows on the calibration text; the model may have diverged")


def _scale_inputs(run: _Run, block: nn.Module, moments: Mapping[nn.Module, InputMoments]) -> None:
    """Search the scale of each input of a block that its source can undo, and apply it."""
    for source, readers in _undoable_inputs(block, run.config):
        formats = [_format(run, f"{run.names[layer]}.weight", tuple(layer.weight.shape)) for layer in readers]
        moment = moments.get(readers[0])
        if moment is None or None in formats:
            continue
        number_format = formats[0]
        assert number_format is not None, "checked above"

        def rounded(weight: Tensor, second_moment_KK: Tensor, to: NumberFormat = number_format) -> Tensor:
            return round_weight(weight, to, second_moment_KK.diagonal(), run.scale_type).dequantised()

        weights = [layer.weight for layer in readers]
        scale = awq.input_scale(weights, moment.magnitude_K, moment.second_moment_KK, rounded)
        for weight in weights:
            weight.mul_(scale)
        moment.divide(scale)
        source(scale)


def _undoable_inputs(
    block: nn.Module, config: ModelConfig
) -> Iterator[tuple[Callable[[Tensor], None], list[nn.Linear]]]:
    """Yield pairs: a function that divides an input by a scale per channel, and the layers that read this input.

    These are norms before grouped-query attention and before a plain feed-forward, the values of attention whose
    heads all have their own, and the products inside a gated feed-forward.
    """
    names = dict(block.named_children())
    attention, feed_forward = names.get("self_attn"), names.get("mlp")
    if isinstance(attention, GroupedQueryAttention):
        if "input_layernorm" in names:
            readers = [attention.q_proj, attention.k_proj, attention.v_proj]
            yield partial(_divide_norm, names["input_layernorm"]), readers
        if attention.n_heads == attention.n_kv_heads:
            yield partial(_divide_rows, attention.v_proj), [attention.o_proj]
    if isinstance(feed_forward, MLP):
        readers = [layer for layer in (feed_forward.gate_proj, feed_forward.up_proj) if layer is not None]
        is_sandwich = "pre_feedforward_layernorm" in names
        if is_sandwich or "input_layernorm" in names:
            norm = names["pre_feedforward_layernorm" if is_sandwich else "post_attention_layernorm"]
            yield partial(_divide_norm, norm), readers
        if feed_forward.gate_proj is not None and config.swiglu_limit is None and config.swiglu_alpha is None:
            yield partial(_divide_rows, feed_forward.up_proj), [feed_forward.down_proj]


def _divide_norm(norm: nn.Module, scale_K: Tensor) -> None:
    weight = norm.weight
    assert isinstance(weight, Tensor)
    if isinstance(norm, RMSNormZeroCentred):
        weight.copy_((1 + weight) / scale_K - 1)
        return
    weight.div_(scale_K)
    if isinstance(norm, LayerNorm):
        norm.bias.div_(scale_K)


def _divide_rows(layer: nn.Linear, scale_N: Tensor) -> None:
    layer.weight.div_(scale_N[:, None])
    if layer.bias is not None:
        layer.bias.div_(scale_N)
