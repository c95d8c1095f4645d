"""The rollouts benchmark: equal work is checked, ratios are turn by turn, our programs sample what is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.speed.rollouts import check_equal_work, result_of
from evals.speed.rollouts_programs import OURS, PEER, TORCH, Task, prompts_of, ready, system_prompt, write_tiny
from evals.speed.rollouts_worker import task_to_json
from evals.speed.turns import Measured


def measured(program: str, seconds: list[float], n_parameters: int = 10, tokens: float | None = None) -> Measured:
    task = Task(program, "short", Path("model.gguf"), prompts=1, group=2, tokens=5)
    found = [task.n_tokens if tokens is None else tokens] * len(seconds)
    return Measured(n_parameters, task.n_tokens, found, [[second] for second in seconds])


def test_ratios_are_taken_turn_by_turn_and_the_promise_is_against_trl_with_tools() -> None:
    found = {
        OURS: measured(OURS, [1.0, 2.0]),
        TORCH: measured(TORCH, [2.0, 4.0]),
        PEER: measured(PEER, [4.0, 8.0]),
    }
    check_equal_work(found)
    figures = {figure.name: figure for figure in result_of("tools", found).figures}
    assert figures["tools: speed beside TRL"].value == pytest.approx(4.0)
    assert figures["tools: speed beside TRL"].holds is True
    assert figures["tools: torch beside TRL"].value == pytest.approx(2.0)
    found[PEER] = measured(PEER, [2.0, 4.0])
    slower, short = result_of("tools", found), result_of("short", found)
    assert [figure.name for figure in slower.broken] == ["tools: speed beside TRL"]
    assert not short.broken
    assert short.comparisons[0].values[OURS] == pytest.approx(10 / 1.5)


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (measured(PEER, [1.0], n_parameters=11), "TRL trains 11 parameters and ours 10"),
        (measured(PEER, [1.0], tokens=9.0), r"TRL sampled \[9\.0\] tokens, not 10"),
    ],
    ids=["parameters", "tokens"],
)
def test_unequal_work_is_no_comparison(other: Measured, complaint: str) -> None:
    with pytest.raises(RuntimeError, match=complaint):
        check_equal_work({OURS: measured(OURS, [1.0]), PEER: other})


@pytest.mark.parametrize("program", [OURS, TORCH])
def test_our_programs_sample_every_token_that_is_asked_for(program: str, tmp_path: Path) -> None:
    task = Task(program, "short", write_tiny(tmp_path / "tiny.gguf"), prompts=2, group=3, tokens=4)
    n_parameters, step = ready(task)
    assert n_parameters > 0
    assert [step(), step()] == [24.0, 24.0]
    assert json.loads(task_to_json(task))["program"] == program


def test_prompts_share_the_tools_where_there_are_some(tmp_path: Path) -> None:
    class Characters:
        def encode(self, text: str) -> list[int]:
            return [ord(character) for character in text]

    with_tools = Task(OURS, "tools", tmp_path, prompts=2)
    one, other = prompts_of(with_tools, Characters(), 0)
    assert one != other
    assert "".join(map(chr, one)).startswith(system_prompt())
    assert "".join(map(chr, other)).startswith(system_prompt())
    assert prompts_of(with_tools, Characters(), 1)[0] not in (one, other)
