"""Files in conversations: which are accepted, found out from their bytes.

A file is untrusted, whoever names its type. Its first bytes must be those of its media type, and an image's header
must not announce more pixels than a limit: a few kilobytes can expand to gigabytes wherever they are decoded. Only
headers are read here; nothing is decoded.

Formats: PNG (W3C), JPEG (ITU-T T.81, markers SOF0 to SOF15), GIF89a, WebP (RFC 9649), RIFF WAVE, MPEG audio,
FLAC (RFC 9639), Ogg (RFC 3533), MP4 audio (ISO 14496-12), PDF (ISO 32000).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from agentkit.basics.base64_bytes import size_text
from agentkit.basics.json_values import json_form
from agentkit.basics.well_formed import well_formed
from agentkit.errors import UserError
from agentkit.messages import BinaryContent, Content, ContentItem, FileReference, RetryPromptPart, ToolReturnPart

if TYPE_CHECKING:
    import os
    from collections.abc import Collection

FileKind = Literal["image", "audio", "document"]
KINDS: Mapping[str, FileKind] = {
    "image/png": "image",
    "image/jpeg": "image",
    "image/gif": "image",
    "image/webp": "image",
    "audio/wav": "audio",
    "audio/mpeg": "audio",
    "audio/flac": "audio",
    "audio/ogg": "audio",
    "audio/mp4": "audio",
    "application/pdf": "document",
}
"""Kind of each media type that models read."""
_OTHER_NAMES = {
    "image/jpg": "image/jpeg",
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "audio/mp3": "audio/mpeg",
    "audio/x-flac": "audio/flac",
    "audio/m4a": "audio/mp4",
    "audio/x-m4a": "audio/mp4",
}
Prompt = str | Sequence[str | BinaryContent]
"""Words of the user: a text, or texts and files in order."""
MAX_NAME_CHARS = 100
_PDF_WITHIN = 1024
"""Bytes within which a PDF's header begins; readers accept some bytes before it."""
_MAX_JPEG_SEGMENTS = 1000


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Bounds on the files of one message."""

    max_bytes: int = 20 * 2**20
    """Bytes of one file; 20 MiB is what most providers accept in a request."""
    max_pixels: int = 64_000_000
    """Width times height of an image; 8,000 by 8,000 is the largest that Anthropic accepts."""
    max_files: int = 20

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            UserError: one is negative.
        """
        for name in self.__slots__:
            if getattr(self, name) < 0:
                raise UserError(f"FileLimits({name}={getattr(self, name)!r}): the limit must be zero or more.")


def read_file(path: str | os.PathLike[str], *, limits: FileLimits = FileLimits()) -> BinaryContent:
    """Read a file for a prompt; its media type is found in its first bytes.

    Raises:
        UserError: it cannot be read, is too large, or is of a kind that is not sent to models.
    """
    file = Path(path)
    try:
        with file.open("rb") as opened:
            data = opened.read(limits.max_bytes + 1)
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be read: {error.strerror or error}.") from error
    content = BinaryContent(data, media_type_of(data) or "an unknown type", file.name)
    if (problem := problem_of(content, limits)) is not None:
        raise UserError(f"{str(file)!r} {problem}.")
    return content


def checked_prompt(prompt: Prompt | Content, limits: FileLimits) -> Content:
    """Return a prompt as the content of a message.

    Raises:
        UserError: it is empty, an item is neither text nor a file, or a file is refused.
    """
    if isinstance(prompt, str):
        return well_formed(prompt)
    given = cast("Sequence[Any]", prompt)
    items: list[ContentItem] = []
    for number, item in enumerate(given, start=1):
        if isinstance(item, str):
            items.append(well_formed(item))
            continue
        if not isinstance(item, BinaryContent):
            raise UserError(
                f"prompt: item {number} is {type(item).__name__}; give texts and files, as in "
                f"agent.run(['What is this?', read_file('photo.jpg')])."
            )
        file = _tidy(item)
        if (problem := problem_of(file, limits)) is not None:
            raise UserError(f"prompt: item {number} {problem}.")
        items.append(file)
    if not items:
        raise UserError("prompt: the list is empty; give a text, or texts and files.")
    if (n_files := sum(isinstance(item, BinaryContent) for item in items)) > limits.max_files:
        raise UserError(f"prompt: {n_files} files, more than FileLimits(max_files={limits.max_files}).")
    return items[0] if len(items) == 1 and isinstance(items[0], str) else tuple(items)


def admitted(content: Content, limits: FileLimits) -> Content:
    """Return a tool's content with a note of the reason in place of each file that is refused."""
    if isinstance(content, str):
        return well_formed(content)
    kept, n_files = list[ContentItem](), 0
    for item in content:
        if isinstance(item, str):
            kept.append(well_formed(item))
            continue
        file = _tidy(item) if isinstance(item, BinaryContent) else item
        problem = problem_of(file, limits) if isinstance(file, BinaryContent) else None
        n_files += problem is None
        if n_files > limits.max_files:
            problem = f"is one of more than {limits.max_files} files"
        kept.append(file if problem is None else f"{file.note} was left out: it {problem}")
    return tuple(kept)


def content_with_files(value: object) -> Content | None:
    """Return what a tool returned as content if it is a file, or a list of values with a file; else None.

    Other values of the list are given as their JSON text.

    Raises:
        NoJSONForm: one of them has none.
    """
    if isinstance(value, BinaryContent):
        return (value,)
    if not isinstance(value, list | tuple):
        return None
    items = cast("list[object]", value)
    if not any(isinstance(item, BinaryContent) for item in items):
        return None
    return tuple(item if isinstance(item, str | BinaryContent) else json_form(item)[0] for item in items)


def files_of(content: Content) -> tuple[BinaryContent, ...]:
    """Return the files of content, in order."""
    items = () if isinstance(content, str) else content
    return tuple(item for item in items if isinstance(item, BinaryContent))


def references(part: ToolReturnPart | RetryPromptPart) -> tuple[FileReference, ...]:
    """Return the files of a tool's result without their bytes."""
    return tuple(file.reference for file in files_of(part.content))


def readable(content: Content, kinds: Collection[str] | None) -> Content:
    """Return content with a note in place of each file that a model does not read.

    `kinds` are the kinds of files that it reads; None: not known, and nothing is left out. Files of which only the
    reference is there are always left out.
    """
    if isinstance(content, str):
        return content
    items = tuple(
        item
        if isinstance(item, str) or (isinstance(item, BinaryContent) and _reads(kinds, item))
        else f"{item.note} is not shown here"
        for item in content
    )
    return "\n".join(cast("tuple[str, ...]", items)) if all(isinstance(item, str) for item in items) else items


def unreadable(content: Content, kinds: Collection[str] | None) -> BinaryContent | None:
    """Return the first file that a model which reads `kinds` does not read; None if it reads all."""
    return next((file for file in files_of(content) if not _reads(kinds, file)), None)


def problem_of(file: BinaryContent, limits: FileLimits) -> str | None:
    """Return the reason to refuse a file, as the end of a sentence; None if it is accepted."""
    if len(file.data) > limits.max_bytes:
        return f"has more than {size_text(limits.max_bytes)} (FileLimits.max_bytes)"
    found = media_type_of(file.data)
    if file.media_type not in KINDS:
        return f"is {file.media_type}; models read {', '.join(KINDS)}. Give text as text"
    if found != file.media_type:
        return f"is said to be {file.media_type}, but its bytes are {found or 'of another kind'}"
    if KINDS[file.media_type] == "image":
        size = pixels_of(file.data)
        if size is None:
            return f"is a damaged {file.media_type}: its header has no size"
        if size[0] * size[1] > limits.max_pixels:
            return f"has {size[0]:,} x {size[1]:,} pixels, more than {limits.max_pixels:,} (FileLimits.max_pixels)"
    return None


def is_readable_type(media_type: str) -> bool:
    """Return whether models read files of this type, under its usual or another name."""
    return _usual(media_type) in KINDS


def kind_of(file: BinaryContent | FileReference) -> FileKind | None:
    """Return the kind of a file; None if models read none of its type."""
    return KINDS.get(file.media_type)


def media_type_of(data: bytes) -> str | None:
    """Return the media type of a file by its first bytes; None if it is none of those that models read."""
    beginning = data[:12]
    if beginning.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if beginning.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if beginning.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if beginning.startswith(b"RIFF"):
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(beginning[8:12])
    if beginning.startswith(b"fLaC"):
        return "audio/flac"
    if beginning.startswith(b"OggS"):
        return "audio/ogg"
    if beginning[4:8] == b"ftyp" and beginning[8:12] in (b"M4A ", b"M4B ", b"isom", b"mp42"):
        return "audio/mp4"
    # A tag, or the eleven set bits that begin a frame of MPEG audio, whose layer is not the reserved one.
    if beginning.startswith(b"ID3") or (
        len(beginning) > 1 and beginning[0] == 0xFF and beginning[1] & 0xE0 == 0xE0 and beginning[1] & 0x06
    ):
        return "audio/mpeg"
    if b"%PDF-" in data[:_PDF_WITHIN]:
        return "application/pdf"
    return None


def pixels_of(data: bytes) -> tuple[int, int] | None:
    """Return width and height of an image from its header; None if they are missing."""
    try:
        match media_type_of(data):
            case "image/png":
                return _positive(*struct.unpack(">II", data[16:24])) if data[12:16] == b"IHDR" else None
            case "image/gif":
                return _positive(*struct.unpack("<HH", data[6:10]))
            case "image/webp":
                return _webp_pixels(data)
            case "image/jpeg":
                return _jpeg_pixels(data)
            case _:
                return None
    except (struct.error, IndexError):  # the file ends within its header
        return None


def _webp_pixels(data: bytes) -> tuple[int, int] | None:
    match data[12:16]:
        case b"VP8X":  # extended: two numbers of 24 bits, each less one
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":  # lossless: two numbers of 14 bits, each less one
            (bits,) = struct.unpack("<I", data[21:25])
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":  # lossy: behind the start code, two numbers of 14 bits
            width, height = struct.unpack("<HH", data[26:30])
            return _positive(width & 0x3FFF, height & 0x3FFF)
        case _:
            return None


def _jpeg_pixels(data: bytes) -> tuple[int, int] | None:
    at = 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # filling bytes
            at += 1
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame; those three are tables
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return _positive(width, height)
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        at += 2 + length
    return None


def _positive(width: int, height: int) -> tuple[int, int] | None:
    return (width, height) if width > 0 and height > 0 else None


def _reads(kinds: Collection[str] | None, file: BinaryContent) -> bool:
    return kinds is None or kind_of(file) in kinds


def _tidy(file: BinaryContent) -> BinaryContent:
    """Return a file with the usual name of its type, and a short name of one line."""
    name = None if file.name is None else " ".join(well_formed(file.name).split())[:MAX_NAME_CHARS]
    return BinaryContent(file.data, _usual(file.media_type), name or None)


def _usual(media_type: str) -> str:
    """Return the usual name of a media type, without parameters."""
    bare = media_type.partition(";")[0].strip().lower()
    return _OTHER_NAMES.get(bare, bare)
