"""The final answer: text, a type that pydantic knows, one of several types, or the result of a function.

A structured answer is always a JSON object, in the same grammar as the tool calls:

- A type whose schema is an object is answered as it is; another type is wrapped in `{"result": ...}`, as MCP does
  with tool results.
- Of several types (`A | B` or `[A, B]`) the answer is one. If the same JSON could fit two of them, each is marked:
  `{"result": {"kind": "A", "value": ...}}`, so that the model chooses the type and nothing is guessed.
- An output function is answered by its arguments, and its return value is the output. It may raise `ModelRetry`.
  A run that is resumed after its end calls it again, so it should have no effects that must not be repeated.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, Union, cast, get_args, get_origin

from agentkit.basics.near_names import near_names
from agentkit.errors import ModelRetry, UserError
from agentkit.models.base import OutputSchema

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pydantic import TypeAdapter, ValidationError
    from typing_extensions import TypeForm

    from agentkit.context import RunContext
    from agentkit.tools.tool import Tool

    T = TypeVar("T")
    OutputType = (
        TypeForm[T]
        | type[T]
        | Sequence[TypeForm[T] | Callable[..., Awaitable[T]] | Callable[..., T]]
        | Callable[..., Awaitable[T]]
        | Callable[..., T]
    )
    """A type, a union, a list of types and functions, or a function.

    In a list that mixes types with coroutine functions, pyright infers the coroutine as a member; annotate such
    an agent: `agent: Agent[None, A | B] = Agent(..., output_type=[A, make_b])`.
    """

OutputT = TypeVar("OutputT")
_RESULT = "result"
_KIND = "kind"
_VALUE = "value"
NO_PARTIAL: Any = object()
"""Stands for a text so far that no partial output follows from."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A possible type of an answer, or an output function."""

    name: str
    schema: dict[str, Any]
    adapter: TypeAdapter[Any] | None
    """Validator of the type; None for a function."""
    function: Tool | None = None

    def parse(self, value: Any) -> Any:
        """Validate a JSON value; the arguments, for a function."""
        if self.function is not None:
            return self.function.validate(json.dumps(value))
        assert self.adapter is not None  # a member is a type or a function
        return self.adapter.validate_python(value)


@dataclass(frozen=True, slots=True)
class _Call:
    """Validated arguments of an output function, which is called when the answer is read."""

    function: Tool
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class OutputSpec(Generic[OutputT]):
    """Schema that requests an output, and the parser for it."""

    schema: OutputSchema | None
    """Schema of the answer; None for plain text."""
    members: tuple[_Member, ...] = ()
    """The types and functions that the answer may be of; a union that pydantic tells apart is one member."""

    def parse(self, text: str) -> OutputT | _Call:
        """Parse the model's answer, without calling an output function.

        Raises:
            ModelRetry: the answer does not fit the type; the message tells the model why.
        """
        if self.schema is None:
            return cast(OutputT, text)
        from pydantic import ValidationError

        member = self.members[0]
        try:
            if len(self.members) == 1 and not self.schema.wrapped:
                if member.adapter is not None:
                    return member.adapter.validate_json(text)
                assert member.function is not None  # a member is a type or a function
                return _Call(member.function, member.function.validate(text))
            value = _unwrap(text)
            if len(self.members) > 1:
                member, value = self._chosen(value)
            parsed = member.parse(value)
        except ValidationError as error:
            raise ModelRetry(f"The answer does not fit its schema:\n{_explained(error)}") from error
        return cast(OutputT, parsed) if member.function is None else _Call(member.function, parsed)

    async def read(self, text: str, context: Callable[[], RunContext[Any]]) -> OutputT:
        """Parse the model's answer, and call the output function that it is for.

        Raises:
            ModelRetry: the answer does not fit, or the function rejects it.
        """
        parsed = self.parse(text)
        if isinstance(parsed, _Call):
            return await parsed.function.call(parsed.arguments, context())
        return parsed

    def partial(self, text: str) -> OutputT | Any:
        """Return the output of a text that is not complete, or `NO_PARTIAL`.

        Incomplete strings and missing items at the end are allowed; pydantic requires all required fields of a
        model (a `TypedDict` with `total=False` has none). Arguments of an output function are no output.
        """
        if self.schema is None:
            return text
        from pydantic import ValidationError
        from pydantic_core import from_json

        try:
            value: Any = from_json(text, allow_partial="trailing-strings")
        except ValueError:
            return NO_PARTIAL
        member = self.members[0]
        if self.schema.wrapped:
            if not isinstance(value, dict) or _RESULT not in value:
                return NO_PARTIAL
            value = cast("dict[str, Any]", value)[_RESULT]
        if len(self.members) > 1:
            try:
                member, value = self._chosen(value)
            except ModelRetry:
                return NO_PARTIAL
        if member.adapter is None:
            return NO_PARTIAL
        try:
            return member.adapter.validate_python(value, experimental_allow_partial="trailing-strings")
        except ValidationError:
            return NO_PARTIAL

    def _chosen(self, value: Any) -> tuple[_Member, Any]:
        """Return the member that a marked answer chose, and its value."""
        marked = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        known = {member.name: member for member in self.members}
        if _KIND not in marked or _VALUE not in marked:
            names = ", ".join(map(repr, known))
            raise ModelRetry(f'"{_RESULT}" must be an object with "{_KIND}", one of {names}, and "{_VALUE}".')
        kind = str(marked[_KIND])
        if kind not in known:
            near = near_names(kind, known)
            names = ", ".join(map(repr, near or known))
            raise ModelRetry(f"{_KIND} {kind[:80]!r} is unknown; {'nearest' if near else 'known'}: {names}.")
        return known[kind], marked[_VALUE]


def output_spec(output_type: Any) -> OutputSpec[Any]:
    """Make the specification of an output type, see `OutputType`.

    Raises:
        UserError: a type has no JSON Schema, or a function's signature has none.
    """
    if output_type is None or isinstance(output_type, (str, bytes, int, float, Mapping)):
        raise UserError(
            f"output_type={output_type!r:.200} is not a type; give a type (`str`, `int`, a pydantic model), a "
            f"union or list of types, or a function."
        )
    given = _types(output_type)
    if not given:
        raise UserError(f"output_type={output_type!r} must name at least one type.")
    if given == (str,):
        return OutputSpec(schema=None)
    members = _members(given)
    if len(members) == 1:
        return _plain(given[0], members[0])
    if any(member.function for member in members) or _may_be_confused(members):
        return _marked(members)
    union = cast(Any, Union)[given]
    return _plain(union, _type_member(union))


def _plain(output_type: Any, member: _Member) -> OutputSpec[Any]:
    """Return the specification of an answer that has one form."""
    schema = member.schema
    name = schema.get("title") or getattr(output_type, "__name__", "output")
    description = schema.get("description")
    if member.function is not None:
        name, description = member.name, member.function.definition.description or None
    wrapped = not _is_object(schema)
    schema = _wrap(schema) if wrapped else schema
    return OutputSpec(OutputSchema(str(name), schema, description, wrapped), (member,))


def _marked(members: Sequence[_Member]) -> OutputSpec[Any]:
    """Return the specification of an answer that names which member it is of."""
    definitions: dict[str, Any] = {}
    options: list[dict[str, Any]] = []
    for member in members:
        schema = {key: value for key, value in member.schema.items() if key != "$defs"}
        for name, definition in member.schema.get("$defs", {}).items():
            if definitions.setdefault(name, definition) != definition:
                raise UserError(f"output_type: two types are called {name!r} and differ; rename one.")
        option: dict[str, Any] = {
            "type": "object",
            "properties": {_KIND: {"const": member.name, "type": "string"}, _VALUE: schema},
            "required": [_KIND, _VALUE],
            "additionalProperties": False,
        }
        if member.function is not None and member.function.definition.description:
            option["description"] = member.function.definition.description
        options.append(option)
    schema = _wrap({"anyOf": options, **({"$defs": definitions} if definitions else {})})
    return OutputSpec(OutputSchema("output", schema, None, True), tuple(members))


def _types(output_type: Any) -> tuple[Any, ...]:
    """Return the members of a list or union, flat and each once."""
    if isinstance(output_type, list | tuple):
        found = [each for item in cast("Sequence[Any]", output_type) for each in _types(item)]
    elif get_origin(output_type) in (Union, types.UnionType):
        found = [each for item in get_args(output_type) for each in _types(item)]
    else:
        found = [output_type]
    return tuple(dict.fromkeys(found))


def _members(given: Sequence[Any]) -> tuple[_Member, ...]:
    named: dict[str, _Member] = {}
    for each in given:
        member = _function_member(each) if inspect.isroutine(each) else _type_member(each)
        if member.name in named:
            raise UserError(f"output_type: two members are called {member.name!r}; rename one.")
        named[member.name] = member
    return tuple(named.values())


def _function_member(function: Callable[..., Any]) -> _Member:
    from agentkit.tools.function import function_tool

    made = function_tool(function)
    return _Member(made.name, dict(made.definition.parameters_json_schema), None, made)


def _type_member(output_type: Any) -> _Member:
    from pydantic import TypeAdapter

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(output_type)
        schema = adapter.json_schema()
    except Exception as error:  # pydantic raises several unrelated types for a type it cannot handle
        raise UserError(f"output_type={output_type!r} has no JSON Schema: {error}") from error
    return _Member(_name(output_type), schema, adapter)


def _name(item: Any) -> str:
    """Return a name for a type, or for a value in `Literal`: `list[City]` is "list_City"."""
    if item is types.NoneType:
        return "None"
    parts = [str(getattr(item, "__name__", item))] if get_origin(item) is not Annotated else []
    parts += [_name(each) for each in get_args(item)[: None if parts else 1]]
    return re.sub(r"\W+", "_", "_".join(parts)).strip("_")


def _may_be_confused(members: Sequence[_Member]) -> bool:
    """Return whether one JSON value could fit two members."""
    return any(_overlap(_root(one.schema), _root(other.schema)) for one, other in combinations(members, 2))


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    shared = _json_types(one) & _json_types(other)
    values, other_values = _values(one), _values(other)
    if values is not None and other_values is not None:
        return bool(values & other_values)
    if shared != frozenset({"object"}):
        return bool(shared)
    fields, others = one.get("properties", {}), other.get("properties", {})
    required = set(one.get("required", ())) & set(other.get("required", ()))
    for name in required:
        values, other_values = _values(fields.get(name, {})), _values(others.get(name, {}))
        if values is not None and other_values is not None and not values & other_values:
            return False
    return True


def _values(schema: Mapping[str, Any]) -> set[str] | None:
    """Return the JSON of all values that a schema allows; None if it does not list them."""
    if "const" in schema:
        return {json.dumps(schema["const"])}
    return {json.dumps(value) for value in schema["enum"]} if "enum" in schema else None


_JSON_TYPES = frozenset({"object", "array", "string", "number", "boolean", "null"})


def _json_types(schema: Mapping[str, Any]) -> frozenset[str]:
    """Return the JSON types of a schema's values; all, if the schema does not say."""
    match schema.get("type"):
        case "integer":
            return frozenset({"number"})
        case str(name) if name in _JSON_TYPES:
            return frozenset({name})
        case _:
            return _JSON_TYPES


def _root(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that a reference at the root stands for."""
    if "$ref" in schema and "$defs" in schema:
        return schema["$defs"].get(schema["$ref"].removeprefix("#/$defs/"), {})
    return schema


def _is_object(schema: dict[str, Any]) -> bool:
    return _root(schema).get("type") == "object"


def _wrap(schema: dict[str, Any]) -> dict[str, Any]:
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    wrapped: dict[str, Any] = {
        "type": "object",
        "properties": {_RESULT: inner},
        "required": [_RESULT],
        "additionalProperties": False,
    }
    if "$defs" in schema:
        wrapped["$defs"] = schema["$defs"]
    return wrapped


def _unwrap(text: str) -> Any:
    from pydantic_core import from_json

    try:
        value: Any = from_json(text)
    except ValueError as error:
        raise ModelRetry(f"The answer is not valid JSON: {error}") from error
    if not isinstance(value, dict) or _RESULT not in value:
        raise ModelRetry('The answer must be a JSON object with the one key "result".')
    return cast("dict[str, Any]", value)[_RESULT]


def _explained(error: ValidationError) -> str:
    lines = [
        f"{'.'.join(map(str, item['loc'])) or '(answer)'}: {item['msg']}"
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return "\n".join(lines)
