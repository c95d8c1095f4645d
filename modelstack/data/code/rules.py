"""Step `code_rules`: drops files unsuitable for learning code: data, encoded binaries, overlong lines."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from modelstack.data.code.comments import comment_share
from modelstack.data.code.html_text import visible_text_length
from modelstack.data.code.languages import Language, identify_language
from modelstack.data.documents import Document, Step

_LONG_LINES = (
    *("html", "json", "markdown", "roff", "tex", "text", "xml"),
    *("restructuredtext", "svelte", "svg", "vue", "xslt"),  # not in the paper's list, but similar formats
)
_FEW_LINES = ("text", "json", "yaml")
_XML_HEAD = "<?xml version="
_N_HEAD = 100
_ENCODED = (
    re.compile(r"[a-zA-Z0-9+/\n=]{64,}"),
    re.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,\s{0,8}|\b\s{0,8})){8,}", re.ASCII),
    re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}"),
)
"""Patterns of base64, hexadecimal and Unicode escapes, as in the paper; blanks may follow a comma."""


class CodeRules(BaseModel, frozen=True, extra="forbid"):
    """Rules on lines, characters, comments and sizes of source files.

    Sources: The Stack v2 (Lozhkov et al. 2024, arXiv 2402.19173, section 2.1: lines, encoded data, lines of data
    files, visible text of HTML), and bigcode-dataset's `preprocessing/filtering.py` for The Stack v1 (share of
    letters and digits, comments, XML, sizes of JSON and YAML, characters per token). A limit of None is disabled.
    """

    kind: Literal["code_rules"] = "code_rules"
    max_line: int | None = Field(default=1_000, ge=1)
    """Maximum characters of a line."""
    max_mean_line: float | None = Field(default=100, gt=0)
    """Maximum mean characters of a line."""
    long_line_languages: tuple[str, ...] = _LONG_LINES
    """Languages with one paragraph per line; only `max_long_line` applies to their lines."""
    max_long_line: int | None = Field(default=100_000, ge=1)
    """Maximum characters of a line in `long_line_languages`."""
    max_lines: int | None = Field(default=100_000, ge=1)
    """Maximum lines of a file."""
    min_alphanumeric: float | None = Field(default=0.25, ge=0, le=1)
    """Minimum share of letters and digits."""
    min_alphabetic: float | None = Field(default=None, ge=0, le=1)
    """Minimum share of letters. The Stack v2 uses 0.25 for letters alone; v1 for letters and digits."""
    min_comments: float | None = Field(default=0.01, ge=0, le=1)
    """Minimum share of characters in comments, for the same languages as `max_comments`."""
    max_comments: float | None = Field(default=0.80, ge=0, le=1)
    """Maximum share of characters in comments; applies to programming languages with known comment syntax."""
    max_encoded_run: int | None = Field(default=1_024, ge=1)
    """Maximum characters of one run of encoded data."""
    max_encoded: float | None = Field(default=0.5, ge=0, le=1)
    """Maximum share of characters in encoded data (base64, hexadecimal, Unicode escapes)."""
    drop_xml: bool = True
    """Whether to drop files that begin with an XML head."""
    min_visible: int | None = Field(default=100, ge=0)
    """Minimum characters of an HTML file that a browser shows."""
    min_visible_share: float | None = Field(default=0.2, ge=0, le=1)
    """Minimum share of an HTML file that a browser shows."""
    sized_languages: tuple[str, ...] = ("json", "yaml")
    """Languages of data files, to which `min_size` and `max_size` apply."""
    min_size: int | None = Field(default=100, ge=0)
    """Minimum characters of a file of `sized_languages`."""
    max_size: int | None = Field(default=5_000, ge=0)
    """Maximum characters of a file of `sized_languages`."""
    few_lines_languages: tuple[str, ...] = _FEW_LINES
    """Languages of data files, to which `max_few_lines` applies."""
    max_few_lines: int | None = Field(default=512, ge=1)
    """Maximum lines of a file of `few_lines_languages`."""
    tokenizer: Path | None = None
    """Tokenizer folder or file; None disables the limit on characters per token."""
    min_chars_per_token: dict[str, float] = {"python": 2.5, "java": 2.9, "javascript": 2.6}
    """Minimum characters per token by language; needs `tokenizer`."""

    def build(self) -> Step:
        """Return the step."""
        count_tokens: Callable[[str], int] | None = None
        if self.tokenizer is not None:
            from modelstack.tokenizer.tokenizer_folder import load_tokenizer

            tokenizer = load_tokenizer(self.tokenizer)

            def counted(text: str) -> int:
                return len(tokenizer.encode(text))

            count_tokens = counted

        def step(document: Document) -> str | None:
            language = identify_language(document)
            return reason_to_drop(document.text, language, self, count_tokens, document.metadata)

        return step


def reason_to_drop(
    text: str,
    language: Language | None,
    rules: CodeRules,
    count_tokens: Callable[[str], int] | None = None,
    scores: dict[str, object] | None = None,
) -> str | None:
    """Return the reason to drop a file, or None to keep it. Measurements are written into `scores`."""
    name = language.name if language else ""
    scores = {} if scores is None else scores
    if not text.strip():
        return "empty"
    return (
        _lines_reason(text, name, rules, scores)
        or _characters_reason(text, rules, scores)
        or _language_reason(text, language, rules, scores)
        or _tokens_reason(text, name, rules, count_tokens, scores)
    )


def _lines_reason(text: str, name: str, rules: CodeRules, scores: dict[str, object]) -> str | None:
    lengths = [len(line) for line in text.splitlines()]
    longest, mean = max(lengths), sum(lengths) / len(lengths)
    scores |= {"longest_line": longest, "mean_line": round(mean, 2)}
    is_long = name in rules.long_line_languages
    if _above(longest, rules.max_long_line if is_long else rules.max_line):
        return "long_line"
    if not is_long and _above(mean, rules.max_mean_line):
        return "long_lines_on_average"
    if _above(len(lengths), rules.max_lines):
        return "many_lines"
    if name in rules.few_lines_languages and _above(len(lengths), rules.max_few_lines):
        return "many_lines_of_data"
    return None


def _characters_reason(text: str, rules: CodeRules, scores: dict[str, object]) -> str | None:
    if rules.drop_xml and _XML_HEAD in text[:_N_HEAD]:
        return "xml"
    alphanumeric = sum(map(str.isalnum, text)) / len(text)
    scores["alphanumeric"] = round(alphanumeric, 4)
    if _below(alphanumeric, rules.min_alphanumeric):
        return "few_alphanumeric_characters"
    if rules.min_alphabetic is not None and sum(map(str.isalpha, text)) < rules.min_alphabetic * len(text):
        return "few_letters"
    runs = [len(match[0]) for form in _ENCODED for match in form.finditer(text)]
    if _above(max(runs, default=0), rules.max_encoded_run) or _above(sum(runs) / len(text), rules.max_encoded):
        return "encoded_data"
    return None


def _language_reason(
    text: str, language: Language | None, rules: CodeRules, scores: dict[str, object]
) -> str | None:
    if language is None:
        return None
    if language.name == "html":
        visible = visible_text_length(text)
        if _below(visible, rules.min_visible) or _below(visible / len(text), rules.min_visible_share):
            return "little_visible_text"
    if language.name in rules.sized_languages:
        if _below(len(text), rules.min_size):
            return "small_data_file"
        if _above(len(text), rules.max_size):
            return "large_data_file"
    if language.kind == "programming" and language.syntax.has_comments:
        share = comment_share(text, language.syntax)
        scores["comments"] = round(share, 4)
        if _below(share, rules.min_comments):
            return "few_comments"
        if _above(share, rules.max_comments):
            return "mostly_comments"
    return None


def _tokens_reason(
    text: str, name: str, rules: CodeRules, count_tokens: Callable[[str], int] | None, scores: dict[str, object]
) -> str | None:
    if count_tokens is None or name not in rules.min_chars_per_token:
        return None
    per_token = len(text) / max(1, count_tokens(text))
    scores["chars_per_token"] = round(per_token, 3)
    return "few_characters_per_token" if per_token < rules.min_chars_per_token[name] else None


def _above(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit


def _below(value: float, limit: float | None) -> bool:
    return limit is not None and value < limit
