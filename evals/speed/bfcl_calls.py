"""Gold tool calls of BFCL's `simple_python` and `multiple`, as the benchmarks here need them.

The files come from a folder that the user names, or from the bfcl-eval wheel, fetched once with
`pip download --no-deps` into the cache; nothing of them is in this repository.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from modelstack.toolcalls.convention import ToolSpec, render_calls
from modelstack.toolcalls.dialects import bfcl_tool

WHEEL = "bfcl-eval==2026.3.23"
CATEGORIES = ("simple_python", "multiple")


@dataclass(frozen=True, slots=True)
class GoldCall:
    """One question, its tools, and the right call in compact form."""

    case_id: str
    question: str
    tools: tuple[ToolSpec, ...]
    name: str
    arguments: dict[str, Any]

    @property
    def text(self) -> str:
        """The reply that makes the call."""
        return render_calls([(self.name, self.arguments)], self.tools)


def load(folder: Path | None) -> list[GoldCall]:
    """Return the gold calls of both categories, from `folder` or from the wheel.

    Raises:
        FileNotFoundError: the folder lacks a file; the message says where to get it.
    """
    folder = folder or _from_wheel()
    calls: list[GoldCall] = []
    for category in CATEGORIES:
        name = f"BFCL_v4_{category}.json"
        for path in (folder / name, folder / "possible_answer" / name):
            if not path.exists():
                raise FileNotFoundError(f"{path} is missing: give --bfcl the data folder of {WHEEL}")
        answers = {row["id"]: row["ground_truth"] for row in _rows(folder / "possible_answer" / name)}
        calls += [_gold(row, answers[row["id"]]) for row in _rows(folder / name)]
    return calls


def _gold(row: dict[str, Any], answer: list[dict[str, dict[str, list[Any]]]]) -> GoldCall:
    ((name, values),) = answer[0].items()
    tools = tuple(bfcl_tool(function) for function in row["function"])
    return GoldCall(
        case_id=row["id"],
        question=row["question"][0][-1]["content"],
        tools=tools,
        name=name,
        arguments={key: _first(options) for key, options in values.items() if options[0] != ""},
    )


def _first(options: list[Any]) -> Any:
    """Return the first acceptable value; nested objects list acceptable values too."""
    value = options[0]
    if isinstance(value, dict):
        return {key: _first(inner) for key, inner in value.items() if inner and inner[0] != ""}
    if isinstance(value, list):
        return [_first([item]) if isinstance(item, dict) else item for item in value]
    return value


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _from_wheel() -> Path:
    target = user_cache_path("agentkit") / "evals" / WHEEL.replace("==", "-")
    data = target / "bfcl_eval" / "data"
    if not data.exists():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
            subprocess.run(command, check=True)
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target, [n for n in archive.namelist() if n.startswith("bfcl_eval/data/BFCL_v4")
                                            or n.startswith("bfcl_eval/data/possible_answer/")])  # fmt: skip
    return data
