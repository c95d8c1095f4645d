"""WARC files that are not sound: what is bad is told once, what follows is read, memory is bounded."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from pathlib import Path

import pytest
import zstandard

from modelstack.data.documents import Broken
from modelstack.data.reading import WarcInput, open_input
from modelstack.data.reading.unpacking import PIECE_BYTES
from modelstack.errors import UserError
from tests.modelstack.data.reading.made_warc import http, outcome, read, record, warc

PACKED = [(bytes, True), (gzip.compress, False), (gzip.compress, True), (zstandard.compress, False)]
PACKED_NAMES = ["plain", "gzip a record", "gzip a file", "zstd a record"]
BLOCK_BYTES = len(http(b"<p>page 1</p>"))


@pytest.mark.parametrize(("pack", "one_member"), PACKED, ids=PACKED_NAMES)
@pytest.mark.parametrize("length", [BLOCK_BYTES + 60, BLOCK_BYTES + 330, BLOCK_BYTES - 7, -5])
def test_a_false_length_costs_one_record(tmp_path: Path, pack, one_member: bool, length: int) -> None:
    records = [record(0), record(1, length=length), record(2), record(3)]
    assert outcome(read(warc(tmp_path, records, pack, one_member))) == ["0", "content_length", "2", "3"]


def test_a_length_past_all_bounds_costs_one_record_where_the_next_can_be_found(tmp_path: Path) -> None:
    records = [record(0), record(1, length=10**15), record(2)]
    assert outcome(read(warc(tmp_path, records, bytes, one_member=True))) == ["0", "content_length", "2"]
    assert outcome(read(warc(tmp_path, records))) == ["0", "record_too_large", "2"]


def test_a_large_record_is_passed_without_being_held(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(3_000_000)
    for pack, one_member in PACKED:
        file = warc(tmp_path, [record(0), record(1, http(noise)), record(2)], pack, one_member)
        assert outcome(read(file, max_record_bytes=100_000)) == ["0", "record_too_large", "2"]
        assert outcome(read(file)) == ["0", "1", "2"]


def test_no_page_can_bring_records_of_its_own(tmp_path: Path) -> None:
    forged = http(b"x\r\n\r\n" + record(9) + b"y" * 2000)
    for pack in (gzip.compress, zstandard.compress):
        whole = [record(0), record(1, forged), record(2)]
        assert outcome(read(warc(tmp_path, whole, pack))) == ["0", "1", "2"]
        for length in (20, len(forged) + 1000, 10**12):
            lying = [record(0), record(1, forged, length=length), record(2)]
            assert "9" not in outcome(read(warc(tmp_path, lying, pack))), length
        assert outcome(read(warc(tmp_path, whole, pack), max_record_bytes=1024)) == ["0", "record_too_large", "2"]


def test_bytes_between_records_are_told_and_passed(tmp_path: Path) -> None:
    for pack, one_member in PACKED:
        records = [record(0), b"nothing of the kind\r\n" * 3, record(2)]
        assert outcome(read(warc(tmp_path, records, pack, one_member))) == ["0", "not_warc", "2"]
    file = warc(tmp_path, [record(0)])
    file.write_bytes(file.read_bytes() + b"\0" * 512)  # tar and tape fill up with zeros
    assert outcome(read(file)) == ["0"]
    file.write_bytes(file.read_bytes() + b"html>" + gzip.compress(record(2)))
    assert outcome(read(file)) == ["0", "not_packed", "2"]


def test_a_header_without_end_is_passed(tmp_path: Path) -> None:
    records = [record(0), b"WARC/1.0\r\nX: " + b"a" * 500_000 + b"\r\n\r\n", record(2)]
    for pack, one_member in PACKED:
        assert outcome(read(warc(tmp_path, records, pack, one_member))) == ["0", "warc_header", "2"]


def test_a_truncated_file_tells_its_last_record_is_cut(tmp_path: Path) -> None:
    for pack, one_member in PACKED:
        file = warc(
            tmp_path, [record(0), record(1), record(2, http(random.Random(1).randbytes(900)))], pack, one_member
        )
        whole = file.read_bytes()
        file.write_bytes(whole[:-300])
        assert outcome(read(file)) == ["0", "1", "truncated"]


def test_a_member_that_cannot_be_unpacked_costs_itself(tmp_path: Path) -> None:
    members = [gzip.compress(record(i, http(random.Random(i).randbytes(2000)))) for i in range(4)]
    spoilt = bytearray(members[1])
    spoilt[300:320] = b"\xff" * 20
    cut = members[2][:700]
    bad_sum = members[3][:-8] + b"\0" * 8
    for bad in (bytes(spoilt), cut, bad_sum):
        file = tmp_path / "a.warc.gz"
        file.write_bytes(members[0] + bad + members[3])
        assert outcome(read(file)) == ["0", "corrupt_packing", "3"]
    packed = [zstandard.compress(record(i, http(random.Random(i).randbytes(2000)))) for i in range(3)]
    file.write_bytes(packed[0] + packed[1][:800] + packed[2])
    assert outcome(read(file)) == ["0", "corrupt_packing", "2"]


def test_a_whole_record_whose_sum_is_wrong_is_not_taken(tmp_path: Path) -> None:
    # Its block is out whole before its checksum is read, with the last line end.
    n_around = len(record(1, http(b"a" * 100_000))) - 100_000
    filled = record(1, http(b"a" * (PIECE_BYTES + 2 - n_around)))
    assert len(filled) == PIECE_BYTES + 2
    file = tmp_path / "a.warc.gz"
    sound = gzip.compress(filled)
    file.write_bytes(gzip.compress(record(0)) + sound + gzip.compress(record(2)))
    assert outcome(read(file)) == ["0", "1", "2"]
    file.write_bytes(gzip.compress(record(0)) + sound[:-8] + bytes(8) + gzip.compress(record(2)))
    assert outcome(read(file)) == ["0", "corrupt_packing", "2"]


def test_a_record_that_unpacks_without_end_is_left_and_memory_stays(tmp_path: Path) -> None:
    n_bytes = 300_000_000
    head = record(1, b"", length=n_bytes).removesuffix(b"\r\n\r\n")
    gzip_bomb = zlib.compressobj(9, wbits=31)
    zstd_bomb = zstandard.ZstdCompressor(level=3).compressobj()
    zeros = bytes(1_000_000)
    bombs = {
        gzip.compress: gzip_bomb.compress(head) + b"".join(gzip_bomb.compress(zeros) for _ in range(100)),
        zstandard.compress: zstd_bomb.compress(head) + b"".join(zstd_bomb.compress(zeros) for _ in range(300)),
    }
    bombs[gzip.compress] += gzip_bomb.flush()
    bombs[zstandard.compress] += zstd_bomb.flush()
    for pack, bomb in bombs.items():
        file = tmp_path / "a.warc.gz"
        file.write_bytes(pack(record(0)) + bomb + pack(record(2)))
        tracemalloc.start()
        found = outcome(read(file))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found == ["0", "record_too_large", "2"]
        assert peak < 40_000_000


def test_a_member_that_never_gives_a_record_is_left_by_its_ratio(tmp_path: Path) -> None:
    file = tmp_path / "a.warc.gz"
    file.write_bytes(gzip.compress(record(0)) + gzip.compress(bytes(40_000_000)) + gzip.compress(record(2)))
    assert outcome(read(file)) == ["0", "expands_too_far", "2"]


@pytest.mark.parametrize(
    ("fields", "body", "reason"),
    [
        ("Content-Encoding: gzip\r\n", gzip.compress(bytes(30_000_000)), "record_too_large"),
        ("Content-Encoding: gzip\r\n", gzip.compress(bytes(9_000_000)), "expands_too_far"),
        ("Content-Encoding: gzip, gzip\r\n", gzip.compress(gzip.compress(bytes(30_000_000))), "record_too_large"),
        ("Content-Encoding: zstd\r\n", zstandard.compress(bytes(9_000_000)), "expands_too_far"),
        ("Content-Encoding: gzip\r\n", gzip.compress(b"abc" * 99)[:-12], "content_encoding"),
        ("Content-Encoding: gzip\r\n", b"\x1f\x8b\x08" + b"\xff" * 50, "content_encoding"),
        ("Content-Encoding: br\r\n", b"\x00\xff" * 50, "content_encoding"),
        ("Content-Encoding: deflate\r\n", b"\x00\xff" * 50, "content_encoding"),
        ("Content-Encoding: compress\r\n", b"abc", "content_encoding"),
        ("Content-Encoding: gzip, gzip, gzip, gzip\r\n", b"abc", "content_encoding"),
        ("Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\nzzzz\r\n", "chunked_body"),
    ],
    # Names of our own: gzip writes the time into its bytes, and workers must agree on the names.
    ids=range(11),
)
def test_a_body_that_cannot_be_decoded_is_broken(tmp_path: Path, fields: str, body: bytes, reason: str) -> None:
    items = read(warc(tmp_path, [record(0), record(1, http(body, fields)), record(2)]))
    assert outcome(items) == ["0", reason, "2"]
    assert isinstance(items[1], Broken) and items[1].id == "urn:test:1"


def test_a_response_that_is_none_is_broken(tmp_path: Path) -> None:
    assert outcome(read(warc(tmp_path, [record(0, b"hello"), record(1, b""), record(2)]))) == ["not_http"] * 2 + [
        "2"
    ]


def test_damage_anywhere_raises_nothing(tmp_path: Path) -> None:
    chance = random.Random(5)
    pages = [
        record(i, http(f"<p>{chance.random()}</p>".encode() * 9, "Content-Encoding: gzip\r\n")) for i in range(5)
    ]
    for pack, one_member in PACKED:
        whole = warc(tmp_path, pages, pack, one_member).read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            for _ in range(chance.randrange(1, 6)):
                place = chance.randrange(len(damaged))
                damaged[place : place + chance.randrange(9)] = chance.randbytes(chance.randrange(9))
            file = tmp_path / "damaged"
            file.write_bytes(damaged)
            assert len(read(file)) < 20


def test_a_file_that_is_not_there_is_the_users_to_put_right(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.warc: no file of that name"):
        list(open_input(WarcInput(path=tmp_path / "none.warc")))
    with pytest.raises(UserError, match=r"with a name that ends in \.warc, \.warc\.gz"):
        list(open_input(WarcInput(path=tmp_path)))
    (tmp_path / "empty.warc").touch()
    assert read(tmp_path / "empty.warc") == []
