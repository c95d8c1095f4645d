"""Conversion of a nested state to JSON and separate tensors, and back.

Values that JSON cannot represent get a mark: tensors, tuples, dicts whose keys are not plain strings. So a state
is restored with its types, and no pickle is needed: a malicious checkpoint can be wrong, but it cannot run code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from modelstack.errors import UserError

_TENSOR, _TUPLE, _DICT = "$tensor", "$tuple", "$dict"
"""The marks. A dict of the state must not have such a key itself."""


def without_tensors(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Return plain JSON; copies of the tensors are added to `tensors`, on the CPU, by their path.

    Args:
        value: Nested dicts, lists and tuples of tensors, numbers, strings, booleans and None.
        tensors: Dict to which the tensors are added.
        path: Path of `value` itself.

    Raises:
        UserError: The state contains another type.
    """
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()  # safetensors rejects memory shared by two names
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        items = [(key, without_tensors(item, tensors, f"{path}/{key}")) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(items)
        return {_DICT: [[_plain(key, path), item] for key, item in items]}
    if isinstance(value, tuple | list):
        items = [without_tensors(item, tensors, f"{path}/{n}") for n, item in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    return _plain(value, path)


def with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `without_tensors` was given.

    Raises:
        KeyError: A tensor is missing.
    """
    if isinstance(value, list):
        return [with_tensors(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        return tensors[value[_TENSOR]]
    special: dict[str, Callable[[list[Any]], Any]] = {
        _TUPLE: lambda items: tuple(with_tensors(item, tensors) for item in items),
        _DICT: lambda items: {key: with_tensors(item, tensors) for key, item in items},
    }
    for mark, make in special.items():
        if value.keys() == {mark}:
            return make(value[mark])
    return {key: with_tensors(item, tensors) for key, item in value.items()}


def _plain(value: Any, path: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(
        f"{path.lstrip('/')} is a {type(value).__name__}, which a checkpoint cannot hold; use plain data"
    )
