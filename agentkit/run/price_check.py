"""Check of a run with a cost limit: the price of every model must be known before the first request."""

from __future__ import annotations

from typing import Any

from agentkit.errors import UserError
from agentkit.models.prices import models_without_price
from agentkit.run.setup import RunSetup
from agentkit.run.state import RunState


async def check_prices(setup: RunSetup[Any, Any], state: RunState) -> None:
    """Check that all requests of a run can be priced: those of its agents and compactions, and the earlier ones.

    Raises:
        UserError: a price is not known; names the model and the fix.
    """
    members = () if setup.team is None else tuple(member.setup for member in setup.team.others.values())
    for each in (setup, *members):
        prices = {**setup.prices, **each.prices}
        summarising = getattr(each.compaction, "model", None)
        for model in (each.model, summarising):
            if model is not None and (names := await models_without_price(model, prices)):
                price = f"{{{names[0]!r}: ModelPrice(input_per_million=..., output_per_million=...)}}"
                raise UserError(
                    f"cost_limit: the price of model {names[0]!r} is not known, so the limit could not be held. "
                    f"Give it with Agent(prices={price}), install the extra `cost` for the price list, or set no "
                    f"cost_limit."
                )
    if state.usage.cost is None:
        raise UserError(
            f"cost_limit: run {state.run_id} has {state.usage.requests - state.usage.priced_requests} earlier "
            f"requests whose cost is not known, so the limit could not be held; resume it without a cost_limit."
        )
