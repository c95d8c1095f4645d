"""The figure before a training is kept for the questions it was measured on, whichever process asks again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from modelstack.reasoning.rollouts.held_back import fingerprint
from modelstack.reasoning.tasks.golds import VerifierName
from modelstack.reasoning.tasks.task import PolicyTask, read_tasks

TOOL = {
    "name": "search",
    "parameters": {"type": "object", "properties": {name: {"type": "string"} for name in "abcdef"}},
}
CALLS = {
    "prompt": "Look.",
    "tools": [TOOL],
    "gold": [{"name": "search", "acceptable": {n: ["x"] for n in "abcdef"}, "may_omit": list("abcdef")}],
}
EFFECTS = {
    "prompt": "Light!",
    "tools": [TOOL],
    "gold": {"world": "lamps", "start": {"lamps": {"hall": {"on": False, "percent": 5}}}, "calls": []},
}
PROGRAM = """
import sys
from modelstack.reasoning.rollouts.held_back import fingerprint
from modelstack.reasoning.tasks.task import read_tasks
for file, verifier in zip(sys.argv[1::2], sys.argv[2::2]):
    print(fingerprint([task.judged_by(verifier) for task in read_tasks(file)], 8))
"""


def tasks(folder: Path, line: dict[str, Any], verifier: VerifierName) -> list[PolicyTask]:
    (folder / "t.jsonl").write_text(json.dumps({"id": "a"} | line) + "\n", encoding="utf-8")
    return [task.judged_by(verifier) for task in read_tasks(folder / "t.jsonl")]


def test_another_process_asks_the_same(tmp_path: Path) -> None:
    here: list[str] = []
    files: list[str] = []
    lines: dict[VerifierName, dict[str, Any]] = {"calls": CALLS, "effects": EFFECTS}
    for name, line in lines.items():
        (tmp_path / name).mkdir()
        here.append(fingerprint(tasks(tmp_path / name, line, name), 8))
        files += [str(tmp_path / name / "t.jsonl"), name]
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM, *files],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[4])},
    )
    assert there.stdout.split() == here


def test_another_prompt_tool_gold_or_limit_is_another_question(tmp_path: Path) -> None:
    lines = [
        CALLS,
        CALLS | {"prompt": "Look!"},
        CALLS | {"tools": [TOOL | {"description": "Search"}]},
        CALLS | {"gold": []},
    ]
    found = {fingerprint(tasks(tmp_path, line, "calls"), 8) for line in lines}
    assert len(found | {fingerprint(tasks(tmp_path, CALLS, "calls"), 9)}) == 5
