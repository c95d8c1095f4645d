"""A run's state by names that hold in every layout.

An optimizer numbers its parameters, and each layout numbers them anew: a pipeline stage has some of them only.
So its state is kept by the names of parameters, which are the same wherever a model lies, and numbered again for
the run that takes it up. What is whole on each rank (data cursor, guard, hooks) is kept once; random numbers are
each rank's own.

The parts lie where a `GuardedRun` puts them; whatever else a state holds is plain and the same on all ranks.
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
"""Where a group has the names of its parameters: `build_optimizer`'s, torch's."""
_PER_PARAMETER = ("params", "fusions", *_NAMES)
"""Values of a group that are one for each parameter: of the layout, not of the run."""
_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")
"""What activation checkpointing and compilation put into names."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a checkpoint."""

    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NamedState:
    """A state to be written."""

    tensors: dict[str, Tensor]
    """By name; sharded ones are this rank's part."""
    own: dict[str, Any]
    """This rank's optimizer groups and values, plain JSON."""
    rest: Any
    """What is the same on all ranks, plain JSON."""


def named(state: Mapping[str, Any], rank: int) -> NamedState:
    """Return a state by names.

    Args:
        state: A `GuardedRun`'s, or any nested plain data.
        rank: This one; the first one's is taken of what is the same on all.

    Raises:
        UserError: An optimizer's groups do not name their parameters, or something cannot be stored.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in (_part(state, MODEL) or {}).items():
        if not isinstance(value, Tensor):
            raise UserError(f"the model's state has {name!r}, a {type(value).__name__}; it may have tensors only")
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
    """What a rank wants of a checkpoint to go on from."""

    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Empty, sharded as the run's own ones are; to be filled."""
    complaints: list[str] = field(default_factory=list[str])
    """Why the checkpoint cannot be of this run."""


def wanted(like: Mapping[str, Any], stored: Mapping[str, Stored], rank: int, same_world: bool) -> Wanted:
    """Return what this rank wants.

    Args:
        like: The run's state as it is now.
        stored: The checkpoint's tensors.
        rank: This one.
        same_world: Whether the checkpoint is of as many ranks: only then are random numbers taken from it.
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
    """Return the names of weights and moments that no rank asked for: those of another model."""
    return sorted(key for key in stored if key not in asked and not key.startswith("rng/"))


def joined(
    like: Mapping[str, Any], tensors: Mapping[str, Tensor], owns: Sequence[Mapping[str, Any]], rest: Any, rank: int
) -> dict[str, Any]:
    """Return a state of the form of `like`.

    Args:
        like: The run's state as it is now.
        tensors: What was wanted, filled.
        owns: Each rank's `NamedState.own`.
        rest: The first rank's.
        rank: This one.

    Raises:
        UserError: The optimizer's groups are not the checkpoint's.
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
    """Put an optimizer's tensors into `tensors`; return its groups and its values that are no tensors."""
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
        raise UserError(f"the checkpoint's optimizer does not move {unknown[0]!r}, and the run's does")
    first = settings[names[0]]
    for name in names:
        if settings[name] != first:
            raise UserError(
                f"the checkpoint's optimizer moves {names[0]!r} and {name!r} by different settings, and the run's "
                f"has them in one group: build it from the configuration that the run began with"
            )
    return dict(first)


def _want_moments(
    found: Wanted,
    stored: Mapping[str, Stored],
    optimizer: Mapping[str, Any] | None,
    model: Mapping[str, Tensor],
) -> None:
    """Add what the optimizer has of each parameter that it moves on this rank."""
    of_parameter: dict[str, list[str]] = {}
    for key in stored:
        if key.startswith("optimizer/"):
            of_parameter.setdefault(key.split("/")[1], []).append(key)
    for name in (name for group in _groups(optimizer) for name in _names_of(group)):
        if name not in model:
            found.complaints.append(f"the optimizer moves {name!r}, which the model's state does not have")
            continue
        for key in of_parameter.get(name, ()):
            _want(found, key, stored, model[name], needed=False)
        if _has_masters(optimizer):
            _want(found, f"masters/{name}", stored, model[name], needed=True)


def _want(found: Wanted, key: str, stored: Mapping[str, Stored], template: Tensor | None, *, needed: bool) -> None:
    """Add an empty tensor of the checkpoint's type, sharded as `template` where that has its shape."""
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
    """Return the state of the optimizer itself, which `Fp32Masters` has inside."""
    return optimizer["optimizer"] if _has_masters(optimizer) else optimizer


def _has_masters(optimizer: Mapping[str, Any] | None) -> bool:
    return optimizer is not None and "masters" in optimizer


def _names_of(group: Mapping[str, Any]) -> list[str]:
    for key in _NAMES:
        if key in group:
            return [_clean(name) for name in group[key]]
    raise UserError(
        "a group of the optimizer does not name its parameters, so its state fits one layout only: make it with "
        "build_optimizer, or give torch's optimizers model.named_parameters()"
    )


def _clean(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _plain(value: Any) -> Any:
    found: dict[str, Tensor] = {}
    plain = without_tensors(value, found)
    if found:
        raise UserError(f"an optimizer's setting {next(iter(found))!r} is a tensor; make it a number")
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
    """Return the state without the parts that have names; nothing of it is changed."""
    return _without(state, [MODEL, OPTIMIZER, RNG])


def _without(value: Mapping[str, Any], paths: Sequence[Sequence[str]]) -> dict[str, Any]:
    kept = {}
    for key, item in value.items():
        below = [path[1:] for path in paths if path and path[0] == key]
        if () in below:
            continue
        kept[key] = _without(item, below) if below and isinstance(item, Mapping) else item
    return kept
