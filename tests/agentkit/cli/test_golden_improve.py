"""Output of `agentkit improve` as golden files; see `tests.golden`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.agentkit.cli.test_golden_agentkit import golden
from tests.agentkit.improve.shop_agent import shop_tasks
from tests.golden import Golden

__all__ = ["golden"]

AGENT = "from tests.agentkit.improve.shop_agent import shop_agent\nagent = shop_agent()\n"
RUN = "improve run improve_shop.py:agent -t tasks.jsonl -o better budget.rollouts=100"
HIDDEN = [
    (r"20\d\d-\d\d-\d\d([T ])\d\d:\d\d(:\d\d)?", r"2026-12-01\g<1>12:00"),
    (r"\d+\.\d+ s\b", "1.0 s"),
    (r"(?<![.\d])\b[0-9a-f]{12,64}\b", "0123456789ab"),
]
"""Times and hashes, which differ in each run."""


@pytest.fixture(autouse=True)
def shop(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write an agent and its tasks."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("improve_shop.py").write_text(AGENT, encoding="utf-8")
    lines = [task.model_dump_json() for task in shop_tasks()]
    Path("tasks.jsonl").write_text("\n".join(lines), encoding="utf-8")


def anew() -> None:
    """Remove what a command has made."""
    shutil.rmtree("better", ignore_errors=True)
    sys.modules.pop("improve_shop", None)


def test_an_improvement_from_its_run_to_its_rollback(golden: Golden) -> None:
    golden.check("improve-run", RUN, replace=HIDDEN, before=anew)
    golden.check("improve-show", "improve show better", "improve show better --json", replace=HIDDEN)
    golden.check("improve-rollback", "improve rollback better", piped=False, replace=HIDDEN)
    golden.check("improve-accept", "improve accept better --version 1", piped=False, replace=HIDDEN)


def test_examples_are_written_for_an_adapter(golden: Golden) -> None:
    command = "improve examples improve_shop.py:agent -t tasks.jsonl -o examples.jsonl --license MIT"
    golden.check("improve-examples", command, before=anew)
