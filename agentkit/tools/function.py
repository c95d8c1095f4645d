"""Tools from plain functions: signature and docstring become the JSON Schema, pydantic validates the arguments.

Validation is strict (no "1" for 1, no unknown names), so that the validator accepts exactly the arguments that a
grammar compiled from the same schema allows.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import typing
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar, Unpack, cast, overload

from agentkit.basics.near_names import near_names
from agentkit.context import RunContext
from agentkit.errors import ModelRetry, UserError
from agentkit.tools.definition import ToolAnnotations, ToolDefinition
from agentkit.tools.tool import ON_TOOL_ERROR, ApprovalRule, OnToolError, Tool
from agentkit.tools.toolset import Toolset

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
_OPTIONS = "__agentkit_tool__"


class ToolOptions(TypedDict, total=False):
    """Options of a tool made from a function, for `tool`, `Agent.tool` and `FunctionToolset.add`."""

    name: str
    """Name that the model calls; the function's name by default."""
    description: str
    """Description for the model; the docstring's text by default."""
    timeout_s: float | None
    """Seconds before a call times out; the agent's default if None or absent."""
    retries: int | None
    """Number of consecutive retries after `ModelRetry`; the agent's default if None or absent."""
    requires_approval: ApprovalRule
    """Approval for every call, or a function of (arguments, context); a text that it returns is the reason."""
    on_error: OnToolError | None
    """Effect of an undeclared exception, "tell" or "raise"; the agent's default if None or absent."""
    sequential: bool
    """True makes a call a barrier: no other call of the same response runs beside it."""
    annotations: ToolAnnotations
    """Hints about the tool's behaviour, in MCP's terms."""
    untrusted_output: bool
    """True marks the results as untrusted."""
    allows_repeats: bool
    """True runs equal calls as often as the model makes them."""


@overload
def tool(function: FunctionT, /) -> FunctionT: ...
@overload
def tool(**options: Unpack[ToolOptions]) -> Callable[[FunctionT], FunctionT]: ...
def tool(function: Callable[..., Any] | None = None, /, **options: Unpack[ToolOptions]) -> Any:
    """Set options on a function that becomes a tool (`ToolOptions`); the function's behaviour does not change.

    Plain functions need no decorator.

    Raises:
        UserError: an option is unknown, or has a value that is not allowed.
    """
    _check(options)

    def mark(target: FunctionT) -> FunctionT:
        setattr(target, _OPTIONS, options)
        return target

    return mark(function) if function is not None else mark


def _check(options: ToolOptions) -> None:
    known = sorted(ToolOptions.__annotations__)
    for name in options:
        if name not in known:
            near = near_names(name, known)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
            raise UserError(f"a tool has no option {name!r}; {hint}")
    on_error = options.get("on_error")
    if on_error is not None and on_error not in ON_TOOL_ERROR:
        raise UserError(f'on_error={on_error!r} must be "tell", "raise" or None.')


def function_tool(function: Callable[..., Any], **options: Unpack[ToolOptions]) -> Tool:
    """Make a tool from a function; `options` override those that `tool` has set on it.

    A first parameter annotated `RunContext[...]` receives the run's context and is not part of the schema.
    Synchronous functions run in a worker thread.

    Raises:
        UserError: it is not a function, has no name, its signature has no schema (a parameter without annotation,
            an annotation that cannot be resolved, `*args`), or an option is unknown.
    """
    _check(options)
    options = cast(ToolOptions, {**getattr(function, _OPTIONS, {}), **options})
    name = options.get("name") or _name_of(function)
    annotations = options.get("annotations", ToolAnnotations())
    read = _read(function, name)
    schema = _without_titles(read.schema)
    schema.pop("description", None)
    schema.setdefault("properties", {})
    return Tool(
        definition=ToolDefinition(
            name=name,
            description=options.get("description") or read.summary,
            parameters_json_schema=schema,
            annotations=annotations,
        ),
        call=_caller(function, read.signature.takes_context, read.signature.positional_only),
        validate=read.validate,
        timeout_s=options.get("timeout_s"),
        sequential=options.get("sequential", False),
        max_retries=options.get("retries"),
        on_error=options.get("on_error"),
        requires_approval=options.get("requires_approval", False),
        is_untrusted=options.get("untrusted_output", False),
        is_consequential=bool(annotations.destructive or annotations.open_world),
        is_repeatable=bool(annotations.read_only or annotations.idempotent),
        allows_repeats=options.get("allows_repeats", False),
    )


def _name_of(function: Any) -> str:
    """Return the name of a function that becomes a tool.

    Raises:
        UserError: it cannot be called, or is a lambda, which has no name.
    """
    if isinstance(function, Toolset):
        raise UserError(f"{function!r} is a toolset, not a tool; give it with toolsets=[...].")
    if not callable(function):
        raise UserError(f"{function!r:.200} is not a tool: a tool is a function or a `Tool`, like tools=[add].")
    name = getattr(function, "__name__", type(function).__name__)
    if name == "<lambda>":
        raise UserError(
            f"a lambda has no name that a model could call, and no annotations ({_place(function)}); "
            f"write a function: def add(a: int, b: int) -> int."
        )
    return name


def _place(function: Any) -> str:
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


class FunctionToolset(Toolset):
    """Tools made from functions, or `Tool` objects; tools can be added while a run is in progress."""

    def __init__(self, tools: Sequence[Callable[..., Any] | Tool] = (), *, id: str = "functions") -> None:
        """Create a toolset with `tools`.

        Raises:
            UserError: two tools share a name.
        """
        self._id = id
        self._tools: dict[str, Tool] = {}
        self._revision = 0
        for item in tools:
            self.add(item)

    @property
    def id(self) -> str:
        """The name given at construction."""
        return self._id

    @property
    def revision(self) -> int:
        """Number of changes so far."""
        return self._revision

    @property
    def is_untrusted(self) -> bool:
        """True if the results of any of the tools are, or may be, untrusted."""
        return any(tool.is_untrusted or tool.untrusted_if is not None for tool in self._tools.values())

    def add(self, item: Callable[..., Any] | Tool, **options: Unpack[ToolOptions]) -> None:
        """Add a function, with options, or a tool.

        Raises:
            UserError: the name is taken, an option is unknown, or a `Tool` is given options.
        """
        if isinstance(item, Tool) and options:
            raise UserError(f"options {', '.join(options)} are for functions; {item.name!r} is a Tool already.")
        made = item if isinstance(item, Tool) else function_tool(item, **options)
        if made.name in self._tools:
            raise UserError(
                f"tool {made.name!r} is already in toolset {self._id!r}; "
                f'give one of them another name with `@tool(name="...")`.'
            )
        self._tools[made.name] = made
        self._revision += 1

    def remove(self, name: str) -> None:
        """Remove a tool; from the next step on it cannot be called.

        Raises:
            UserError: the tool is unknown.
        """
        if self._tools.pop(name, None) is None:
            raise UserError(f"tool {name!r} is not in toolset {self._id!r}; it has {sorted(self._tools)}.")
        self._revision += 1

    async def list_tools(self, context: RunContext[Any]) -> Sequence[Tool]:
        """Return the tools as they are now."""
        return tuple(self._tools.values())


@dataclass(frozen=True, slots=True)
class _Signature:
    parameters: dict[str, tuple[Any, Any]]
    """Annotation and default (`...` for none) by parameter name."""
    takes_context: bool
    positional_only: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """Schema and documentation read from a function."""

    name: str
    doc: str | None
    signature: _Signature
    summary: str
    schema: dict[str, Any]
    """JSON Schema as generated by pydantic."""
    validate: Callable[[str], dict[str, Any]]
    marks: _Marks | None
    """Fingerprint of the function when it was read; None if it has none."""


@dataclass(frozen=True, slots=True)
class _Marks:
    """Fingerprint of a plain function's signature, compared in a tenth of the time of reading the signature."""

    code: Any
    defaults: Any
    annotations: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, function: Any) -> _Marks | None:
        """Return the marks; None if the signature depends on anything else."""
        if function.__kwdefaults__ or hasattr(function, "__wrapped__") or hasattr(function, "__signature__"):
            return None
        found: list[tuple[str, Any]] = []
        for name, annotation in function.__annotations__.items():
            if isinstance(annotation, str):  # the name may have been bound to another object since
                if not annotation.isidentifier():
                    return None
                annotation = function.__globals__.get(annotation) or getattr(builtins, annotation, None)
            found.append((name, annotation))
        return cls(function.__code__, function.__defaults__, tuple(found))

    def is_same(self, other: _Marks) -> bool:
        """Return whether two fingerprints match; the defaults 1 and True differ."""
        return (
            self.code is other.code and self.defaults is other.defaults and self.annotations == other.annotations
        )


_known: weakref.WeakKeyDictionary[Callable[..., Any], _Read] = weakref.WeakKeyDictionary()
"""Cache of functions already read: agents are often created for each run, and a schema takes 1 ms."""


def _read(function: Callable[..., Any], name: str) -> _Read:
    """Read a function; uses the cache if the function is unchanged."""
    doc = inspect.getdoc(function)
    is_plain = inspect.isfunction(function)  # other callables may be temporary, or equal and yet differ
    marks = _Marks.of(function) if is_plain else None
    known = _known.get(function) if is_plain else None
    if known is not None and (known.name, known.doc) != (name, doc):
        known = None
    if known is not None and marks is not None and known.marks is not None and marks.is_same(known.marks):
        return known
    signature = _read_signature(function, name)
    if known is not None and _is_same(known.signature, signature):
        return known
    summary, parameter_docs = _read_docstring(doc)
    model = _argument_model(name, signature.parameters, parameter_docs)
    read = _Read(name, doc, signature, summary, model.model_json_schema(), _validator(model), marks)
    if is_plain:
        _known[function] = read
    return read


def _is_same(one: _Signature, other: _Signature) -> bool:
    """Return whether two signatures have the same parameters, in order; the defaults 1 and True differ."""
    if list(one.parameters) != list(other.parameters) or one.takes_context != other.takes_context:
        return False
    pairs = zip(one.parameters.values(), other.parameters.values(), strict=True)
    return all(was[1] is now[1] and was[0] == now[0] for was, now in pairs)


def _read_signature(function: Callable[..., Any], name: str) -> _Signature:
    annotated = _annotated(function)
    target = annotated if inspect.isroutine(annotated) else type(annotated).__call__
    try:
        hints = typing.get_type_hints(target, include_extras=True)
    except NameError as error:
        raise UserError(
            f"tool {name!r}: an annotation cannot be resolved ({error}); "
            f"import the type at module level, not only for type checking."
        ) from error
    parameters = list(inspect.signature(function).parameters.values())
    takes_context = bool(parameters) and _is_context(hints.get(parameters[0].name))
    fields: dict[str, tuple[Any, Any]] = {}
    for parameter in parameters[takes_context:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UserError(
                f"tool {name!r}: parameter {str(parameter)!r} has no fixed schema; use a list or dict parameter."
            )
        if parameter.name not in hints:
            raise UserError(_unannotated(name, parameter, is_first=parameter is parameters[0]))
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    positional = tuple(p.name for p in parameters[takes_context:] if p.kind is p.POSITIONAL_ONLY)
    return _Signature(fields, takes_context, positional)


def _annotated(function: Any) -> Any:
    """Return the object with the annotations: the function itself, for one with arguments bound by `partial`."""
    return function.func if isinstance(function, functools.partial) else function


def _unannotated(name: str, parameter: inspect.Parameter, *, is_first: bool) -> str:
    """Return the error about a parameter without annotation, which would leave the model to guess its type."""
    if is_first and parameter.name in ("context", "ctx"):
        return f"tool {name!r}: a parameter for the run's context is annotated: {parameter.name}: RunContext."
    default = parameter.default
    guess = "str" if default is parameter.empty or default is None else type(default).__name__
    return (
        f"tool {name!r}: parameter {parameter.name!r} has no annotation, so the model is not told its type; "
        f"write {parameter.name}: {guess}, or {parameter.name}: Any to accept every JSON value."
    )


def _is_context(annotation: Any) -> bool:
    return annotation is RunContext or typing.get_origin(annotation) is RunContext


def _read_docstring(text: str | None) -> tuple[str, dict[str, str]]:
    if not text:
        return "", {}
    from docstring_parser import parse

    parsed = parse(text)
    summary = "\n\n".join(part for part in (parsed.short_description, parsed.long_description) if part)
    return summary, {p.arg_name: p.description for p in parsed.params if p.description}


def _argument_model(name: str, fields: dict[str, tuple[Any, Any]], docs: dict[str, str]) -> type[BaseModel]:
    from pydantic import ConfigDict, create_model

    # Field names get a prefix and the parameter's name as alias: a parameter may be called `json` or `_x`,
    # which pydantic reserves on models.
    definitions: dict[str, Any] = {
        f"p_{key}": _field(annotation, key, default, docs.get(key))
        for key, (annotation, default) in fields.items()
    }
    try:
        return create_model(name, __config__=ConfigDict(extra="forbid"), **definitions)
    except Exception as error:  # pydantic raises several unrelated types for a type it cannot handle
        raise UserError(f"tool {name!r}: its parameters have no JSON Schema: {error}") from error


def _field(annotation: Any, alias: str, default: Any, description: str | None) -> tuple[Any, Any]:
    from pydantic import Field
    from pydantic.fields import FieldInfo

    own = FieldInfo.from_annotation(annotation).description
    return Annotated[annotation, Field(alias=alias, description=own or description)], default


def _validator(model: type[BaseModel]) -> Callable[[str], dict[str, Any]]:
    from pydantic import ValidationError

    validate_json = model.__pydantic_validator__.validate_json
    fields = {field: info.alias or field for field, info in model.model_fields.items()}

    def validate(arguments: str) -> dict[str, Any]:
        try:
            checked = validate_json(arguments or "{}", strict=True)
        except ValidationError as error:
            raise ModelRetry(_explain(error, list(fields.values()))) from error
        values = checked.__dict__
        return {alias: values[field] for field, alias in fields.items() if field in checked.model_fields_set}

    return validate


def _explain(error: ValidationError, names: list[str]) -> str:
    lines: list[str] = []
    for item in error.errors(include_url=False, include_context=False):
        path = ".".join(str(part) for part in item["loc"]) or "(arguments)"
        if item["type"] == "extra_forbidden":
            near = near_names(str(item["loc"][-1]), names)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names) or 'none'}."
            lines.append(f"{path}: unknown argument{hint}")
        elif item["type"] == "missing":
            lines.append(f"{path}: required argument is missing")
        else:
            lines.append(f"{path}: {item['msg']} (got {_short(item['input'])})")
    return "Invalid arguments:\n" + "\n".join(lines)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _caller(
    function: Callable[..., Any], takes_context: bool, positional_only: tuple[str, ...]
) -> Callable[[dict[str, Any], RunContext[Any]], Any]:
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - the coroutine-ness of an instance's __call__
    )

    async def call(arguments: dict[str, Any], context: RunContext[Any]) -> Any:
        positional = [context] if takes_context else []
        if positional_only:
            arguments = dict(arguments)
            positional += [arguments.pop(name) for name in positional_only if name in arguments]
        if is_async:
            return await function(*positional, **arguments)
        import anyio.to_thread

        # Abandoned on cancellation: a thread cannot be stopped, and a run must not wait for it.
        return await anyio.to_thread.run_sync(lambda: function(*positional, **arguments), abandon_on_cancel=True)

    return call


def _without_titles(schema: dict[str, Any]) -> dict[str, Any]:
    """Drop pydantic's generated titles: they repeat names and cost tokens. Properties named "title" stay."""
    cleaned: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key in ("properties", "$defs"):
            cleaned[key] = {name: _without_titles(sub) for name, sub in value.items()}
        elif isinstance(value, dict):
            cleaned[key] = _without_titles(cast("dict[str, Any]", value))
        elif isinstance(value, list):
            items = cast("list[Any]", value)
            cleaned[key] = [
                _without_titles(cast("dict[str, Any]", item)) if isinstance(item, dict) else item for item in items
            ]
        else:
            cleaned[key] = value
    return cleaned
