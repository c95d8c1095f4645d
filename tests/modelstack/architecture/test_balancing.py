"""Bias updates, MaxVio and routing losses against hand-computed values; hash tables."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.context import Routing
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.moe.balancing import BiasBalancer, bias_step, max_violation, tokens_per_expert
from modelstack.architecture.moe.hash_table import fill_hash_tables, hash_table
from modelstack.architecture.moe.losses import router_z_loss, routing_losses, sequence_balance_loss
from modelstack.errors import UserError

TOY: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "layer_types": ("full_attention",) * 3,
    "mlp_layer_types": ("hash_moe", "dense", "moe"),
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "scoring_func": "sigmoid",
    "score_correction_bias": True,
}


def toy(**changes: Any) -> ModelConfig:
    return build(TOY | changes)


def bias_of(model: CausalLM) -> Tensor:
    bias = model.get_buffer("model.layers.2.mlp.gate.e_score_correction_bias")
    assert bias.dtype == torch.float32
    return bias


def routing_of(experts: list[list[int]]) -> dict[int, Routing]:
    return {2: Routing(torch.zeros(1), torch.zeros(1), torch.tensor(experts))}


def all_counted(n_rows: int, n_tokens: int) -> Tensor:
    return torch.ones(n_rows, n_tokens, dtype=torch.bool)


# -- the bias


def test_the_bias_rises_for_experts_below_the_mean_and_falls_above() -> None:
    assert bias_step(torch.tensor([4.0, 1.0, 1.0, 2.0]), 0.5).tolist() == [-0.5, 0.5, 0.5, 0.0]


def test_counts_of_micro_batches_add_up_to_one_update() -> None:
    torch.manual_seed(0)
    model = CausalLM(toy())
    balancer = BiasBalancer(model)
    balancer.count(routing_of([[0, 1], [0, 1], [0, 2]]))
    balancer.count(routing_of([[1, 2]]))
    assert balancer.counts_LE.tolist() == [[3, 3, 2, 0]]
    violation = balancer.update(0.25)
    bias = bias_of(model)
    assert bias.tolist() == [-0.25, -0.25, 0.0, 0.25]
    assert violation == {2: 0.5}
    assert balancer.counts_LE.sum() == 0
    balancer.update(0.25)
    assert bias.tolist() == [-0.25, -0.25, 0.0, 0.25], "no tokens, no step"


def test_the_sign_is_taken_of_the_sum_over_ranks() -> None:
    model = CausalLM(toy())
    balancer = BiasBalancer(model)
    balancer.count(routing_of([[0, 1]]))
    other_rank = torch.tensor([[0.0, 1.0, 3.0, 2.0]])
    balancer.update(1.0, sum_over_ranks=lambda counts: counts.add_(other_rank))
    bias = bias_of(model)
    assert bias.tolist() == [1.0, 0.0, -1.0, 0.0]


def test_padding_is_not_counted() -> None:
    experts = torch.tensor([[0, 1], [2, 3], [0, 2], [0, 3]])
    assert tokens_per_expert(experts, 4).tolist() == [3, 1, 2, 2]
    counted = torch.tensor([[True, False], [True, False]])
    assert tokens_per_expert(experts, 4, counted).tolist() == [2, 1, 1, 0]


def test_a_forward_pass_is_counted_where_the_model_routes_by_score() -> None:
    torch.manual_seed(0)
    model = CausalLM(toy())
    balancer = BiasBalancer(model)
    assert list(balancer.routers) == [2]
    output = model(torch.randint(0, 32, (3, 7)))
    balancer.count(output.routing)
    assert balancer.counts_LE.sum() == 3 * 7 * 2
    table = model.get_buffer("model.layers.0.mlp.gate.tid2eid").clone()
    parameters = [p.clone() for p in model.parameters()]
    balancer.update()
    assert torch.equal(model.get_buffer("model.layers.0.mlp.gate.tid2eid"), table)
    assert all(torch.equal(a, b) for a, b in zip(parameters, model.parameters(), strict=True))


def test_layers_of_multi_token_prediction_are_counted_when_they_run() -> None:
    model = CausalLM(toy(num_nextn_predict_layers=1))
    balancer = BiasBalancer(model)
    assert list(balancer.routers) == [2, 3]
    ids = torch.randint(0, 32, (2, 7))
    counted = torch.ones(2, 7, dtype=torch.bool)
    counted[1, 4:] = False
    balancer.count(model(ids).routing, counted)
    assert balancer.counts_LE.sum(1).tolist() == [2 * (7 + 4), 0]
    balancer.count(model(ids, with_mtp=True).routing, counted)
    assert balancer.counts_LE.sum(1).tolist() == [2 * 2 * (7 + 4), 2 * (6 + 3)]


def test_counts_and_biases_survive_a_checkpoint_in_the_middle_of_a_step() -> None:
    def run(interrupted: bool) -> Tensor:
        model = CausalLM(toy())
        balancer = BiasBalancer(model)
        balancer.count(routing_of([[0, 1]]))
        balancer.update()
        balancer.count(routing_of([[2, 3], [2, 0]]))
        if interrupted:
            saved, counts = model.state_dict(), balancer.state_dict()
            model = CausalLM(toy())
            model.load_state_dict(saved)
            balancer = BiasBalancer(model)
            balancer.load_state_dict(counts)
        balancer.count(routing_of([[1, 0]]))
        balancer.update()
        return bias_of(model)

    assert torch.equal(run(True), run(False))
    assert run(False).abs().sum() > 0


def test_a_model_without_a_bias_cannot_be_balanced() -> None:
    with pytest.raises(UserError, match="set score_correction_bias"):
        BiasBalancer(CausalLM(toy(score_correction_bias=False)))


def test_max_violation_is_zero_when_even_and_largest_when_collapsed() -> None:
    counts = torch.tensor([[5.0, 5.0, 5.0, 5.0], [8.0, 8.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [6.0, 2.0, 0.0, 0.0]])
    assert max_violation(counts).tolist() == [0.0, 4 / 2 - 1, 0.0, 2.0]


# -- the sequence-wise loss


def test_the_sequence_loss_of_two_tokens_is_the_sum_by_hand() -> None:
    scores = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.4, 0.4 - 1e-6]])
    # k = 1, T = 2: f = 3/2 * (1, 1, 0); P = (0.4, 0.35, 0.25): 1.5 * 0.75.
    assert sequence_balance_loss(scores, 1, all_counted(1, 2)).item() == pytest.approx(1.125, abs=1e-5)


def test_scores_that_do_not_sum_to_one_are_shared_out_first() -> None:
    torch.manual_seed(0)
    scores = torch.rand(6, 4)
    assert torch.allclose(
        sequence_balance_loss(scores * torch.arange(1.0, 7.0)[:, None], 2, all_counted(2, 3)),
        sequence_balance_loss(scores, 2, all_counted(2, 3)),
    )


def test_an_even_load_costs_alpha_and_a_collapsed_one_more() -> None:
    even = torch.eye(4).repeat(2, 1) * 0.6 + 0.1
    assert sequence_balance_loss(even, 1, all_counted(2, 4)).item() == pytest.approx(1.0)
    collapsed = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(8, 1)
    assert sequence_balance_loss(collapsed, 1, all_counted(2, 4)).item() == pytest.approx(4.0)


def test_each_row_is_balanced_on_its_own() -> None:
    """Two rows that overload an expert each cost more than the same tokens dealt over both rows."""
    a, b = torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.9])
    apart = sequence_balance_loss(torch.stack([a, a, b, b]), 1, all_counted(2, 2))
    mixed = sequence_balance_loss(torch.stack([a, b, a, b]), 1, all_counted(2, 2))
    assert apart.item() == pytest.approx(2 * 0.9)
    assert mixed.item() == pytest.approx(1.0)


def test_the_count_has_no_gradient() -> None:
    torch.manual_seed(1)
    scores = torch.rand(6, 4, requires_grad=True)
    sequence_balance_loss(scores, 2, all_counted(1, 6)).backward()
    fixed = scores.detach().clone().requires_grad_()
    best = fixed.detach().topk(2, -1).indices
    f = torch.nn.functional.one_hot(best, 4).sum((0, 1)) * 4 / (2 * 6)
    (f * (fixed / fixed.sum(-1, keepdim=True)).mean(0)).sum().backward()
    assert scores.grad is not None and fixed.grad is not None
    assert torch.allclose(scores.grad, fixed.grad)
    assert scores.grad.abs().max() > 1e-3


def test_padding_changes_neither_loss_nor_gradient() -> None:
    torch.manual_seed(2)
    scores, logits = torch.rand(2, 5, 4), torch.randn(2, 5, 4)
    counted = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    padded = sequence_balance_loss(scores.flatten(0, 1), 2, counted)
    assert torch.allclose(padded, sequence_balance_loss(scores[0, :3], 2, all_counted(1, 3)))
    padded = router_z_loss(logits.flatten(0, 1), counted)
    assert torch.allclose(padded, router_z_loss(logits[0, :3], all_counted(1, 3)))


def test_a_batch_of_padding_costs_nothing() -> None:
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert sequence_balance_loss(torch.rand(3, 4), 2, nothing).item() == 0
    assert router_z_loss(torch.randn(3, 4), nothing).item() == 0


def test_the_z_loss_is_the_mean_of_squared_log_sums() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    expected = (math.log(2) ** 2 + math.log(4) ** 2) / 2
    assert router_z_loss(logits, all_counted(1, 2)).item() == pytest.approx(expected)


def test_losses_are_summed_over_layers_times_their_coefficients() -> None:
    torch.manual_seed(3)
    config = toy(
        mlp_layer_types=("hash_moe", "moe", "moe"), seq_aux_loss_coef=0.5, router_z_loss_coef=0.25, vocab_size=32
    )
    routing = {layer: Routing(torch.randn(6, 4), torch.rand(6, 4), torch.zeros(6, 2)) for layer in range(3)}
    counted = all_counted(2, 3)
    losses = routing_losses(config, routing, counted)
    balance = [sequence_balance_loss(routing[layer].scores_NE, 2, counted) for layer in (1, 2)]
    z = [router_z_loss(routing[layer].logits_NE, counted) for layer in (0, 1, 2)]
    assert losses["seq_aux_loss"].item() == pytest.approx(0.5 * sum(b.item() for b in balance))
    assert losses["router_z_loss"].item() == pytest.approx(0.25 * sum(x.item() for x in z))
    assert routing_losses(toy(), routing, counted) == {}


def test_a_model_whose_layers_all_route_by_a_hash_has_no_balance_loss() -> None:
    config = toy(mlp_layer_types=("hash_moe",) * 3, seq_aux_loss_coef=0.1)
    scores = torch.rand(6, 4)
    routing = {layer: Routing(scores, scores, torch.zeros(6, 2, dtype=torch.long)) for layer in range(3)}
    assert routing_losses(config, routing, torch.ones(2, 3, dtype=torch.bool)) == {}


# -- hash tables


def zipf(n: int, exponent: float = 1.0) -> list[float]:
    """Frequencies of n tokens in an order that is not that of their ids."""
    return [1e6 / (1 + (37 * token) % n) ** exponent for token in range(n)]


def load(table: Tensor, frequency: list[float], n_experts: int) -> Tensor:
    weight = torch.tensor(frequency, dtype=torch.float64)
    return torch.zeros(n_experts, dtype=torch.float64).scatter_add(
        0, table.flatten(), weight.repeat_interleave(table.shape[1])
    )


@pytest.mark.parametrize(("n_experts", "n_chosen"), [(8, 2), (16, 3), (32, 6), (4, 4)])
def test_every_token_has_distinct_experts_and_the_load_is_even(n_experts: int, n_chosen: int) -> None:
    frequency = zipf(5000)
    table = hash_table(frequency, n_experts, n_chosen, seed=1)
    assert table.shape == (5000, n_chosen) and table.dtype == torch.int64
    assert table.min() >= 0 and table.max() < n_experts
    ordered = table.sort(1).values
    assert (ordered[:, 1:] > ordered[:, :-1]).all()
    assert max_violation(load(table, frequency, n_experts)).item() < 0.01


def test_a_plain_hash_would_not_be_even() -> None:
    frequency = zipf(5000)
    plain = torch.stack([torch.arange(5000) % 8, (torch.arange(5000) + 3) % 8], 1)
    assert max_violation(load(plain, frequency, 8)).item() > 0.1


def test_tokens_that_were_never_seen_spread_over_all_experts() -> None:
    frequency = [float(token < 8) * 10 for token in range(4000)]
    table = hash_table(frequency, 8, 2, seed=0)
    unseen = torch.bincount(table[8:].flatten(), minlength=8)
    assert unseen.max() - unseen.min() <= 20


def test_a_token_above_its_experts_share_keeps_them_to_itself() -> None:
    frequency = [1000.0] + [1.0] * 100
    table = hash_table(frequency, 8, 2, seed=0)
    assert not set(table[0].tolist()) & set(table[1:].flatten().tolist())


def test_the_seed_decides_the_table_in_every_process() -> None:
    frequency = zipf(300)
    table = hash_table(frequency, 8, 2, seed=7)
    assert torch.equal(table, hash_table(frequency, 8, 2, seed=7))
    assert not torch.equal(table, hash_table(frequency, 8, 2, seed=8))
    digest = hashlib.sha256(str(table.tolist()).encode()).hexdigest()
    assert digest == "e70a61bf803bf81ccb325faac052b82ed2be527991d26d11c68b20556b8c047b"


def test_each_hash_layer_gets_a_table_of_its_own() -> None:
    model = CausalLM(toy(mlp_layer_types=("hash_moe", "hash_moe", "moe")))
    fill_hash_tables(model, zipf(32), seed=5)
    first, second = (model.get_buffer(f"model.layers.{layer}.mlp.gate.tid2eid") for layer in (0, 1))
    assert torch.equal(first, hash_table(zipf(32), 4, 2, seed=5))
    assert torch.equal(second, hash_table(zipf(32), 4, 2, seed=6))
    ids = torch.randint(0, 32, (2, 9))
    assert torch.equal(model(ids).routing[0].experts_Nk, first[ids.flatten()])


def test_mistaken_tables_are_refused() -> None:
    with pytest.raises(UserError, match=r"n_chosen 5 must lie in 1..n_experts 4"):
        hash_table([1.0], 4, 5, seed=0)
    with pytest.raises(UserError, match="contains -1"):
        hash_table([1.0, -1], 4, 2, seed=0)
    with pytest.raises(UserError, match="31 frequencies for a vocabulary of 32"):
        fill_hash_tables(CausalLM(toy()), zipf(31), seed=0)
    with pytest.raises(UserError, match="no layer of the model routes by a hash"):
        fill_hash_tables(CausalLM(toy(mlp_layer_types=("dense", "dense", "moe"))), zipf(32), seed=0)
