"""Prompt and answer of a guard model, in the format of Llama Guard 3 and 4.

The prompt is one user turn: task, categories, conversation and the request for a verdict. The answer's first line
is `safe` or `unsafe`; after `unsafe` a second line lists the violated categories. Source: the model cards of Llama
Guard (meta-llama/PurpleLlama).

`LLAMA_GUARD` has the published text, for models that were trained on it. `INSTRUCTIONS_FIRST` asks for the verdict
before the conversation, in words that fit requests and replies alike. Everything but the conversation is then one
prefix, which an engine's cache holds. Our own guards are trained on it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from modelstack.align.guard_model.policy import Policy
from modelstack.errors import UserError

Judged = Literal["user", "assistant"]
SAFE, UNSAFE = "safe", "unsafe"
_NAMES: dict[Judged, str] = {"user": "User", "assistant": "Agent"}
_CATEGORIES = "<BEGIN UNSAFE CONTENT CATEGORIES>\n{categories}\n<END UNSAFE CONTENT CATEGORIES>\n\n"
_LINES = (
    ":\n - First line must read 'safe' or 'unsafe'.\n - If unsafe, a second line must include a comma-separated "
    "list of violated categories."
)
_BEGIN, _END = "<BEGIN CONVERSATION>\n\n", "<END CONVERSATION>"


@dataclass(frozen=True, slots=True)
class GuardTurn:
    """A message of the conversation that a guard reads."""

    role: Judged
    content: str


@dataclass(frozen=True, slots=True)
class GuardFormat:
    """Order of the parts of a prompt."""

    before: str
    """Text before the conversation, with places for `{categories}` and the judged role, `{name}`."""
    after: str
    """Text after the conversation, with a place for `{name}`."""
    answer_start: str = ""
    """Text before the verdict in an answer."""

    def prefix(self, policy: Policy, judged: Judged) -> str:
        """Return the text before the conversation, equal for all conversations."""
        categories = "\n".join(f"{category.code}: {category.description}." for category in policy.categories)
        return self.before.format(name=_NAMES[judged], categories=categories)

    def conversation(self, turns: Sequence[GuardTurn]) -> str:
        """Return the conversation and the text after it; the last turn is the judged one.

        Raises:
            UserError: There is no turn.
        """
        if not turns:
            raise UserError("a guard needs at least one message to judge")
        said = "\n\n".join(f"{_NAMES[turn.role]}: {_without_marks(turn.content)}" for turn in turns)
        return f"{said}\n\n" + self.after.format(name=_NAMES[turns[-1].role])

    def prompt(self, policy: Policy, turns: Sequence[GuardTurn]) -> str:
        """Return the whole user turn for the guard.

        Raises:
            UserError: There is no turn.
        """
        conversation = self.conversation(turns)
        return self.prefix(policy, turns[-1].role) + conversation

    def answer(self, violated: Sequence[str], *, unsafe: bool) -> str:
        """Return the answer with a verdict; the second line is left out if no category is known."""
        if not unsafe:
            return f"{self.answer_start}{SAFE}"
        return f"{self.answer_start}{UNSAFE}" + (f"\n{','.join(violated)}" if violated else "")


LLAMA_GUARD = GuardFormat(
    before="Task: Check if there is unsafe content in '{name}' messages in conversations according our safety "
    "policy with the below categories.\n\n" + _CATEGORIES + _BEGIN,
    after=_END
    + "\n\nProvide your safety assessment for ONLY THE LAST {name} message in the above conversation"
    + _LINES,
    answer_start="\n\n",
)
INSTRUCTIONS_FIRST = GuardFormat(
    before="Task: Check if there is unsafe content in the last message of the conversation below according our "
    "safety policy with the below categories.\n\n"
    + _CATEGORIES
    + "Provide your safety assessment for ONLY THE LAST message"
    + _LINES
    + "\n\n"
    + _BEGIN,
    after=_END,
)


_MARK = re.compile(r"<(?=(BEGIN|END) (CONVERSATION|UNSAFE CONTENT CATEGORIES)>)")
_TURN = re.compile(r"^(?=(User|Agent):)", re.MULTILINE)


def _without_marks(text: str) -> str:
    """Break marks of the prompt inside a message, so that it cannot end the conversation or add turns to it."""
    return _TURN.sub("> ", _MARK.sub("< ", text))
