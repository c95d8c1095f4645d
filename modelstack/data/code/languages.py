"""Programming language of a file, from its name or first line, and the language's comment syntax.

The table is `languages.toml`, derived from GitHub's linguist.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from modelstack.data.documents import Document

TABLE = Path(__file__).with_name("languages.toml")
LANGUAGE = "programming_language"
"""Metadata key of the programming language; "language" is the natural language."""
Kind = Literal["programming", "markup", "data"]


@dataclass(frozen=True, slots=True)
class Syntax:
    """Delimiters of comments and strings."""

    line: tuple[str, ...] = ()
    block: tuple[tuple[str, str], ...] = ()
    strings: tuple[str, ...] = ()

    @property
    def has_comments(self) -> bool:
        """Whether comment delimiters are known."""
        return bool(self.line or self.block)


@dataclass(frozen=True, slots=True)
class Language:
    """A file format: programming language, markup or data."""

    name: str
    kind: Kind
    syntax: Syntax


@dataclass(frozen=True, slots=True)
class _Table:
    languages: dict[str, Language]
    by_extension: dict[str, str]
    by_name: dict[str, str]
    by_interpreter: dict[str, str]


_SHEBANG = re.compile(r"#![ \t]*(?:\S*/)?(?:env[ \t]+(?:-\S+[ \t]+)*)?(?P<program>[\w.+-]+)", re.ASCII)
_MAX_SHEBANG = 256
_VERSION = re.compile(r"[\d.]+$", re.ASCII)


def all_languages() -> dict[str, Language]:
    """Return the languages of the table by name."""
    return _table().languages


def language_of(path: str, text: str = "") -> Language | None:
    """Return the language of a file; None if neither its name nor its first line identifies one."""
    table = _table()
    name = path.replace("\\", "/").rpartition("/")[2]
    found = table.by_name.get(name)
    if found is None and "." in name.lstrip("."):
        found = table.by_extension.get(name.rpartition(".")[2].lower())
    if found is None:
        shebang = _SHEBANG.match(text, 0, _MAX_SHEBANG)
        program = shebang["program"] if shebang else ""
        found = table.by_interpreter.get(program) or table.by_interpreter.get(_VERSION.sub("", program))
    return table.languages[found] if found else None


def path_of(document: Document) -> str:
    """Return the path of a document from its metadata, else from its URL; "" if neither has one."""
    path = document.metadata.get("path")
    if isinstance(path, str) and path:
        return path
    try:
        return urlsplit(document.url).path
    except ValueError:
        return ""


def identify_language(document: Document) -> Language | None:
    """Return the language of a document and store its name in the metadata."""
    known = document.metadata.get(LANGUAGE)
    language = _table().languages.get(known) if isinstance(known, str) else None
    language = language or language_of(path_of(document), document.text)
    if language:
        document.metadata[LANGUAGE] = language.name
    return language


@cache
def _table() -> _Table:
    content = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    syntaxes = {
        name: Syntax(
            line=tuple(fields.get("line", ())),
            block=tuple((begin, end) for begin, end in fields.get("block", ())),
            strings=tuple(fields.get("strings", ())),
        )
        for name, fields in content["syntax"].items()
    }
    table = _Table({}, {}, {}, {})
    for name, fields in content["languages"].items():
        table.languages[name] = Language(name, fields.get("kind", "programming"), syntaxes[fields["syntax"]])
        table.by_extension.update(dict.fromkeys(fields["extensions"], name))
        table.by_name.update(dict.fromkeys(fields.get("names", ()), name))
        table.by_interpreter.update(dict.fromkeys(fields.get("interpreters", ()), name))
    return table
