"""Token masks from lm-format-enforcer: its token walk over a character-level parser.

Source: github.com/noamgat/lm-format-enforcer 0.11.3.

This module uses the public `TokenEnforcer`, `TokenEnforcerTokenizerData` and the `CharacterLevelParser` interface,
with this package's recogniser as the parser. It does not use `JsonSchemaParser`, whose output is not always valid
JSON and does not always fit the schema. test_lmfe_schema_parser.py shows each of its faults:
- a comma before `}`, `1e-5` for an integer, raw tabs in strings;
- `"type": [..]` without its siblings, `$ref` by its last path segment only;
- numeric bounds, `multipleOf`, `uniqueItems`, `not`, siblings of `allOf` and others are ignored silently;
- a crash on an empty schema and on a `const` that is not a string.

Unlike llguidance, this engine allows the properties of an object in any order, each at most once.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from lmformatenforcer import (
    CharacterLevelParser,
    CharacterLevelParserConfig,
    TokenEnforcer,
    TokenEnforcerTokenizerData,
)

from modelstack.inference.grammar import GrammarError, TokenMask
from modelstack.toolcalls.convention import ResponseFormat
from modelstack.toolcalls.conventions.form import CallForm
from modelstack.toolcalls.grammar.containers import Key
from modelstack.toolcalls.grammar.frames import Frame, String
from modelstack.toolcalls.grammar.parameter_list import BareKey
from modelstack.toolcalls.grammar.raw_text import RawText
from modelstack.toolcalls.grammar.recogniser import step_text
from modelstack.toolcalls.grammar.replies import Prose
from modelstack.toolcalls.grammar.shapes import Response, Text
from modelstack.toolcalls.grammar.tokens import TokenTable, code_points, split_utf8
from modelstack.toolcalls.grammar.values import Value
from modelstack.toolcalls.marks import is_mark

_HEALED_TOKENS = 4
"""Maximum number of tokens before the end of forced text at which a crossing token may begin, as in llguidance."""
_CROSSINGS_TRIED = 400
"""Maximum number of longer tokens tried before the tail is dropped; dropping only shortens a forced block."""
_MISCOUNTED = re.compile(r"""\\[/u]|\\.*[^\\]"$|\\\\"$""", re.DOTALL)
"""Tokens excluded from the walk, because lm-format-enforcer's list for strings is wrong about them. It accepts
escapes that the convention does not use, and counts an escape before a closing quote as two characters.
"""
_CONFIG = CharacterLevelParserConfig()
"""Settings of the package's own parsers; a new one for each position would read the environment four times."""
_UNLIMITED = 1 << 30
_MASKS_KEPT = 2_048
"""Number of masks kept for one format; each takes 6 kB at 49,152 tokens."""


class LMFEBackend:
    """Implements `compiler.Backend`."""

    def __init__(self, tokens: TokenTable) -> None:
        """Build the token tree (0.3 s for 49,152 tokens)."""
        self._tokens = tokens
        self._data = TokenEnforcerTokenizerData(
            # Every token counts as the start of a word, so that its text does not depend on its neighbours.
            [(i, text, True) for i, text in tokens.writable if not _MISCOUNTED.search(text)],
            tokens.vocabulary.decode,
            list(tokens.vocabulary.end_ids),
            False,
            len(tokens.vocabulary),
        )
        self._alphabet = frozenset(self._data.tokenizer_alphabet)
        vocabulary = tokens.vocabulary
        prose = [i for i in range(len(vocabulary)) if vocabulary.token_bytes[i] and i not in tokens.withheld]
        prose = [i for i in prose if tokens.text(i) is not None]
        self._prose = [(i, tokens.text(i) or "") for i in prose]

    def schema_error(self, schema: Any, form: CallForm | None) -> str:
        """Return the empty text: `coverage` has found all unsupported keywords already."""
        return ""

    def template(
        self,
        response_format: ResponseFormat,
        form: CallForm,
        schemas: Mapping[str, Any],
        answer: Any | None,
        response: Response,
    ) -> LMFETemplate:
        """Compile the grammar of a reply."""
        return LMFETemplate(response, self._data, self._tokens, self._alphabet, self._prose)


class LMFETemplate:
    """The data shared by all generations of one format."""

    def __init__(
        self,
        response: Response,
        data: TokenEnforcerTokenizerData,
        tokens: TokenTable,
        alphabet: frozenset[str],
        prose: list[tuple[int, str]],
    ) -> None:
        """Store the prepared data."""
        self.response = response
        self.data = data
        self.tokens = tokens
        self.alphabet = alphabet
        self.prose = prose
        """Tokens that words may contain, with their texts."""
        self.text = next((option for option in response.options if isinstance(option, Text)), None)
        structured = Response(options=tuple(o for o in response.options if not isinstance(o, Text)))
        self.masks: OrderedDict[Any, TokenMask] = OrderedDict()
        self.enforcer_start: tuple[Frame | None, ...] = (Value(structured, None),)

    def start(self) -> LMFEState:
        """Return the state at the start of a reply."""
        return LMFEState(self)


class FrameParser(CharacterLevelParser):
    """Adapts the recogniser to the parser interface of lm-format-enforcer."""

    def __init__(self, frames: tuple[Frame | None, ...], alphabet: frozenset[str]) -> None:
        """Initialise at these frames."""
        super().__init__(_CONFIG)
        self.frames = frames
        self.alphabet = alphabet

    def add_character(self, new_character: str) -> FrameParser:
        """Return the parser after a character."""
        return FrameParser(step_text(self.frames, new_character), self.alphabet)

    def get_allowed_characters(self) -> Any:
        """Return the set of legal next characters; the walk only intersects with it."""
        return _legal(self.frames, self.alphabet)

    def can_end(self) -> bool:
        """Return whether the reply may end here."""
        return None in self.frames

    def shortcut_key(self) -> Any:
        """Return the key of the walk's precomputed token lists, inside strings without a pattern.

        None elsewhere.
        """
        only = self.frames[0] if len(self.frames) == 1 else None
        if isinstance(only, Key) and only.is_open:
            return ("json_freetext", 0, 0, _UNLIMITED)
        if not isinstance(only, String) or only.shape.regex is not None or only.escape:
            return None
        if only.shape.closing != '"':
            return None
        least, most = only.shape.least, only.shape.most
        if most is not None and only.length >= most:
            return None
        return ("json_freetext", only.length, least, _UNLIMITED if most is None else most)


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a reply: the recogniser's frames, and the bytes of an incomplete character."""

    frames: tuple[Frame | None, ...]
    pending: bytes = b""

    @property
    def in_prose(self) -> bool:
        """Whether the position is inside a text answer."""
        return any(isinstance(frame, Prose) for frame in self.frames)

    def after(self, data: bytes) -> Place | None:
        """Return the position after `data`; None if `data` is not legal here."""
        split = split_utf8(self.pending + data)
        frames = step_text(self.frames, split[0]) if split is not None else ()
        if split is None or not frames:
            return None
        place = Place(frames, split[1])
        return place if not place.pending or Beginnings(frames).allow(place.pending) else None


class Beginnings:
    """The incomplete characters that are legal at a position."""

    def __init__(self, frames: tuple[Frame | None, ...]) -> None:
        """Read what the frames allow, once for all characters."""
        living = [frame for frame in frames if frame is not None]
        self._is_any = any(
            isinstance(frame, Prose | BareKey) or (isinstance(frame, Key) and frame.is_open) for frame in living
        )
        self._texts = [frame for frame in living if isinstance(frame, String | RawText)]
        fixed = () if self._is_any else _legal(tuple(living), frozenset())
        self._fixed = [ord(c) for c in fixed if not c.isascii() and not is_mark(c)]

    def allow(self, pending: bytes) -> bool:
        """Return whether a character that begins with the bytes `pending` is legal."""
        if self._is_any:
            return True
        low, high = code_points(pending)
        return any(frame.takes_between(low, high) for frame in self._texts) or any(
            low <= code <= high for code in self._fixed
        )


class LMFEState:
    """Implements `tracking.EngineState`."""

    def __init__(self, template: LMFETemplate) -> None:
        """Initialise at the start of a reply."""
        self._template = template
        self._tokens = template.tokens
        self._places = [Place((Value(template.response, None),))]
        self._forced: list[int] | None = None
        """Forced tokens at the last place, once they are known."""

    def fill(self, mask: TokenMask) -> None:
        """Write the legal tokens into `mask`; where tokens are forced, only the canonical token is legal."""
        forced = self.forced()
        if forced:
            mask[:] = 0
            mask[forced[0] >> 5] = np.uint32(1 << (forced[0] & 31))
            return
        place = self._places[-1]
        key = (place.pending, *(None if frame is None else frame.key for frame in place.frames))
        masks = self._template.masks
        found = masks.get(key)
        if found is None:
            found = masks[key] = self._mask(place)
            if len(masks) > _MASKS_KEPT:
                masks.popitem(last=False)
        mask[:] = found

    def accepting(self) -> bool:
        """Return whether the reply may end here."""
        place = self._places[-1]
        return not place.pending and (None in place.frames or place.in_prose)

    def stopped(self) -> bool:
        """Return whether nothing may follow."""
        return self._places[-1].frames == (None,)

    def forced(self) -> list[int]:
        """Return the canonical tokens of text that has only one continuation."""
        if self._forced is None:
            self._forced = self._find_forced()
        return self._forced

    def advance(self, token_id: int) -> None:
        """Take a token.

        Raises:
            GrammarError: the token is not legal here.
        """
        data = self._tokens.vocabulary.token_bytes[token_id]
        place = self._behind(self._places[-1], token_id)
        if place is None:
            raise GrammarError(f"token {token_id} ({data!r}) is not legal here")
        self._places.append(place)
        self._forced = None

    def rollback(self, n_tokens: int) -> None:
        """Undo the last `n_tokens` tokens."""
        del self._places[-n_tokens:]
        self._forced = None

    def n_legal(self, ids: Sequence[int]) -> int:
        """Return the number of leading tokens that could be taken one after the other."""
        return sum(1 for _ in self._places_behind(ids))

    def permits(self, ids: list[int]) -> bool:
        """Return whether `ids` complete the reply."""
        places = [self._places[-1], *self._places_behind(ids)]
        is_legal, place = len(places) == 1 + len(ids), places[-1]
        return is_legal and not place.pending and (None in place.frames or place.in_prose)

    def _places_behind(self, ids: Sequence[int]) -> Iterator[Place]:
        """Yield the position after each token, up to the first one that is not legal."""
        place: Place | None = self._places[-1]
        for token in ids:
            place = self._behind(place, token)
            if place is None:
                return
            yield place

    def _behind(self, place: Place, token_id: int) -> Place | None:
        """Return the position after a token; None if the token is not legal."""
        mark = self._tokens.marks.characters.get(token_id)
        if mark is None:
            data = self._tokens.vocabulary.token_bytes[token_id]
            return place.after(data) if data else None
        if place.pending:
            return None
        frames = tuple(after for frame in place.frames if frame is not None for after in frame.step(mark))
        return Place(frames) if frames else None

    def _mask(self, place: Place) -> TokenMask:
        """Return the tokens that the walk finds from `place`, and the legal parts of characters."""
        if place.pending:
            # A whole character cannot follow an incomplete one; tokens that begin with its remaining bytes are
            # fragments.
            return self._tokens.mask_of(i for i, data in self._tokens.fragments if place.after(data) is not None)
        pieces = self._cut_texts(place.frames)
        pieces += [token for token in self._tokens.marks.characters if self._behind(place, token) is not None]
        raw = [frame for frame in place.frames if isinstance(frame, RawText)]
        text = self._template.text if len(self._places) == 1 else None
        words = [frame for frame in place.frames if isinstance(frame, Prose)]
        words += [] if text is None else [Prose(text, 0, "")]
        found = self._tokens.mask_of(pieces)
        for frame in words:
            found |= self._words(frame)
        for frame in raw:
            found |= self._raw_text(frame)
        frames = self._template.enforcer_start if text is not None else place.frames
        frames = tuple(frame for frame in frames if not isinstance(frame, Prose | RawText))
        if frames in ((), (None,)):
            return found
        # A new enforcer for this position. Its own store is keyed by the whole sequence and would keep a list of
        # up to V ids for every step of every generation.
        enforcer = TokenEnforcer(self._template.data, FrameParser(frames, self._template.alphabet))
        # A list: it is a tensor only if the package builds bit masks, which are not requested here.
        allowed = cast("list[int]", enforcer.get_allowed_tokens([]).allowed_tokens)
        structured = self._tokens.mask_of(allowed)
        for end in frames[0].forbidden_ends() if isinstance(frames[0], Key) else ():
            self._tokens.clear(structured, end)
        return found | structured

    def _cut_texts(self, frames: tuple[Frame | None, ...]) -> list[int]:
        """Return the fragments that are legal after whole characters."""
        found: list[int] = []
        for text, fragments in self._tokens.cut_texts.items():
            reached = step_text(frames, text)
            if reached:
                beginnings = Beginnings(reached)
                found += [i for i, pending in fragments if beginnings.allow(pending)]
        return found

    def _words(self, frame: Prose) -> TokenMask:
        """Return the tokens that may come next in words; only tokens that may be illegal are walked."""
        if frame.is_free:
            return self._tokens.mask_of(i for i, _ in self._template.prose)
        watched, before = frame.watched, frame.watched[: frame.progress]
        first = frame.shape.not_first + "".join(text[0] for text in (*frame.shape.not_begun, watched) if text)

        def is_suspect(text: str) -> bool:
            if frame.begun is not None and (frame.begun or text[0] in first):
                return True
            return bool(watched) and watched in before + text

        words = self._template.prose
        return self._tokens.mask_of(i for i, text in words if not is_suspect(text) or step_text((frame,), text))

    def _raw_text(self, frame: RawText) -> TokenMask:
        """Return the tokens that continue a raw text; only tokens that may close it are walked."""
        first = (frame.shape.spelled or frame.shape.closing)[0]

        def is_plain(text: str) -> bool:
            return frame.is_free and not frame.progress and first not in text

        return self._tokens.mask_of(
            i for i, text in self._template.prose if is_plain(text) or step_text((frame,), text)
        )

    def _find_forced(self) -> list[int]:
        text, frames = self._forced_text()
        if not text:
            return []
        ids = self._tokens.encode(text)
        for back in range(min(_HEALED_TOKENS, len(ids)), 0, -1):
            if self._can_cross(ids, back, frames):
                return ids[:-back]
        return ids

    def _forced_text(self) -> tuple[str, tuple[Frame | None, ...]]:
        """Return the text that must follow, and the positions after it."""
        place = self._places[-1]
        frames = place.frames
        characters: list[str] = []
        if place.pending or (len(self._places) == 1 and self._template.text is not None):
            return "", frames
        while None not in frames and not any(isinstance(frame, Prose) for frame in frames):
            legal = _legal(frames, self._template.alphabet)
            if len(legal) != 1:
                break
            (c,) = legal
            characters.append(c)
            frames = step_text(frames, c)
        return "".join(characters), frames

    def _can_cross(self, ids: list[int], back: int, frames: tuple[Frame | None, ...]) -> bool:
        """Return whether a longer token that begins with the text of the last `back` tokens is legal."""
        if self._tokens.marks.characters.keys() & set(ids[-back:]):
            return False
        tail = self._tokens.bytes_of(ids[-back:])
        crossing = self._tokens.longer_tokens(tail)
        if len(crossing) > _CROSSINGS_TRIED:
            return True
        table = self._tokens.vocabulary.token_bytes
        return any(Place(frames).after(table[i][len(tail) :]) is not None for i in crossing)


def _legal(frames: tuple[Frame | None, ...], alphabet: frozenset[str]) -> frozenset[str]:
    """Return the legal next characters at a position."""
    sets = [frame.legal(alphabet) for frame in frames if frame is not None]
    return sets[0] if len(sets) == 1 else frozenset[str]().union(*sets)
