"""What a model is asked to write after a document, and the form in which it must: JSON of named fields.

The form is a schema that a grammar can hold a model to, and is checked here all the same: whoever writes is not
trusted to have been held.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

SEED_PLACE = "{seed}"
MAX_PAIRS = 8
"""Questions with answers of one document, as Nemotron-CC asks for at most (arXiv 2412.02595, appendix)."""

Form = Literal["document", "questions"]


class Template(BaseModel, frozen=True, extra="forbid"):
    """One way to write a document after another."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    form: Form = "document"
    """Title and text, or pairs of a question and its answer."""
    prompt: str
    """Asked of the model; `{seed}` stands where the document goes."""
    per_seed: int = Field(default=1, ge=1)
    """Documents written after one."""
    seed_characters: int = Field(default=2000, ge=1)
    """Of a longer document the beginning is shown, up to the last white space."""
    max_tokens: int = Field(default=400, ge=16)
    """Of the reply."""

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if self.prompt.count(SEED_PLACE) != 1:
            raise ValueError(
                f"the prompt of template {self.name!r} must hold {SEED_PLACE} once: the document's place"
            )
        return self

    @property
    def schema_of_reply(self) -> Mapping[str, Any]:
        """Return the JSON Schema of the reply."""
        return _SCHEMAS[self.form]

    def asked(self, seed: str) -> str:
        """Return the prompt with a document in its place."""
        if len(seed) > self.seed_characters:
            start = seed[: self.seed_characters + 1]
            seed = start.rsplit(None, 1)[0] if len(start.split(None, 1)) > 1 else start[:-1]
        return self.prompt.replace(SEED_PLACE, seed.strip())

    def text_of(self, reply: str) -> str | None:
        """Return the document that a reply holds, None where it has another form."""
        try:
            value = json.loads(reply)
        except (ValueError, RecursionError):
            return None
        read = _document if self.form == "document" else _questions
        text = read(value)
        # Half a surrogate pair is no text, and JSON's escapes can spell one.
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
    """Return the fields of an object of these texts alone, None where one is missing, empty or no text."""
    if not isinstance(value, dict) or set(value) != set(names):
        return None
    texts = tuple(value[name].strip() if isinstance(value[name], str) else "" for name in names)
    return texts if all(texts) else None
