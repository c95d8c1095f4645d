"""The event-stream parser: cut anywhere, any line ends, bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.errors import UnexpectedModelBehavior
from agentkit.models.http.sse import MAX_LINE_BYTES, ServerEvent, SSEParser


def parsed(*chunks: bytes, max_line_bytes: int = MAX_LINE_BYTES) -> list[ServerEvent]:
    parser = SSEParser(max_line_bytes)
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events + list(parser.close())


STREAM = (
    "\ufeffdata: one\r\n"
    ": a comment\r\n\r\n"
    "event: error\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\n"
    "id: 7\rdata:two words\r\r"
    ":\n\ndata: Grüße 🦉\n\nretry: 5\n\ndata\n\ndata: last"
).encode()  # fmt: skip
EVENTS = [
    ServerEvent("one"),
    ServerEvent('{"a":\n1}', "error"),
    ServerEvent("two words"),
    ServerEvent("Grüße 🦉"),
    ServerEvent(""),
    ServerEvent("last"),
]


def test_reads_all_line_ends_comments_and_multiple_data_lines() -> None:
    assert parsed(STREAM) == EVENTS


def test_a_chunk_may_end_at_every_byte() -> None:
    for cut in range(len(STREAM) + 1):
        assert parsed(STREAM[:cut], STREAM[cut:]) == EVENTS
    assert parsed(*(STREAM[i : i + 1] for i in range(len(STREAM)))) == EVENTS


@given(
    data=st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1), max_size=5),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 200)),
)
def test_any_text_survives_any_chunking(data: list[str], line_end: str, cuts: list[int]) -> None:
    stream = "".join(f"data: {text}{line_end}{line_end}" for text in data).encode()
    bounds = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
    assert parsed(*chunks) == [ServerEvent(text) for text in data]


@given(st.lists(st.binary()))
def test_garbage_gives_events_or_the_one_typed_error(chunks: list[bytes]) -> None:
    try:
        assert parsed(*chunks) == parsed(b"".join(chunks))
    except UnexpectedModelBehavior as error:
        assert "UTF-8" in str(error)


def test_an_event_before_a_bad_one_in_the_same_chunk_is_still_given() -> None:
    parser = SSEParser()
    events = parser.feed(b"data: good\n\ndata: \xff\n\n")
    assert next(events) == ServerEvent("good")
    with pytest.raises(UnexpectedModelBehavior, match="not UTF-8"):
        next(events)


def test_an_old_llama_cpp_error_field_is_an_error_event() -> None:
    assert parsed(b'error: {"code": 500}\n\n') == [ServerEvent('{"code": 500}', "error")]


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: " + b"x" * 101],
        [b"data: ", *[b"x"] * 101],
        [b": " + b"x" * 101 + b"\n"],
        [b"data: " + b"x" * 60 + b"\n", b"data: " + b"x" * 60 + b"\n"],
    ],
    ids=["one chunk", "many chunks", "a comment", "many lines of one event"],
)
def test_what_is_held_is_bounded(chunks: list[bytes]) -> None:
    with pytest.raises(UnexpectedModelBehavior, match="over 100 bytes"):
        parsed(*chunks, max_line_bytes=100)
