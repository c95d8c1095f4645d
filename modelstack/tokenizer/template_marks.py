"""Marks of chat templates in text: found, and broken up so that no server reads them as control tokens.

Models in this process encode content separately from control tokens (`tokenizer.chat`). Other servers may parse
the rendered prompt, and read `<|im_end|>` in a document as the end of a turn.
"""

from __future__ import annotations

import re

_MARKS = re.compile(
    r"<\|[^|<>\n]{1,60}\|>|<｜[^｜<>\n]{1,60}｜>|</?s>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS)\]"
    r"|<</?SYS>>|</?(?:start_of_turn|end_of_turn|bos|eos|pad|unk)>",
    re.IGNORECASE,
)
"""Pattern of the turn marks of ChatML, Llama 2 and 3, Mistral, Gemma and DeepSeek, and of begin and end
tokens.
"""


def has_marks(text: str) -> bool:
    """Return whether a text spells a control token of a common chat template."""
    return _MARKS.search(text) is not None


def without_marks(text: str) -> tuple[str, int]:
    """Return a text in which each mark is broken up by a space, and the number of marks."""
    return _MARKS.subn(lambda found: f"{found[0][0]} {found[0][1:]}", text)
