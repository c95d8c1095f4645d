"""Tensor and sequence parallelism: how each matrix of the decoder is cut. The model itself does not know of it.

Megatron's plan (arXiv 1909.08053): the first matrices of a block (q, k, v, gate, up) are cut by columns, so that
each rank has whole heads and whole channels, and the last ones (o, down) by rows. Between blocks the tokens are
split (sequence parallelism, arXiv 2205.05198): norms and residuals are computed once and not tp times, a block
begins with an all-gather of tokens and ends with a reduce-scatter. All of this uses torch's own styles; attention
itself runs on the local heads as plain tensors.

Embedding and head are cut by vocabulary. The head's logits are gathered before the loss, which computes those of
at most `TOKENS_PER_CHUNK` tokens at a time. For 4096 tokens of Llama 3 in bf16 this sends 1 GB in each pass, which
takes a few milliseconds, and the loss needs no second form for a cut vocabulary.

Supported are grouped-query attention and dense MLPs, with or without QK-norm, biases, gates, windows and ALiBi.
Other parts are rejected. Experts are distributed by expert parallelism, which keeps their routing whole.

Letters: B batch, T tokens, D model width, H heads, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from modelstack.architecture.attention.grouped import GroupedQueryAttention
from modelstack.architecture.config import ModelConfig
from modelstack.errors import UserError
from modelstack.train.parallel.blocks import decoder_blocks

TOKENS, HEADS, CHANNELS = Shard(1), Shard(2), Shard(-1)
"""Axes of [B, T, D] and [B, T, H, d]."""
ATTENTION_KINDS = ("full_attention", "sliding_attention")


def check_tensor_parallel(config: ModelConfig) -> None:
    """Check that a tensor-parallel plan exists for a model.

    Raises:
        UserError: The model has a part without a plan; the message names it and an alternative.
    """
    without_plan = {
        "layer_types": sorted(set(config.layer_types) - set(ATTENTION_KINDS)),
        "mlp_layer_types": sorted(set(config.mlp_layer_types) - {"dense"}),
        "norm_placement": ["hyper"] if config.norm_placement == "hyper" else [],
        "attention_sinks": ["true"] if config.attention_sinks else [],
        "num_nextn_predict_layers": [str(config.num_nextn_predict_layers)] * bool(config.num_nextn_predict_layers),
    }
    for key, kinds in without_plan.items():
        if kinds:
            raise UserError(
                f"{key} has {', '.join(kinds)}: there is no tensor-parallel plan for it; set tp = 1 and spread "
                f"the model by shard, pp or ep"
            )


def apply_tensor_parallel(model: nn.Module, mesh: DeviceMesh, config: ModelConfig) -> None:
    """Cut a model or a pipeline stage, in place, over a one-dimensional mesh.

    Between blocks and between stages, a rank has T / tp tokens; embedding and head take and return whole rows.

    Args:
        model: A module with blocks, and optionally embedding, last norm and head under their names in `CausalLM`.
            Every rank has the same weights, or none yet (meta device).
        mesh: The mesh over which it is cut.
        config: The model's config.

    Raises:
        UserError: There is no plan for the model.
    """
    check_tensor_parallel(config)
    blocks = decoder_blocks(model)
    for block in blocks:
        _apply(block, mesh, _block_plan(block))
        _localise(block.self_attn, mesh)
    inside = {id(module) for block in blocks for module in block.modules()}
    for path, module in list(model.named_modules()):
        if id(module) not in inside:
            _cut_outer(path.rpartition(".")[2], module, mesh)
    tie_weights = getattr(model, "tie_weights", None)
    if tie_weights is not None:
        tie_weights()  # head and embedding were cut separately, along the same axis


def _apply(module: nn.Module, mesh: DeviceMesh, plan: ParallelStyle | dict[str, ParallelStyle]) -> None:
    # No source rank: weights are drawn by name and seed, so each rank has them and none are sent.
    parallelize_module(module, mesh, plan, src_data_rank=None)


def _cut_outer(name: str, module: nn.Module, mesh: DeviceMesh) -> None:
    """Cut embedding, final norm or head; other modules are unchanged."""
    if isinstance(module, nn.Embedding):
        _apply(module, mesh, RowwiseParallel(input_layouts=Replicate(), output_layouts=TOKENS))
        module.register_forward_pre_hook(_refuse_uneven(mesh.size()))
    elif name == "norm":
        _apply(module, mesh, SequenceParallel())
        _apply(module, mesh, PrepareModuleOutput(output_layouts=TOKENS, desired_output_layouts=Replicate()))
        module.register_forward_hook(_own_memory)
    elif name == "lm_head":
        _apply(module, mesh, ColwiseParallel(output_layouts=Replicate()))


def _block_plan(block: nn.Module) -> dict[str, ParallelStyle]:
    plan: dict[str, ParallelStyle] = {
        name: SequenceParallel(use_local_output=True)
        for name, _ in block.named_children()
        if name.endswith("layernorm")
    }
    whole, rest = (Replicate(), None, None), (TOKENS, None, None)
    plan["self_attn"] = PrepareModuleInput(input_layouts=rest, desired_input_layouts=whole)
    plan["mlp"] = PrepareModuleInput(input_layouts=rest[:2], desired_input_layouts=whole[:2])
    plan |= {f"self_attn.{name}": style for name, style in _attention_plan(block.self_attn).items()}
    for name in ("gate_proj", "up_proj"):
        if getattr(block.mlp, name) is not None:
            plan[f"mlp.{name}"] = ColwiseParallel()
    plan["mlp.down_proj"] = RowwiseParallel(output_layouts=TOKENS)
    return plan


def _attention_plan(attention: Any) -> dict[str, ParallelStyle]:
    # A norm over all heads at once needs the sum of squares of all ranks, so its input stays distributed.
    by_projection = attention.qk_norm == "projection"
    plan: dict[str, ParallelStyle] = {
        "q_proj": ColwiseParallel(use_local_output=not by_projection),
        "k_proj": ColwiseParallel(use_local_output=not by_projection),
        "v_proj": ColwiseParallel(),
        "o_proj": RowwiseParallel(output_layouts=TOKENS),
    }
    if attention.qk_norm is not None:
        for name in ("q_norm", "k_norm"):
            plan[name] = _ChannelParallel() if by_projection else _head_norm()
    return plan


def _head_norm() -> SequenceParallel:
    """Return the style of a norm over each head: heads are cut as tokens are elsewhere, the weight is whole."""
    return SequenceParallel(sequence_dim=HEADS.dim, use_local_output=True)


class _ChannelParallel(ParallelStyle):
    """A norm over cut channels: its weight is cut in the same way, and torch inserts the needed sums."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        return distribute_module(module, device_mesh, self._cut, None, self._give_local)  # pyright: ignore

    @staticmethod
    def _cut(name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        placements: list[Placement] = [Shard(0)]
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            cut = distribute_tensor(parameter, mesh, placements, src_data_rank=None)
            module.register_parameter(leaf, nn.Parameter(cut, requires_grad=parameter.requires_grad))

    @staticmethod
    def _give_local(module: nn.Module, outputs: Tensor, mesh: DeviceMesh) -> Tensor:
        assert isinstance(outputs, DTensor)  # its input was a DTensor
        return outputs.redistribute(placements=[CHANNELS]).to_local()


def _localise(attention: Any, mesh: DeviceMesh) -> None:
    """Set an attention's numbers of heads to those of this rank."""
    assert isinstance(attention, GroupedQueryAttention)  # check_tensor_parallel rejects all others
    rank, n = mesh.get_local_rank(), mesh.size()
    attention.n_heads //= n
    attention.n_kv_heads //= n
    if attention.slopes is not None:
        attention.slopes = attention.slopes[rank * attention.n_heads : (rank + 1) * attention.n_heads]


def _own_memory(module: nn.Module, inputs: Any, hidden_BTD: Tensor) -> Tensor:
    """Copy the model's output: FSDP warns of views there, and a harmless warning would hide others."""
    return hidden_BTD.clone()


def _refuse_uneven(n_ranks: int) -> Any:
    def check(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].shape[1] % n_ranks:
            raise UserError(
                f"rows of {inputs[0].shape[1]} tokens cannot be cut over tp {n_ranks}; use a context that is a "
                f"multiple of it"
            )

    return check
