"""The front matter of SKILL.md: YAML between two lines of `---`, read as plain text values in bounded work.

PyYAML parses it to events; the values are built here. All scalars are texts, as in the reference library
(skills-ref reads with strictyaml): `version: 1.0` is "1.0" and `name: on` is "on". Aliases, anchors and tags are
refused, so no value multiplies itself and no object is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from agentkit.errors import UserError
from agentkit.skills.files import SkillRefused
from mcp_servers.missing_modules import how_to_install

FENCE = "---"
MAX_FRONT_MATTER_CHARS = 16_384
"""Ten times the fields of the format at their longest; parsing takes less than 50 ms."""
MAX_DEPTH = 6
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_BLANK = " \t\n"

Value = str | list[Any] | dict[str, Any]
"""A value of the front matter: text, list or mapping."""


def split_front_matter(text: str) -> tuple[str, int]:
    """Return the YAML of the front matter, and the position where the body begins.

    Raises:
        SkillRefused: the text does not begin with front matter, or it is not closed or too long.
    """
    lines = _LINE.findall(text[: MAX_FRONT_MATTER_CHARS + 1])
    if not lines or lines[0].rstrip(_BLANK) != FENCE:
        raise SkillRefused(f"SKILL.md does not begin with a line {FENCE!r}; front matter comes first.")
    at = len(lines[0])
    for line in lines[1:]:
        if line.rstrip(_BLANK) == FENCE:
            return text[len(lines[0]) : at], at + len(line)
        at += len(line)
    if len(text) > MAX_FRONT_MATTER_CHARS:
        raise SkillRefused(f"the front matter has no end within {MAX_FRONT_MATTER_CHARS:,} characters.")
    raise SkillRefused(f"the front matter is not closed; end it with a line {FENCE!r}.")


def parsed_front_matter(text: str) -> dict[str, Value]:
    """Return the fields of a front matter.

    Raises:
        SkillRefused: it is not a YAML mapping of plain values.
        UserError: PyYAML is not installed.
    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise UserError(f"skills need PyYAML: {how_to_install(error, prefer=('skills',))}.") from error
    try:
        parser: Any = yaml  # its own types leave out what `parse` yields
        value = _document(iter(parser.parse(text, Loader=yaml.SafeLoader)))
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, SkillRefused):
            raise
        raise SkillRefused(
            f"the front matter is not YAML ({_first_lines(error)}); put values that contain ': ' or '#' in quotes."
        ) from error
    if not isinstance(value, dict):
        raise SkillRefused("the front matter is not a mapping; write `name: ...` and `description: ...`.")
    return value


def _document(events: Iterator[Any]) -> Value | None:
    """Return the value of the only document; None if there is none."""
    import yaml

    value: Value | None = None
    n_documents = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            n_documents += 1
            if n_documents > 1:
                raise SkillRefused("the front matter has several YAML documents; one is allowed.")
            value = _value(next(events), events, 1)
    return value


def _value(event: Any, events: Iterator[Any], depth: int) -> Value:
    """Return the value that begins with `event`."""
    import yaml

    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise SkillRefused("the front matter has a YAML anchor or alias; write the value itself.")
    if getattr(event, "tag", None) is not None:
        raise SkillRefused(f"the front matter has the YAML tag {str(event.tag)[:60]!a}; write plain values.")
    if isinstance(event, yaml.ScalarEvent):
        return str(event.value)
    if depth > MAX_DEPTH:
        raise SkillRefused(f"the front matter is nested more than {MAX_DEPTH} levels deep.")
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(each := next(events), yaml.SequenceEndEvent):
            items.append(_value(each, events, depth + 1))
        return items
    fields: dict[str, Any] = {}
    while not isinstance(each := next(events), yaml.MappingEndEvent):
        key = _value(each, events, depth + 1)
        if not isinstance(key, str):
            raise SkillRefused("a key of the front matter is not text.")
        if key in fields:
            raise SkillRefused(f"the front matter has {key[:60]!a} twice; keep one.")
        fields[key] = _value(next(events), events, depth + 1)
    return fields


def _first_lines(error: Exception) -> str:
    """Return the problem and its line, without an excerpt of the text."""
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    mark = getattr(error, "problem_mark", None)
    # One line more: the line of `---` above the front matter.
    return ascii(str(problem)[:200])[1:-1] + (f", line {mark.line + 2}" if mark is not None else "")
