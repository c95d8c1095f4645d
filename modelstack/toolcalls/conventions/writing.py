"""JSON with the blanks of a notation."""

from __future__ import annotations

import json
from typing import Any

from modelstack.toolcalls.conventions.form import Notation


def write_json(value: Any, notation: Notation) -> str:
    """Write JSON with the separators of a notation.

    Raises:
        ValueError: the value holds NaN, infinity, or a lone surrogate.
    """
    separators = (notation.comma, notation.colon)
    text = json.dumps(value, separators=separators, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"lone surrogate at character {error.start} of {text[:40]!r}") from error
    return text.replace("\x7f", "\\u007f")
