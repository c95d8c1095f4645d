"""Costs of requests: the price list's own figures, given prices, and no figure where no price is known."""

from __future__ import annotations

import decimal
import subprocess
import sys
from decimal import Decimal
from typing import Any

import httpx
import pytest
from genai_prices import Usage, calc_price

from agentkit import Agent, FallbackModel, ModelPrice, UserError
from agentkit.messages import ModelResponse, TextPart, ToolCallPart
from agentkit.models.base import ModelRequestParameters
from agentkit.models.calibration import CalibratedModel
from agentkit.models.model_price import Prices
from agentkit.models.openai.model import OpenAICompatibleModel
from agentkit.models.prices import cost_of, models_without_price, priced_request
from agentkit.testing import ScriptedModel, TestModel
from agentkit.usage import RequestUsage
from tests.agentkit.hosted_models import OPENAI, OWN_SERVER, HostedModel, said
from tests.mcp_servers.test_missing_modules import without

pytestmark = pytest.mark.anyio

ANTHROPIC, GOOGLE = "https://api.anthropic.com/v1", "https://generativelanguage.googleapis.com/v1beta"


async def cost(
    usage: RequestUsage, name: str = "gpt-4o", base_url: str | None = OPENAI, prices: Prices | None = None
) -> Any:
    return await cost_of(HostedModel([], name, base_url), name, usage, prices or {})


@pytest.mark.parametrize(
    ("name", "base_url", "provider"),
    [
        ("gpt-4o", OPENAI, "openai"),
        ("gpt-5.6-sol", OPENAI, "openai"),
        ("gpt-4o-mini-2024-07-18", OPENAI, "openai"),
        ("claude-sonnet-4-5-20250929", ANTHROPIC, "anthropic"),
        ("claude-opus-5-5", ANTHROPIC, "anthropic"),
        ("gemini-2.5-pro", GOOGLE, "google"),
        ("deepseek-chat", "https://api.deepseek.com", "deepseek"),
    ],
)
@pytest.mark.parametrize("n_read", [1_000, 300_000])
async def test_a_listed_model_costs_what_the_list_says(
    name: str, base_url: str, provider: str, n_read: int
) -> None:
    """With 300,000 tokens the tiers for long prompts apply."""
    usage = RequestUsage(n_read, 400, 70, cache_write_tokens=300, cache_write_1h_tokens=100)
    counts = Usage(
        input_tokens=n_read,
        cache_read_tokens=400,
        cache_write_tokens=300,
        cache_write_1h_tokens=100,
        output_tokens=70,
    )
    expected = calc_price(counts, name, provider_id=provider).total_price
    assert await cost(usage, name, base_url) == expected > 0


async def test_cached_tokens_are_priced_as_such() -> None:
    """Claude Sonnet 4.5 lists $3 for input, $0.30 for reads, $3.75 and $6 for writes, $15 for output."""
    usage = RequestUsage(1_000_000, 100_000, 10_000, cache_write_tokens=300_000, cache_write_1h_tokens=100_000)
    expected = Decimal("1.80") + Decimal("0.03") + Decimal("0.75") + Decimal("0.60") + Decimal("0.15")
    plain = RequestUsage(100_000, 10_000, 1_000, cache_write_tokens=30_000, cache_write_1h_tokens=10_000)
    assert await cost(plain, "claude-sonnet-4-5", ANTHROPIC) == expected / 10
    price = ModelPrice(3, 15, 0.3, 3.75, 6)
    assert price.cost(usage) == expected


async def test_the_price_is_that_of_the_model_that_the_server_reports() -> None:
    model = HostedModel([said("hi", RequestUsage(1000, 0, 0), "gpt-4o-mini-2024-07-18")], "gpt-4o")
    response = await priced_request(model, [], ModelRequestParameters())
    assert response.usage.cost == Decimal("0.00015")


async def test_a_reply_over_http_is_priced_by_its_address_and_what_it_reports() -> None:
    details = {"cached_tokens": 1_000, "cache_write_tokens": 500}
    usage = {"prompt_tokens": 3_000, "completion_tokens": 10, "prompt_tokens_details": details}
    choice = {"message": {"content": "hi"}, "finish_reason": "stop"}
    body = {"model": "gpt-5.6-luna", "choices": [choice], "usage": usage}
    costs: list[Any] = []
    for address in (OPENAI, OWN_SERVER):
        transport = httpx.MockTransport(lambda _: httpx.Response(200, json=body))
        async with httpx.AsyncClient(transport=transport) as client:
            model = OpenAICompatibleModel("gpt-5.6", base_url=address, api_key="x", http_client=client)
            costs.append((await Agent(model).run("hi")).usage.cost)
    counts = Usage(input_tokens=3_000, cache_read_tokens=1_000, cache_write_tokens=500, output_tokens=10)
    assert costs == [calc_price(counts, "gpt-5.6-luna", provider_id="openai").total_price, None]


@pytest.mark.parametrize(
    ("name", "base_url"),
    [("gpt-99", OPENAI), ("gpt-4o", OWN_SERVER), ("gpt-4o", "http://api.openai.com/v1"), ("gpt-4o", None)],
)
async def test_a_model_without_a_price_has_no_cost(name: str, base_url: str | None) -> None:
    """A server of one's own may call its model like a hosted one."""
    assert await cost(RequestUsage(1000, 0, 10), name, base_url) is None
    assert await models_without_price(HostedModel([], name, base_url), {}) == (name,)


async def test_without_the_price_list_only_given_prices_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkit.models.prices._loaded", [])
    without(monkeypatch, "genai_prices")
    assert await cost(RequestUsage(1000, 0, 10)) is None
    given = {"gpt-4o": ModelPrice(input_per_million=1, output_per_million=2)}
    assert await cost(RequestUsage(1000, 0, 10), prices=given) == Decimal("0.00102")


async def test_a_given_price_takes_precedence_under_either_name() -> None:
    usage, price = RequestUsage(1_000_000, 0, 0), ModelPrice(7, 0)
    model = HostedModel([], "gpt-4o")
    assert await cost_of(model, "gpt-4o-2024-08-06", usage, {"gpt-4o": price}) == 7
    assert await cost_of(model, "gpt-4o-2024-08-06", usage, {"gpt-4o-2024-08-06": price}) == 7
    assert await cost_of(TestModel(), "test", usage, {"test": price}) == 7
    assert await cost_of(TestModel(), "test", usage, {}) == 0


@pytest.mark.parametrize(
    ("usage", "same_as"),
    [
        (RequestUsage(100, 300, 0), RequestUsage(300, 300, 0)),
        (RequestUsage(0, 0, 5, cache_write_1h_tokens=9), RequestUsage(9, 0, 5, 9, 9)),
    ],
)
async def test_counts_that_contradict_each_other_make_no_request_cheaper(
    usage: RequestUsage, same_as: RequestUsage
) -> None:
    assert await cost(usage) == await cost(same_as)
    assert ModelPrice(1, 2, 0.5, 1, 2).cost(usage) == ModelPrice(1, 2, 0.5, 1, 2).cost(same_as)


async def test_absurd_counts_of_a_server_are_no_error() -> None:
    assert (await cost(RequestUsage(10**4000, 0, 1))) > 0
    assert ModelPrice(1, 1).cost(RequestUsage(10**4000, 0, 1)) > 0


def test_sums_are_exact_whatever_precision_the_application_has_set() -> None:
    with decimal.localcontext(decimal.Context(prec=3)):
        one = RequestUsage(123_456, 0, 7, cost=ModelPrice(0.15, 0.6).cost(RequestUsage(123_456, 0, 7)))
        assert str(one.cost) == "0.0185226"
        assert str(one.plus(one).cost) == "0.0370452"


@pytest.mark.parametrize("amount", [-1, float("nan"), "much", True, Decimal("inf"), None, [1]])
def test_a_price_that_is_no_amount_is_refused(amount: Any) -> None:
    if amount is None:
        assert ModelPrice(1, 1, amount).cache_read_per_million is None
        return
    with pytest.raises(UserError, match=r"ModelPrice\(input_per_million=...\) = .*: an amount in US dollars"):
        ModelPrice(amount, 1)


@pytest.mark.parametrize("prices", [[1], ModelPrice(1, 1), {"x": 3}])
def test_prices_that_are_no_mapping_of_prices_are_refused(prices: Any) -> None:
    with pytest.raises(UserError, match=r"^prices=.*write prices=\{\"my-model\": ModelPrice"):
        Agent(TestModel(), prices=prices)


def test_a_float_counts_as_it_is_written() -> None:
    assert ModelPrice(0.1, 0.3) == ModelPrice(Decimal("0.1"), Decimal("0.3"))


# -- several models as one ------------------------------------------------------------------


def unsure() -> ModelResponse:
    part = ToolCallPart("look", "{}", "call_1", probability=0.4)
    return ModelResponse((part,), RequestUsage(1_000_000, 0, 0), "gpt-4o-mini")


async def test_of_several_models_each_reply_has_the_price_of_its_model() -> None:
    small = HostedModel([unsure()], "gpt-4o-mini")
    large = HostedModel([said("sure", RequestUsage(1_000_000, 0, 0), "gpt-4o")], "gpt-4o")
    response = await FallbackModel(small, large, min_confidence=0.9).request([], ModelRequestParameters())
    assert response.usage.cost == Decimal("0.15") + Decimal("2.5")


async def test_a_free_model_in_front_costs_nothing() -> None:
    local = ScriptedModel([unsure()])
    large = HostedModel([said("sure", RequestUsage(1_000_000, 0, 0), "gpt-4o")])
    response = await FallbackModel(local, large, min_confidence=0.9).request([], ModelRequestParameters())
    assert (response.usage.cost, response.usage.input_tokens) == (Decimal("2.5"), 2_000_000)


async def test_a_reply_without_price_makes_the_sum_unknown_and_the_answer_is_not_charged_for_it() -> None:
    small = HostedModel([unsure()], "own", OWN_SERVER)
    large = HostedModel([said("sure", RequestUsage(1_000_000, 0, 0), "gpt-4o")])
    model = FallbackModel(small, large, min_confidence=0.9)
    assert (await priced_request(model, [], ModelRequestParameters())).usage.cost is None
    assert await models_without_price(model, {}) == ("own",)


async def test_a_model_that_wraps_another_is_priced_as_that_one() -> None:
    inner = HostedModel([said("hi", RequestUsage(1_000_000, 0, 0))])
    model = CalibratedModel(FallbackModel(inner, TestModel()))
    response = await priced_request(model, [], ModelRequestParameters())
    assert response.usage.cost == Decimal("2.5")
    assert await models_without_price(model, {}) == ()


def test_the_price_list_is_only_imported_when_a_price_is_needed() -> None:
    program = (
        "import sys\n"
        "from agentkit import Agent, UsageLimits\n"
        "from agentkit.testing import TestModel\n"
        "Agent(TestModel(), limits=UsageLimits(cost_limit=1)).run_sync('hi')\n"
        "assert 'genai_prices' not in sys.modules\n"
        "from agentkit import ModelPrice, ModelResponse, RequestUsage\n"
        "from tests.agentkit.hosted_models import HostedModel, said\n"
        "agent = Agent(HostedModel([said('hi', RequestUsage(1000, 0, 0))]))\n"
        "assert str(agent.run_sync('hi').usage.cost) == '0.0025'\n"
        "assert 'genai_prices.data' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_the_text_of_a_reply_is_kept() -> None:
    model = HostedModel([said("hi", RequestUsage(1000, 0, 0))])
    response = await priced_request(model, [], ModelRequestParameters())
    assert response.parts == (TextPart("hi"),)
