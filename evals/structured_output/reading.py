"""Reads cases and schemas from a user's file: JSON lines (plain or zstandard), or a folder of JSON Schema files.

Three kinds of rows, distinguished by their keys:

- a case: `{"id", "prompt", "schema", "expected"?, "source"?, "license"?}`;
- an example of tool calling: `{"id", "tools", "messages", "calls", "source"?, "license"?, "split"?}`. It becomes a
  case "extract the arguments" if one user message leads to one call. Rows of a training split are skipped, and so
  are gold calls that violate their own schema, because no grammar lets a model write them;
- a tool's schema: `{"name", "parameters", "description"?, "origin"?, "source"?, "license"?}`. It has no expected
  value, so only validity is scored. A `*.json` file of a folder is one such schema.

The file is untrusted: the length of a line is limited, and a missing part of a row raises a UserError with file,
line and fix.
"""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentkit.errors import UserError
from evals.structured_output.validity import check
from modelstack.errors import UserError as FileError
from modelstack.zstd_files import open_unpacked

MAX_LINE_CHARACTERS = 4_000_000
"""Maximum characters of a line; without a limit, one line of a compressed file could fill the memory."""
_FORMS = (
    'a case {"id", "prompt", "schema", "expected"?}, an example of tool calling {"id", "tools", "messages", '
    '"calls"}, or a tool\'s schema {"name", "parameters"}'
)


@dataclass(frozen=True, slots=True)
class Item:
    """A question and the schema of its answer."""

    id: str
    prompt: str
    schema: Mapping[str, Any]
    source: str
    license: str = "not stated"
    has_expected: bool = False
    expected: Any = None


def read_items(path: Path) -> list[Item]:
    """Return the items of a file or folder, in order, with unique ids.

    Raises:
        UserError: the path is missing, cannot be read, or holds no item, or a row is not of a known kind.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: give data=FILE with JSON lines, each {_FORMS}.")
    try:
        if path.is_dir():
            found = list(_schema_files(path))
        else:
            found = [item for n, line in _lines(path) if (item := _item(line, f"{path}, line {n}")) is not None]
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read: {error.strerror or error}.") from error
    except FileError as error:
        raise UserError(str(error)) from error
    if not found:
        raise UserError(
            f"{path} holds no case: each line must be {_FORMS}; tool-calling examples count only if they "
            f"are not training data and lead from one user message to one call that fits its schema."
        )
    return list(_with_unique_ids(found, path))


def draw(items: Sequence[Item], n: int, seed: int) -> list[Item]:
    """Return `n` items drawn at random without repetition, in the order of the file; all items if there are fewer.

    Raises:
        UserError: `n` is below 1.
    """
    if n < 1:
        raise UserError(f"a sample of {n} items: it must be at least 1.")
    chosen = sorted(random.Random(seed).sample(range(len(items)), min(n, len(items))))
    return [items[index] for index in chosen]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is not blank."""
    with io.TextIOWrapper(open_unpacked(path), encoding="utf-8") as text:
        n = 0
        try:
            while line := text.readline(MAX_LINE_CHARACTERS + 1):
                n += 1
                if len(line) > MAX_LINE_CHARACTERS:
                    raise UserError(f"{path}, line {n}: longer than {MAX_LINE_CHARACTERS} characters; split it.")
                if line.strip():
                    yield n, line
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, line {n + 1}: not UTF-8 ({error.reason}); save the file as UTF-8."
            ) from error


def _schema_files(folder: Path) -> Iterator[Item]:
    for path in sorted(folder.rglob("*.json")):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8.") from error
        schema = _parsed(text, str(path))
        # A folder of schemas also holds package files and test data; only files with a schema's keys are taken.
        if isinstance(schema, dict) and ("$schema" in schema or "properties" in schema):
            name = path.relative_to(folder).as_posix()
            title = schema.get("title") or schema.get("description") or path.stem
            yield Item(name, _example_prompt(path.stem, str(title)), schema, source=folder.name)


def _item(line: str, where: str) -> Item | None:
    """Return the item of a row, or None if the row is skipped."""
    row = _parsed(line, where)
    if isinstance(row, dict):
        if "schema" in row and "prompt" in row:
            return _case(row, where)
        if "tools" in row and "calls" in row:
            return _tool_calling(row, where)
        if "parameters" in row and "name" in row:
            return _tool_schema(row, where)
    raise UserError(f"{where}: {line[:80].strip()!r} is not of a known kind: {_FORMS}.")


def _case(row: dict[str, Any], where: str) -> Item:
    schema = _typed(row, "schema", dict, where)
    has_expected = "expected" in row
    if has_expected:
        verdict = check(schema, row["expected"])
        if not verdict.valid:
            raise UserError(f"{where}: `expected` does not fit `schema`: {verdict.why}. Correct one of them.")
    return Item(
        id=_typed(row, "id", str, where),
        prompt=_typed(row, "prompt", str, where),
        schema=schema,
        source=str(row.get("source", "own")),
        license=str(row.get("license", "not stated")),
        has_expected=has_expected,
        expected=row.get("expected"),
    )


def _tool_calling(row: dict[str, Any], where: str) -> Item | None:
    tools, messages, calls = (_typed(row, key, list, where) for key in ("tools", "messages", "calls"))
    if row.get("split") == "train" or len(messages) != 1 or len(calls) != 1:
        return None
    call, message = calls[0], messages[0]
    try:
        tool = next(tool for tool in tools if tool["name"] == call["name"])
        schema, arguments, request = tool["parameters"], call["arguments"], message["content"]
        description = str(tool.get("description", ""))
    except (StopIteration, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}: the call must be of one of `tools`, which have name and parameters; a message has content."
        ) from error
    schema = as_object(_is(schema, dict, "parameters", where))
    if not check(schema, arguments).closed:
        return None
    prompt = (
        f"Request: {request}\n\nGive the arguments of the function {call['name']} ({description}) for this "
        f"request. Leave out optional ones that it does not mention."
    )
    return Item(
        id=_typed(row, "id", str, where),
        prompt=prompt,
        schema=schema,
        source=str(row.get("source", "tool calls")),
        license=str(row.get("license", "not stated")),
        has_expected=True,
        expected=arguments,
    )


def _tool_schema(row: dict[str, Any], where: str) -> Item:
    name = _typed(row, "name", str, where)
    source = str(row.get("source", "schemas"))
    return Item(
        id="/".join([source, *([str(row["origin"])] if "origin" in row else []), name]),
        prompt=_example_prompt(name, str(row.get("description", ""))),
        schema=as_object(_typed(row, "parameters", dict, where)),
        source=source,
        license=str(row.get("license", "not stated")),
    )


def as_object(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema of arguments with type "object" added if it declares no type."""
    return schema if "type" in schema or "$ref" in schema else {"type": "object", **schema}


def _example_prompt(name: str, description: str) -> str:
    about = f" ({description})" if description else ""
    return f"Give a realistic example of the input of {name}{about}."


def _with_unique_ids(items: list[Item], path: Path) -> Iterator[Item]:
    """Number the schemas that share a name; two cases with the same id are an error."""
    seen: Counter[str] = Counter()
    for item in items:
        seen[item.id] += 1
        if seen[item.id] == 1:
            yield item
        elif item.has_expected:
            raise UserError(
                f"{path}: the id {item.id!r} occurs twice; ids must be unique, because runs are paired by id."
            )
        else:
            yield Item(f"{item.id}#{seen[item.id]}", item.prompt, item.schema, item.source, item.license)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}.") from error


def _typed(row: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    return _is(row.get(key), kind, key, where)


def _is(value: Any, kind: type, key: str, where: str) -> Any:
    if not isinstance(value, kind) or (kind is str and not value):
        raise UserError(
            f"{where}: {key!r} is {value!r:.80}; it must be a {'non-empty ' * (kind is str)}{kind.__name__}."
        )
    return value
