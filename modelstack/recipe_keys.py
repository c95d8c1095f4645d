"""Keys of a recipe with type, default and meaning, read from its pydantic model.

The meaning of a key is the docstring below its field. A key is written as in an override (`optimizer.lr`); in a
list of tables as `templates[].name`; in a table with several forms with the form: `steps[kind=extract].engine`.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from textwrap import wrap
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from modelstack.recipe_file import tables_of

WIDTH = 80
_BOUNDS = {Gt: ">", Ge: ">=", Lt: "<", Le: "<="}
_TYPES: dict[Any, str] = {
    bool: "boolean",
    int: "integer",
    float: "float",
    str: "string",
    Path: "path",
    Any: "any value",
}
"""Types by their names in TOML; all others are strings."""


@dataclass(frozen=True, slots=True)
class RecipeKey:
    """Key of a recipe."""

    key: str
    """Path of the key, with a dot between the names of tables."""
    type: str
    """Type with its bounds, by TOML's names: "float > 0", "list of string"."""
    default: str
    """Value as in TOML; "none": no value; "required"; empty for a table, whose keys have their own defaults."""
    meaning: str


def recipe_keys(model: type[BaseModel]) -> list[RecipeKey]:
    """Return the keys of a recipe in the order of its fields, each table followed by the keys in it."""
    return list(_keys(model, "", None))


def keys_text(keys: Sequence[RecipeKey], width: int = WIDTH) -> str:
    """Return keys as text: a line with key, type and default, and the meaning below it, indented."""
    lines: list[str] = []
    for key in keys:
        default = key.default if key.default in ("", "required") else f"default {key.default}"
        head = "  ".join(filter(None, (key.key, ", ".join(filter(None, (key.type, default))))))
        lines += wrap(head, width, subsequent_indent=" " * 8, break_on_hyphens=False)
        lines += wrap(
            key.meaning, width, initial_indent=" " * 4, subsequent_indent=" " * 4, break_on_hyphens=False
        )
    return "\n".join(lines)


def _keys(model: type[BaseModel], prefix: str, default: BaseModel | None) -> Iterator[RecipeKey]:
    """Yield the keys of a table.

    Args:
        model: Model of the table.
        prefix: Path of the table, with its dot.
        default: Table that stands where the recipe gives none; None: the defaults of the model hold.
    """
    for name, field in model.model_fields.items():
        if _is_fixed(field):
            continue
        key = prefix + name
        value = getattr(default, name) if default is not None else _default(field)
        tables, many = tables_of(field.annotation), _is_list(field.annotation)
        yield RecipeKey(
            key, _type(field, optional=value is not None), _written(value, tables), _meaning(model, name, tables)
        )
        if len(tables) == 1:
            table = value if isinstance(value, tables[0]) else None
            yield from _keys(tables[0], f"{key}[]." if many else f"{key}.", table)
        for table in tables if len(tables) > 1 else ():
            yield from _form(table, key, value)


def _form(model: type[BaseModel], key: str, default: Any) -> Iterator[RecipeKey]:
    """Yield the keys of one form of a table, which its key `kind` or `name` selects."""
    mark = _mark(model)
    names = "|".join(map(str, get_args(model.model_fields[mark].annotation)))
    form = f"{key}[{mark}={names}]"
    yield RecipeKey(form, "table", "", _sentence(model))
    inner = _keys(model, f"{form}.", default if isinstance(default, model) else None)
    yield from (each for each in inner if each.key != f"{form}.{mark}")


def _is_fixed(field: FieldInfo) -> bool:
    """Whether a key has only one possible value, which tells the form of its table."""
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def _mark(model: type[BaseModel]) -> str:
    """Return the key by which the forms of a table differ, `kind` or `name`: the first with fixed values."""
    return next(name for name, field in model.model_fields.items() if get_origin(field.annotation) is Literal)


def _default(field: FieldInfo) -> Any:
    return ... if field.is_required() else field.get_default(call_default_factory=True, validated_data={})


def _written(value: Any, tables: Sequence[type[BaseModel]]) -> str:
    if value is ...:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "" if len(tables) == 1 else _toml({(mark := _mark(type(value))): getattr(value, mark)})
    return _toml(value)


def _toml(value: Any) -> str:
    match value:
        case BaseModel():
            return _toml(value.model_dump(mode="json", exclude_none=True))
        case Mapping():
            return "{" + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + "}"
        case list() | tuple() | set() | frozenset():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case bool() | int() | str():
            return json.dumps(value, ensure_ascii=False)
        case float():
            return repr(value)
        case _:
            return json.dumps(str(value), ensure_ascii=False)


def _type(field: FieldInfo, *, optional: bool) -> str:
    """Return the type of a field; `optional` names "none" among its values where it is one."""
    name = _named(field.annotation, field.metadata)
    return f"{name} or none" if optional and NoneType in get_args(field.annotation) else name


def _named(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    bounds = ", ".join(
        f"{sign} {getattr(bound, kind.__name__.lower())}"
        for bound in metadata
        for kind, sign in _BOUNDS.items()
        if isinstance(bound, kind)
    )
    if origin is Annotated:
        return _named(inner[0], inner[1:])
    if origin in (Union, UnionType):
        parts = dict.fromkeys(_named(part, metadata) for part in inner if part is not NoneType)
        return " or ".join(parts)
    if origin is Literal:
        return " | ".join(map(_toml, inner))
    if origin in (tuple, list, set, frozenset):
        if origin is tuple and ... not in inner:
            return f"list of {len(inner)}: {', '.join(map(_named, inner))}"
        return f"list of {_named(inner[0])}"
    if origin in (dict, Mapping):
        return "table" if inner[1] is Any else f"table of {_named(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return f"{_TYPES.get(annotation, 'string')} {bounds}".strip()


def _is_list(annotation: Any) -> bool:
    origin = get_origin(annotation)
    return origin in (tuple, list) or (
        origin in (Union, UnionType, Annotated) and _is_list(get_args(annotation)[0])
    )


def _meaning(model: type[BaseModel], name: str, tables: Sequence[type[BaseModel]]) -> str:
    """Return the docstring of a field; without one the first sentence about its table."""
    owners = [owner for owner in model.__mro__ if name in owner.__dict__.get("__annotations__", ())]
    for owner in owners:
        if text := _field_docstrings(owner.__module__).get((owner.__qualname__, name)):
            return text
    return _sentence(tables[0]) if len(tables) == 1 else ""


def _sentence(model: type[BaseModel]) -> str:
    first, _, _ = " ".join((inspect.getdoc(model) or "").partition("\n\n")[0].split()).partition(". ")
    return f"{first.removesuffix('.')}."


@lru_cache
def _field_docstrings(module: str) -> dict[tuple[str, str], str]:
    """Return the docstrings of a module's fields by class and name."""
    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, below in zip(node.body, node.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[node.name, name] = " ".join(text.split())
                case _:
                    pass
    return found
