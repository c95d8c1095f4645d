"""Time, energy, money; rates; mixtures against dense models."""

import pytest

from modelstack.architecture.counts.parameters import count_parameters
from modelstack.architecture.presets.registry import published
from modelstack.decide.budget import (
    Utilisation,
    bill,
    cache_by_context,
    compare_mixture,
    decode_ceiling,
    embedding_share,
    hour_rates,
    law_parameters,
    money_rates,
    non_embedding_parameters,
)
from modelstack.decide.devices import DEVICES
from modelstack.decide.scaling_laws import BESIROGLU
from modelstack.errors import UserError

H100, CPU = DEVICES["h100"], DEVICES["cpu-2-threads"]


def test_a_bill_is_flops_over_what_the_devices_reach() -> None:
    found = bill(989e12 * 0.4 * 3600 * 16, H100, "bf16", 0.4, n_devices=8)
    assert found.hours == pytest.approx(2)
    assert found.device_hours == pytest.approx(16)
    assert found.energy_kwh == pytest.approx(16 * 0.7)
    assert found.usd == pytest.approx(16 * 2.69)


def test_llama_3_405b_costs_about_the_hours_that_were_reported() -> None:
    # 3.8e25 FLOPs at 38 to 43 % of bf16: the model card says 30.84 million H100 hours.
    found = bill(3.8e25, H100, "bf16", 0.38)
    assert found.device_hours == pytest.approx(30.84e6, rel=0.12)


def test_rates_are_the_price_of_one_flop_at_its_utilisation() -> None:
    used = Utilisation(training=0.5, prompt=0.25, output=0.01)
    rates = money_rates(H100, DEVICES["a100"], "bf16", used)
    assert rates.training == pytest.approx(2.69 / 3600 / (989e12 * 0.5))
    assert rates.prompt == pytest.approx(1.39 / 3600 / (312e12 * 0.25))
    assert rates.output == pytest.approx(25 * rates.prompt)
    hours = hour_rates(H100, H100, "bf16", used, 4, 2)
    assert hours.prompt == pytest.approx(4 * hours.training)


def test_free_devices_have_no_price_to_plan_with() -> None:
    with pytest.raises(UserError, match="'h100' has no price"):
        money_rates(H100.model_copy(update={"usd_per_hour": 0.0}), H100, "bf16", Utilisation())


@pytest.mark.parametrize(("n", "share", "message"), [(0, 0.4, "n_devices 0"), (1, 0, "must lie"), (1, 2, "2")])
def test_a_bill_that_cannot_be_is_refused(n: int, share: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        bill(1e18, H100, "bf16", share, n)


def test_decoding_more_sequences_together_uses_a_device_better() -> None:
    llama = published("llama-3-8b")
    ceilings = [decode_ceiling(llama, H100, 2048, batch) for batch in (1, 8, 64)]
    assert ceilings == sorted(ceilings)
    # One sequence: about one FLOP a byte of bf16 weights.
    assert ceilings[0] == pytest.approx(3.35e12 / 989e12, rel=0.1)


def test_a_mixture_costs_as_its_active_and_is_stored_as_all_parameters() -> None:
    moe = published("qwen3-30b-a3b")
    found = compare_mixture(moe, 1e12, BESIROGLU)
    assert (found.n_active, found.n_total) == (law_parameters(moe), count_parameters(moe).total)
    assert found.training_flops_per_token == found.as_active.training_flops_per_token == 6 * found.n_active
    assert found.weight_bytes_bf16 == pytest.approx(found.as_total.weight_bytes_bf16, rel=1e-3)
    assert found.as_total.loss < found.as_active.loss
    with pytest.raises(UserError, match="has no experts"):
        compare_mixture(published("nano-9m"), 1e9, BESIROGLU)


def test_embeddings_are_told_apart() -> None:
    nano, llama = published("nano-9m"), published("llama-3-8b")
    assert count_parameters(nano).total - non_embedding_parameters(nano) == 16384 * 256
    assert count_parameters(llama).total - non_embedding_parameters(llama) == 2 * 128256 * 4096
    assert embedding_share(nano) == pytest.approx(16384 * 256 / count_parameters(nano).total)


def test_caches_are_listed_up_to_the_context() -> None:
    found = cache_by_context(published("llama-3-8b"), 6000)
    assert list(found) == [512, 1024, 2048, 4096, 6000]
    assert found[6000] == 6000 * 131072
