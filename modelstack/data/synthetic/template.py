"""Templates for synthetic documents: a prompt with the seed document, and a reply of named JSON fields.

A grammar can enforce the schema of the reply. The reply is validated here as well, because the writer is
untrusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

SEED_PLACE = "{seed}"
MAX_PAIRS = 8
"""Maximum question-answer pairs per document, as in Nemotron-CC (arXiv 2412.02595, appendix)."""

Form = Literal["document", "questions"]


class Template(BaseModel, frozen=True, extra="forbid"):
    """A way to derive a document from a seed document."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the template, which is recorded with its documents."""
    form: Form = "document"
    """Form of the result: title and text, or question-answer pairs."""
    prompt: str
    """Prompt; `{seed}` is replaced by the seed document."""
    per_seed: int = Field(default=1, ge=1)
    """Number of documents per seed document."""
    seed_characters: int = Field(default=2000, ge=1)
    """Maximum characters of the seed document in the prompt; a longer one is cut at white space."""
    max_tokens: int = Field(default=400, ge=16)
    """Maximum tokens of the reply."""

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if self.prompt.count(SEED_PLACE) != 1:
            raise ValueError(
                f"the prompt of template {self.name!r} must contain {SEED_PLACE} exactly once, for the document"
            )
        return self

    @property
    def schema_of_reply(self) -> Mapping[str, Any]:
        """JSON Schema of the reply."""
        return _SCHEMAS[self.form]

    def asked(self, seed: str) -> str:
        """Return the prompt with a seed document inserted."""
        if len(seed) > self.seed_characters:
            start = seed[: self.seed_characters + 1]
            seed = start.rsplit(None, 1)[0] if len(start.split(None, 1)) > 1 else start[:-1]
        return self.prompt.replace(SEED_PLACE, seed.strip())

    def text_of(self, reply: str) -> str | None:
        """Return the document in a reply, or None if the reply has another form."""
        try:
            value = json.loads(reply)
        except (ValueError, RecursionError):
            return None
        read = _document if self.form == "document" else _questions
        text = read(value)
        # A lone surrogate is not valid text, but JSON escapes can represent one.
        return text if text is not None and not any("\ud800" <= c <= "\udfff" for c in text) else None


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


_WORDS = {"type": "string", "minLength": 1}
_PAIRS = {"type": "array", "items": _object({"question": _WORDS, "answer": _WORDS}), "minItems": 1}
_SCHEMAS: dict[Form, Mapping[str, Any]] = {
    "document": _object({"title": _WORDS, "text": _WORDS}),
    "questions": _object({"pairs": _PAIRS | {"maxItems": MAX_PAIRS}}),
}


def _document(value: Any) -> str | None:
    fields = _texts(value, ("title", "text"))
    return None if fields is None else f"{fields[0]}\n\n{fields[1]}"


def _questions(value: Any) -> str | None:
    pairs = value.get("pairs") if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(pairs, list) or not 1 <= len(pairs) <= MAX_PAIRS:
        return None
    found = [_texts(pair, ("question", "answer")) for pair in pairs]
    if any(pair is None for pair in found):
        return None
    return "\n\n".join(f"Question: {pair[0]}\nAnswer: {pair[1]}" for pair in found if pair)


def _texts(value: Any, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the named fields of an object; None if one is missing, empty or not text, or others exist."""
    if not isinstance(value, dict) or set(value) != set(names):
        return None
    texts = tuple(value[name].strip() if isinstance(value[name], str) else "" for name in names)
    return texts if all(texts) else None
