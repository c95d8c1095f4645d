"""Finds values for parameters in the servers' own data: a value that a read-only tool accepted is valid.

Only the schemas of a server are known, so values are searched for as a person would: call tools without required
arguments, collect the fields of the answers, try values from a field with a fitting name, keep values that gave no
error, and collect from those answers too. Parameters of the same name on the same server share their values: a
file that can be read can be moved.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from agentkit.specialise.live import LiveTool, Outcome, call
from modelstack.data.tools.apis import label_of

ROUNDS = 3
"""Search depth: a list names a table, and the table's rows name a city."""
MOST_TRIES = 24
"""Maximum calls of one tool with one parameter's values in a round."""
MOST_VALUES = 200
MOST_CHARS = 60
"""Maximum characters of a text value; users do not type longer ones."""
_PLACES = ("path", "file", "folder", "directory", "dir", "filename", "uri")
_REVISIONS = ("revision", "commit", "sha", "ref", "branch", "target")
_ALIKE = (_PLACES, _REVISIONS)
"""Groups of synonymous parameter names."""
_GENERIC = ("id", "name", "key")
_WRAPPED = "result"
"""Key under which servers of the Python SDK wrap a result that is not an object."""
_PATH = re.compile(r"(?<![\w/.-])[\w-]+(?:/[\w.-]+)*\.[A-Za-z]\w{0,4}\b|(?<![\w/.-])[\w-]+(?:/[\w-]+)*/(?=\s|$)")
_LINE = re.compile(r"^\W*(?:(\w[\w ]{0,20}): +)?['\"]?([\w./@-]{2,60})['\"]?$", re.MULTILINE)
"""Lines such as `* main` or `Commit: '9fceb02'`."""
_TABLE = re.compile(r"^(\w+)\(((?:\w+)(?:, *\w+)*)\)", re.MULTILINE)


@dataclass(slots=True)
class Harvest:
    """Values found on the servers."""

    good: dict[tuple[str, str], list[Any]] = field(default_factory=dict[tuple[str, str], list[Any]])
    """Values that a tool accepted, by tool and parameter."""
    seen: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    """Values seen in answers, by the last word of the field's name."""
    tables: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Tables of databases: column names by table."""
    n_calls: int = 0

    def values(self, tools: Sequence[LiveTool], tool: LiveTool, parameter: str) -> list[Any]:
        """Return the values for a parameter: those of the tool itself, else those of its server's other tools."""
        own = self.good.get((tool.name, parameter))
        if own:
            return own
        shared = [v for t in tools if t.server == tool.server for v in self.good.get((t.name, parameter), ())]
        return list(dict.fromkeys(shared))


async def harvest(tools: Sequence[LiveTool], given: Iterable[str] = ()) -> Harvest:
    """Call read-only tools, and return the values that they accepted.

    Args:
        tools: All live tools.
        given: Words of the servers' command lines, which contain a path if a server needs one in every call.
    """
    found = Harvest()
    for word in given:
        if "/" in word and not word.startswith("-"):
            _remember(found, "path", word)
    safe = [tool for tool in tools if tool.is_safe]
    tried: set[str] = set()
    for tool in safe:
        if not tool.required:
            _look(await _try(tool, {}, found, tried), tool, found)
    for _ in range(ROUNDS):
        n_before = len(tried)
        for tool in safe:
            await _explore(tool, found, tried)
        if len(tried) == n_before:
            break
    return found


async def _explore(tool: LiveTool, found: Harvest, tried: set[str]) -> None:
    """Try values of fitting fields for each text parameter, with known values for the other required ones."""
    for name, schema in tool.properties.items():
        if not _is_text(schema):
            continue
        others = _known(tool, name, found)
        if others is None:
            continue
        for value in _fitting(name, schema, found)[:MOST_TRIES]:
            outcome = await _try(tool, {**others, name: value}, found, tried)
            if outcome is None or outcome.is_error:
                continue
            good = found.good.setdefault((tool.name, name), [])
            if value not in good:
                good.append(value)
            _look(outcome, tool, found)


def _known(tool: LiveTool, parameter: str, found: Harvest) -> dict[str, Any] | None:
    """Return a value for each other required parameter; None if one has no value."""
    values: dict[str, Any] = {}
    for name in tool.required:
        if name == parameter:
            continue
        fitting = found.good.get((tool.name, name)) or _fitting(name, tool.properties[name], found)
        if not fitting:
            return None
        values[name] = fitting[0]
    return values


async def _try(tool: LiveTool, arguments: Mapping[str, Any], found: Harvest, tried: set[str]) -> Outcome | None:
    key = f"{tool.name} {sorted(arguments.items())!r}"
    if key in tried:
        return None
    tried.add(key)
    found.n_calls += 1
    return await call(tool, arguments)


def _fitting(name: str, schema: Mapping[str, Any], found: Harvest) -> list[Any]:
    """Return values of fields with a name that fits a parameter's."""
    label = label_of(name).split()
    if not label or schema.get("enum"):
        return []
    last = label[0] if label[-1] in _GENERIC and len(label) > 1 else label[-1]  # table_name means a table
    if names_a_path(schema):
        last = "path"
    keys = [last, *(word for alike in _ALIKE if last in alike for word in alike)]
    if len(keys) == 1:
        keys.append("name")  # an answer that lists tables stores each name in "name"
    values = [value for key in dict.fromkeys(keys) for value in found.seen.get(key, ())]
    return list(dict.fromkeys(value for value in values if isinstance(value, str)))


def names_a_path(schema: Mapping[str, Any]) -> bool:
    """Return whether a parameter's description says that it is a path."""
    return re.search(r"\bpath\b", str(schema.get("description", "")), re.IGNORECASE) is not None


def _look(outcome: Outcome | None, tool: LiveTool, found: Harvest) -> None:
    """Collect the fields of an answer, and the short lines of a text answer.

    Values without a field's name are filed under the tool's last word: `list_articles` lists articles.
    """
    if outcome is None or outcome.is_error:
        return
    thing = label_of(tool.name).split()[-1].removesuffix("s")
    for key, value in _leaves(outcome.data):
        _remember(found, thing if key == _WRAPPED else (label_of(key).split() or [""])[-1], value)
    if outcome.data is None:
        for key, value in _LINE.findall(outcome.text):
            _remember(found, label_of(key).split()[-1] if key else thing, value)
    for path in _PATH.findall(outcome.text):
        _remember(found, "path", path)
    for table, columns in _tables(outcome):
        found.tables.setdefault(table, columns)


def _remember(found: Harvest, key: str, value: Any) -> None:
    values = found.seen[key]
    is_short = not isinstance(value, str) or (0 < len(value.strip()) <= MOST_CHARS and "\n" not in value)
    if is_short and value not in values and len(values) < MOST_VALUES:
        values.append(value)


def _leaves(data: Any, key: str = "", depth: int = 0) -> Iterable[tuple[str, Any]]:
    """Yield the plain values in an answer with the names of their fields."""
    if depth > 6:
        return
    if isinstance(data, dict):
        for name, value in cast("dict[Any, Any]", data).items():
            yield from _leaves(value, str(name), depth + 1)
    elif isinstance(data, list):
        for value in cast("list[Any]", data)[:MOST_VALUES]:
            yield from _leaves(value, key.removesuffix("s") if isinstance(value, str) else key, depth + 1)
    elif isinstance(data, (str, int, float)) and not isinstance(data, bool):
        yield key, data


def _tables(outcome: Outcome) -> Iterable[tuple[str, list[str]]]:
    """Yield the tables with their columns that an answer contains."""
    for entry in _objects(outcome.data):
        name, columns = entry.get("name"), entry.get("columns")
        if isinstance(name, str) and isinstance(columns, list) and columns:
            names = [_name_of(column) for column in cast("list[Any]", columns)]
            if all(isinstance(each, str) for each in names):
                yield name, [str(each) for each in names]
    for name, columns in _TABLE.findall(outcome.text):
        yield name, [column.strip() for column in columns.split(",")]


def _name_of(column: Any) -> Any:
    return cast("dict[str, Any]", column).get("name") if isinstance(column, dict) else column


def _objects(data: Any, depth: int = 0) -> Iterable[Mapping[str, Any]]:
    if depth > 6:
        return
    if isinstance(data, dict):
        found = cast("dict[str, Any]", data)
        yield found
        for value in found.values():
            yield from _objects(value, depth + 1)
    elif isinstance(data, list):
        for value in cast("list[Any]", data):
            yield from _objects(value, depth + 1)


def _is_text(schema: Any) -> bool:
    return isinstance(schema, dict) and cast("dict[str, Any]", schema).get("type") == "string"
