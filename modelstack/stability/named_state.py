"""State of a run under names that are valid in every layout.

An optimizer numbers its parameters, and each layout numbers them differently: a pipeline stage has only some of
them. So its state is stored by parameter names, which are the same in every layout, and numbered again for the run
that loads it. Data that every rank holds whole (data cursor, guard, hooks) are stored once. Random states are
stored per rank.

The parts are at the paths that `GuardedRun` uses; everything else in a state is plain and the same on all ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from modelstack.errors import UserError
from modelstack.stability.plain_state import with_tensors, without_tensors

MODEL = ("run", "train", "model")
OPTIMIZER = ("run", "train", "optimizer")
RNG = ("rng",)
_NAMES = ("names", "param_names")
"""Keys of a group that hold the names of its parameters: that of `build_optimizer`, that of torch."""
_PER_PARAMETER = ("params", "fusions", *_NAMES)
"""Keys of a group with one value per parameter: they depend on the layout, not on the run."""
_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")
"""Parts that activation checkpointing and compilation add to names."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Type and shape of one tensor of a checkpoint."""

    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NamedState:
    """A state to be written."""

    tensors: dict[str, Tensor]
    """Tensors by name; of sharded ones, this rank's part."""
    own: dict[str, Any]
    """This rank's optimizer groups and values, plain JSON."""
    rest: Any
    """Data that are the same on all ranks, plain JSON."""


def named(state: Mapping[str, Any], rank: int) -> NamedState:
    """Return a state in which tensors and optimizer values are stored under parameter names.

    Args:
        state: The state of a `GuardedRun`, or any nested plain data.
        rank: Number of this rank; rank 0 stores the data that are the same on all ranks.

    Raises:
        UserError: An optimizer's groups do not name their parameters, or a value cannot be stored.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in (_part(state, MODEL) or {}).items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"the model's state has {name!r}, a {type(value).__name__}; it must contain only tensors"
            )
        tensors[f"model/{_clean(name)}"] = value.detach()
    own = _named_optimizer(_part(state, OPTIMIZER), tensors)
    for name, value in _random_tensors(_part(state, RNG)):
        tensors[f"rng/{rank}/{name}"] = value
    of_rest: dict[str, Tensor] = {}
    rest = without_tensors(_without_parts(state), of_rest)
    if rank == 0:
        tensors |= {f"rest{path}": tensor for path, tensor in of_rest.items()}
    return NamedState(tensors, own, rest)


@dataclass(slots=True)
class Wanted:
    """Tensors that a rank needs from a checkpoint to resume."""

    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Empty tensors, sharded like the run's own ones, to be filled."""
    complaints: list[str] = field(default_factory=list[str])
    """Reasons why the checkpoint does not match this run."""


def wanted(like: Mapping[str, Any], stored: Mapping[str, Stored], rank: int, same_world: bool) -> Wanted:
    """Return the tensors that this rank needs.

    Args:
        like: The current state of the run.
        stored: The checkpoint's tensors.
        rank: Number of this rank.
        same_world: Whether the checkpoint has the same number of ranks; only then are random states loaded from
            it.
    """
    found = Wanted()
    model = {_clean(name): tensor for name, tensor in (_part(like, MODEL) or {}).items()}
    for name, tensor in model.items():
        _want(found, f"model/{name}", stored, tensor, needed=True)
    _want_moments(found, stored, _part(like, OPTIMIZER), model)
    whole = ("rest/", f"rng/{rank}/") if same_world else ("rest/",)
    for key in stored:
        if key.startswith(whole):
            _want(found, key, stored, None, needed=True)
    return found


def left_over(stored: Mapping[str, Stored], asked: set[str]) -> list[str]:
    """Return the names of weights and moments that no rank requested: those of another model."""
    return sorted(key for key in stored if key not in asked and not key.startswith("rng/"))


def joined(
    like: Mapping[str, Any], tensors: Mapping[str, Tensor], owns: Sequence[Mapping[str, Any]], rest: Any, rank: int
) -> dict[str, Any]:
    """Return a state of the form of `like`.

    Args:
        like: The current state of the run.
        tensors: The filled tensors of `wanted`.
        owns: `NamedState.own` of each rank.
        rest: `NamedState.rest` of rank 0.
        rank: Number of this rank.

    Raises:
        UserError: The optimizer's groups differ from those of the checkpoint.
    """
    of_rest = {key.removeprefix("rest"): value for key, value in tensors.items() if key.startswith("rest/")}
    state = with_tensors(rest, of_rest)
    model = _part(like, MODEL)
    if model is not None:
        _put(state, MODEL, {name: tensors[f"model/{_clean(name)}"] for name in model})
    optimizer = _part(like, OPTIMIZER)
    if optimizer is not None:
        _put(state, OPTIMIZER, _numbered_optimizer(optimizer, tensors, owns))
    rng = _part(like, RNG)
    if rng is not None:
        _put(state, RNG, _with_random(rng, tensors, rank))
    return state


def _named_optimizer(state: Mapping[str, Any] | None, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Add an optimizer's tensors to `tensors`; return its groups and its values that are not tensors."""
    groups = []
    values: dict[str, dict[str, Any]] = {}
    name_of: dict[int, str] = {}
    for group in _groups(state):
        names = _names_of(group)
        name_of |= dict(zip(group["params"], names, strict=True))
        settings = {key: value for key, value in group.items() if key not in _PER_PARAMETER}
        groups.append({"names": names, "settings": _plain(settings)})
    if state is None:
        return {"groups": groups, "values": values}
    for number, of_parameter in _inner(state)["state"].items():
        for key, value in of_parameter.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{name_of[number]}/{key}"] = value.detach()
            else:
                values.setdefault(name_of[number], {})[key] = _plain(value)
    if _has_masters(state):
        for name, master in zip(name_of.values(), state["masters"], strict=True):
            tensors[f"masters/{name}"] = master.detach()
    return {"groups": groups, "values": values}


def _numbered_optimizer(
    like: Mapping[str, Any], tensors: Mapping[str, Tensor], owns: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    settings = {name: group["settings"] for own in owns for group in own["groups"] for name in group["names"]}
    values = {name: of_name for own in owns for name, of_name in own["values"].items()}
    kept: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer/"):
            _, name, of_name = key.split("/")
            kept.setdefault(name, {})[of_name] = tensor
    state: dict[int, dict[str, Any]] = {}
    groups, names = [], []
    for group in _groups(like):
        of_group = _names_of(group)
        groups.append(group | with_tensors(_settings_of(of_group, settings), {}))
        names += of_group
        for number, name in zip(group["params"], of_group, strict=True):
            of_parameter = kept.get(name, {}) | with_tensors(values.get(name, {}), {})
            if of_parameter:
                state[number] = of_parameter
    optimizer = {"state": state, "param_groups": groups}
    if not _has_masters(like):
        return optimizer
    return {"optimizer": optimizer, "masters": [tensors[f"masters/{name}"] for name in names]}


def _settings_of(names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    unknown = [name for name in names if name not in settings]
    if unknown:
        raise UserError(f"the checkpoint's optimizer does not update {unknown[0]!r}, but the run's does")
    first = settings[names[0]]
    for name in names:
        if settings[name] != first:
            raise UserError(
                f"the checkpoint's optimizer updates {names[0]!r} and {name!r} by different settings, but the "
                f"run's has them in one group; use the configuration that the run began with"
            )
    return dict(first)


def _want_moments(
    found: Wanted,
    stored: Mapping[str, Stored],
    optimizer: Mapping[str, Any] | None,
    model: Mapping[str, Tensor],
) -> None:
    """Add the optimizer's tensors for each parameter that it updates on this rank."""
    of_parameter: dict[str, list[str]] = {}
    for key in stored:
        if key.startswith("optimizer/"):
            of_parameter.setdefault(key.split("/")[1], []).append(key)
    for name in (name for group in _groups(optimizer) for name in _names_of(group)):
        if name not in model:
            found.complaints.append(f"the optimizer updates {name!r}, which the model's state does not have")
            continue
        for key in of_parameter.get(name, ()):
            _want(found, key, stored, model[name], needed=False)
        if _has_masters(optimizer):
            _want(found, f"masters/{name}", stored, model[name], needed=True)


def _want(found: Wanted, key: str, stored: Mapping[str, Stored], template: Tensor | None, *, needed: bool) -> None:
    """Add an empty tensor of the checkpoint's type, sharded like `template` if the shapes agree."""
    if key not in stored:
        found.complaints.append(f"it lacks {key}")
        return
    one = stored[key]
    if template is not None and tuple(template.shape) == one.shape:
        found.tensors[key] = torch.empty_like(template, dtype=one.dtype, requires_grad=False)
    elif template is not None and needed:
        found.complaints.append(f"{key} is {list(one.shape)}, the run's is {list(template.shape)}")
    else:
        found.tensors[key] = torch.empty(one.shape, dtype=one.dtype)


def _groups(optimizer: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    return [] if optimizer is None else _inner(optimizer)["param_groups"]


def _inner(optimizer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state of the optimizer itself, which is nested in the state of `Fp32Masters`."""
    return optimizer["optimizer"] if _has_masters(optimizer) else optimizer


def _has_masters(optimizer: Mapping[str, Any] | None) -> bool:
    return optimizer is not None and "masters" in optimizer


def _names_of(group: Mapping[str, Any]) -> list[str]:
    for key in _NAMES:
        if key in group:
            return [_clean(name) for name in group[key]]
    raise UserError(
        "a group of the optimizer does not name its parameters, so its state fits only one layout; create it with "
        "build_optimizer, or pass model.named_parameters() to torch's optimizers"
    )


def _clean(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _plain(value: Any) -> Any:
    found: dict[str, Tensor] = {}
    plain = without_tensors(value, found)
    if found:
        raise UserError(f"an optimizer's setting {next(iter(found))!r} is a tensor; it must be a number")
    return plain


def _random_tensors(rng: Mapping[str, Any] | None) -> Iterator[tuple[str, Tensor]]:
    if rng is not None:
        yield "cpu", rng["cpu"]
        for number, device in enumerate(rng["cuda"]):
            yield f"cuda{number}", device


def _with_random(like: Mapping[str, Any], tensors: Mapping[str, Tensor], rank: int) -> dict[str, Any]:
    if f"rng/{rank}/cpu" not in tensors:
        return dict(like)
    names = [f"rng/{rank}/cuda{number}" for number in range(len(like["cuda"]))]
    devices = [tensors[name] for name in names if name in tensors]
    return {"cpu": tensors[f"rng/{rank}/cpu"], "cuda": devices if len(devices) == len(names) else like["cuda"]}


def _part(state: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = state
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _put(state: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *above, last = path
    for key in above:
        state = state.setdefault(key, {})
    state[last] = value


def _without_parts(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state without its named parts; the state is not changed."""
    return _without(state, [MODEL, OPTIMIZER, RNG])


def _without(value: Mapping[str, Any], paths: Sequence[Sequence[str]]) -> dict[str, Any]:
    kept = {}
    for key, item in value.items():
        below = [path[1:] for path in paths if path and path[0] == key]
        if () in below:
            continue
        kept[key] = _without(item, below) if below and isinstance(item, Mapping) else item
    return kept
