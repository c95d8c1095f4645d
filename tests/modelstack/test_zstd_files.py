"""zstd files: all of them or an error, by every reader of the house, and never more memory than a piece takes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from modelstack.errors import UserError
from modelstack.zstd_files import MAX_WINDOW, PIECE_BYTES, open_unpacked

zstandard = pytest.importorskip("zstandard", reason="extra `train`")

LINES = [json.dumps({"text": f"Line {i}: {random.Random(i).random()}."}) + "\n" for i in range(12)]
PLAIN = "".join(LINES).encode()


def packed(data: bytes) -> bytes:
    """Without a checksum and with one block for each line, so that cuts also fall between whole lines."""
    compressor = zstandard.ZstdCompressor().compressobj()
    parts = [
        compressor.compress(line) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        for line in data.splitlines(keepends=True)
    ]
    return b"".join(parts) + compressor.flush()


def read(path: Path) -> bytes:
    with open_unpacked(path) as file:
        return file.read()


def by_tokenizer(path: Path) -> int:
    from modelstack.tokenizer.documents import read_documents

    return len(list(read_documents(path)))


def by_tool_data(path: Path) -> int:
    from modelstack.data.tools.sources import read_schemas

    return len(read_schemas(path))


def by_classifiers(path: Path) -> int:
    from tools.classifiers.data_files import read_records

    return len(list(read_records(path)))


def by_pipeline(path: Path) -> int:
    from modelstack.data.pipeline.records import read_documents

    return len(list(read_documents(path)))


RECORD = dict.fromkeys(("id", "text", "url", "source", "license", "origin", "name", "description"), "x")
RECORDS = "".join(json.dumps(RECORD | {"parameters": {}, "metadata": {}}) + "\n" for _ in range(3)).encode()
Reader = Callable[[Path], int]
READERS: tuple[Reader, ...] = (by_tokenizer, by_pipeline, by_tool_data, by_classifiers)


def test_a_file_is_read_as_it_was_packed_and_a_plain_one_as_it_is(tmp_path: Path) -> None:
    data = random.Random(0).randbytes(3 * PIECE_BYTES) + bytes(3 * PIECE_BYTES)
    (tmp_path / "a.zst").write_bytes(zstandard.compress(data))
    (tmp_path / "a.bin").write_bytes(data)
    assert read(tmp_path / "a.zst") == read(tmp_path / "a.bin") == data


def test_a_file_cut_at_any_byte_is_an_error_that_names_it(tmp_path: Path) -> None:
    whole, path = packed(PLAIN), tmp_path / "cut.jsonl.zst"
    path.write_bytes(whole)
    assert read(path) == PLAIN
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(UserError, match=r"cut\.jsonl\.zst is truncated"):
            read(path)


def test_a_second_frame_cut_at_any_byte_is_an_error(tmp_path: Path) -> None:
    first, second, path = packed(PLAIN), packed(PLAIN[::-1]), tmp_path / "cut.zst"
    for n in range(1, len(second)):
        path.write_bytes(first + second[:n])
        with pytest.raises(UserError, match=r"cut\.zst is truncated"):
            read(path)


@pytest.mark.parametrize("n_frames", [2, 5])
def test_all_frames_are_read_with_empty_and_skipped_ones_between(n_frames: int, tmp_path: Path) -> None:
    skipped = b"\x50\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"a table"
    parts = [packed(PLAIN), zstandard.compress(b""), skipped]
    (tmp_path / "a.zst").write_bytes(b"".join(parts * n_frames))
    assert read(tmp_path / "a.zst") == PLAIN * n_frames


@pytest.mark.parametrize("garbage", [b"\n", b"\0" * 4, b"garbage behind", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08\0"])
def test_what_is_no_frame_behind_the_last_one_is_an_error(garbage: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.zst").write_bytes(packed(PLAIN) + garbage)
    with pytest.raises(UserError, match=r"a\.zst is (truncated|not a complete zstd file after 1 complete frames)"):
        read(tmp_path / "a.zst")


@pytest.mark.parametrize("content", [b"", b"plain text", PLAIN])
def test_what_is_no_zstd_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.zst").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.zst is (truncated|not a complete zstd file: )"):
        read(tmp_path / "a.zst")


def test_a_changed_byte_of_a_file_with_a_checksum_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    whole = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(PLAIN))
    n_refused = 0
    for place in range(len(whole)):
        whole[place] ^= 0x10
        (tmp_path / "a.zst").write_bytes(whole)
        try:
            assert read(tmp_path / "a.zst") == PLAIN
        except UserError:
            n_refused += 1
        whole[place] ^= 0x10
    # A few bits are nobody's: the format leaves one of the header unused.
    assert n_refused > 0.95 * len(whole)


def test_what_unpacks_to_much_is_given_in_pieces(tmp_path: Path) -> None:
    import tracemalloc

    (tmp_path / "bomb.zst").write_bytes(zstandard.compress(bytes(64 << 20)))
    with open_unpacked(tmp_path / "bomb.zst") as file:
        tracemalloc.start()
        n_bytes = sum(len(piece) for piece in iter(lambda: file.read(1 << 16), b""))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert n_bytes == 64 << 20
    # 512 bytes of input hold at most 128 blocks of 128 KiB; they are there twice while they are joined.
    assert peak < 40 << 20


def test_a_header_that_asks_for_a_larger_window_than_is_given_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    assert MAX_WINDOW < 1 << 28
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "a.zst").write_bytes(compressor.compress(PLAIN) + compressor.flush())
    with pytest.raises(UserError, match=r"a\.zst is not a complete zstd file"):
        read(tmp_path / "a.zst")


def test_a_closed_reader_has_closed_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.zst").write_bytes(packed(PLAIN))
    with open_unpacked(tmp_path / "a.zst") as file:
        assert file.readline().decode() == LINES[0]
    assert file.closed


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_every_reader_of_records_reads_all_frames_and_refuses_a_cut_or_lengthened_file(
    reader: Reader, tmp_path: Path
) -> None:
    whole, path = packed(RECORDS), tmp_path / "records.jsonl.zst"
    path.write_bytes(whole)
    assert reader(path) == 3
    path.write_bytes(whole * 2)
    assert reader(path) == 6
    for content in (
        *(whole[:n] for n in range(0, len(whole), 7)),
        whole[:-1],
        whole + b"garbage",
        whole + whole[:-1],
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"records\.jsonl\.zst"):
            reader(path)
