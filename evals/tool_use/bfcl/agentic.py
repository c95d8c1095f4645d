"""Checks a final answer against the key by BFCL's rule for its agentic categories, memory and web search.

One of the key's answers must occur in the model's last message as whole words. Case and `,./-_*^()` are ignored,
and single quotes count as double quotes. The rule is that of the original
(`bfcl_eval/eval_checker/agentic_eval/agentic_checker.py` of the bfcl-eval wheel), including two oddities:

- Spaces count, although the original's docstring says that they do not.
- An answer that begins or ends with another symbol (`$49.99`) is found only if a letter or digit touches it.

`evals.tool_use.bfcl.parity` compares both checkers. This package does not generate agentic answers: web search
needs a search key, and memory needs its own backends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from agentkit.errors import UserError
from evals.tool_use.bfcl.data import file_name, read_rows
from evals.tool_use.bfcl.values import RIGHT, Verdict, wrong

AGENTIC = ("memory", "web_search")
"""Categories scored by the final answer."""
_IGNORED = re.compile(r"[,./\-_*^()]")


def check_answer(answer: str | None, acceptable: Sequence[str]) -> Verdict:
    """Return whether the last message without a call contains an acceptable answer.

    None means there is no message.
    """
    if not answer:
        return wrong("agentic:no_last_message", "there is no last message that is not a call")
    said = standardised_answer(answer)
    for option in acceptable:
        if re.search(rf"\b{re.escape(standardised_answer(option))}\b", said):
            return RIGHT
    return wrong("agentic:answer_not_found", f"none of {list(acceptable)!r} occurs in {answer[:200]!r}")


def standardised_answer(text: str) -> str:
    """Normalise an answer for comparison: lower case, single quotes as double quotes, without `,./-_*^()`."""
    return _IGNORED.sub("", text).lower().replace("'", '"')


def load_answers(folder: Path, category: str) -> dict[str, tuple[str, ...]]:
    """Return the acceptable answers of a category's items by id.

    Raises:
        UserError: the file is missing, or an item's key is not a list of strings.
    """
    path = folder / "possible_answer" / file_name(category)
    found: dict[str, tuple[str, ...]] = {}
    for row in read_rows(path):
        key = row.get("ground_truth")
        if not isinstance(key, list) or not key or not all(isinstance(option, str) for option in key):
            raise UserError(f"{path}: the key of {row.get('id')!r} is {key!r}, expected a list of strings.")
        found[str(row.get("id"))] = tuple(key)
    return found
