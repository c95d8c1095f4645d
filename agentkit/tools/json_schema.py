"""Validation against an untrusted JSON Schema, in bounded time and without network access.

The schema of an MCP tool is untrusted input. jsonschema (Draft 2020-12, or the draft that `$schema` names) does
the validation, with four changes:

- `$ref` resolves inside the document only. A reference that leaves it is rejected when the schema is compiled;
  nothing is ever fetched.
- `pattern` and `patternProperties` run on the Rust regex engine inside pydantic-core, which is linear in the text,
  so `(a+)+$` cannot hang. A pattern that the engine does not support (look-around, back-references), or that would
  take too much memory, is not enforced; `SchemaCheck.unenforced` lists it (see `patterns`).
- Every keyword evaluation costs fuel (llguidance's idea: limits in work, not in seconds). A schema that doubles
  itself through `$ref` runs out of fuel instead of running for ever. The check of the schema against its
  metaschema costs fuel too.
- `uniqueItems` compares canonical JSON in a set instead of pairwise. `multipleOf` computes with fractions where
  jsonschema raises, on infinities and on integers beyond the float range.

`format` is an annotation, as Draft 2020-12 specifies, and is not checked. Draft 3 is rejected: its `required` and
`type` have other semantics, and jsonschema's messages about them fail.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import import_module
from itertools import islice
from math import isfinite
from types import SimpleNamespace
from typing import Any, cast

from pydantic_core import from_json

from agentkit.basics.near_names import near_names
from agentkit.errors import ModelRetry, ToolDefinitionError
from agentkit.tools.patterns import PatternCache, unenforced

FUEL = 50_000
"""Maximum number of keyword evaluations of one check: 0.5 s of CPU at worst; an ordinary call needs ten."""

FUEL_FOR_SCHEMA = 150_000
"""Fuel for checking a schema against its metaschema: about 5,000 parts of it, 1 s of CPU at worst."""

FUEL_FOR_NOTHING = 5_000
"""Fuel for checking an empty object when a schema is compiled; only a schema with endless recursion needs more."""

CHARS_PER_FUEL = 64
"""Characters of an error message per unit of fuel: jsonschema writes the value into each message."""

MAX_PROBLEMS = 5
"""Maximum number of problems reported at once: more do not help a model."""

MAX_PATTERNS_PRICE = 5_000
"""Maximum total price of the patterns compiled with a schema; further patterns are compiled on first use."""

MAX_CACHED = 256
"""Maximum number of compiled schemas that are kept: several servers' tools. Compiling takes 2 to 10 ms each."""

MAX_CACHED_CHARS = 10_000
"""Maximum length of a schema that is kept: ten times an ordinary one. Untrusted schemas have up to 200,000."""

MAX_VALUE_CHARS = 80
MAX_PROBLEM_CHARS = 1_000
"""Maximum length of one problem: names in the arguments and in the schema may have any length."""
_ROOT = "(top level)"
_TOO_DEEP = "nested too deeply to be checked against the schema"

_PATTERNS = PatternCache()
_fuel: ContextVar[list[int]] = ContextVar("agentkit_schema_fuel")


class CheckTooCostly(Exception):
    """A value is too large, or a schema too complex, to be checked within the available fuel."""


@dataclass(frozen=True, slots=True)
class SchemaCheck:
    """A compiled schema."""

    unenforced: tuple[str, ...]
    """Unchecked requirements of the schema, one sentence each."""
    _validator: Any

    def problems(self, value: Any, *, fuel: int = FUEL) -> list[str]:
        """Return the problems of `value`, one line per problem with its path; empty if it is valid.

        Raises:
            CheckTooCostly: the fuel is used up, or the nesting is too deep.
        """
        try:
            with _fuelled(fuel):
                return [_explain(error) for error in islice(self._validator.iter_errors(value), MAX_PROBLEMS)]
        except BaseException as error:
            if _is_too_deep(error):
                raise CheckTooCostly(_TOO_DEEP) from None
            raise

    def arguments(self, text: str) -> dict[str, Any]:
        """Parse and validate the JSON object in `text`.

        Raises:
            ModelRetry: it is not a JSON object or violates the schema; the message has path, rule, nearest name.
        """
        try:
            value: Any = from_json(text or "{}", allow_inf_nan=False)
        except ValueError as error:
            raise ModelRetry(f"Invalid arguments: not valid JSON ({error}).") from error
        if (arguments := _object(value)) is None:
            raise ModelRetry(f"Invalid arguments: expected a JSON object, got {_short(value)}.")
        try:
            problems = self.problems(arguments)
        except CheckTooCostly as reason:
            raise ModelRetry(f"Invalid arguments: {reason}.") from None
        if problems:
            raise ModelRetry("Invalid arguments:\n" + "\n".join(problems))
        return arguments


def compile_schema(schema: Mapping[str, Any], *, name: str) -> SchemaCheck:
    """Compile `schema`; `name` identifies its owner in errors.

    Raises:
        ToolDefinitionError: the schema is invalid, refers to something outside itself, or recurses endlessly.
    """
    document = dict(schema)
    try:
        source = _Source(repr(document), document)
        return (_compiled if len(source.text) <= MAX_CACHED_CHARS else _compile)(source)
    except _Refused as refusal:
        raise ToolDefinitionError(f"{name}: {refusal}") from None
    except _TooManyParts:
        raise ToolDefinitionError(f"{name}: the schema has too many parts to be checked.") from None
    except CheckTooCostly:
        raise ToolDefinitionError(
            f"{name}: checking an empty object against it does not end; a `$ref` leads back to itself."
        ) from None
    except BaseException as error:
        if _is_too_deep(error):
            raise ToolDefinitionError(f"{name}: the schema is nested too deeply to be checked.") from None
        raise


@dataclass(frozen=True, slots=True)
class _Source:
    """A schema, equal to every other one with the same text."""

    text: str
    """Python's `repr` of the schema: unlike JSON, it distinguishes a tuple, which is no array, from a list."""
    document: dict[str, Any] = field(compare=False)


def _compile(source: _Source) -> SchemaCheck:
    """Check and compile a copy of a schema, so that a later change of the original has no effect."""
    document = deepcopy(source.document)
    with _fuelled(FUEL_FOR_SCHEMA):
        not_enforced = _inspect(document)
    validator = _validator_class(_base_class(document))(document, registry=_registry())
    check = SchemaCheck(tuple(not_enforced), validator)
    check.problems({}, fuel=FUEL_FOR_NOTHING)
    return check


_compiled = functools.lru_cache(maxsize=MAX_CACHED)(_compile)
"""Returns the earlier result for an equal schema: a server that is started again lists the same tools."""


def _is_too_deep(error: BaseException) -> bool:
    """Return whether Python's stack overflowed.

    jsonschema stores its scope and its types in maps written in Rust. A RecursionError there becomes a panic, and
    a panic is not an `Exception`.
    """
    return isinstance(error, RecursionError) or type(error).__module__ == "pyo3_runtime"


# --- allowed content of a schema --------------------------------------------------------------------------


class _Refused(Exception):
    """A schema cannot be used; the message gives the reason."""


class _TooManyParts(Exception):
    """A schema cannot be checked within `FUEL_FOR_SCHEMA`."""


def _inspect(document: dict[str, Any]) -> list[str]:
    """Check the schema and every schema that it refers to; return the requirements that are not enforced."""
    library = _library()
    base = _base_class(document)
    specification = library.specification_with(base.META_SCHEMA["$schema"])
    root = library.Resource(contents=document, specification=specification)
    seen: set[int] = set()
    patterns: list[str] = []
    ignored: list[str] = []
    same_value: dict[int, list[int]] = {}
    entries: list[tuple[Any, Any]] = [(document, _registry().resolver_with_root(root))]
    while entries:
        entry, resolver = entries.pop()
        if id(entry) in seen:
            continue
        _check_schema(base, entry)
        inside: list[tuple[Any, Any]] = [(entry, resolver)]
        while inside:
            part, resolver = inside.pop()
            schema = _object(part)
            if id(part) in seen or schema is None:
                continue
            seen.add(id(part))
            patterns += _patterns_of(schema)
            ignored += [f"`{keyword}` is not enforced" for keyword in _UNSUPPORTED if keyword in schema]
            same_value[id(part)] = [id(other) for other in _of_the_same_value(schema)]
            for reference in (schema.get(keyword) for keyword in _REFERENCES):
                if isinstance(reference, str):
                    target = _lookup(resolver, reference)
                    entries.append((target.contents, target.resolver))
                    same_value[id(part)].append(id(target.contents))
            for sub in specification.create_resource(schema).subresources():
                inside.append((sub.contents, resolver.in_subresource(sub)))  # noqa: PERF401 - it is a walk
    if _has_cycle(same_value):
        raise _Refused("a `$ref` leads back to itself without a property or an item between: it would never end.")
    return unenforced(patterns, _PATTERNS, MAX_PATTERNS_PRICE) + ignored


def _check_schema(base: Any, entry: Any) -> None:
    """Validate a schema against its metaschema.

    `base.check_schema` is not used because it costs no fuel. Formats are not checked because the metaschema's
    "regex" means Python's `re`, and patterns here follow ECMA.
    """
    try:
        error = next(_validator_class(base)(base.META_SCHEMA, registry=_registry()).iter_errors(entry), None)
    except CheckTooCostly:
        raise _TooManyParts from None
    if error is not None:
        where = "/".join(str(part) for part in error.absolute_path) or "its root"
        raise _Refused(f"the schema is invalid at {_short(where, 200)}: {_short(error.message, 200)}")


def _of_the_same_value(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the subschemas that apply to the same value as the schema itself."""
    for keyword in ("allOf", "anyOf", "oneOf"):
        several: Any = schema.get(keyword)
        yield from several if isinstance(several, list) else ()
    yield from (schema[keyword] for keyword in ("not", "if", "then", "else") if keyword in schema)
    for keyword in ("dependentSchemas", "dependencies"):
        by_name: Any = schema.get(keyword)
        yield from by_name.values() if isinstance(by_name, dict) else ()


def _has_cycle(edges: Mapping[int, Sequence[int]]) -> bool:
    """Return whether a graph has a cycle."""
    done: set[int] = set()
    for start in edges:
        path: dict[int, Iterator[int]] = {start: iter(edges[start])} if start not in done else {}
        while path:
            node, others = next(reversed(path.items()))
            other = next(others, None)
            if other is None:
                done.add(node)
                del path[node]
            elif other in path:
                return True
            elif other not in done and other in edges:
                path[other] = iter(edges[other])
    return False


def _lookup(resolver: Any, reference: str) -> Any:
    try:
        return resolver.lookup(reference)
    except _library().Unresolvable:
        raise _Refused(
            f"`$ref` {_short(reference, 200)} leads outside the schema; such references are never fetched. "
            f"Put the definition under `$defs`."
        ) from None


def _patterns_of(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the patterns directly inside a schema."""
    patterns: list[Any] = [schema["pattern"]] if "pattern" in schema else []
    patterns += schema.get("patternProperties") or ()
    yield from (pattern for pattern in patterns if isinstance(pattern, str))


_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")

_UNSUPPORTED = ("unevaluatedProperties", "unevaluatedItems")
"""Ignored keywords: jsonschema evaluates them through helpers that use `re` and are not metered."""


def _registry() -> Any:
    """Return the specifications' own schemas and nothing else: an explicit registry never fetches."""
    return _library().REGISTRY


def _base_class(schema: Mapping[str, Any]) -> Any:
    library = _library()
    if not isinstance(schema.get("$schema", ""), str):
        raise _Refused("`$schema` is not a string.")
    found = library.validator_for(schema, default=library.Draft202012Validator)
    if found is library.Draft3Validator:
        raise _Refused("`$schema` names Draft 3, which is not checked. Write it for Draft 2020-12.")
    return found


@functools.cache
def _library() -> Any:
    """Return the parts of jsonschema in use, imported on first use; they are only partly typed."""
    attrs, jsonschema, specifications, referencing = map(
        import_module, ("attrs", "jsonschema", "jsonschema_specifications", "referencing")
    )
    import_module("referencing.jsonschema")
    return SimpleNamespace(
        Draft202012Validator=jsonschema.Draft202012Validator,
        Draft3Validator=jsonschema.Draft3Validator,
        REGISTRY=specifications.REGISTRY,
        Resource=referencing.Resource,
        Unresolvable=referencing.exceptions.Unresolvable,
        ValidationError=jsonschema.ValidationError,
        best_match=jsonschema.exceptions.best_match,
        evolve=attrs.evolve,
        extend=jsonschema.validators.extend,
        specification_with=referencing.jsonschema.specification_with,
        validator_for=jsonschema.validators.validator_for,
    )


# --- keywords ---------------------------------------------------------------------------------------------

Keyword = Callable[[Any, Any, Any, Any], Iterable[Any] | None]


@functools.cache
def _validator_class(base: Any) -> Any:
    """Return `base` with metered keywords and linear-time patterns."""
    library = _library()
    replaced: dict[str, Keyword] = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "required": _required,
        "uniqueItems": _unique_items,
        "multipleOf": _multiple_of,
    }
    keywords: dict[str, Keyword] = {**base.VALIDATORS, **replaced, **dict.fromkeys(_UNSUPPORTED, _ignore)}
    made = library.extend(base, {name: _metered(keyword) for name, keyword in keywords.items()})
    # The original switches the class if a subschema has its own `$schema`, which would drop the metering.
    made.evolve = library.evolve
    return made


def _ignore(validator: Any, value: Any, instance: Any, schema: Any) -> None:
    """Check nothing; `SchemaCheck.unenforced` lists the keyword."""


def _metered(keyword: Keyword) -> Keyword:
    def metered(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        _spend(1)
        for error in keyword(validator, value, instance, schema) or ():
            _spend(1 + len(error.message) // CHARS_PER_FUEL)  # an error passes through every level above it
            yield error

    return metered


@contextmanager
def _fuelled(amount: int) -> Generator[None]:
    """Set the total fuel of the checks inside the context."""
    token = _fuel.set([amount])
    try:
        yield
    finally:
        _fuel.reset(token)


def _spend(amount: int) -> None:
    fuel = _fuel.get()
    fuel[0] -= amount
    if fuel[0] < 0:
        raise CheckTooCostly("too large to be checked against the schema")


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and (matches := _PATTERNS.matcher(pattern)) is not None and not matches(instance):
        yield _library().ValidationError(f"must match the pattern {pattern}")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    for pattern, subschema in patterns.items():
        matches = _PATTERNS.matcher(pattern)
        for key, value in (_object(instance) or {}).items():
            if matches is not None and matches(key):
                yield from validator.descend(value, subschema, path=key, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
    known: Mapping[str, Any] = schema.get("properties", {})
    matchers = [_PATTERNS.matcher(pattern) for pattern in schema.get("patternProperties", ())]
    if None in matchers:  # an unenforced pattern may allow any name
        return
    for key, value in (_object(instance) or {}).items():
        if key in known or any(matches is not None and matches(key) for matches in matchers):
            continue
        if allowed is False:
            error = _library().ValidationError("unknown argument", path=(key,), validator="unknown")
            error.validator_value = list(known)
            yield error
        else:
            yield from validator.descend(value, allowed, path=key)


def _required(validator: Any, names: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """Yield an error for each missing name; the name is not in the message, whose length would cost fuel."""
    given = _object(instance)
    for name in names if given is not None else ():
        if name not in given:
            yield _library().ValidationError("required but missing", validator="missing", validator_value=name)


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[Any]:
    items = cast(list[Any], instance) if isinstance(instance, list) else []
    if unique and len({json.dumps(item, sort_keys=True) for item in items}) < len(items):
        yield _library().ValidationError("the items must all be different")


def _multiple_of(validator: Any, factor: Any, instance: Any, schema: Any) -> Iterator[Any]:
    try:
        yield from (
            _library().Draft202012Validator.VALIDATORS["multipleOf"](validator, factor, instance, schema) or ()
        )
    except (ArithmeticError, ValueError):
        are_finite = all(isinstance(number, int) or isfinite(number) for number in (factor, instance))
        if not are_finite or Fraction(instance) % Fraction(factor):
            yield _library().ValidationError(f"{instance!r} is not a multiple of {factor!r}")


# --- messages for a model ---------------------------------------------------------------------------------


def _explain(error: Any) -> str:
    return _short(_whole_explanation(error), MAX_PROBLEM_CHARS, quote=False)


def _whole_explanation(error: Any) -> str:
    if error.context:  # anyOf, oneOf: the best matching branch is more useful than "matched none"
        error = _library().best_match([error]) or error
    path = ".".join(
        _short(part, quote=False) if isinstance(part, str) else str(part) for part in error.absolute_path
    )
    match error.validator:
        case "unknown":
            return f"{path}: unknown argument{_nearest(str(error.absolute_path[-1]), error.validator_value)}"
        case "missing":
            name: str = error.validator_value
            return f"{path}.{name}: required but missing" if path else f"{name}: required but missing"
        case "type":
            kinds: Any = error.validator_value
            rule = f"must be {kinds if isinstance(kinds, str) else ' or '.join(map(str, kinds))}"
        case "enum":
            options = ", ".join(_short(option) for option in islice(error.validator_value, 20))
            rule = f"must be one of {options}"
        case _:
            return f"{path or _ROOT}: {_short(error.message, 300, quote=False)}"
    return f"{path or _ROOT}: {rule} (got {_short(error.instance)})"


def _nearest(name: str, known: list[str]) -> str:
    near = near_names(name, known)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known[:20]) or 'none'}."


def _object(value: Any) -> dict[str, Any] | None:
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def _short(value: Any, limit: int = MAX_VALUE_CHARS, *, quote: bool = True) -> str:
    text = repr(value) if quote or not isinstance(value, str) else value
    return text if len(text) <= limit else text[: limit - 3] + "..."
