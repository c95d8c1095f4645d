"""Policy losses, advantages and distillation, and their gradients, are trl's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modelstack.preferences.log_probs import completion_labels, label_log_probs
from modelstack.reasoning.losses.advantages import (
    Scale,
    advantages_of,
    decoupled_advantages,
    group_advantages,
    leave_one_out_advantages,
    summed_rewards,
)
from modelstack.reasoning.losses.algorithms import ALGORITHMS, AlgorithmName
from modelstack.reasoning.losses.distillation import DistillationConfig, distillation_loss
from modelstack.reasoning.losses.policy import policy_loss
from modelstack.reasoning.losses.policy_config import (
    Cispo,
    Clip,
    KlTerm,
    PolicyConfig,
)
from modelstack.reasoning.losses.rollouts import Rollouts
from modelstack.reasoning.losses.sampler_correction import off_policy_mask
from tests.modelstack.preferences.toy_reference import compare, ours, trainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the reference: it warns of options that are asked for here
]

PROMPTS = [{"prompt": "w1 w2 w3"}, {"prompt": "w4 w5"}]
B, P, T, V = 4, 3, 8, 64


def inputs(seed: int = 0) -> dict[str, Tensor]:
    """Return a batch of completions as trl has it; policies have moved by some tenths of a nat."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(4, V, (B, P), generator=generator)
    completions = torch.randint(4, V, (B, T), generator=generator)
    mask = (torch.arange(T) < torch.tensor([8, 3, 5, 1])[:, None]).long()
    whole = torch.cat((prompts, completions), 1)
    with torch.no_grad():
        said = log_probs(whole)
    moved = [said + 0.3 * torch.randn(B, T, generator=generator) for _ in range(2)]
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": completions * mask,
        "completion_mask": mask,
        "advantages": torch.tensor([1.3, -0.4, 0.0, -2.0]),
        "old_per_token_logps": moved[0],
        "ref_per_token_logps": moved[1],
        "num_items_in_batch": mask.sum(),
    }


def log_probs(ids: Tensor, statistics: bool = False) -> Any:
    """Return what the model here says of completions, [B, T]."""
    model = ours(0)
    is_completion = torch.arange(P + T) >= P
    hidden = model(ids, with_logits=False).hidden_BTD
    labels = completion_labels(ids, is_completion.expand(ids.shape))
    found = label_log_probs(hidden, labels, model.logits, with_statistics=statistics)
    # A token is named at the position before it.
    said = [x[:, P - 1 : -1] for x in (found.log_probs_BT, found.entropy_BT) if x is not None]
    return tuple(said) if statistics else said[0]


def rollouts_of(batch: dict[str, Tensor]) -> Rollouts:
    said, entropy = log_probs(torch.cat((batch["prompt_ids"], batch["completion_ids"]), 1), statistics=True)
    mask = batch["completion_mask"] * batch.get("tool_mask", 1)
    return Rollouts(
        said,
        mask.bool(),
        batch["advantages"],
        batch.get("old_per_token_logps"),
        batch["ref_per_token_logps"],
        batch.get("importance_sampling_ratio"),
        entropy,
    )


@pytest.fixture(scope="module")
def grpo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = trainer(
        "GRPO",
        tmp_path_factory.mktemp("grpo"),
        PROMPTS,
        beta=0.0,  # else the reference is loaded by the model's name
        num_generations=2,
        max_completion_length=T,
    )
    made.current_gradient_accumulation_steps = 1
    return made


THEIRS: dict[AlgorithmName, tuple[str, str]] = {
    "grpo": ("grpo", "token"),
    "bnpo": ("bnpo", "token"),
    "dapo": ("dapo", "token"),
    "dr_grpo": ("dr_grpo", "token"),
    "gspo": ("grpo", "sequence"),
    "cispo": ("cispo", "token"),
    "sapo": ("sapo", "token"),
    "vespo": ("vespo", "token"),
    "luspo": ("luspo", "sequence"),
}
"""`loss_type` and `importance_sampling_level`."""


def compare_policy(grpo: Any, name: AlgorithmName, config: PolicyConfig, batch: dict[str, Tensor]) -> None:
    grpo.loss_type, grpo.importance_sampling_level = THEIRS[name]
    surrogate = config.surrogate
    grpo.epsilon_low = surrogate.epsilon_low if isinstance(surrogate, Clip) else 0.2
    grpo.epsilon_high = surrogate.epsilon_high if isinstance(surrogate, Clip) else 5.0
    grpo.args.delta = surrogate.delta if isinstance(surrogate, Clip) else None
    grpo.beta = config.kl.coefficient
    grpo.args.use_bias_correction_kl = config.kl.importance_corrected
    grpo._metrics["eval"].clear()
    compare(
        grpo.model,
        lambda: grpo._compute_loss(grpo.model, batch),
        lambda: policy_loss(rollouts_of(batch), config).loss,
    )
    metrics = policy_loss(rollouts_of(batch), config).metrics
    for ours_, theirs in (("kl", "kl"), ("entropy", "entropy"), ("clip_ratio/region_mean",) * 2):
        if theirs in grpo._metrics["eval"]:
            assert metrics[ours_].item() == pytest.approx(grpo._metrics["eval"][theirs][0], abs=1e-5)


def config_of(name: AlgorithmName, **changes: Any) -> PolicyConfig:
    return ALGORITHMS[name].model_copy(update={"max_completion_tokens": T, "kl": KlTerm()} | changes)


@pytest.mark.parametrize("name", THEIRS)
def test_policy_losses_are_trls(name: AlgorithmName, grpo: Any) -> None:
    compare_policy(grpo, name, config_of(name), inputs())


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "cispo", "luspo"])
def test_policy_losses_with_a_kl_term_are_trls(name: AlgorithmName, corrected: bool, grpo: Any) -> None:
    kl = KlTerm(coefficient=0.04, importance_corrected=corrected)
    compare_policy(grpo, name, config_of(name, kl=kl), inputs(1))


@pytest.mark.parametrize("clip", [Clip(epsilon_high=0.28), Clip(delta=1.5), Clip(epsilon_low=0.05, delta=4.0)])
def test_asymmetric_and_two_sided_clips_are_trls(clip: Clip, grpo: Any) -> None:
    compare_policy(grpo, "dapo", config_of("dapo", surrogate=clip), inputs(2))


def test_a_cap_that_bites_is_trls(grpo: Any) -> None:
    batch = inputs(3)
    batch["old_per_token_logps"] = batch["old_per_token_logps"] - 2.0
    compare_policy(grpo, "cispo", config_of("cispo", surrogate=Cispo(ratio_cap=5.0)), batch)


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "vespo"])
def test_on_policy_without_old_log_probabilities_the_loss_is_trls(name: AlgorithmName, grpo: Any) -> None:
    batch = inputs(4)
    del batch["old_per_token_logps"]
    compare_policy(grpo, name, config_of(name), batch)


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "sapo"])
def test_tool_output_is_masked_as_in_trl(name: AlgorithmName, grpo: Any) -> None:
    batch = inputs(5)
    batch["tool_mask"] = torch.ones(B, T).long()
    batch["tool_mask"][0, 2:5] = 0
    batch["num_items_in_batch"] = (batch["completion_mask"] * batch["tool_mask"]).sum()  # as trl counts them
    compare_policy(grpo, name, config_of(name), batch)


@pytest.mark.parametrize("name", ["grpo", "dapo"])
def test_the_samplers_correction_is_trls(name: AlgorithmName, grpo: Any) -> None:
    batch = inputs(6)
    batch["importance_sampling_ratio"] = torch.tensor([[1.3], [0.0], [0.7], [2.0]])
    grpo.use_vllm = grpo.vllm_importance_sampling_correction = True
    try:
        compare_policy(grpo, name, config_of(name), batch)
    finally:
        grpo.use_vllm = grpo.vllm_importance_sampling_correction = False


def test_vespos_weights_with_the_samplers_correction_are_trls(grpo: Any) -> None:
    batch = inputs(7)
    ratio = torch.exp(0.1 * torch.randn(B, T, generator=torch.Generator().manual_seed(7)))
    batch["importance_sampling_ratio"] = torch.where(batch["completion_mask"].bool(), ratio, 1.0)
    compare_policy(grpo, "vespo", config_of("vespo"), batch)


def test_the_mask_of_completions_that_the_policy_has_left_is_trls(grpo: Any) -> None:
    batch = inputs(8)
    mask, said = batch["completion_mask"], batch["ref_per_token_logps"]
    sampled = said + torch.tensor([0.5, 0.5, -0.5, 0.1])[:, None]
    sampled[1, 1] = torch.nan
    for threshold in (0.05, 0.2, 0.6):
        expected = grpo.get_off_policy_mask(batch["advantages"][:, None], said, sampled, mask, threshold)
        found = off_policy_mask(said, sampled, mask, batch["advantages"], threshold)
        assert found.tolist() == expected.tolist()


REWARDS = torch.tensor([[1.0, 0.25], [0.0, torch.nan], [torch.nan, torch.nan], [2.0, -1.0]])
"""Of 2 prompts with 2 completions, by two functions; one completion could not be judged."""


def their_advantages(reference: Any, rewards: Tensor, weights: list[float]) -> Tensor:
    """Return what trl makes of rewards: it samples first, and asks its reward functions."""

    def reward(column: int) -> Any:
        values = [None if value.isnan() else value.item() for value in rewards[:, column]]
        return lambda completions, **_: values

    kept = (
        reference.reward_funcs,
        reference.reward_func_names,
        reference.reward_processing_classes,
        reference.reward_weights,
    )
    K = rewards.shape[1]
    reference.reward_funcs = [reward(column) for column in range(K)]
    reference.reward_func_names, reference.reward_processing_classes = [str(k) for k in range(K)], [None] * K
    reference.reward_weights = torch.tensor(weights)
    try:
        rows = [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
        return reference._generate_and_score_completions(rows)["advantages"]
    finally:
        (
            reference.reward_funcs,
            reference.reward_func_names,
            reference.reward_processing_classes,
            reference.reward_weights,
        ) = kept


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_trls(scale: Scale, grpo: Any) -> None:
    grpo.scale_rewards, grpo.multi_objective_aggregation, grpo.beta = scale, "sum_then_normalize", 0.0
    grpo.num_generations_eval = 2
    expected = their_advantages(grpo, REWARDS, [1.0, 0.5])
    found = group_advantages(summed_rewards(REWARDS.view(2, 2, 2), (1.0, 0.5)), scale)
    assert expected.any() and torch.allclose(found.flatten(), expected, atol=1e-6)


@pytest.mark.parametrize("name", THEIRS)
def test_the_advantages_of_an_algorithm_are_trls(name: AlgorithmName, grpo: Any) -> None:
    """By trl's documentation Dr. GRPO needs `scale_rewards="none"`; the others have its default."""
    grpo.scale_rewards = "none" if name == "dr_grpo" else "group"
    grpo.multi_objective_aggregation, grpo.beta, grpo.num_generations_eval = "sum_then_normalize", 0.0, 2
    expected = their_advantages(grpo, REWARDS, [1.0, 0.5])
    rewards_PG = summed_rewards(REWARDS.view(2, 2, 2), (1.0, 0.5))
    found = advantages_of(rewards_PG, ALGORITHMS[name].advantage)
    assert expected.any() and torch.allclose(found.flatten(), expected, atol=1e-6)


def test_advantages_of_rewards_that_are_normalised_first_are_trls(grpo: Any) -> None:
    grpo.multi_objective_aggregation, grpo.beta, grpo.num_generations_eval = "normalize_then_sum", 0.0, 2
    rewards = torch.tensor([[1.0, 0.25], [0.0, 0.5], [3.0, 1.0], [2.0, -1.0]])
    expected = their_advantages(grpo, rewards, [1.0, 0.5])
    found = decoupled_advantages(rewards.view(2, 2, 2), (1.0, 0.5))
    assert torch.allclose(found.flatten(), expected, atol=1e-5)


@pytest.fixture(scope="module")
def rloo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trainer(
        "RLOO", tmp_path_factory.mktemp("rloo"), PROMPTS, beta=0.0, num_generations=2, max_completion_length=T
    )


def test_rloo_is_trls(rloo: Any) -> None:
    batch = inputs(9)
    batch["old_per_token_logps"] = batch["old_per_token_logps"] * 0.99
    mask = batch["completion_mask"]
    theirs = batch | {"old_logps": (batch["old_per_token_logps"] * mask).sum(-1)}
    rloo.epsilon_low = rloo.epsilon_high = 0.2
    compare(
        rloo.model,
        lambda: rloo._compute_loss(rloo.model, theirs),
        lambda: policy_loss(rollouts_of(batch), config_of("rloo")).loss,
        tolerance=1e-5,  # trl subtracts sums of tens of nats
    )


def test_leave_one_out_advantages_are_trls(rloo: Any) -> None:
    rloo.num_generations_eval = 2
    expected = their_advantages(rloo, REWARDS, [1.0, 0.5])
    rewards_PG = summed_rewards(REWARDS.view(2, 2, 2), (1.0, 0.5))
    assert ALGORITHMS["rloo"].advantage == "leave_one_out"
    found = leave_one_out_advantages(rewards_PG)
    assert expected.any() and torch.allclose(found.flatten(), expected, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.9])
def test_the_generalised_jensen_shannon_divergence_is_trls(beta: float, temperature: float) -> None:
    gkd = pytest.importorskip("trl.experimental.gkd", reason="the reference; extra `dev`")
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(3, 5, 17, generator=generator) for _ in range(2))
    labels = torch.where(torch.rand(3, 5, generator=generator) < 0.6, 1, -100)
    theirs, mine = (student.clone().requires_grad_() for _ in range(2))
    expected = gkd.GKDTrainer.generalized_jsd_loss(theirs, teacher, labels, beta, temperature)
    expected.backward()
    at = labels != -100
    found = distillation_loss(mine[at], teacher[at], DistillationConfig(beta=beta, temperature=temperature)).loss
    found.backward()
    assert found.item() == pytest.approx(expected.item(), abs=1e-7, rel=1e-6)
    assert mine.grad is not None and theirs.grad is not None and theirs.grad.any()
    assert torch.allclose(mine.grad, theirs.grad, atol=1e-7)
