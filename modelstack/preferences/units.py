"""Preferences as arrays of tokens: units of two documents each.

For losses on pairs, a unit is a prompt with its chosen reply and the same prompt with its rejected reply. For
losses on single completions, a unit is a prompt with its own reply, and the same prompt with the reply of another
unit. KTO uses the second document to estimate the divergence of the policy from the reference. The other unit is
the previous one with the same label, so it is the same in each epoch, and the reference scores it once. TRL does
the same; the paper draws the other unit within a batch.

Letters: U units, D = 2 U documents: the first documents of all units, then the second documents of all units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modelstack.errors import UserError
from modelstack.preferences.examples import Preference, Reply
from modelstack.sft.rendering import RenderOptions, render
from modelstack.tokenizer.chat import ChatEncoder

Form = Literal["pairs", "single"]


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """U units of two documents."""

    form: Form
    ids: NDArray[np.int32]
    """Token ids of all documents, concatenated."""
    is_target: NDArray[np.bool_]
    """Mask of the token ids that belong to a reply."""
    offsets: NDArray[np.int64]
    """Start of each document in `ids`, and the end of the last one, [D + 1]."""
    is_desirable: NDArray[np.bool_]
    """Whether each single completion is desirable, [U]; True for pairs, whose first document is the chosen one."""
    source_of: NDArray[np.int64]
    """Number of each unit's source, [U]."""
    sources: tuple[str, ...]
    n_dropped: Mapping[str, int]
    """Number of preferences by source that were longer than a row or of the other form."""

    def __len__(self) -> int:
        """Return the number of units, U."""
        return len(self.is_desirable)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each unit's longer document, [U]."""
        return np.diff(self.offsets).reshape(2, -1).max(0)

    @property
    def n_variants(self) -> int:
        """Number of variants of a unit: 1, because a unit is the same in every epoch."""
        return 1

    def document(self, unit: int, second: bool) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return the token ids of one of a unit's documents, and the mask of its reply."""
        number = unit + second * len(self)
        place = slice(self.offsets[number], self.offsets[number + 1])
        return self.ids[place], self.is_target[place]

    def fingerprint(self) -> str:
        """Return the SHA-256 of all content."""
        digest = hashlib.sha256(repr((self.form, self.sources, sorted(self.n_dropped.items()))).encode())
        for array in (self.ids, self.is_target, self.offsets, self.is_desirable, self.source_of):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Document:
    ids: list[int]
    n_prompt: int


def units_of(
    preferences: Mapping[str, Iterable[Preference]],
    form: Form,
    encoder: ChatEncoder,
    *,
    row_tokens: int,
    options: RenderOptions | None = None,
) -> Units:
    """Render all preferences.

    Args:
        preferences: Preferences by source.
        form: Form of the units. For single completions, each side of a pair becomes a unit.
        encoder: Encoder of the model's chat format.
        row_tokens: Maximum tokens of a document; units with a longer one are dropped and counted.
        options: Options of rendering; weights of tokens are ignored.

    Raises:
        UserError: A conversation cannot be rendered, or a source has no usable preference.
    """
    firsts: list[_Document] = []
    seconds: list[_Document] = []
    is_desirable: list[bool] = []
    source_of: list[int] = []
    n_dropped = dict.fromkeys(preferences, 0)
    for number, (source, several) in enumerate(preferences.items()):
        if form == "pairs":
            found, n_dropped[source] = _pairs(several, encoder, row_tokens, options)
        else:
            found, n_dropped[source] = _singles(several, encoder, row_tokens, options)
        if not found:
            raise UserError(
                f"{source}: none of {n_dropped[source]} preferences has the form {form!r} and fits a row of "
                f"{row_tokens} tokens; raise row_tokens, choose another loss, or leave the file out"
            )
        for first, second, desirable in found:
            firsts.append(first)
            seconds.append(second)
            is_desirable.append(desirable)
            source_of.append(number)
    documents = [*firsts, *seconds]
    offsets = np.cumsum([0, *(len(document.ids) for document in documents)], dtype=np.int64)
    ids, is_target = np.empty(offsets[-1], np.int32), np.ones(offsets[-1], np.bool_)
    for document, start in zip(documents, offsets, strict=False):
        ids[start : start + len(document.ids)] = document.ids
        is_target[start : start + document.n_prompt] = False
    return Units(
        form,
        ids,
        is_target,
        offsets,
        np.array(is_desirable, np.bool_),
        np.array(source_of, np.int64),
        tuple(preferences),
        n_dropped,
    )


_Found = list[tuple[_Document, _Document, bool]]


def _pairs(
    preferences: Iterable[Preference], encoder: ChatEncoder, row_tokens: int, options: RenderOptions | None
) -> tuple[_Found, int]:
    found: _Found = []
    n_dropped = 0
    for preference in preferences:
        if preference.chosen is None or preference.rejected is None:
            n_dropped += 1
            continue
        chosen, rejected = (
            _rendered(preference, reply, encoder, options) for reply in (preference.chosen, preference.rejected)
        )
        if max(len(chosen.ids), len(rejected.ids)) > row_tokens:
            n_dropped += 1
            continue
        found.append((chosen, rejected, True))
    return found, n_dropped


def _singles(
    preferences: Iterable[Preference], encoder: ChatEncoder, row_tokens: int, options: RenderOptions | None
) -> tuple[_Found, int]:
    own: list[tuple[_Document, bool]] = []
    n_dropped = 0
    for preference in preferences:
        for reply, desirable in ((preference.chosen, True), (preference.rejected, False)):
            if reply is None:
                continue
            document = _rendered(preference, reply, encoder, options)
            if len(document.ids) > row_tokens:
                n_dropped += 1
            else:
                own.append((document, desirable))
    found: _Found = []
    for desirable in (True, False):
        of_kind = [document for document, each in own if each == desirable]
        for i, document in enumerate(of_kind):
            other = of_kind[i - 1]  # the last reply for the first unit; a single unit gets its own reply
            ids = [*document.ids[: document.n_prompt], *other.ids[other.n_prompt :]]
            found.append((document, _Document(ids[:row_tokens], document.n_prompt), desirable))
    return found, n_dropped


def _rendered(
    preference: Preference, reply: Reply, encoder: ChatEncoder, options: RenderOptions | None
) -> _Document:
    rendered = render(preference.example(reply), encoder, options)
    n = len(rendered.ids) - rendered.labels_at[::-1].index(True)  # tokens after the last label are not learnt
    labels = rendered.labels_at[:n]
    return _Document(rendered.ids[:n], labels.index(True))
