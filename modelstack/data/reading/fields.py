"""A document of a record of named fields, as JSON lines and Parquet have them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from modelstack.data.documents import Broken, Document
from modelstack.data.reading.input_files import Input


class Fields(BaseModel, frozen=True, extra="forbid"):
    """What the fields are called; one that a record does not have is left at the input's default."""

    text_field: str = "text"
    id_field: str = "id"
    source_field: str = "source"
    license_field: str = "license"
    url_field: str = "url"


def document_of(record: dict[str, Any], place: str, fields: Fields, config: Input) -> Document | Broken:
    """Return the document; fields without a name of ours, and those of a field `metadata`, are its metadata.

    Args:
        record: Its fields, which are taken out.
        place: What the document is called where it has no id.
        fields: Their names.
        config: The input's defaults.
    """
    text = record.pop(fields.text_field, None)
    if not isinstance(text, str):
        return Broken(place, "no_text", f"field {fields.text_field!r} is {type(text).__name__}, not text")
    if len(text) > config.limits.max_record_bytes:
        return Broken(place, "record_too_large", f"{len(text):,} characters")
    identity = record.pop(fields.id_field, None)
    source = _text(record.pop(fields.source_field, None)) or config.source_name
    license_name = _text(record.pop(fields.license_field, None)) or config.license
    url = _text(record.pop(fields.url_field, None))
    nested = record.pop("metadata", None)
    if isinstance(nested, dict):
        url = url or _text(nested.get(fields.url_field))  # datatrove keeps it there.
        record = nested | record
    elif nested is not None:
        record["metadata"] = nested
    return Document(_text(identity) or place, text, b"", source, license_name, url, record)


def _text(value: Any) -> str:
    """Return a text or a number as text; "" for what is neither."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
