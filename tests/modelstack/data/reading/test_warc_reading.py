"""WARC and WET files that are sound: every record, its facts, the same bytes as FastWARC's."""

from __future__ import annotations

import gc
import gzip
import io
import json
import zlib
from pathlib import Path

import pytest
import zstandard

from modelstack.data.documents import Document
from modelstack.data.reading import WarcInput, WetInput, open_input
from tests.modelstack.data.reading.made_warc import http, outcome, read, record, warc

RAW_WEB = Path(__file__).parents[5] / "shared" / "data" / "rawweb"
needs_raw_web = pytest.mark.skipif(not RAW_WEB.is_dir(), reason="the raw web sample is not here")


def only(items: list) -> Document:
    (item,) = items
    assert isinstance(item, Document), item
    return item


@pytest.mark.parametrize(
    ("pack", "one_member"),
    [(bytes, True), (gzip.compress, False), (gzip.compress, True), (zstandard.compress, False)],
    ids=["plain", "gzip a record", "gzip a file", "zstd a record"],
)
def test_every_response_is_read_however_the_file_is_packed(tmp_path: Path, pack, one_member: bool) -> None:
    records = [
        record(0, b"x: y\r\n", kind="warcinfo"),
        *map(record, range(1, 4)),
        record(4, b"GET /", kind="request"),
    ]
    items = read(warc(tmp_path, records, pack, one_member))
    assert outcome(items) == ["1", "2", "3"]
    assert [item.content for item in items if isinstance(item, Document)] == [
        f"<p>page {i}</p>".encode() for i in (1, 2, 3)
    ]


def test_a_page_carries_its_address_status_type_charset_and_date(tmp_path: Path) -> None:
    config = WarcInput(path=warc(tmp_path, [record(7)]), source="crawl", license="unknown")
    page = only(list(open_input(config)))
    assert (page.id, page.url, page.source, page.license) == (
        "urn:test:7",
        "http://example.org/7",
        "crawl",
        "unknown",
    )
    assert page.metadata == {
        "http_status": 200,
        "content_type": "text/html",
        "http_charset": "utf-8",
        "date": "2026-01-01T00:00:00Z",
    }


def test_a_record_without_an_id_is_called_by_its_place(tmp_path: Path) -> None:
    nameless = record(1).replace(b"WARC-Record-ID: <urn:test:1>\r\n", b"")
    first, second = read(warc(tmp_path, [nameless, nameless]))
    assert first.id == "made.warc.gz@0#1"
    assert second.id.startswith("made.warc.gz@") and second.id.endswith("#2")


def test_what_owners_ask_for_is_kept_from_fields_and_page(tmp_path: Path) -> None:
    fields = (
        "X-Robots-Tag: noindex, NoArchive\r\nX-Robots-Tag: otherbot: noai\r\nTDM-Reservation: 1\r\n"
        'Link: <https://example.org/terms>; rel="next license"\r\n'
    )
    page = b"""<meta name="robots" content="noai, max-snippet:-1"><META CONTENT='nofollow' NAME=ROBOTS>
        <a rel="license nofollow" href="https://creativecommons.org/licenses/by/4.0/?a&amp;b">CC</a>
        <a href=x>no</a>"""
    metadata = only(read(warc(tmp_path, [record(1, http(page, fields))]))).metadata
    assert metadata["robots"] == [
        "noindex",
        "noarchive",
        "otherbot: noai",
        "tdm-reservation",
        "noai",
        "max-snippet:-1",
        "nofollow",
    ]
    assert metadata["license_urls"] == [
        "https://example.org/terms",
        "https://creativecommons.org/licenses/by/4.0/?a&b",
    ]


def test_bodies_come_decoded_and_put_together(tmp_path: Path) -> None:
    page = b"<p>" + b"some text " * 50
    chunked = b"".join(
        b"%x;a=b\r\n%s\r\n" % (len(page[i : i + 100]), page[i : i + 100]) for i in range(0, 503, 100)
    )
    bodies = {
        "Content-Encoding: gzip\r\n": gzip.compress(page),
        "Content-Encoding: deflate\r\n": zlib.compress(page),
        "Content-Encoding: zstd\r\n": zstandard.compress(page),
        "Content-Encoding: br\r\n": brotli(page),
        "Content-Encoding: gzip, gzip\r\n": gzip.compress(gzip.compress(page)),
        "Content-Encoding: identity\r\n": page,
        "Transfer-Encoding: chunked\r\n": chunked + b"0\r\n\r\n",
    }
    for fields, body in bodies.items():
        assert only(read(warc(tmp_path, [record(1, http(body, fields))]))).content == page, fields
        # The crawler undid the coding and left the field.
        assert only(read(warc(tmp_path, [record(1, http(page, fields))]))).content == page, fields


def test_dns_answers_are_no_pages(tmp_path: Path) -> None:
    dns = record(1, b"20260101\r\nexample.org. 300 IN A 192.0.2.1\r\n")
    dns = dns.replace(b"application/http; msgtype=response", b"text/dns")
    assert outcome(read(warc(tmp_path, [dns, record(2)]))) == ["2"]


def test_texts_of_a_wet_file_come_ready(tmp_path: Path) -> None:
    wet = tmp_path / "a.warc.wet.gz"
    records = [record(1, "Grüße\n".encode(), kind="conversion"), record(2, b"\xff\xfe", kind="conversion")]
    wet.write_bytes(b"".join(map(gzip.compress, records)))
    first, second = open_input(WetInput(path=tmp_path))
    assert isinstance(first, Document)
    assert (first.text, first.content, first.url) == ("Grüße\n", b"", "http://example.org/1")
    assert outcome([second]) == ["invalid_utf8"]


# warcio leaves its temporary files to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_another_library_writes_is_read(tmp_path: Path) -> None:
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    file = tmp_path / "a.warc.gz"
    with file.open("wb") as opened:
        writer = WARCWriter(opened, gzip=True)
        writer.write_record(writer.create_warcinfo_record("a.warc.gz", {"software": "test"}))
        for i in range(3):
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            body = io.BytesIO(b"<p>%d" % i)
            writer.write_record(
                writer.create_warc_record(
                    f"http://example.org/{i}", "response", payload=body, http_headers=headers
                )
            )
    gc.collect()
    items = list(open_input(WarcInput(path=file)))
    assert [item.content for item in items if isinstance(item, Document)] == [b"<p>0", b"<p>1", b"<p>2"]


@needs_raw_web
def test_the_raw_web_sample_is_read_whole_and_as_fastwarc_reads_it() -> None:
    from fastwarc.warc import ArchiveIterator, WarcRecordType  # pyright: ignore[reportMissingModuleSource]

    file = RAW_WEB / "raw-sample.warc.gz"
    ours = {item.id: item for item in open_input(WarcInput(path=file)) if isinstance(item, Document)}
    theirs = {
        str(item.record_id).strip("<>"): item.reader.read()
        for item in ArchiveIterator(str(file), record_types=WarcRecordType.response, auto_decode="all")
    }
    assert {name: item.content for name, item in ours.items()} == theirs
    labels = (RAW_WEB / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["url"] for line in labels} == {item.url for item in ours.values()}


@needs_raw_web
def test_captures_of_other_crawlers_are_read() -> None:
    found = {
        file.name: [
            (item.url, item.content.startswith(b"<!")) if isinstance(item, Document) else item.reason
            for item in open_input(WarcInput(path=file))
        ]
        for file in (RAW_WEB / "upstream").iterdir()
    }
    assert found == {
        "example-bad.warc.gz.bad": [
            ("http://example.com?example=1", True),
            ("http://www.iana.org/domains/example", True),
        ],
        "example-iana.org-chunked.warc": [("http://www.iana.org/", True)],
        "example-trunc.warc": ["content_length"],  # a response that was cut, then a request
        "example.warc.gz": [("http://example.com/", True)],
    }


def brotli(data: bytes) -> bytes:
    from fastwarc.stream_io import BrotliWriter  # pyright: ignore[reportMissingModuleSource]

    packed = io.BytesIO()
    writer = BrotliWriter(packed)
    writer.write(data)
    writer.close()
    return packed.getvalue()
