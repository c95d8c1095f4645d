"""Probes of what a prompt may hold: pictures, more than the context window, a beginning that is cached."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence

from agentkit.models.endpoint_check.findings import Finding, Sample, counted
from agentkit.models.endpoint_check.probe import Known, Probe, ProbeRequest, Replies, chat, first, user
from agentkit.models.endpoint_check.replies import chat_reply, sample_without_reply, shown

_COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 20, 20),
    "green": (20, 160, 40),
    "blue": (30, 60, 220),
}
_SIDE = 96
"""Pixels of a picture's side; vision models refuse very small ones."""
_ASKED = "Which colour is this picture: red, green or blue? Answer with one word."
MAX_WINDOW = 40_960
"""Tokens of the largest context window that is overflowed; beyond it a server that truncates would compute for
minutes, and a paid one would be expensive."""
_OVERFLOW = 1.3
"""Size of the overflowing prompt as a multiple of the window."""
_TOKENS_PER_CHAR = 0.25
"""Tokens of a character of English text, if the server's counts do not tell."""
_CACHED_TOKENS = 1500
"""Tokens of the prompt that is sent twice: OpenAI caches from 1,024 on."""
_SENTENCE = "The harbour is calm today, and the boats are tied up at the pier. "


def png_of_colour(colour: tuple[int, int, int], side: int = _SIDE) -> bytes:
    """Return a square PNG of one colour (W3C, PNG specification: signature, IHDR, IDAT, IEND)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes(colour) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB
    pixels = zlib.compress(row * side)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _image_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    def with_picture(colour: tuple[int, int, int]) -> ProbeRequest:
        url = "data:image/png;base64," + base64.b64encode(png_of_colour(colour)).decode()
        parts = [{"type": "text", "text": _ASKED}, {"type": "image_url", "image_url": {"url": url}}]
        return chat(known, [user(parts)], n_tokens=16)

    return {
        "seen": [with_picture(colour) for colour in _COLOURS.values()],
        "blind": [chat(known, [user([{"type": "text", "text": _ASKED}])], n_tokens=16)],
    }


def _judge_images(known: Known, replies: Replies) -> list[Finding]:
    id = title = "images"
    judged: list[Sample] = []
    for reply, colour in zip(replies["seen"], _COLOURS, strict=False):
        chat = chat_reply(reply)
        if chat is None:
            judged.append(sample_without_reply(reply))
            continue
        named = [name for name in _COLOURS if name in chat.text.lower()]
        judged.append(
            Sample("holds" if named == [colour] else "fails", f"{colour} is called {shown(chat.text, 30)!r}")
        )
    found = counted(id, title, judged, detail="the colour is seen")
    seen, blind = chat_reply(first(replies, "seen")), chat_reply(first(replies, "blind"))
    if found.holds or seen is None or blind is None:
        return [found]
    if seen.prompt_tokens and seen.prompt_tokens == blind.prompt_tokens:
        return [Finding(id, title, "ignored", "accepted, but adds no prompt tokens", found.n_held, found.n_asked)]
    return [found]


IMAGES = Probe("images", _image_requests, _judge_images)


def _prompt_of(known: Known, n_tokens: int) -> str:
    """Return a text of about `n_tokens` tokens, by the ratio that the server's counts showed."""
    ratio = known.figure("usage", "tokens_per_char") or _TOKENS_PER_CHAR
    return _SENTENCE * max(1, round(n_tokens / (ratio * len(_SENTENCE))))


def _overflow_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    window = known.context_window
    if window is None or window > MAX_WINDOW:
        return {}
    prompt = _prompt_of(known, round(window * _OVERFLOW))
    return {"overflow": [chat(known, f"{prompt}\nSay hello.", n_tokens=8)]}


def _judge_overflow(known: Known, replies: Replies) -> list[Finding]:
    id = title = "context overflow"
    if not replies.get("overflow"):
        window = known.context_window
        detail = f"not asked: over {MAX_WINDOW:,} tokens" if window else "not asked: the window is not known"
        return [Finding(id, title, "unknown", detail)]
    reply = first(replies, "overflow")
    if reply.is_context_overflow:
        return [Finding(id, title, "holds", f"refused with {reply.status}, known as ContextWindowExceeded")]
    if chat := chat_reply(reply):
        counted_tokens = "no count" if chat.prompt_tokens is None else f"{chat.prompt_tokens:,} counted"
        return [Finding(id, title, "ignored", f"answered; the prompt was truncated silently ({counted_tokens})")]
    if reply.status >= 400:
        return [Finding(id, title, "fails", f"an error that does not say so: {reply.status}: {reply.reported}")]
    sample = sample_without_reply(reply)
    return [Finding(id, title, sample.verdict, sample.detail)]


OVERFLOW = Probe("context overflow", _overflow_requests, _judge_overflow)


def _cache_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    n_tokens = min(_CACHED_TOKENS, (known.context_window or 4096) // 2)
    request = chat(known, f"{_prompt_of(known, n_tokens)}\nHow is the harbour today?", n_tokens=8)
    return {"twice": [request, request]}


def _judge_cache(known: Known, replies: Replies) -> list[Finding]:
    id = title = "cached tokens"
    second = replies["twice"][-1]
    chat = chat_reply(second)
    if chat is None:
        sample = sample_without_reply(second)
        return [Finding(id, title, sample.verdict, sample.detail)]
    if chat.cached_tokens is None:
        return [Finding(id, title, "unknown", "not counted (prompt_tokens_details.cached_tokens)")]
    if not chat.cached_tokens:
        return [Finding(id, title, "fails", f"0 of {chat.prompt_tokens} at the second equal request")]
    detail = f"{chat.cached_tokens:,} of {chat.prompt_tokens:,} at the second equal request"
    return [Finding(id, title, "holds", detail)]


CACHE = Probe("cached tokens", _cache_requests, _judge_cache)
