"""Losses on pairs and single verdicts, and their gradients, are trl's."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

from modelstack.preferences.direct import direct_loss
from modelstack.preferences.direct_config import DirectLossConfig
from modelstack.preferences.odds_ratio import OrpoConfig, orpo_loss
from modelstack.preferences.pair_weights import wpo_weights
from modelstack.preferences.pairs import pairs_of
from modelstack.preferences.reference_free import CpoConfig, SimpoConfig, cpo_loss, simpo_loss
from modelstack.preferences.reward.loss import RewardModelConfig, reward_model_loss
from modelstack.preferences.unpaired import UnpairedConfig, kl_baseline, unpaired_loss
from tests.modelstack.preferences.toy_reference import compare, log_probs_of, trainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the reference: it warns of options that are asked for here
]

PAIRS = [
    {"prompt": "w1 w2 w3", "chosen": " w4 w5 w6", "rejected": " w7 w8"},
    {"prompt": "w9 w10", "chosen": " w11", "rejected": " w12 w13 w14 w15"},
    {"prompt": "w16", "chosen": " w17 w18 w19", "rejected": " w20 w21 w22"},
    {"prompt": "w1 w30", "chosen": " w31 w32 w33 w34 w35", "rejected": " w36"},
]
VERDICTS = [
    {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
    for pair, side in zip(
        PAIRS * 2, ["chosen", "rejected", "rejected", "chosen", "rejected"] + ["chosen"] * 3, strict=True
    )
]


def batch_of(reference: Any) -> dict[str, Any]:
    return dict(reference.data_collator([reference.train_dataset[n] for n in range(len(reference.train_dataset))]))


@pytest.fixture(scope="module")
def dpo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    # WPO's weights are asked for when the trainer is made; each test turns them off or leaves them on.
    return trainer("DPO", tmp_path_factory.mktemp("dpo"), PAIRS, ref=True, use_weighting=True)


def set_up(dpo: Any, ours: DirectLossConfig, *, weighted: bool = False, ld_alpha: float | None = None) -> None:
    dpo.loss_types = [term.name for term in ours.losses]
    dpo.loss_weights = [term.weight for term in ours.losses]
    dpo.beta, dpo.label_smoothing = ours.beta, ours.label_smoothing
    dpo.f_divergence_type, dpo.f_alpha_divergence_coef = ours.divergence, ours.divergence_alpha
    dpo.use_weighting, dpo.ld_alpha = weighted, ld_alpha


def compare_direct(
    dpo: Any, config: DirectLossConfig, *, weighted: bool = False, ld_alpha: float | None = None
) -> None:
    set_up(dpo, config, weighted=weighted, ld_alpha=ld_alpha)
    batch = batch_of(dpo)

    def ours() -> Tensor:
        ids, mask = batch["input_ids"], batch["completion_mask"].bool()
        policy = log_probs_of(0, ids, mask, statistics=weighted)
        with torch.no_grad():
            reference = log_probs_of(1, ids, mask)
        weights = wpo_weights(policy) if weighted else None
        return direct_loss(pairs_of(policy, ld_alpha), pairs_of(reference, ld_alpha), config, weights).loss

    compare(dpo.model, lambda: dpo.compute_loss(dpo.model, dict(batch)), ours)


def one(name: str, **more: Any) -> DirectLossConfig:
    return DirectLossConfig.model_validate({"losses": [{"name": name}]} | more)


@pytest.mark.parametrize(
    "name",
    [
        *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot"),
        *("aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
    ],
)
def test_losses_against_a_reference_are_trls(name: str, dpo: Any) -> None:
    compare_direct(dpo, one(name, label_smoothing=0.1, beta=0.1))


@pytest.mark.parametrize("divergence", ["forward_kl", "js_divergence", "alpha_divergence"])
@pytest.mark.parametrize("name", ["sigmoid", "ipo", "hinge"])
def test_losses_with_other_divergences_are_trls(divergence: str, name: str, dpo: Any) -> None:
    compare_direct(dpo, one(name, divergence=divergence, divergence_alpha=0.7))


def test_an_alpha_divergence_near_one_is_the_reverse_kl_as_in_trl(dpo: Any) -> None:
    compare_direct(dpo, one("sigmoid", divergence="alpha_divergence", divergence_alpha=1.0))


def test_weighted_lists_of_losses_are_trls(dpo: Any) -> None:
    terms = [
        {"name": "sigmoid", "weight": 0.8},
        {"name": "bco_pair", "weight": 0.2},
        {"name": "sft", "weight": 1.0},
    ]
    compare_direct(dpo, DirectLossConfig.model_validate({"losses": terms}))


@pytest.mark.parametrize("name", ["sigmoid", "apo_zero", "ipo"])
def test_wpo_weights_are_trls(name: str, dpo: Any) -> None:
    compare_direct(dpo, one(name), weighted=True)


@pytest.mark.parametrize("ld_alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", ["sigmoid", "sigmoid_norm"])
def test_length_desensitised_sums_are_trls(ld_alpha: float, name: str, dpo: Any) -> None:
    compare_direct(dpo, one(name), ld_alpha=ld_alpha)


def test_metrics_are_trls(dpo: Any) -> None:
    config = one("sigmoid", beta=0.3)
    set_up(dpo, config)
    batch = batch_of(dpo)
    dpo._metrics["eval"].clear()
    with torch.no_grad():
        dpo.compute_loss(dpo.model, dict(batch))
        sides = [pairs_of(log_probs_of(seed, batch["input_ids"], batch["completion_mask"])) for seed in (0, 1)]
    metrics = direct_loss(sides[0], sides[1], config).metrics
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"):
        assert metrics[name].item() == pytest.approx(dpo._metrics["eval"][name][0], rel=1e-5)


def without_reference(reference: Any) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Return trl's batch, and ids and completions of its 2B rows."""
    batch = batch_of(reference)
    sides = [(batch[f"{side}_input_ids"], batch[f"{side}_labels"] != -100) for side in ("chosen", "rejected")]
    T = max(ids.shape[1] for ids, _ in sides)
    ids, mask = (
        torch.cat([torch.nn.functional.pad(side[part], (0, T - side[part].shape[1])) for side in sides])
        for part in (0, 1)
    )
    return batch, ids, mask


@pytest.fixture(scope="module")
def cpo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trainer("CPO", tmp_path_factory.mktemp("cpo"), PAIRS, remove_unused_columns=False)


def compare_cpo(cpo: Any, **settings: Any) -> None:
    for name, value in settings.items():
        setattr(cpo, name, value)
    batch, ids, mask = without_reference(cpo)

    def ours() -> Tensor:
        policy = pairs_of(log_probs_of(0, ids, mask))
        shared = {"beta": cpo.beta, "alpha": cpo.alpha, "label_smoothing": cpo.label_smoothing}
        shared["nll_coefficient"] = cpo.cpo_alpha
        if cpo.loss_type == "simpo":
            return simpo_loss(policy, SimpoConfig(gamma=cpo.simpo_gamma, **shared)).loss
        return cpo_loss(policy, CpoConfig(form=cpo.loss_type, **shared)).loss

    compare(cpo.model, lambda: cpo.get_batch_loss_metrics(cpo.model, batch, "train")[0], ours)


@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge", "ipo"])
@pytest.mark.parametrize("cpo_alpha", [0.0, 1.0])
def test_cpo_is_trls(loss_type: str, cpo_alpha: float, cpo: Any) -> None:
    compare_cpo(cpo, loss_type=loss_type, cpo_alpha=cpo_alpha, beta=0.1, alpha=0.0, label_smoothing=0.1)


@pytest.mark.parametrize(("beta", "gamma", "alpha"), [(2.0, 0.5, 0.0), (2.5, 1.375, 0.0), (2.0, 0.5, 0.25)])
def test_simpo_and_alphapo_are_trls(beta: float, gamma: float, alpha: float, cpo: Any) -> None:
    shared: dict[str, Any] = {"label_smoothing": 0.0, "loss_type": "simpo", "cpo_alpha": 0.0}
    compare_cpo(cpo, beta=beta, simpo_gamma=gamma, alpha=alpha, **shared)


def test_orpo_is_trls(tmp_path: Any) -> None:
    orpo = trainer("ORPO", tmp_path, PAIRS, remove_unused_columns=False)
    batch, ids, mask = without_reference(orpo)

    def ours() -> Tensor:
        B = len(ids) // 2
        is_text = torch.nn.functional.pad(
            batch["chosen_attention_mask"], (0, ids.shape[1] - batch["chosen_attention_mask"].shape[1])
        ).bool()
        whole = log_probs_of(0, ids[:B], is_text)
        nll = -whole.log_probs_BT.sum() / whole.is_label_BT.sum()
        return orpo_loss(pairs_of(log_probs_of(0, ids, mask)), nll, OrpoConfig(ratio_coefficient=orpo.beta)).loss

    compare(orpo.model, lambda: orpo.get_batch_loss_metrics(orpo.model, batch, "train")[0], ours)


@pytest.fixture(scope="module", params=[0, 1])
def kto(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, int]:
    """Which model is the policy decides the sign of the baseline before it is clamped: both are asked."""
    return trainer("KTO", tmp_path_factory.mktemp("kto"), VERDICTS, ref=True, seed=request.param), request.param


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired"])
def test_losses_of_single_verdicts_are_trls(name: str, kto: tuple[Any, int]) -> None:
    reference, policy = kto
    batch = batch_of(reference)
    reference.loss_type, reference.calculate_KL = name, name == "kto"
    reference.desirable_weight, reference.undesirable_weight, reference.beta = 1.3, 0.8, 0.1
    config = UnpairedConfig.model_validate(
        {"name": name, "beta": 0.1, "desirable_weight": 1.3, "undesirable_weight": 0.8}
    )

    def sums(seed: int, prefix: str = "") -> Tensor:
        found = log_probs_of(seed, batch[f"{prefix}input_ids"], batch[f"{prefix}completion_mask"])
        return found.log_probs_BT.sum(-1)

    def ours() -> Tensor:
        with torch.no_grad():
            expected, z0 = sums(1 - policy), None
            if name == "kto":
                z0 = kl_baseline(sums(policy, "KL_"), sums(1 - policy, "KL_"))
        return unpaired_loss(sums(policy), expected, torch.as_tensor(batch["label"]), config, z0).loss

    compare(reference.model, lambda: reference.compute_loss(reference.model, dict(batch)), ours, seed=policy)


@pytest.mark.parametrize("centre", [0.0, 0.01])
@pytest.mark.parametrize("with_margin", [False, True])
def test_the_reward_models_loss_is_trls(centre: float, with_margin: bool, tmp_path: Any) -> None:
    trl = pytest.importorskip("trl", reason="the reference; extra `dev`")
    calls = []

    class Model(torch.nn.Module):
        def __init__(self, rewards: Tensor) -> None:
            super().__init__()
            self.rewards = torch.nn.Parameter(rewards)

        def forward(self, **inputs: Any) -> Any:
            calls.append(inputs)
            return type("Output", (), {"logits": self.rewards[:, None]})()

    class Accelerator:
        gather = gather_for_metrics = staticmethod(lambda x: x)

    chosen, rejected = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([0.1, 0.4, -1.0])
    model, margins = Model(torch.cat((chosen, rejected))), torch.tensor([0.5, 0.0, 1.0])
    reference = object.__new__(trl.RewardTrainer)
    reference.model, reference.accelerator = model, Accelerator()
    reference.args = type("Args", (), {"center_rewards_coefficient": centre or None})()
    reference._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    reference._total_train_tokens, reference._tp_size = 0, 1
    inputs = {"attention_mask": torch.ones(6, 2)} | ({"margin": margins} if with_margin else {})
    expected = reference.compute_loss(model, inputs)
    expected.backward()
    c, j = (x.clone().requires_grad_() for x in (chosen, rejected))
    found = reward_model_loss(c, j, RewardModelConfig(centre_coefficient=centre), margins if with_margin else None)
    found.loss.backward()
    assert calls and found.loss.item() == pytest.approx(expected.item(), abs=1e-7)
    assert c.grad is not None and j.grad is not None and model.rewards.grad is not None
    assert torch.allclose(torch.cat((c.grad, j.grad)), model.rewards.grad, atol=1e-7)
    assert found.metrics["rewards/accuracies"].item() == pytest.approx(reference._metrics["train"]["accuracy"][0])
