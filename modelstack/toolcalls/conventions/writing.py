"""Arguments written in a notation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modelstack.toolcalls.conventions.form import Notation


def write_arguments(arguments: Mapping[str, Any], notation: Notation) -> str:
    """Write the arguments of a call.

    Raises:
        ValueError: a value holds NaN, infinity, or a lone surrogate.
    """
    return write_json(arguments, notation)


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
