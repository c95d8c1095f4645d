"""What every suite owes the harness."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from agentkit.errors import UserError
from evals.case import Run, RunStatus
from evals.harness.specification import select
from evals.harness.suite import SUITES, find_suite, judge

SHARED = Path(__file__).parents[4] / "shared" / "data"
DATA = {
    "bfcl": {"data": "evals/bfcl"},
    "examples": {"file": "tooluse/validation-open.jsonl.zst"},
    "gsm8k": {"data": "evals/capability/gsm8k_test.jsonl", "train": "evals/capability/gsm8k_train.jsonl"},
    "ifeval": {"data": "evals/capability/ifeval_input_data.jsonl"},
    "humaneval": {"data": "evals/capability/HumanEval.jsonl.gz"},
    "mbpp": {"data": "evals/capability/mbpp.jsonl"},
    "choices": {"data": "evals/capability/core"},
    "bits-per-byte": {"data": "evals/SOURCES.md"},
}
"""Where the suites that need a user's files find some here."""
FETCHED = {"bfcl-multi-turn", "agentdojo"}
"""Suites whose data is fetched once, by a command of theirs: a wheel, an environment."""


@pytest.mark.parametrize("name", SUITES)
def test_a_run_that_failed_before_it_said_anything_scores_zero(name: str) -> None:
    suite = find_suite(name)
    options = {key: str(SHARED / path) for key, path in DATA.get(name, {}).items()}
    if not all(Path(path).exists() for path in options.values()):
        pytest.skip(f"{options} is not here")
    try:
        cases = select(suite.load(options), 3)
    except UserError as error:
        if name not in FETCHED:
            raise
        pytest.skip(str(error))
    for case in cases:
        for status in ("failed", "timed_out"):
            assert status in get_args(RunStatus)
            score = judge(suite, case, Run(case.id, status, error="the server is down"))
            assert score.value == 0.0
            assert "the server is down" in score.explanation
