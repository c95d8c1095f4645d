"""The page on the algorithms' gradients has the table that its command prints."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch (extra `train`)")

from evals.post_training import off_policy_gradients
from evals.post_training.off_policy_gradients.__main__ import main


def test_the_page_has_the_table_that_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(off_policy_gradients.__file__).with_name("README.md").read_text(encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["off_policy_gradients", "--markdown"])
    assert main() == 0
    assert capsys.readouterr().out in page


def test_on_a_terminal_every_algorithm_has_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["off_policy_gradients"])
    assert main() == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("grpo", "rloo", "dr_grpo", "prime_rl", "ppo"))
