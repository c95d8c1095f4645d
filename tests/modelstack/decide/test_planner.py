"""Plans: budgets are spent, demand shrinks the model, what does not fit is said."""

import pytest

from modelstack.architecture.counts.parameters import count_parameters
from modelstack.architecture.presets.registry import published
from modelstack.decide.plan_file import Plan, PlanRequest, request_of
from modelstack.decide.planner import plan
from modelstack.decide.scaling_laws import BESIROGLU
from modelstack.decide.shapes import dense_shape
from modelstack.errors import UserError


def planned(**values: object) -> Plan:
    request = request_of(**values)
    return plan(request, published(request.preset) if request.preset else None)


def test_a_budget_of_flops_gives_the_compute_optimal_model() -> None:
    found, best = planned(budget_flops=1e20, device="h100", vocab_size=32768), BESIROGLU.optimum(1e20)
    assert found.model.n_parameters == pytest.approx(best.n_parameters, rel=0.1)
    assert found.training_flops == pytest.approx(1e20)
    assert found.n_tokens == pytest.approx(found.training_flops / 6 / found.model.n_active, rel=0.01)
    assert found.loss == pytest.approx(found.expected[0].best_loss, rel=1e-3)
    assert [each.law.name for each in found.expected] == ["besiroglu", "hoffmann", "hoffmann-printed"]
    assert not found.warnings and found.fits


def test_served_tokens_make_the_model_smaller_and_stay_in_the_budget() -> None:
    alone = planned(budget_flops=1e20, device="h100")
    served = planned(budget_flops=1e20, device="h100", tokens_served=1e10)
    assert served.model.n_parameters < alone.model.n_parameters
    assert served.total_cost == pytest.approx(1e20)
    assert sum(each.flops for each in (served.training, *served.serving)) == pytest.approx(1e20)
    ignoring = next(each for each in served.alternatives if "serving ignored" in each.name)
    assert ignoring.total_cost > served.total_cost


def test_hours_are_the_hours_of_the_devices() -> None:
    found = planned(hours=2, device="h100", n_devices=8, tokens_served=1e8, prompt_tokens=3, output_tokens=1)
    assert found.training.hours + sum(each.hours for each in found.serving) == pytest.approx(2)
    prompts, outputs = found.serving
    assert prompts.flops == pytest.approx(3 * outputs.flops)
    assert found.layout.n_devices == 8


def test_money_is_spent_on_training_and_serving() -> None:
    found = planned(money=500, device="h100", serving_device="rtx4090", n_devices=8, tokens_served=1e9)
    assert found.cost_unit == "USD"
    assert found.training.usd + sum(each.usd for each in found.serving) == pytest.approx(500)
    assert {each.device for each in found.serving} == {"rtx4090"}


def test_a_quality_is_reached_for_less_than_the_compute_optimal_model_costs() -> None:
    found = planned(quality_of=1e9, device="h100", n_devices=8, tokens_served=1e12, vocab_size=32768)
    asked = BESIROGLU.optimum_of_size(1e9)
    assert found.loss == pytest.approx(BESIROGLU.loss(asked.n_parameters, asked.n_tokens))
    assert found.model.n_parameters < 1e9
    ignoring = next(each for each in found.alternatives if "serving ignored" in each.name)
    assert found.total_cost < ignoring.total_cost


def test_a_preset_is_trained_on_what_the_budget_leaves() -> None:
    found = planned(hours=0.3, preset="nano-9m", context=256)
    assert found.model.config == published("nano-9m")
    assert found.training.hours == pytest.approx(0.3)
    assert "extrapolated" in found.warnings[0] and "--runs" in found.warnings[0]
    assert found.n_tokens == found.schedule.n_steps * found.sequences_per_batch * 256


def test_a_mixture_is_planned_by_its_active_parameters() -> None:
    found = planned(hours=1, preset="nano-moe-24m", context=512)
    config = published("nano-moe-24m")
    assert found.mixture is not None and found.mixture.n_total == count_parameters(config).total
    assert found.training_flops == pytest.approx(6 * found.mixture.n_active * found.n_tokens, rel=0.01)
    assert any("dense model of the active size" in each for each in found.warnings)


def test_batch_and_rate_follow_step_law_within_its_grid() -> None:
    large = planned(budget_flops=1e21, device="h100", n_devices=8)
    D, N = large.n_tokens, large.model.n_non_embedding
    assert large.learning_rate.value == pytest.approx(1.79 * N**-0.713 * D**0.307, rel=0.01)
    assert large.batch_tokens.value == pytest.approx(0.58 * D**0.571, rel=0.02)
    assert large.sequences_per_batch % 8 == 0
    assert planned(budget_flops=1e15).learning_rate.value == 2**-7
    assert "2503.04715" in large.learning_rate.source


def test_a_schedule_warms_up_and_decays_within_its_steps() -> None:
    schedule = planned(budget_flops=1e21, device="h100", n_devices=8).schedule
    assert 0 < schedule.warmup_steps <= 2000
    assert schedule.decay_steps == pytest.approx(0.2 * schedule.n_steps, abs=1)


def test_activations_are_checkpointed_only_when_they_must_be() -> None:
    small = planned(budget_flops=1e20, device="h100")
    assert small.layout.checkpointing == "none" and small.layout.micro_batch > 1
    large = planned(budget_flops=1e23, device="h100", n_devices=256, context=16384, preset="llama-3-8b")
    assert large.layout.checkpointing == "full" and large.fits
    alone = planned(budget_flops=1e23, device="h100", preset="llama-3-8b")
    assert not alone.fits
    assert any("take more devices (--devices)" in each for each in alone.warnings)


def test_a_layout_asked_for_is_kept() -> None:
    layout = {"shard": 8, "tp": 8, "replicate": 2, "checkpointing": "full"}
    found = planned(budget_flops=1e23, device="h100", n_devices=128, layout=layout, preset="llama-3-8b")
    assert found.layout.tp == 8 and found.sequences_per_batch % 16 == 0


def test_other_devices_are_compared_on_the_same_training() -> None:
    found = planned(budget_flops=1e20, device="h100")
    assert {each.device for each in found.elsewhere} == {"h200", "b200", "a100", "rtx4090", "cpu-2-threads"}
    assert all(each.flops == found.training_flops for each in found.elsewhere)
    fp8 = planned(budget_flops=1e20, device="h100", precision="fp8")
    assert {each.device for each in fp8.elsewhere} == {"h200", "b200", "rtx4090"}


@pytest.mark.parametrize("n_parameters", [3e6, 3e7, 1.3e8, 1e9, 7e9, 7e10, 4e11])
def test_a_shape_is_near_the_size_asked(n_parameters: float) -> None:
    found = dense_shape(n_parameters, 16384 if n_parameters < 1e9 else 128000, 2048)
    assert count_parameters(found).total == pytest.approx(n_parameters, rel=0.15)
    assert found.hidden_size == found.num_attention_heads * found.head_dim


@pytest.mark.parametrize("n_parameters", [3e9, 7e10, 4e11])
def test_heads_of_a_large_shape_divide_among_four_devices(n_parameters: float) -> None:
    assert dense_shape(n_parameters, 128000, 2048).num_attention_heads % 4 == 0


def test_a_size_below_every_shape_is_refused() -> None:
    with pytest.raises(UserError, match="no dense shape with a vocabulary of 16,384"):
        dense_shape(1e5, 16384, 2048)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "exactly one of budget_flops, hours, money, quality_of"),
        ({"hours": 1, "money": 1}, "exactly one of"),
        ({"hours": -1}, "hours: Input should be greater than 0"),
        ({"hours": 1, "tokens_served": 1, "prompt_tokens": 0, "output_tokens": 0}, "cannot be split"),
        ({"hours": 1, "layout": {"shard": 2}}, "layout takes 2 devices, n_devices is 1"),
    ],
)
def test_a_request_that_cannot_be_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        request_of(**values)


def test_a_preset_whose_serving_eats_the_budget_is_refused() -> None:
    with pytest.raises(UserError, match="nothing is left for training"):
        planned(budget_flops=1e15, preset="nano-110m", tokens_served=1e9)


def test_a_run_shorter_than_a_batch_is_refused() -> None:
    with pytest.raises(UserError, match="fewer than one batch"):
        planned(budget_flops=1e12, preset="nano-9m", n_devices=16)


def test_requests_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        PlanRequest(hours=1).hours = 2  # pyright: ignore[reportAttributeAccessIssue]
