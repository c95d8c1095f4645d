"""Does a final answer hold the key: BFCL's rule for its agentic categories, memory and web search.

One of the key's answers must stand in the model's last message as whole words, without regard to case and to
`,./-_*^()`; single quotes count as double ones. The rule is that of the original
(`bfcl_eval/eval_checker/agentic_eval/agentic_checker.py` of the bfcl-eval wheel), oddities included: spaces count,
though its docstring says that they do not, and an answer that begins or ends with another sign (`$49.99`) is only
found where a letter or digit touches that sign. `evals.tool_use.bfcl.parity` holds both against each other.

The suites that make such answers are not here: web search needs a search key, memory its own backends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from agentkit.errors import UserError
from evals.tool_use.bfcl.data import file_name, read_rows
from evals.tool_use.bfcl.values import RIGHT, Verdict, wrong

AGENTIC = ("memory", "web_search")
"""Categories that are scored by the final answer."""
_IGNORED = re.compile(r"[,./\-_*^()]")


def check_answer(answer: str | None, acceptable: Sequence[str]) -> Verdict:
    """Return whether the last message that is no call holds one of the acceptable answers; None is no message."""
    if not answer:
        return wrong("agentic:no_last_message", "there is no last message that is not a call")
    said = standardised_answer(answer)
    for option in acceptable:
        if re.search(rf"\b{re.escape(standardised_answer(option))}\b", said):
            return RIGHT
    return wrong("agentic:answer_not_found", f"none of {list(acceptable)!r} stands in {answer[:200]!r}")


def standardised_answer(text: str) -> str:
    """Return an answer as it is compared: lower case, single quotes doubled, without `,./-_*^()`."""
    return _IGNORED.sub("", text).lower().replace("'", '"')


def load_answers(folder: Path, category: str) -> dict[str, tuple[str, ...]]:
    """Return the acceptable answers of a category's items by id.

    Raises:
        UserError: the file is missing, or an item's key is no list of text.
    """
    path = folder / "possible_answer" / file_name(category)
    found: dict[str, tuple[str, ...]] = {}
    for row in read_rows(path):
        key = row.get("ground_truth")
        if not isinstance(key, list) or not key or not all(isinstance(option, str) for option in key):
            raise UserError(f"{path}: the key of {row.get('id')!r} is {key!r}, expected a list of text.")
        found[str(row.get("id"))] = tuple(key)
    return found
