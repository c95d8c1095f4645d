"""Selection of the next document: each source in its own seeded order, sources by largest deficit.

The next document comes from the source whose tokens lag furthest behind its weight. No draw is random, so the
shares stay within one document of the weights at all times. The state is two counts per source: documents drawn,
which gives epoch and position, and tokens drawn. Sources of unequal size finish an epoch at different times;
`epochs` reports them (past four, a repeated document teaches little: Muennighoff et al. 2023, arXiv 2305.16264).

The end of a training run may have its own weights (Hu et al. 2024, MiniCPM, arXiv 2404.06395). Each source
continues in its order, so its documents still occur equally often. Deficits are counted from the change on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.data.order import Order
from modelstack.errors import UserError

ALL = "all"
"""Name of the single stream of a corpus without weights: every document once per epoch."""


class Mixture:
    """An endless sequence of documents."""

    def __init__(
        self,
        lengths: NDArray[np.int64],
        source_of: NDArray[np.int64],
        sources: tuple[str, ...],
        weights: Mapping[str, float] | None,
        seed: int,
        n_variants: int = 1,
        anneal_weights: Mapping[str, float] | None = None,
    ) -> None:
        """Create an order for each source with a weight; without weights, one order for all documents.

        Args:
            lengths: Tokens of each document, variant by variant: all documents' first variant, then the second,
                and so on.
            source_of: Index into `sources` for each document.
            sources: Names of the sources.
            weights: Shares of the tokens by source; None: no weighting.
            seed: Seed of the orders.
            n_variants: Number of variants of each document; each epoch of its source uses the next variant.
            anneal_weights: Shares of the tokens by source at the end of the run.

        Raises:
            UserError: The weights do not name every source, are not valid shares, or only `anneal_weights` is
                given.
        """
        self._anneal_weights: dict[str, float] = {}
        if weights is None:
            if anneal_weights is not None:
                raise UserError(
                    "anneal weights are given without weights; also give the weights of the time before annealing"
                )
            self._weights, self._documents = {ALL: 1.0}, {ALL: np.arange(len(source_of))}
        else:
            self._weights = _shares("weights", weights, sources)
            if anneal_weights is not None:
                self._anneal_weights = _shares("anneal weights", anneal_weights, sources)
            drawn = self._weights.keys() | self._anneal_weights.keys()
            self._documents = {
                name: np.flatnonzero(source_of == i) for i, name in enumerate(sources) if name in drawn
            }
        self._lengths = lengths
        self._seed = seed
        self._n_variants, self._n_in_all = n_variants, len(source_of)
        self._n_drawn = dict.fromkeys(self._documents, 0)
        self._n_tokens = dict.fromkeys(self._documents, 0)
        self._n_annealed = dict.fromkeys(self._anneal_weights, 0)
        self._orders: dict[tuple[str, int], Order] = {}

    def draw(self, *, annealing: bool = False) -> int:
        """Return the number of the next document, by the annealing weights if `annealing` and they exist."""
        annealing = annealing and bool(self._anneal_weights)
        weights, given = (self._anneal_weights, self._n_annealed) if annealing else (self._weights, self._n_tokens)
        total = sum(given.values())
        name = max(weights, key=lambda name: weights[name] * total - given[name])
        documents = self._documents[name]
        epoch, position = divmod(self._n_drawn[name], len(documents))
        document = int(documents[self._order(name, epoch).document(position)])
        document += epoch % self._n_variants * self._n_in_all
        self._n_drawn[name] += 1
        self._n_tokens[name] += int(self._lengths[document])
        if annealing:
            self._n_annealed[name] += int(self._lengths[document])
        return document

    def shares(self) -> dict[str, float]:
        """Return the share of each source in the tokens drawn so far."""
        total = sum(self._n_tokens.values())
        return {name: n_tokens / total if total else 0.0 for name, n_tokens in self._n_tokens.items()}

    def epochs(self) -> dict[str, float]:
        """Return the number of passes over each source so far."""
        return {name: n_drawn / len(self._documents[name]) for name, n_drawn in self._n_drawn.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of drawn documents and tokens."""
        state = {"n_drawn": dict(self._n_drawn), "n_tokens": dict(self._n_tokens)}
        return state | ({"n_annealed": dict(self._n_annealed)} if self._anneal_weights else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of the same data and weights; annealing weights may differ before annealing."""
        self._n_drawn = {name: state["n_drawn"].get(name, 0) for name in self._documents}
        self._n_tokens = {name: state["n_tokens"].get(name, 0) for name in self._documents}
        annealed = state.get("n_annealed", {})
        self._n_annealed = {name: annealed.get(name, 0) for name in self._anneal_weights}

    def _order(self, name: str, epoch: int) -> Order:
        if (name, epoch) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != name}
            self._orders[name, epoch] = Order(len(self._documents[name]), self._seed, epoch, name)
        return self._orders[name, epoch]


def _shares(key: str, weights: Mapping[str, float], sources: tuple[str, ...]) -> dict[str, float]:
    """Return the normalised shares of sources with a positive weight."""
    if set(weights) != set(sources):
        raise UserError(
            f"{key} are for {sorted(weights)}, the data has {list(sources)}; "
            f"name each source, with 0 to leave it out"
        )
    bad = next((name for name, weight in weights.items() if not (math.isfinite(weight) and weight >= 0)), None)
    if bad is not None:
        raise UserError(f"{key}: weight {weights[bad]} of {bad!r}; a weight is a number from 0 up")
    if not any(weights.values()):
        raise UserError(f"all {key} are 0; at least one source must be drawn from")
    total = sum(weights.values())
    return {name: weights[name] / total for name in sources if weights[name]}
