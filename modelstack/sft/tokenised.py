"""All examples of a run as arrays of tokens, each in several variants.

Everything is rendered before the first step. An invalid example therefore stops a run before it has cost anything,
and the lengths are known for planning rows and for the size of an epoch. A thousand examples take about a second.

Letters: E examples, V variants, N = E * V documents: first variants of all examples, then second variants, and so
on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelstack.data.examples import Example
from modelstack.errors import UserError
from modelstack.sft.augment import NOTHING, AugmentConfig, augment
from modelstack.sft.rendering import Rendered, RenderOptions, render
from modelstack.tokenizer.chat import ChatEncoder


@dataclass(frozen=True, slots=True, eq=False)
class Tokenised:
    """Token ids and weights of N documents; tokens after a document's last target are left out."""

    ids: NDArray[np.int32]
    """Token ids of all documents, concatenated."""
    weights: NDArray[np.float32]
    """Weight in the loss of predicting each id; 0: not a target."""
    offsets: NDArray[np.int64]
    """Start of each document in `ids`, and the end of the last one, [N + 1]."""
    source_of: NDArray[np.int64]
    """Number of each example's source, [E]."""
    sources: tuple[str, ...]
    n_dropped: Mapping[str, int]
    """Number of examples by source that were longer than a row in any variant."""

    @property
    def n_examples(self) -> int:
        """Number of examples, E."""
        return len(self.source_of)

    @property
    def n_variants(self) -> int:
        """Number of variants, V."""
        return (len(self.offsets) - 1) // max(self.n_examples, 1)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document in a row, [N]; its last token is only a label."""
        return np.diff(self.offsets) - 1

    @property
    def are_weights_one(self) -> bool:
        """Whether all targets have weight 1."""
        return bool(np.isin(self.weights, (0, 1)).all())

    def document(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return token ids and weights of a document."""
        place = slice(self.offsets[number], self.offsets[number + 1])
        return self.ids[place], self.weights[place]

    def fingerprint(self) -> str:
        """Return the SHA-256 of all content."""
        digest = hashlib.sha256(repr((self.sources, sorted(self.n_dropped.items()))).encode())
        for array in (self.ids, self.weights, self.offsets, self.source_of):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def tokenise(
    examples: Mapping[str, Iterable[Example]],
    encoder: ChatEncoder,
    *,
    row_tokens: int,
    options: RenderOptions | None = None,
    augmentation: AugmentConfig = NOTHING,
    seed: int = 0,
    n_variants: int = 1,
) -> Tokenised:
    """Render all examples.

    Args:
        examples: Examples by source; shares refer to these names.
        encoder: Encoder of the model's chat format.
        row_tokens: Maximum tokens of an example; longer ones are dropped and counted.
        options: Options of rendering.
        augmentation: Changes of each variant.
        seed: Seed of the augmentation.
        n_variants: Number of variants, V; use 1 without augmentation.

    Raises:
        UserError: An example cannot be rendered, or no example of a source fits a row.
    """
    variants: list[list[Rendered]] = [[] for _ in range(n_variants)]
    source_of: list[int] = []
    n_dropped = dict.fromkeys(examples, 0)
    for number, (source, several) in enumerate(examples.items()):
        for example in several:
            rendered = [
                _to_last_target(render(augment(example, augmentation, seed, v), encoder, options))
                for v in range(n_variants)
            ]
            if any(len(each.ids) - 1 > row_tokens for each in rendered):
                n_dropped[source] += 1
                continue
            source_of.append(number)
            for v, each in enumerate(rendered):
                variants[v].append(each)
    for number, source in enumerate(examples):
        if number not in source_of:
            raise UserError(
                f"none of the {n_dropped[source]} examples of {source!r} fits a row of {row_tokens} tokens; "
                f"raise row_tokens, or leave the source out"
            )
    return _joined([each for variant in variants for each in variant], source_of, tuple(examples), n_dropped)


def _to_last_target(rendered: Rendered) -> Rendered:
    n = len(rendered.ids) - rendered.labels_at[::-1].index(True)
    return Rendered(rendered.ids[:n], rendered.labels_at[:n], rendered.weights[:n])


def _joined(
    documents: Sequence[Rendered], source_of: Sequence[int], sources: tuple[str, ...], n_dropped: Mapping[str, int]
) -> Tokenised:
    offsets = np.zeros(len(documents) + 1, np.int64)
    np.cumsum([len(document.ids) for document in documents], out=offsets[1:])
    ids, weights = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
    for document, start, end in zip(documents, offsets, offsets[1:], strict=False):
        ids[start:end], weights[start:end] = document.ids, document.weights
    return Tokenised(ids, weights, offsets, np.array(source_of, np.int64), sources, n_dropped)
