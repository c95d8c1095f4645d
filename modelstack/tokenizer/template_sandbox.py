"""Rendering of untrusted Jinja chat templates from model files.

Jinja's immutable sandbox keeps a template from accessing Python objects, but not from running forever or
requesting a terabyte of memory. Therefore: a limit on the template's length, fuel instead of a timeout (executed
lines are counted, which is the same on every machine), and no operation that makes a large object from a small
one.

`strftime_now` is intentionally undefined: a date in the prompt would invalidate cached prefixes every day.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import FrameType
from typing import Any, Protocol

MAX_TEMPLATE_CHARACTERS = 100_000
"""Maximum characters of a template; the longest known one (with tool calling) has about 15,000."""
FUEL_LINES = 200_000
"""Maximum executed Python lines of one rendering; a long real template takes a few hundred per message."""
MAX_OUTPUT_CHARACTERS = 1_000_000
MAX_VALUE_CHARACTERS = 200_000
MAX_RANGE = 1_000
AMPLIFIERS = frozenset(
    {"ljust", "rjust", "center", "zfill", "expandtabs", "format", "format_map", "translate", "replace", "join"}
)
"""String methods that make large results from small inputs; `replace` and `join` exist as bounded filters."""
FILTERS = frozenset(
    (
        "abs",
        "capitalize",
        "count",
        "default",
        "d",
        "dictsort",
        "first",
        "float",
        "int",
        "items",
        "last",
        "length",
        "list",
        "lower",
        "map",
        "max",
        "min",
        "reject",
        "rejectattr",
        "reverse",
        "round",
        "safe",
        "select",
        "selectattr",
        "sort",
        "title",
        "trim",
        "unique",
        "upper",
    )
)
"""Filters that chat templates use; `center`, `format`, `indent`, `batch` and similar ones are excluded."""


FAILS = "the template fails"
"""Beginning of the error of a template that raises."""


class TemplateError(Exception):
    """Raised if a template is invalid, exceeds its permissions or limits, or rejects the conversation."""


class Render(Protocol):
    """A compiled template."""

    def __call__(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **context: Any,
    ) -> str:
        """Render messages (role, content, calls); `context` contains further variables for the template."""
        ...


def compile_template(source: str, *, bos_token: str, eos_token: str) -> Render:
    """Return `render(messages, add_generation_prompt)` for a template.

    Raises:
        TemplateError: The template is too long or not valid Jinja. `render` also raises it if the template rejects
            the conversation (`raise_exception`) or exceeds a limit.
    """
    import jinja2

    if len(source) > MAX_TEMPLATE_CHARACTERS:
        raise TemplateError(
            f"template of {len(source)} characters; at most {MAX_TEMPLATE_CHARACTERS} are accepted"
        )
    try:
        template = _template(source)
    except (jinja2.TemplateError, RecursionError, MemoryError) as error:
        raise TemplateError(f"not a valid Jinja template: {error}") from error

    def render(
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **context: Any,
    ) -> str:
        context |= {
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
            "bos_token": bos_token,
            "eos_token": eos_token,
            "tools": tools,
        }
        try:
            return _with_fuel(lambda: _collect(template.generate(**context)))
        except TemplateError:
            raise
        except Exception as error:  # a template is untrusted code: any exception counts as a rejection
            raise TemplateError(f"{FAILS}: {type(error).__name__}: {error}") from error

    return render


@lru_cache(maxsize=4)
def _template(source: str) -> Any:
    """Return the compiled template, cached: recognition renders one about 50 times, and Gemma 4's takes 40 ms."""
    return _environment().from_string(source)


def _environment() -> Any:
    import jinja2.sandbox
    from jinja2.compiler import CodeGenerator
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        """Extension `{% generation %}`, which marks trained text for masks; it renders its content."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            """Return the statements between the marks."""
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class BoundedCode(CodeGenerator):
        def visit_Concat(self, node: Any, frame: Any) -> None:
            """Compile `a ~ b` to a bounded join."""
            self.write("environment.concat_bounded((")
            for part in node.nodes:
                self.visit(part, frame)
                self.write(", ")
            self.write("))")

    class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
        code_generator_class = BoundedCode
        intercepted_binops = frozenset({"+", "*", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
            if operator != "**" and numbers or operator == "+":
                return _bounded(super().call_binop(context, operator, left, right))
            raise TemplateError(
                f"operator {operator!r} on {type(left).__name__} is not allowed in a chat template"
            )

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            return attr not in AMPLIFIERS and super().is_safe_attribute(obj, attr, value)

        def wrap_str_format(self, value: Any) -> Any:
            """Reject `str.format`, which Jinja provides without a call of `is_safe_attribute`."""
            if super().wrap_str_format(value) is not None:
                raise TemplateError("str.format is not allowed in a chat template")

        def concat_bounded(self, parts: tuple[Any, ...]) -> str:
            return "".join(str(_bounded(part)) for part in parts)

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation], finalize=_bounded
    )
    environment.filters = {name: f for name, f in environment.filters.items() if name in FILTERS}
    environment.filters |= {"tojson": _to_json, "string": _to_string, "join": _join, "replace": _replace}
    environment.globals = {
        "range": _short_range,
        "namespace": environment.globals["namespace"],
        "dict": dict,
        "raise_exception": _refuse,
    }
    return environment


def _bounded(value: Any) -> Any:
    """Return `value` if it is small; nested containers are checked too, which costs fuel."""
    if isinstance(value, str):
        _require_size(len(value))
    elif isinstance(value, int):
        _require_size(value.bit_length() // 3)
    elif isinstance(value, dict):
        for item in (*value, *value.values()):
            _bounded(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            _bounded(item)
    return value


def _to_string(value: Any) -> str:
    return str(_bounded(value))


def _join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    items = [str(_bounded(value[attribute] if attribute else value)) for value in values]
    _require_size(sum(map(len, items)) + len(separator) * len(items))
    return separator.join(items)


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    text = _to_string(text)
    _require_size(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _require_size(n_characters: int) -> None:
    if n_characters > MAX_VALUE_CHARACTERS:
        raise TemplateError(f"a value of more than {MAX_VALUE_CHARACTERS} characters")


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    return json.dumps(_bounded(value), ensure_ascii=ensure_ascii, indent=min(indent, 8) if indent else None)


def _short_range(*bounds: int) -> range:
    result = range(*bounds)
    if len(result) > MAX_RANGE:
        raise TemplateError(f"range of {len(result)} items; at most {MAX_RANGE} are allowed")
    return result


def _refuse(message: str) -> str:
    raise TemplateError(f"the template refuses: {message}")


def _collect(chunks: Any) -> str:
    parts: list[str] = []
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > MAX_OUTPUT_CHARACTERS:
            raise TemplateError(f"output of more than {MAX_OUTPUT_CHARACTERS} characters")
        parts.append(chunk)
    return "".join(parts)


def _with_fuel(run: Callable[[], str]) -> str:
    """Run with a limit on executed lines in this thread; restore a debugger's or coverage's trace afterwards."""
    left = FUEL_LINES

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left <= 0:
                raise TemplateError(f"ran for more than {FUEL_LINES} lines")
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        return run()
    finally:
        sys.settrace(previous)
