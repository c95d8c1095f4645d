"""Tensor and sequence parallelism: which matrix of the decoder is cut which way; the model itself does not know.

Megatron's plan (arXiv 1909.08053): what opens a block (q, k, v, gate, up) is cut by columns, so that each rank has
whole heads and whole channels, and what closes it (o, down) by rows. Between blocks the tokens are cut (sequence
parallelism, arXiv 2205.05198): norms and residuals are computed once and not tp times, a block begins with an
all-gather of tokens and ends with a reduce-scatter. All by torch's own styles; attention itself runs on the local
heads as plain tensors.

Embedding and head are cut by vocabulary. The head's logits are gathered before the loss, which makes those of at
most `TOKENS_PER_CHUNK` tokens at a time: for 4096 tokens of Llama 3 in bf16 that is 1 GB through the group in each
pass, some milliseconds, and the loss needs no second form for a cut vocabulary.

Built for grouped-query attention with dense MLPs, with or without QK-norm, biases, gates, windows and ALiBi. The
others are refused: experts are spread by expert parallelism, which keeps their routing whole.

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
    """Say whether there is a plan for a model.

    Raises:
        UserError: It has a part without a plan; which, and what to do instead.
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
    """Cut a model, or a pipeline's stage of one, in place over a one-dimensional mesh.

    Between blocks, and between stages, a rank has T / tp tokens; embedding and head take and give whole ones.

    Args:
        model: Any module that holds blocks, and embedding, last norm and head where it has them, by their names
            in `CausalLM`. Every rank has the same weights, or none yet (meta device).
        mesh: The ranks to cut it over.
        config: The model's.

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
        tie_weights()  # head and embedding were cut apart, by the same axis


def _apply(module: nn.Module, mesh: DeviceMesh, plan: ParallelStyle | dict[str, ParallelStyle]) -> None:
    # No source rank: weights are drawn by name and seed, so each rank has them and none need be sent.
    parallelize_module(module, mesh, plan, src_data_rank=None)


def _cut_outer(name: str, module: nn.Module, mesh: DeviceMesh) -> None:
    """Cut a part outside of the blocks; what is none of the three stays."""
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
    # A norm over all heads at once needs the sum of squares of all ranks: its input stays distributed.
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
    """A norm over channels that are cut: its weight is cut with them, and torch adds up what must be."""

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
        assert isinstance(outputs, DTensor)  # its input was
        return outputs.redistribute(placements=[CHANNELS]).to_local()


def _localise(attention: Any, mesh: DeviceMesh) -> None:
    """Let an attention count the heads that this rank has."""
    assert isinstance(attention, GroupedQueryAttention)  # the check let no other through
    rank, n = mesh.get_local_rank(), mesh.size()
    attention.n_heads //= n
    attention.n_kv_heads //= n
    if attention.slopes is not None:
        attention.slopes = attention.slopes[rank * attention.n_heads : (rank + 1) * attention.n_heads]


def _own_memory(module: nn.Module, inputs: Any, hidden_BTD: Tensor) -> Tensor:
    """Copy what leaves the model: FSDP warns of views there, and a warning that is no danger hides others."""
    return hidden_BTD.clone()


def _refuse_uneven(n_ranks: int) -> Any:
    def check(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].shape[1] % n_ranks:
            raise UserError(
                f"rows of {inputs[0].shape[1]} tokens cannot be cut over tp {n_ranks}: choose a context that is a "
                f"multiple of it"
            )

    return check
