"""The first-token benchmark: what each turn evaluates, and what a restart leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from evals.speed import first_token


@pytest.mark.slow
def test_each_turn_evaluates_what_is_new_and_a_restart_only_what_was_not_stored(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "result.json"
    sizes = ["--conversations", "2", "--shared", "128", "--turns", "2"]
    monkeypatch.setattr(sys, "argv", ["first_token", "--gguf", str(tiny_gguf), *sizes, "--result", str(file)])
    assert first_token.main() == 0
    figures = {figure["name"]: figure["value"] for figure in json.loads(file.read_text("utf-8"))["figures"]}

    def beyond(turn: str, engine: str) -> float:
        return figures[f"{turn}: {engine}, evaluated beyond"]

    for engine in first_token.OURS:
        assert beyond("turn 1", engine) == 128, "the common beginning, once"
    assert beyond("turn 2", "llama.cpp") == 2, "the last token of each reply"
    assert 2 <= beyond("turn 2", "torch") <= 2 * 16, "and rests of blocks"
    n_own = 2 * 2 * (first_token.N_NEW + first_token.N_REPLY)
    after = beyond(first_token.RESTARTED, "llama.cpp")
    assert n_own <= after <= n_own + 2 * 16, "all but the common beginning, which alone is stored"
    assert 2 <= beyond(first_token.RESTARTED, "torch") <= 2 * 16, "whole conversations are stored"


def test_a_program_that_writes_too_little_ends_the_comparison() -> None:
    class Short:
        def ask(self, line: str) -> dict[str, object]:
            return {"reply": [1], "first_s": 0.1, "n_evaluated": 3}

    run = first_token.Run("peer", [], {}, Path(), histories=[[1, 2]])
    with pytest.raises(RuntimeError, match="peer wrote 1 tokens, not 16"):
        run.take_turn(Short(), "turn 1", [[3]], 2)  # pyright: ignore[reportArgumentType]
