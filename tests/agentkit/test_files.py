"""Files by their bytes: types and sizes as Pillow writes them, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit import BinaryContent, UserError
from agentkit.files import (
    KINDS,
    FileLimits,
    admitted,
    checked_prompt,
    media_type_of,
    pixels_of,
    read_file,
    readable,
)
from tests.agentkit.pictures import PDF, picture, sound

FORMS = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (1921, 3)])
def test_type_and_size_of_an_image_are_those_that_pillow_wrote(form: str, size: tuple[int, int]) -> None:
    data = picture(*size, form)
    assert (media_type_of(data), pixels_of(data)) == (FORMS[form], size)


@pytest.mark.parametrize("options", [{"lossless": True}, {"exif": b"Exif\0\0MM"}])
def test_all_kinds_of_webp_have_their_size(options: dict[str, Any]) -> None:
    assert pixels_of(picture(13, 21, "WEBP", **options)) == (13, 21)


def test_a_jpeg_with_other_segments_before_its_frame_has_its_size() -> None:
    data = picture(13, 21, "JPEG", exif=b"Exif\0\0" + bytes(5000), progressive=True)
    assert pixels_of(data) == (13, 21)


def test_sounds_and_documents_are_recognised() -> None:
    assert media_type_of(sound()) == "audio/wav" and media_type_of(PDF) == "application/pdf"
    assert media_type_of(b"fLaC" + bytes(40)) == "audio/flac" and media_type_of(b"OggS\0") == "audio/ogg"
    assert media_type_of(b"ID3\4\0") == media_type_of(b"\xff\xfb\x90\x44") == "audio/mpeg"
    assert media_type_of(b"\0\0\0\x20ftypM4A \0\0\0\0") == "audio/mp4"
    assert media_type_of(b"<html>") is None and media_type_of(b"") is None
    assert media_type_of(b"\0\0\0\x20ftypqt  \0") is None  # a film


@given(st.sampled_from([picture(form=form) for form in FORMS]), st.data())
def test_a_damaged_image_is_no_crash(whole: bytes, data: st.DataObject) -> None:
    n_kept = data.draw(st.integers(0, len(whole)))
    at, value = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    changed = (whole[:at] + bytes([value]) + whole[at + 1 :])[:n_kept]
    size = pixels_of(changed)
    assert size is None or (size[0] > 0 and size[1] > 0)


def bomb(width: int, height: int) -> bytes:
    """Return the beginning of a PNG that announces a size."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + header + zlib.crc32(b"IHDR" + header).to_bytes(4, "big") + bytes(20)
    )


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (BinaryContent(bomb(65_000, 65_000), "image/png"), "has 65,000 x 65,000 pixels, more than 64,000,000"),
        (
            BinaryContent(picture(form="JPEG"), "image/png"),
            "is said to be image/png, but its bytes are image/jpeg",
        ),
        (BinaryContent(b"<script>", "image/png"), "its bytes are of another kind"),
        (BinaryContent(b"\x89PNG\r\n\x1a\n", "image/png"), "is a damaged image/png: its header has no size"),
        (BinaryContent(b"a,b", "text/csv"), "is text/csv; models read image/png"),
        (BinaryContent(picture() + bytes(1000), "image/png"), "has more than 999 bytes (FileLimits.max_bytes)"),
    ],
)
def test_a_file_is_refused_by_name(file: BinaryContent, told: str) -> None:
    limits = FileLimits(max_bytes=999)
    with pytest.raises(UserError, match="prompt: item 2") as raised:
        checked_prompt(["What is this?", file], limits)
    assert told in str(raised.value)
    kept = admitted(("a", file, "b"), limits)
    assert kept[0] == "a" and kept[2] == "b" and isinstance(kept[1], str) and told in kept[1]


def test_a_prompt_is_text_or_texts_and_files() -> None:
    file = BinaryContent(picture(form="JPEG"), "IMAGE/JPG; q=1", "a\nphoto.jpg")
    tidy = BinaryContent(file.data, "image/jpeg", "a photo.jpg")
    assert checked_prompt("one", FileLimits()) == checked_prompt(["one"], FileLimits()) == "one"
    assert checked_prompt(["one", file, "two"], FileLimits()) == ("one", tidy, "two")
    for wrong, told in (
        ([], "the list is empty"),
        (["a", 3], "item 2 is int"),
        ([file] * 3, "3 files, more"),
    ):
        given_wrongly: Any = wrong
        with pytest.raises(UserError, match=told):
            checked_prompt(given_wrongly, FileLimits(max_files=2))


def test_a_model_is_told_of_the_files_that_it_does_not_read() -> None:
    image, document = BinaryContent(picture(), "image/png", "a.png"), BinaryContent(PDF, "application/pdf")
    content = ("see", image, document)
    assert readable(content, None) is content or readable(content, None) == content
    assert readable(content, {"image"}) == ("see", image, f"{document.note} is not shown here")
    assert readable(content, set()) == f"see\n{image.note} is not shown here\n{document.note} is not shown here"
    assert readable(("see", image.reference), None) == f"see\n{image.note} is not shown here"
    assert image.note == f"[image/png, {len(image.data)} bytes: a.png]"


def test_a_file_is_read_from_its_path(tmp_path: Path) -> None:
    path = tmp_path / "chart.webp"
    path.write_bytes(picture(form="WEBP"))
    assert read_file(path) == BinaryContent(path.read_bytes(), "image/webp", "chart.webp")
    path.write_text("no image")
    with pytest.raises(UserError, match=r"chart\.webp' is an unknown type; models read image/png"):
        read_file(path)
    with pytest.raises(UserError, match=r"none\.png' cannot be read: No such file"):
        read_file(tmp_path / "none.png")


def test_limits_are_not_negative() -> None:
    with pytest.raises(UserError, match=r"FileLimits\(max_files=-1\): the limit must be zero or more"):
        FileLimits(max_files=-1)
    assert {KINDS[media_type] for media_type in FORMS.values()} == {"image"}
