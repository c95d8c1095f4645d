"""Readings of a text without disguises: normalised, and with hidden texts decoded.

Order: length limit, surrogates, hidden characters (counted), compatibility forms without accents, look-alike
letters, white space. Then the decoders of `hidden_text` run on the text and on their own results, to a fixed depth
and number. All steps are linear in the length and the number of views is bounded, because input is hostile.

Sources: UAX #15 (normal forms), UTS #39 (confusables; only those of Latin letters), and Unicode's tag block and
variation selectors, in which text can be written invisibly.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from modelstack.align.guards.hidden_text import DECODERS

MAX_CHARACTERS = 1_000_000
"""Length in characters above which a text is cut in the middle; `Views.n_unread` counts the rest."""
MAX_DECODE_CHARACTERS = 200_000
"""Number of characters of a view, from its start, that decoders read."""
MAX_DEPTH = 3
MAX_VIEWS = 12
_PIECE = 512
"""Code points normalised at once; CPython sorts a run of combining marks in quadratic time."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_TAGS = re.compile("[\U000e0020-\U000e007e]{2,}")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_EMOJI_JOINERS = re.compile("(?<=[\u2600-\u27bf\U0001f000-\U0001faff\ufe0f])[\u200d\ufe0f]|[\u2600-\u27bf]\ufe0f")
_HIDDEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
_MARKS = re.compile("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+")
_SPACES = re.compile(r"[^\S\n]+")
_NEWLINES = re.compile(r" ?\n[ \n]*")

# Look-alikes of Latin letters that compatibility normalisation does not change.
_LOOK_ALIKES = str.maketrans(
    "аАвВсСеЕнНіІјЈкКмМоОрРтТуУхХѕЅԁԛԝһүѵ"  # Cyrillic
    "αΑβΒεΕηΗιΙκΚμΜνΝοΟρΡτΤυΥχΧζΖ"  # Greek
    "օսոհցքᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ"  # Armenian, small capitals
    "ıłŁøØđĐħŧɑɡ‘’“”‐‑–—…",
    "aAbBcCeEhHiIjJkKmMoOpPtTyYxXsSdqwhyv"
    "aAbBeEhHiIkKmMvNoOpPtTuYxXzZ"
    "ouuhgfabcdefghijklmnoprstuvwyz"
    "ilLoOdDhtag''\"\"----.",
)
_MIXED_SCRIPT = re.compile(
    "[A-Za-z][\u0370-\u058f\u1d00-\u1d22\ua730-\ua731]|[\u0370-\u058f\u1d00-\u1d22\ua730-\ua731][A-Za-z]"
)


@dataclass(frozen=True, slots=True)
class View:
    """A reading of a text."""

    text: str
    encodings: tuple[str, ...]
    """Encodings around it, outermost first; empty for the plain reading."""


@dataclass(frozen=True, slots=True)
class Views:
    """All readings of a text, with counts of the changes."""

    views: tuple[View, ...]
    """The plain reading first, then the decoded ones."""
    n_hidden: int = 0
    """Invisible characters: zero-width, tags, direction marks, control characters."""
    n_look_alikes: int = 0
    """Places with a letter of another script beside a Latin one."""
    n_marks: int = 0
    """Removed accents and other combining marks."""
    n_surrogates: int = 0
    """Lone surrogates, which no valid text holds."""
    n_unread: int = 0
    """Characters left out of a text longer than `MAX_CHARACTERS`."""

    @property
    def text(self) -> str:
        """The plain reading."""
        return self.views[0].text

    @property
    def encodings(self) -> frozenset[str]:
        """Names of all encodings found."""
        return frozenset(name for view in self.views for name in view.encodings)


def views(text: str, *, decode: bool = True) -> Views:
    """Return the readings of a text.

    Args:
        text: A raw text of any length.
        decode: Whether to search for hidden texts; if not, only the plain reading is returned.
    """
    n_unread = max(0, len(text) - MAX_CHARACTERS)
    if n_unread:
        text = text[: MAX_CHARACTERS // 2] + "\n" + text[-(MAX_CHARACTERS // 2) :]
    plain, found, counts = _plain(text)
    all_views = [View(_collapse(plain), ())]
    if decode:
        seeds = [View(plain, ()), *(View(hidden, (kind,)) for kind, hidden in found)]
        all_views = _search(all_views, seeds)
    return Views(tuple(all_views), n_unread=n_unread, **counts)


def _search(known: list[View], queue: list[View]) -> list[View]:
    """Decode breadth first; `queue` holds texts before white space is collapsed (gaps tell letters from words)."""
    seen = {known[0].text}
    for view in queue:  # grows below
        collapsed = _collapse(view.text)
        if view.encodings and collapsed not in seen:
            seen.add(collapsed)
            known.append(View(collapsed, view.encodings))
            if len(known) == MAX_VIEWS:
                break
        # Leet comes last: spelling it out breaks every other encoding.
        if len(view.encodings) < MAX_DEPTH and view.encodings[-1:] != ("leet",):
            source = view.text[:MAX_DECODE_CHARACTERS]
            for name, decoder in DECODERS.items():
                # The second use of such a decoder restores the text before the first.
                if view.encodings[-1:] == (name,) and name not in {"base64", "hex", "percent"}:
                    continue
                queue.extend(
                    View(_plain(found[:MAX_DECODE_CHARACTERS])[0], (*view.encodings, name))
                    for found in decoder(source)
                    if len(queue) < 4 * MAX_VIEWS
                )
    return known


def _collapse(text: str) -> str:
    return _NEWLINES.sub("\n", _SPACES.sub(" ", text)).strip()


def _plain(text: str) -> tuple[str, list[tuple[str, str]], dict[str, int]]:
    """Return the text without disguise, texts smuggled in invisible characters, and counts."""
    if text.isascii():
        stripped, n_hidden = _HIDDEN.subn("", text)
        return stripped, [], {"n_hidden": n_hidden}
    n_surrogates = 0
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        n_surrogates = text.count("\ufffd")
    smuggled = [("tags", "".join(chr(ord(c) - 0xE0000) for c in run)) for run in _TAGS.findall(text)[:4]]
    smuggled += [("selectors", _selector_bytes(run)) for run in _SELECTORS.findall(text)[:4]]
    text, n_hidden = _HIDDEN.subn("", _EMOJI_JOINERS.sub("", text))
    n_look_alikes = len(_MIXED_SCRIPT.findall(text))
    pieces: list[str] = []
    n_marks = n_characters = 0
    for start in range(0, len(text), _PIECE):
        piece = unicodedata.normalize("NFKD", text[start : start + _PIECE])
        piece, n = _MARKS.subn("", piece)
        n_marks += n
        pieces.append(unicodedata.normalize("NFC", piece))
        n_characters += len(pieces[-1])
        if n_characters > MAX_CHARACTERS:  # some code points unfold to eighteen
            break
    folded = "".join(pieces).translate(_LOOK_ALIKES)[:MAX_CHARACTERS]
    counts = {
        "n_hidden": n_hidden,
        "n_look_alikes": n_look_alikes,
        "n_marks": n_marks,
        "n_surrogates": n_surrogates,
    }
    return folded, smuggled, counts


def _selector_bytes(run: str) -> str:
    codes = (ord(c) - 0xFE00 if ord(c) < 0xFF00 else ord(c) - 0xE0100 + 16 for c in run)
    return bytes(codes).decode("utf-8", "replace")
