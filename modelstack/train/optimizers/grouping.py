"""Grouping of parameters for the optimizer: the role of each parameter, and the matrices it holds.

Roles follow DeepSeek-V4's report: Muon for most parameters; AdamW for embedding, head, norms, and the static parts
of hyper-connections. Parameters that the report does not mention (sinks, position biases, other one-axis
parameters) also use AdamW, because orthogonality is meaningless for them. Roles are decided by modules, not only
by names, so a model wrapped for sharding or checkpointing is grouped as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from modelstack.architecture.attention.delta_net import GatedDeltaNet
from modelstack.architecture.attention.grouped import GroupedQueryAttention
from modelstack.architecture.attention.latent import LatentAttention
from modelstack.architecture.attention.shared_kv import GroupedLinear
from modelstack.architecture.moe.experts import InterleavedExperts, PackedExperts
from modelstack.errors import UserError
from modelstack.train.optimizers.config import Role
from modelstack.train.optimizers.matrices import Fusion

HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class Placed:
    """A trainable parameter."""

    name: str
    parameter: nn.Parameter
    role: Role
    fusion: Fusion | None = None
    """Fusion of a parameter that holds several matrices."""


def placed_parameters(model: nn.Module, adamw_names: tuple[str, ...] = ()) -> list[Placed]:
    """Return every trainable parameter once, in the model's order; a tied one at its first position.

    Args:
        model: Any model. Modules with fused matrices are recognised by their class.
        adamw_names: Name patterns of matrices that are updated like vectors.

    Raises:
        UserError: A pattern matches no matrix.
    """
    fusions = {id(module.get_parameter(leaf)): fusion for module, leaf, fusion in _fused(model)}
    placed, seen, used = [], set[int](), set[str]()
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            name = f"{path}.{leaf}" if path else leaf
            role = _role(path, module, leaf, parameter)
            fitting = {pattern for pattern in adamw_names if fnmatchcase(name, pattern)}
            if role == "matrix" and fitting:
                role, used = "vector", used | fitting
            placed.append(Placed(name, parameter, role, fusions.get(id(parameter))))
    if unused := sorted(set(adamw_names) - used):
        matrices = [one.name for one in placed if one.role == "matrix"]
        raise UserError(
            f"adamw_names {unused[0]!r} matches no matrix of the model; use a pattern for names such as "
            f"{matrices[:1] or '(this model has no matrix)'}"
        )
    return placed


def _role(path: str, module: nn.Module, leaf: str, parameter: nn.Parameter) -> Role:
    if isinstance(module, nn.Embedding):
        return "embedding"
    if path.rpartition(".")[2] == HEAD and leaf == "weight":
        return "head"
    if leaf.endswith("bias") or min(parameter.shape[-2:], default=0) < 2 or isinstance(module, nn.Conv1d):
        return "vector"
    n_axes = 3 if isinstance(module, PackedExperts | InterleavedExperts) else 2
    return "matrix" if parameter.ndim == n_axes else "vector"


def _fused(model: nn.Module) -> Iterator[tuple[nn.Module, str, Fusion]]:
    """Yield the modules with a fused weight, the weight's name and its fusion."""
    for module in model.modules():
        match module:
            case PackedExperts():
                inner = module.down_proj.shape[-1]
                yield module, "gate_up_proj", Fusion(-2, (inner, inner))
            case InterleavedExperts():
                yield module, "gate_up_proj", Fusion(-1, (1, 1), module.down_proj.shape[-2])
            case GroupedLinear():
                group = module.weight.shape[0] // module.n_groups
                yield module, "weight", Fusion(-2, (group,) * module.n_groups)
            case GatedDeltaNet():
                yield module.in_proj_qkv, "weight", Fusion(-2, module.sizes)
            case LatentAttention():
                head = (module.plain_size, module.value_size)
                yield module.kv_b_proj, "weight", Fusion(-2, head, module.n_heads)
                yield module.kv_a_proj_with_mqa, "weight", Fusion(-2, (module.latent_size, module.rope_size))
            case GroupedQueryAttention() if module.has_gate:
                yield module.q_proj, "weight", Fusion(-2, (module.head_dim,) * 2, module.n_heads)
