"""Rules beyond correctness that a policy's reply must satisfy to become an example.

DeepSeek-R1 (2501.12948, section 2.3.3) keeps only correct replies and drops those that are hard to read:
thoughts in mixed languages, long paragraphs, code blocks. Languages are distinguished by the scripts of their
letters, which needs no model and no word list; two languages with the same script pass.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from pydantic import BaseModel, Field

from modelstack.reasoning.verifiers.formats import ThinkFormat
from modelstack.reasoning.verifiers.rewards import Completion, Item

_FORMAT = ThinkFormat()
_JOINT_SCRIPTS = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HALFWIDTH": "CJK"}
"""First words of Unicode names of letters that are written together: Japanese mixes three scripts."""


class KeepRules(BaseModel, frozen=True, extra="forbid"):
    """Rules for keeping replies; drops are counted by the rule's name."""

    at_most: int = Field(default=4, ge=1)
    """Maximum number of kept replies per task; the first suitable ones are taken."""
    max_pass_rate: float = Field(default=1.0, gt=0, le=1)
    """Tasks with a larger share of correct replies are dropped, since they teach little."""
    min_tokens: int = Field(default=1, ge=1)
    """Minimum tokens of a reply."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Maximum tokens of a reply."""
    thinking: bool = False
    """Whether a reply must be one block of thought followed by an answer."""
    one_script: bool = False
    """Whether all letters must be in the scripts of the prompt."""
    code_blocks: bool = True
    """Whether fenced code blocks are allowed."""
    max_paragraph_characters: int | None = Field(default=None, ge=1)
    """Maximum characters of a paragraph."""


def complaint(item: Item[object], completion: Completion, rules: KeepRules) -> str:
    """Return the name of the first rule that a reply breaks; "" if it breaks none."""
    text, n_tokens = completion.text, len(completion.token_ids)
    if completion.is_truncated:
        return "truncated"
    if not text.strip():
        return "empty"
    if n_tokens < rules.min_tokens:
        return "min_tokens"
    if rules.max_tokens is not None and n_tokens > rules.max_tokens:
        return "max_tokens"
    if rules.thinking and _FORMAT.score(item, completion).value != 1.0:
        return "thinking"
    if rules.one_script and not scripts(text) <= scripts(item.prompt):
        return "one_script"
    if not rules.code_blocks and "```" in text:
        return "code_blocks"
    limit = rules.max_paragraph_characters
    if limit is not None and any(len(paragraph) > limit for paragraph in text.split("\n\n")):
        return "max_paragraph_characters"
    return ""


def scripts(text: str) -> frozenset[str]:
    """Return the scripts of a text's letters by the first word of the Unicode name: LATIN, CYRILLIC, CJK."""
    return frozenset(_of_letters(character for character in set(text) if character.isalpha()))


def _of_letters(letters: Iterable[str]) -> Iterable[str]:
    for letter in letters:
        name = unicodedata.name(letter, "").partition(" ")[0]
        yield _JOINT_SCRIPTS.get(name, name)
