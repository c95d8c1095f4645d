"""Answers to reasoning-gym tasks without marks: a reply that is only the answer, or an equation.

`gym` expects `<answer>...</answer>` or an answer marked as in mathematics, which a model with a few hundred
million parameters rarely writes. Unmarked replies are as strict if the *whole* reply must have the form, since
no other answer fits into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelstack.reasoning.verifiers.gym import GymGold, GymVerifier
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, final_part

AnswerForm = Literal["marked", "bare", "equation"]
"""`marked`: an answer with a mark, see `gym`. `bare`: the whole reply. `equation`: a reply of one line with a
single `=`; the answer follows it."""


@dataclass(frozen=True, slots=True)
class FormedGold:
    """Origin of an entry, and the form of its answer."""

    entry: GymGold
    form: AnswerForm = "marked"


class FormedGym:
    """Verifier of answers in a given form."""

    def __init__(self, gym: GymVerifier) -> None:
        """Store the verifier that grades an extracted answer."""
        self._gym = gym

    def score(self, item: Item[FormedGold], completion: Completion) -> Reward:
        """Return reward 1 or 0; None if the grader rejects its own answer."""
        entry = Item(item.id, item.gold.entry, item.prompt, item.is_canary)
        if item.gold.form == "marked":
            return self._gym.score(entry, completion)
        answer = answer_in_form(completion.text, item.gold.form)
        text = "" if answer is None else f"<answer>{answer}</answer>"
        judged = self._gym.score(entry, Completion(text, completion.token_ids, completion.is_truncated))
        if answer is None and judged.value is not None:
            return Reward(0.0, f"the reply is not of the form {item.gold.form!r}")
        return judged

    def close(self) -> None:
        """End the grader's process."""
        self._gym.close()


def answer_in_form(text: str, form: Literal["bare", "equation"]) -> str | None:
    """Return the answer of a reply; None if the reply has another form or contains an answer mark."""
    said = (final_part(text) or "").strip()
    if not said or "\n" in said or "answer>" in said:
        return None
    if form == "bare":
        return said
    left, equals, right = said.partition("=")
    answer = right.strip()
    return answer if left.strip() and equals and answer and "=" not in answer else None
