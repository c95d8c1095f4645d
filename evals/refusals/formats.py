"""Reads request files in the formats of safety benchmarks, recognised by their headers.

Supported are JSON Lines (`text` or `prompt`, `label`, `category`; SORRY-Bench's `turns`), the CSV files of XSTest,
HarmBench, JailbreakBench, StrongREJECT, SimpleSafetyTests, AdvBench, Do-Not-Answer and OR-Bench, and any CSV with
a prompt and a label column. The files stay in their place: nothing is downloaded or copied.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agentkit.errors import UserError

Label = Literal["harmful", "benign", "borderline"]
LABELS: tuple[Label, ...] = ("harmful", "benign", "borderline")
MAX_FILE_BYTES = 256 << 20

_LABEL_WORDS: dict[str, Label] = {
    **dict.fromkeys(("harmful", "unsafe", "toxic", "malicious", "harm", "1"), "harmful"),
    **dict.fromkeys(("benign", "safe", "harmless", "ordinary", "0"), "benign"),
    **dict.fromkeys(("borderline", "controversial"), "borderline"),
}
_PROMPT_KEYS = (
    "prompt",
    "text",
    "question",
    "instruction",
    "goal",
    "behavior",
    "forbidden_prompt",
    "prompts_final",
)
_CATEGORY_KEYS = ("type", "category", "semanticcategory", "harm_area", "risk_area")


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a file."""

    id: str
    """Id from the file if it has one, else the row number from 1."""
    prompt: str
    label: Label
    category: str = ""
    source: str = ""
    """Name of the file without its extension."""


Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """Columns of a benchmark's rows, and how they are read; keys are lower case."""

    name: str
    needs: frozenset[str]
    prompt: Callable[[Row], str]
    label: Callable[[Row, str], Label | None]
    """Returns the label from a row and the file's name, or None if the file does not state it."""
    category: str = ""


def read_requests(path: Path, *, label: Label | None = None) -> list[Request]:
    """Read the requests of a file; `label` overrides the file's labels.

    Raises:
        UserError: the file is missing or unreadable, has an unknown format, or states no labels.
    """
    rows = _json_rows(path) if path.suffix.lower() in (".jsonl", ".json", ".ndjson") else _csv_rows(path)
    if not rows:
        raise UserError(f"{path} holds no requests: at least one row below the header is needed.")
    form = detect(rows[0], path)
    requests = [_request(row, number, form, path, label) for number, row in enumerate(rows, 1)]
    seen: set[str] = set()
    unique: list[Request] = []
    for number, request in enumerate(requests, 1):
        if request.id in seen:
            request = replace(request, id=f"{request.id}-row{number}")
        seen.add(request.id)
        unique.append(request)
    return unique


def detect(row: Row, path: Path) -> Format:
    """Return the format whose columns a row has.

    Raises:
        UserError: no format fits; the message lists the columns and the known formats.
    """
    columns = frozenset(row)
    for form in FORMATS:
        if form.needs <= columns:
            return form
    known = "; ".join(f"{form.name}: {', '.join(sorted(form.needs))}" for form in FORMATS)
    raise UserError(
        f"{path} has the columns {', '.join(sorted(columns))}, which no known format has. Known: {known}."
    )


def parse_label(word: str) -> Label:
    """Return the label that a word stands for.

    Raises:
        UserError: the word is not known.
    """
    found = _LABEL_WORDS.get(word.strip().lower())
    if found is None:
        raise UserError(f"label {word!r} is not known; use one of {', '.join(LABELS)}.")
    return found


def _request(row: Row, number: int, form: Format, path: Path, label: Label | None) -> Request:
    prompt = form.prompt(row).strip()
    if not prompt:
        raise UserError(f"{path}, row {number}: the prompt is empty ({form.name} format).")
    try:
        found = label or form.label(row, path.stem.lower())
    except UserError as error:
        raise UserError(
            f"{path}, row {number}: {error} Option label=harmful|benign|borderline sets one for all."
        ) from error
    if found is None:
        raise UserError(
            f"{path} does not say whether its requests are harmful; "
            f"use option label=harmful, benign or borderline."
        )
    name = str(row.get("id") or row.get("behaviorid") or row.get("question_id") or row.get("index") or number)
    category = str(row.get(form.category, "") or "") if form.category else _first(row, _CATEGORY_KEYS)
    return Request(name, prompt, found, category, path.stem)


def _first(row: Row, keys: Sequence[str]) -> str:
    for key in keys:
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            return value
    return ""


def _stated_label(row: Row, _: str) -> Label | None:
    word = row.get("label")
    return parse_label(str(word)) if word not in (None, "") else None


def _xstest_label(row: Row, name: str) -> Label | None:
    # Version 2 has no label column; the type of contrast rows shows the label.
    if row.get("label") not in (None, ""):
        return _stated_label(row, name)
    return "harmful" if str(row.get("type", "")).startswith("contrast") else "benign"


def _by_name(word: str, then: Label, otherwise: Label | None) -> Callable[[Row, str], Label | None]:
    return lambda row, name: then if word in name else (_stated_label(row, name) or otherwise)


def _always(label: Label) -> Callable[[Row, str], Label | None]:
    return lambda row, name: label


def _column(key: str) -> Callable[[Row], str]:
    return lambda row: str(row.get(key) or "")


def _harmbench_prompt(row: Row) -> str:
    context, behavior = str(row.get("contextstring") or "").strip(), str(row.get("behavior") or "").strip()
    return f"{context}\n\n---\n\n{behavior}" if context else behavior


def _turns(row: Row) -> str:
    turns = row.get("turns")
    return str(turns[0]) if isinstance(turns, list) and turns else ""


FORMATS: tuple[Format, ...] = (
    Format("SORRY-Bench", frozenset({"turns", "category"}), _turns, _always("harmful"), "category"),
    Format(
        "HarmBench",
        frozenset({"behavior", "functionalcategory"}),
        _harmbench_prompt,
        _always("harmful"),
        "functionalcategory",
    ),
    Format(
        "JailbreakBench",
        frozenset({"goal", "behavior", "category"}),
        _column("goal"),
        _by_name("benign", "benign", "harmful"),
        "category",
    ),
    Format(
        "StrongREJECT",
        frozenset({"forbidden_prompt"}),
        _column("forbidden_prompt"),
        _always("harmful"),
        "category",
    ),
    Format(
        "SimpleSafetyTests",
        frozenset({"harm_area", "prompts_final"}),
        _column("prompts_final"),
        _always("harmful"),
        "harm_area",
    ),
    Format(
        "SimpleSafetyTests", frozenset({"harm_area", "prompt"}), _column("prompt"), _always("harmful"), "harm_area"
    ),
    Format("AdvBench", frozenset({"goal", "target"}), _column("goal"), _always("harmful")),
    Format(
        "Do-Not-Answer", frozenset({"risk_area", "question"}), _column("question"), _always("harmful"), "risk_area"
    ),
    Format("XSTest", frozenset({"id", "prompt", "type"}), _column("prompt"), _xstest_label, "type"),
    Format("prompt and label", frozenset({"prompt"}), _column("prompt"), _by_name("toxic", "harmful", None)),
    Format("text and label", frozenset({"text"}), _column("text"), _stated_label),
    Format("question and label", frozenset({"question"}), _column("question"), _stated_label),
)
"""Formats in the order in which they are tried; formats with more required columns come earlier."""


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB; split it.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}). Option data= names files on this machine."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); convert it first.") from error


def _json_rows(path: Path) -> list[dict[str, Any]]:
    text = _read(path)
    try:
        if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
            values = json.loads(text)
        else:
            values = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not JSON Lines: {error}.") from error
    if not all(isinstance(value, dict) for value in values):
        raise UserError(f"{path}: every line must be a JSON object with a prompt.")
    return [{str(key).lower(): item for key, item in value.items()} for value in values]


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = list(csv.DictReader(io.StringIO(_read(path), newline=""), restkey="_more"))
    except csv.Error as error:
        raise UserError(f"{path} is not CSV: {error}.") from error
    return [{str(key or "").strip().lower(): value for key, value in row.items()} for row in rows]
