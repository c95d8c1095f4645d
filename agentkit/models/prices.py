"""Cost of requests in US dollars, by given prices or by the list of genai-prices.

The list is a package (extra `cost`) with its data inside; nothing is read over the network. It is imported in a
worker thread when the first request has to be priced. It knows cache reads and writes, tiers for long prompts,
prices that begin at a date, and off-peak hours. It is asked by the address of the request and by the model's name
as the server reports it. So a server of one's own has no price by accident of a name, and of several models the
one that answered is priced.

Not priced: batch, flex, priority and fast modes (they count at the standard rate), searches and other tools that a
provider runs, and replies that were cut off before their usage arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from importlib.util import find_spec
from typing import TYPE_CHECKING

from agentkit.messages import ModelMessage, ModelResponse
from agentkit.models.base import Model, ModelRequestParameters, OnDelta
from agentkit.models.model_price import Prices, consistent
from agentkit.usage import NO_COST, RequestUsage

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot


async def priced_request(
    model: Model,
    messages: Sequence[ModelMessage],
    parameters: ModelRequestParameters,
    *,
    on_delta: OnDelta | None = None,
) -> ModelResponse:
    """Ask a model; return its response with the cost in `usage.cost`, if the price is known.

    Raises:
        ModelError: see `Model.request`.
    """
    response = await model.request(messages, parameters, on_delta=on_delta)
    if response.usage.cost is not None or model.answering_models != (model,):
        return response  # a model that asks others has priced their replies, as far as it is possible
    cost = await cost_of(model, response.model_name, response.usage, parameters.prices)
    return response if cost is None else replace(response, usage=replace(response.usage, cost=cost))


async def cost_of(model: Model, reported_name: str, usage: RequestUsage, prices: Prices) -> Decimal | None:
    """Return the cost of a request to a model that reports its name; None if the price is not known."""
    given = prices.get(reported_name) or prices.get(model.name)
    if given is not None:
        return given.cost(usage)
    if model.is_free:
        return NO_COST
    if model.base_url is None or (listed := await _price_list()) is None:
        return None
    from genai_prices import Usage

    usage = consistent(usage)
    counts = Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        output_tokens=usage.output_tokens,
    )
    try:
        return listed.calc(counts, reported_name or model.name, None, model.base_url, None).total_price
    except (LookupError, ValueError):  # not in the list, or with units that no usage reports
        return None


async def models_without_price(model: Model, prices: Prices) -> tuple[str, ...]:
    """Return the names of the models behind `model` whose requests could not be priced."""
    some = RequestUsage(input_tokens=1, output_tokens=1)
    models = model.answering_models
    return tuple([each.name for each in models if await cost_of(each, each.name, some, prices) is None])


async def _price_list() -> DataSnapshot | None:
    """Return the price list, imported in a worker thread; None if its package is not installed.

    An application that wants newer prices than those of the package starts `genai_prices.UpdatePrices` itself.
    """
    if not _loaded:
        if find_spec("genai_prices") is None:
            return None
        from anyio.to_thread import run_sync

        await run_sync(_load)
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot()


_loaded: list[bool] = []
"""Not empty once the list is loaded."""


def _load() -> None:
    from genai_prices.data_snapshot import get_snapshot

    get_snapshot()
    _loaded.append(True)
