"""Conversion of a record with named fields, from JSON lines or Parquet, to a document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from modelstack.data.documents import Broken, Document
from modelstack.data.reading.input_files import Input


class Fields(BaseModel, frozen=True, extra="forbid"):
    """Names of the fields; the input's default applies to a missing field."""

    text_field: str = "text"
    """Field with the text."""
    id_field: str = "id"
    """Field with the id."""
    source_field: str = "source"
    """Field with the source."""
    license_field: str = "license"
    """Field with the licence."""
    url_field: str = "url"
    """Field with the URL."""


def document_of(record: dict[str, Any], place: str, fields: Fields, config: Input) -> Document | Broken:
    """Return the document of a record. All other fields, and those of a field `metadata`, become its metadata.

    Args:
        record: Fields of the record; the function removes the named ones.
        place: Id of the document if the record has none.
        fields: Names of the fields.
        config: Input with the defaults.
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
        url = url or _text(nested.get(fields.url_field))  # datatrove stores the URL in the metadata.
        record = nested | record
    elif nested is not None:
        record["metadata"] = nested
    return Document(_text(identity) or place, text, b"", source, license_name, url, record)


def _text(value: Any) -> str:
    """Return a string or an integer as text; "" for other values."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
