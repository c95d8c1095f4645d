"""Detects the language of a text with the detector of IFEval's original (langdetect, an optional package).

Detection draws random numbers; a fixed seed makes it repeatable. A text in an undetectable language, for example
digits only, counts as being in the requested language, as in the original.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from agentkit.errors import UserError

SEED = 0


def is_in_language(text: str, language: str) -> bool:
    """Return whether a text is in a language, given by its ISO 639-1 code.

    Raises:
        UserError: langdetect is not installed.
    """
    module = _langdetect()
    try:
        return module.detect(text) == language
    except module.LangDetectException:
        return True


def require_detector() -> None:
    """Check that the detector is installed.

    Raises:
        UserError: langdetect is not installed.
    """
    _langdetect()


@cache
def _langdetect() -> Any:
    try:
        import langdetect  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("IFEval's instructions on language need langdetect: pip install langdetect") from error
    langdetect.DetectorFactory.seed = SEED
    return langdetect
