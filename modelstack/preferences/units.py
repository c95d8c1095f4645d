"""What a preference loss is trained on as arrays of tokens: units of two documents each.

A unit of a loss on pairs is a prompt with the chosen and with the rejected reply. A unit of a loss on single
completions is a prompt with its own reply, desirable or not, and with the reply of another one, by which KTO
estimates how far the policy has gone anyway: the one before it among those of its kind, so it is the same in each
epoch and the reference's log-probability of it can be computed once (as TRL does; the paper draws within a batch).

Letters: U units, D = 2 U documents: the first of all units, then the second of all.
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
    """U units."""

    form: Form
    ids: NDArray[np.int32]
    """Of all documents, one behind the other."""
    is_target: NDArray[np.bool_]
    """Which of the ids belong to a reply."""
    offsets: NDArray[np.int64]
    """Where each document begins in those, [D + 1]."""
    is_desirable: NDArray[np.bool_]
    """Of single completions, [U]; of pairs all True: the first is the chosen one."""
    source_of: NDArray[np.int64]
    """[U]."""
    sources: tuple[str, ...]
    n_dropped: Mapping[str, int]
    """By source, preferences that were longer than a row, or not of the form."""

    def __len__(self) -> int:
        """Return U."""
        return len(self.is_desirable)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the tokens of each unit's longer document, [U]: what its two rows are as long as."""
        return np.diff(self.offsets).reshape(2, -1).max(0)

    @property
    def n_variants(self) -> int:
        """Return 1: a unit is the same in every epoch."""
        return 1

    def document(self, unit: int, second: bool) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return ids of one of a unit's documents, and which of them belong to the reply."""
        number = unit + second * len(self)
        place = slice(self.offsets[number], self.offsets[number + 1])
        return self.ids[place], self.is_target[place]

    def fingerprint(self) -> str:
        """Return a SHA-256 over everything."""
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
        preferences: By source.
        form: Pairs, or single completions: of a pair both sides, each with its thumb.
        encoder: The model's.
        row_tokens: Units with a longer document are dropped, and counted.
        options: Of rendering; what tokens weigh does not count here.

    Raises:
        UserError: A conversation cannot be rendered, or no unit of a source is left.
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
                f"{source}: none of {n_dropped[source]} preferences is of the form {form!r} and fits a row of "
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
            other = of_kind[i - 1]  # of the first one the last; of an only one itself
            ids = [*document.ids[: document.n_prompt], *other.ids[other.n_prompt :]]
            found.append((document, _Document(ids[:row_tokens], document.n_prompt), desirable))
    return found, n_dropped


def _rendered(
    preference: Preference, reply: Reply, encoder: ChatEncoder, options: RenderOptions | None
) -> _Document:
    rendered = render(preference.example(reply), encoder, options)
    n = len(rendered.ids) - rendered.labels_at[::-1].index(True)  # nothing is learnt from what stands behind
    labels = rendered.labels_at[:n]
    return _Document(rendered.ids[:n], labels.index(True))
