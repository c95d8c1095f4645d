"""Budget of an improvement: rollouts, tokens and money. Journalled rollouts count, so a resume gets no more."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, Field

from agentkit.errors import UserError
from agentkit.improve.rollout import Rollout
from agentkit.usage import dollars_text


class BudgetLimits(BaseModel, frozen=True, extra="forbid"):
    """Limits of one improvement; None means unbounded. The search stops early enough to leave the gate its share.

    The gate's tokens and money are estimated from the rollouts so far, so it may exceed these limits a little.
    """

    rollouts: int = Field(default=200, ge=1)
    """Rollouts of tasks, by whatever candidate."""
    tokens: int | None = Field(default=None, ge=1)
    """Input and output tokens of the rollouts, and of the reflection model."""
    cost: Decimal | None = Field(default=None, gt=0)
    """US dollars; a model without a known price is then refused."""


class BudgetSpent(Exception):
    """No rollout is left for the search; what was found so far counts."""


class Ledger:
    """Spent rollouts, tokens and money."""

    def __init__(self, limits: BudgetLimits, n_reserved: int) -> None:
        """Start with nothing spent; `n_reserved` rollouts are kept for the gate.

        Raises:
            UserError: nothing would be left for a search.
        """
        self._limits = limits
        self._n_reserved = n_reserved
        self.n_rollouts, self.n_tokens, self.cost = 0, 0, Decimal(0)
        if limits.rollouts <= n_reserved:
            raise UserError(
                f"budget.rollouts={limits.rollouts}: the gate alone takes {n_reserved} rollouts, two for each "
                f"held-back task; give more, or fewer held-back tasks."
            )

    def release(self) -> None:
        """Open the reserve: the search is over."""
        self._n_reserved = 0

    @property
    def n_left(self) -> int:
        """Rollouts that may still be made."""
        return self._limits.rollouts - self._n_reserved - self.n_rollouts

    def require(self, n_rollouts: int) -> None:
        """Check that a number of rollouts may be made, and the gate paid for afterwards.

        Raises:
            BudgetSpent: a limit is reached.
        """
        limits = self._limits
        if n_rollouts > self.n_left:
            raise BudgetSpent(f"{limits.rollouts} rollouts")
        if not self._n_reserved:  # the gate itself
            return
        share = 1 + self._n_reserved / max(self.n_rollouts, 1)
        if limits.tokens is not None and self.n_tokens * share >= limits.tokens:
            raise BudgetSpent(f"{limits.tokens:,} tokens")
        if limits.cost is not None and self.cost * Decimal(share) >= limits.cost:
            raise BudgetSpent(dollars_text(limits.cost))

    def add(self, rollout: Rollout) -> None:
        """Count a rollout.

        Raises:
            UserError: money is limited, and the price of the rollout is not known.
        """
        self.n_rollouts += 1
        self.add_usage(rollout.n_tokens, rollout.cost)

    def add_usage(self, n_tokens: int, cost: Decimal | None) -> None:
        """Count tokens and money, those of a reflection model too.

        Raises:
            UserError: money is limited, and the price is not known.
        """
        self.n_tokens += n_tokens
        if cost is not None:
            self.cost += cost
        elif self._limits.cost is not None and n_tokens:
            raise UserError(
                "budget.cost is set, and the price of a request is not known: install the extra `cost`, or give "
                "the agent its prices, Agent(prices={...})."
            )
