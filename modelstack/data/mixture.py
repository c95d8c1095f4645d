"""Which document comes next: each source in its own seeded order, sources by the largest deficit.

The next document is of the source whose tokens lag furthest behind its weight. No draw is random, so the shares
stay within one document of the weights at every moment, and the state is two counts for each source: how many
documents it has given, which is its epoch and position, and how many tokens. Sources of unequal size come round
at different times; `epochs` says how often (past four, a repeated document teaches little: Muennighoff et al.
2023, arXiv 2305.16264).

The end of a training may have weights of its own (Hu et al. 2024, MiniCPM, arXiv 2404.06395). Each source goes on
where it stood, so its documents still come equally often; deficits are counted anew, from the change on.
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
"""The one stream of a corpus that has no weights: every document once in an epoch."""


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
        """Give each source of a weight its order; without weights, all documents one order.

        Args:
            lengths: In tokens, of each variant of each document: first of all documents, then of all once more.
            source_of: Of each document.
            sources: Their names.
            weights: Shares of the tokens.
            seed: Of the orders.
            n_variants: A document is another variant of itself each time its source comes round.
            anneal_weights: Shares of the tokens at the end.

        Raises:
            UserError: The weights are not one for each source, or cannot be shares, or only the end has some.
        """
        self._anneal_weights: dict[str, float] = {}
        if weights is None:
            if anneal_weights is not None:
                raise UserError("anneal weights without weights: name the shares of the time before them too")
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
        """Return the next document, of the end's weights where it is annealing and there are some."""
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
        """Return each source's share of the tokens drawn so far."""
        total = sum(self._n_tokens.values())
        return {name: n_tokens / total if total else 0.0 for name, n_tokens in self._n_tokens.items()}

    def epochs(self) -> dict[str, float]:
        """Return how often each source has been gone through."""
        return {name: n_drawn / len(self._documents[name]) for name, n_drawn in self._n_drawn.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        state = {"n_drawn": dict(self._n_drawn), "n_tokens": dict(self._n_tokens)}
        return state | ({"n_annealed": dict(self._n_annealed)} if self._anneal_weights else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state of the same data and weights; those of the end may be others, if it had not begun."""
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
    """Return the shares of the sources that are drawn from."""
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
