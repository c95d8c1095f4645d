"""Shares of valid and right calls, of a policy that is sure to write given replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from modelstack.data.examples import Message, Tool
from modelstack.errors import UserError
from modelstack.inference.rows import Choose
from modelstack.reasoning.rollouts.call_shares import CallShares, call_shares
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.calls import Call, has_valid_calls
from modelstack.reasoning.verifiers.rewards import Item
from modelstack.tokenizer.chat import ChatEncoder
from modelstack.toolcalls.convention import ResponseFormat, render_calls
from tests.modelstack.reasoning.policy.toy_policy import TOOLS, toy_encoder

HALL: Call = ("lamp", {"room": "hall", "on": True})
ATTIC: Call = ("lamp", {"room": "attic", "on": True})


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes a text for each prompt, as far as a grammar allows it."""

    encoder: ChatEncoder
    texts: Sequence[str]

    def continue_rows(
        self, prompts: Sequence[Sequence[int]], n_rows: Sequence[int], choose: Choose, max_tokens: int
    ) -> None:
        assert list(n_rows) == [1] * len(self.texts)
        for row, text in enumerate(self.texts):
            ids = [*self.encoder.vocabulary.encode(text), min(self.encoder.end_ids)]
            place = 0
            while place < max_tokens:
                logits_1V = np.zeros((1, len(self.encoder.vocabulary)), np.float32)
                logits_1V[0, ids[min(place, len(ids) - 1)]] = 100
                (chosen,) = choose([row], logits_1V)
                if not chosen:
                    break
                place += len(chosen)


def task(number: int, *calls: Call) -> PolicyTask:
    shown = tuple(Tool(name=t.name, description=t.description, parameters={**t.parameters}) for t in TOOLS)
    gold: list[dict[str, Any]] = [{"name": name, "arguments": {**arguments}} for name, arguments in calls]
    message = Message(role="user", content=f"light {number}")
    return PolicyTask(Item(f"{number}", gold), (message,), tools=shown).judged_by("calls")


def shares(*written: tuple[str, Call]) -> CallShares:
    tasks = [task(number, wanted) for number, (_, wanted) in enumerate(written)]
    return call_shares(Writer(toy_encoder(), [text for text, _ in written]), toy_encoder(), tasks)


def test_a_valid_call_need_not_be_right_and_words_are_no_call() -> None:
    found = shares(
        (render_calls([HALL]), HALL),
        (render_calls([HALL]), ATTIC),
        ("The light is on.", HALL),
        (render_calls([("lamp", {"room": "cellar", "on": True})]), HALL),
    )
    assert (found.n_tasks, found.valid, found.right) == (4, 3 / 4, 1 / 4)


def test_the_grammar_turns_an_invalid_call_into_a_valid_one() -> None:
    found = shares((render_calls([("lamp", {"room": "hale", "on": True})]), HALL))
    assert (found.valid, found.right, found.right_with_grammar) == (0, 0, 1)


def test_a_call_of_an_unknown_tool_and_a_broken_call_are_invalid() -> None:
    wanted = ResponseFormat(TOOLS)
    assert has_valid_calls(render_calls([HALL]), wanted)
    assert not has_valid_calls(render_calls([("lamps", {})]), wanted)
    assert not has_valid_calls(render_calls([HALL])[:-1], wanted)


def test_no_tasks_and_golds_of_another_verifier_are_refused() -> None:
    with pytest.raises(UserError, match="there are no tasks to measure tool calls on"):
        shares()
    with pytest.raises(UserError, match="task '0': .*no tool is named 'lights'|lights"):
        task(0, ("lights", {}))
