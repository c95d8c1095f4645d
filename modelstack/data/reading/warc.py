"""Readers of WARC files (web pages as fetched) and WET files (text extracted by Common Crawl)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from modelstack.data.documents import Broken, Document
from modelstack.data.reading.http_message import BadMessage, HttpResponse, http_response
from modelstack.data.reading.input_files import Input, name_in
from modelstack.data.reading.rights import note_rights_of_fields, note_rights_of_page
from modelstack.data.reading.warc_records import WarcFault, WarcRecord, warc_records

_CHARSET = re.compile(r"""charset\s{0,9}=\s{0,9}["']?([\w.:-]{1,40})""", re.IGNORECASE)
HTML_TYPES = ("text/html", "application/xhtml+xml")


class WarcInput(Input, frozen=True):
    """WARC files; each HTTP response becomes a document with `content`."""

    kind: Literal["warc"] = "warc"


class WetInput(Input, frozen=True):
    """WET files; each conversion record becomes a document with `text`."""

    kind: Literal["wet"] = "wet"


def read_warc(path: Path, config: WarcInput) -> Iterator[Document | Broken]:
    """Yield the HTTP responses of a WARC file, with status, type, URL, date, robots directives and licence links.

    Raises:
        UserError: The file does not exist.
    """
    for name, record in _records(path, config):
        if isinstance(record, WarcFault):
            yield Broken(name, record.reason, record.detail)
        elif record.headers.get("warc-type", "").lower() == "response" and _is_http(record):
            try:
                response = http_response(record.block, config.limits)
            except BadMessage as error:
                yield Broken(name, str(error), record.headers.get("warc-target-uri", ""))
            else:
                yield _page(name, record, response, config)


def read_wet(path: Path, config: WetInput) -> Iterator[Document | Broken]:
    """Yield the texts of a WET file.

    Raises:
        UserError: The file does not exist.
    """
    for name, record in _records(path, config):
        if isinstance(record, WarcFault):
            yield Broken(name, record.reason, record.detail)
        elif record.headers.get("warc-type", "").lower() == "conversion":
            try:
                text = record.block.decode()
            except UnicodeDecodeError as error:
                yield Broken(name, "invalid_utf8", str(error))
                continue
            yield Document(
                id=name,
                text=text,
                source=config.source_name,
                license=config.license,
                url=_url(record),
                metadata=_dates(record),
            )


def media_type(content_type: str) -> tuple[str, str]:
    """Return type and charset of a `Content-Type` field in lower case; "" for a missing one."""
    charset = _CHARSET.search(content_type)
    return content_type.partition(";")[0].strip().lower(), charset[1].lower() if charset else ""


def _records(path: Path, config: Input) -> Iterator[tuple[str, WarcRecord | WarcFault]]:
    """Yield the records with their names: the record id, or the file's name with an offset."""
    file_name = name_in(config.path, path)
    for record in warc_records(path, config.limits):
        is_fault = isinstance(record, WarcFault)
        record_id = record.record_id if is_fault else record.headers.get("warc-record-id", "")
        yield record_id.strip("<> ") or f"{file_name}@{record.offset}#{record.number}", record


def _is_http(record: WarcRecord) -> bool:
    """Whether a response is an HTTP response; DNS answers are response records too."""
    return record.headers.get("content-type", "application/http").lower().startswith("application/http")


def _page(name: str, record: WarcRecord, response: HttpResponse, config: WarcInput) -> Document:
    content_type, charset = media_type(response.fields.get("content-type", ""))
    metadata: dict[str, Any] = {"http_status": response.status, "content_type": content_type, **_dates(record)}
    if charset:
        metadata["http_charset"] = charset
    if truncated := record.headers.get("warc-truncated"):
        metadata["truncated"] = truncated
    note_rights_of_fields(metadata, response.fields)
    if content_type in HTML_TYPES or not content_type:
        # Tags are ASCII in nearly all charsets; `extract` handles the others once the charset is known.
        note_rights_of_page(metadata, response.body.decode("latin-1"))
    return Document(
        id=name,
        content=response.body,
        source=config.source_name,
        license=config.license,
        url=_url(record),
        metadata=metadata,
    )


def _url(record: WarcRecord) -> str:
    return record.headers.get("warc-target-uri", "").strip("<> ")


def _dates(record: WarcRecord) -> dict[str, Any]:
    date = record.headers.get("warc-date", "")
    return {"date": date} if date else {}
