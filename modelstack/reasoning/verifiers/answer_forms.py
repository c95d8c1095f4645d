"""Answers of reasoning-gym without marks: a reply that is the answer and nothing else, or an equation.

`gym` looks for `<answer>...</answer>` or an answer marked as in mathematics, which a model of some hundred million
parameters rarely writes. Short replies are as strict where the *whole* reply must have the form: nothing can be
hidden in the words around an answer that has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelstack.reasoning.verifiers.gym import GymGold, GymVerifier
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward, final_part

AnswerForm = Literal["marked", "bare", "equation"]
"""Behind a mark, see `gym`; the whole reply; what stands behind the only `=` of a reply of one line."""


@dataclass(frozen=True, slots=True)
class FormedGold:
    """Where an entry comes from, and how its answer is to be written."""

    entry: GymGold
    form: AnswerForm = "marked"


class FormedGym:
    """Grades answers of a given form."""

    def __init__(self, gym: GymVerifier) -> None:
        """Take what grades an answer once it is found."""
        self._gym = gym

    def score(self, item: Item[FormedGold], completion: Completion) -> Reward:
        """Return 1 or 0; None where the grader does not accept its own answer."""
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
    """Return the answer of a reply, None where the reply has not the form or an answer's mark stands in it."""
    said = (final_part(text) or "").strip()
    if not said or "\n" in said or "answer>" in said:
        return None
    if form == "bare":
        return said
    left, equals, right = said.partition("=")
    answer = right.strip()
    return answer if left.strip() and equals and answer and "=" not in answer else None
