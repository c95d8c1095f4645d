"""Losses against hand computations and against torch's plain form."""

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import difference, poisoned, random_ids
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import (
    IGNORED,
    count_labels,
    cross_entropy,
    labelled_places,
    mtp_labels,
    mtp_loss,
    next_token_labels,
    token_sums,
    total_loss,
)
from modelstack.errors import UserError

VOCABULARY, WIDTH, N_TOKENS = 50, 16, 13


def make(**changes: Any) -> CausalLM:
    values: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "layer_types": ("full_attention",) * 2,
        "mlp_layer_types": ("dense",) * 2,
    }
    torch.manual_seed(0)
    return poisoned(CausalLM(ModelConfig(**(values | changes))))  # pyright: ignore


def some_ids(batch: int = 2) -> Tensor:
    return random_ids(batch=batch, n_tokens=N_TOKENS, vocab_size=VOCABULARY)


def test_the_next_token_is_the_label_but_not_over_a_documents_end() -> None:
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    assert next_token_labels(ids).tolist() == [[4, 5, 6, 7, IGNORED]]
    documents = torch.tensor([[0, 0, 1, 1, 1]])
    assert next_token_labels(ids, documents).tolist() == [[4, IGNORED, 6, 7, IGNORED]]


def test_cross_entropy_is_the_mean_surprise_of_the_labelled_tokens() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [7.0, 7.0], [math.log(4.0), 0.0]]])
    labels = torch.tensor([[1, IGNORED, 0]])
    by_hand = -(math.log(3 / 4) + math.log(4 / 5)) / 2
    assert cross_entropy(logits, labels, lambda x: x).item() == pytest.approx(by_hand, rel=1e-6)


def test_the_squared_normaliser_is_that_of_the_labelled_tokens() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [7.0, 7.0], [math.log(4.0), 0.0]]])
    sums = token_sums(logits, torch.tensor([[1, IGNORED, 0]]), lambda x: x)
    assert sums.squared_normaliser.item() == pytest.approx(math.log(4) ** 2 + math.log(5) ** 2, rel=1e-6)
    assert sums.n_tokens.item() == 2


def test_logits_of_a_batch_that_is_small_enough_are_made_once() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 4, 3), torch.randn(5, 3, requires_grad=True)
    labels = torch.randint(0, 5, (2, 4))
    found = {}
    for tokens_kept in (7, 8):
        n_tokens = []

        def head(x: torch.Tensor, seen: list[int] = n_tokens) -> torch.Tensor:
            seen.append(len(x))
            return x @ weight.T

        sums = token_sums(hidden, labels, head, tokens_per_chunk=4, tokens_kept=tokens_kept)
        (gradient,) = torch.autograd.grad(sums.cross_entropy, weight)
        found[tokens_kept] = (sums.cross_entropy, gradient)
        assert n_tokens == ([4, 4, 4, 4] if tokens_kept == 7 else [4, 4])
    assert all(torch.equal(a, b) for a, b in zip(*found.values(), strict=True))


@pytest.mark.parametrize("tokens_per_chunk", [1, 4, 7, 1000])
@pytest.mark.parametrize("softcap", [None, 0.3])
def test_any_chunking_has_the_value_and_the_gradients_of_the_plain_form(
    tokens_per_chunk: int, softcap: float | None
) -> None:
    model = make(final_logit_softcapping=softcap)
    hidden = torch.randn(2, N_TOKENS, WIDTH, requires_grad=True)
    labels = next_token_labels(some_ids())
    labels[0, 3:6] = IGNORED

    def gradients(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, (hidden, model.lm_head.weight))

    logits = model.logits(hidden).float()
    is_labelled = labels.flatten() != IGNORED
    plain = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    z = logits.flatten(0, 1)[is_labelled].logsumexp(-1).square().mean()
    sums = token_sums(hidden, labels, model.logits, tokens_per_chunk)
    assert sums.n_tokens.item() == is_labelled.sum().item() == 2 * N_TOKENS - 2 - 3
    chunked = (sums.cross_entropy + 0.1 * sums.squared_normaliser) / sums.n_tokens
    assert chunked.item() == pytest.approx((plain + 0.1 * z).item(), rel=1e-6)
    for found, expected in zip(gradients(chunked), gradients(plain + 0.1 * z), strict=True):
        assert difference(found, expected) < 1e-6 * max(1.0, expected.abs().max().item())


def test_low_precision_logits_are_summed_in_fp32() -> None:
    model = make().bfloat16()
    hidden = torch.randn(1, N_TOKENS, WIDTH).bfloat16()
    labels = next_token_labels(some_ids(1))
    found = cross_entropy(hidden, labels, model.logits)
    assert found.dtype == torch.float32
    exact = F.cross_entropy(model.logits(hidden)[0, :-1].double(), labels[0, :-1])
    assert found.item() == pytest.approx(exact.item(), rel=1e-6)


def test_without_any_label_the_loss_is_zero_and_so_are_the_gradients() -> None:
    model, hidden = make(), torch.randn(1, 4, WIDTH, requires_grad=True)
    loss = cross_entropy(hidden, torch.full((1, 4), IGNORED), model.logits)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None and not hidden.grad.any()


def sparse_labels(ids: Tensor, n_labelled: int) -> Tensor:
    """Return the labels of a reply: each row's last tokens."""
    labels = next_token_labels(ids)
    labels[:, : -1 - n_labelled] = IGNORED
    return labels


def some_weights(labels: Tensor) -> Tensor:
    return torch.rand(labels.shape, generator=torch.Generator().manual_seed(3)) * 3 + 0.1


def test_few_labelled_places_are_found_and_many_or_none_are_not() -> None:
    ids = some_ids()
    places = labelled_places(sparse_labels(ids, 3))
    assert places is not None
    assert places.tolist() == [9, 10, 11, 22, 23, 24]
    assert labelled_places(next_token_labels(ids)) is None
    assert labelled_places(sparse_labels(ids, 0)) is None


def test_the_head_is_asked_for_the_labelled_places_alone() -> None:
    model, labels = make(), sparse_labels(some_ids(), 3)
    hidden = torch.randn(2, N_TOKENS, WIDTH)
    n_tokens: list[int] = []

    def head(x: Tensor) -> Tensor:
        n_tokens.append(len(x))
        return model.logits(x)

    token_sums(hidden, labels, head, places_P=labelled_places(labels)).cross_entropy.backward()
    assert n_tokens == [6]


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("token_loss", ["cross_entropy", "dft"])
@pytest.mark.parametrize("tokens_per_chunk", [4, 1000])
def test_gathered_places_have_the_sums_and_the_gradients_of_all_of_them(
    is_weighted: bool, token_loss: Any, tokens_per_chunk: int
) -> None:
    model, labels = make(), sparse_labels(some_ids(), 5)
    hidden = torch.randn(2, N_TOKENS, WIDTH, requires_grad=True)
    weights = some_weights(labels) if is_weighted else None

    def found(places: Tensor | None) -> list[Tensor]:
        sums = token_sums(
            hidden,
            labels,
            model.logits,
            tokens_per_chunk,
            weights_BT=weights,
            places_P=places,
            token_loss=token_loss,
        )
        loss = sums.cross_entropy + 0.1 * sums.squared_normaliser
        return [loss, sums.n_tokens, *torch.autograd.grad(loss, (hidden, model.lm_head.weight))]

    for a, b in zip(found(labelled_places(labels)), found(None), strict=True):
        assert difference(a, b) < 1e-6 * max(1.0, b.abs().max().item())


def test_a_weighted_mean_counts_each_label_by_its_weight() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [7.0, 7.0], [math.log(4.0), 0.0]]])
    labels, weights = torch.tensor([[1, IGNORED, 0]]), torch.tensor([[3.0, 100.0, 0.5]])
    sums = token_sums(logits, labels, lambda x: x, weights_BT=weights)
    assert sums.n_tokens.item() == 3.5
    assert sums.cross_entropy.item() == pytest.approx(-(3 * math.log(3 / 4) + 0.5 * math.log(4 / 5)), rel=1e-6)
    assert sums.squared_normaliser.item() == pytest.approx(3 * math.log(4) ** 2 + math.log(5) ** 2 / 2, rel=1e-6)


def test_weights_of_one_change_no_bit() -> None:
    model, ids = make(num_nextn_predict_layers=1, mtp_loss_coef=0.3, z_loss_coef=0.01), some_ids(4)
    labels = next_token_labels(ids)
    output = model(ids, with_mtp=True)
    plain = total_loss(model, output, labels, n_labels=count_labels(labels))
    ones = torch.ones_like(labels, dtype=torch.float32)
    weighted = total_loss(model, output, labels, n_labels=count_labels(labels, ones), weights_BT=ones)
    assert weighted.total.item() == plain.total.item()
    assert {name: x.item() for name, x in weighted.parts.items()} == {n: x.item() for n, x in plain.parts.items()}


def test_dft_is_the_surprise_times_the_probability_which_has_no_gradient() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 6, 9, requires_grad=True), torch.randint(0, 9, (1, 6))
    sums = token_sums(logits, labels, lambda x: x, token_loss="dft")
    log_p = logits.log_softmax(-1).gather(2, labels[..., None])[..., 0]
    expected = -(log_p.detach().exp() * log_p).sum()
    assert sums.cross_entropy.item() == pytest.approx(expected.item(), rel=1e-6)
    (found_gradient,) = torch.autograd.grad(sums.cross_entropy, logits)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    assert difference(found_gradient, expected_gradient) < 1e-6


def test_a_weight_belongs_to_the_token_that_is_named_whichever_module_names_it() -> None:
    model, ids = make(num_nextn_predict_layers=1), some_ids(1)
    labels = next_token_labels(ids)
    output = model(ids, with_mtp=True)
    only = torch.zeros_like(labels, dtype=torch.float32)
    only[0, 7] = 2.0  # the label at 7 is token 8, which the module names at 6
    log_p = model.logits(output.mtp[0].hidden_BTD).log_softmax(-1)
    found = mtp_loss(model, output, labels, weights_BT=only)
    assert found.item() == pytest.approx(-log_p[0, 6, ids[0, 8]].item(), rel=1e-5)


def test_weighted_halves_of_a_batch_add_up_to_the_whole() -> None:
    keys: dict[str, Any] = {"seq_aux_loss_coef": 0.5, "z_loss_coef": 0.01} | EXPERTS
    model, ids = make(**keys), some_ids(4)
    labels = sparse_labels(ids, 4)
    labels[0, :-3] = IGNORED
    weights = some_weights(labels)
    n_labels = count_labels(labels, weights)

    def loss(rows: slice) -> float:
        places = labelled_places(labels[rows])
        return (
            total_loss(
                model,
                model(ids[rows]),
                labels[rows],
                n_labels=n_labels,
                weights_BT=weights[rows],
                places_P=places,
            )
            .parts["cross_entropy"]
            .item()
        )

    assert loss(slice(0, 1)) + loss(slice(1, 4)) == pytest.approx(loss(slice(0, 4)), rel=1e-5)


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside that live at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, n_bytes = storage.data_ptr(), storage.nbytes()
        if not n_bytes or address in self.known:
            return
        self.known.add(address)
        self.live += n_bytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, address, n_bytes)

    def _forget(self, address: int, n_bytes: int) -> None:
        self.known.discard(address)
        self.live -= n_bytes


def test_the_logits_of_all_tokens_never_exist_at_once() -> None:
    n_tokens, vocabulary = 512, 4096
    head = torch.nn.Linear(WIDTH, vocabulary, bias=False)
    hidden = torch.randn(1, n_tokens, WIDTH, requires_grad=True)
    labels = torch.randint(0, vocabulary, (1, n_tokens))
    peaks = {}
    for tokens_per_chunk in (n_tokens, n_tokens // 16):
        gc.collect()
        with PeakBytes() as bytes_made:
            cross_entropy(hidden, labels, head, tokens_per_chunk).backward()
        peaks[tokens_per_chunk] = bytes_made.peak
    all_logits = 4 * n_tokens * vocabulary
    assert peaks[n_tokens] > 2 * all_logits
    assert peaks[n_tokens // 16] < all_logits / 2


def test_a_modules_label_is_the_models_of_k_plus_one_positions_later() -> None:
    labels = torch.tensor([[11, 12, 13, IGNORED, 15]])
    assert mtp_labels(labels, 0).tolist() == [[12, 13, IGNORED, 15]]
    assert mtp_labels(labels, 1).tolist() == [[13, IGNORED, 15]]
    whole = torch.tensor([[True, False, True, True]])
    assert mtp_labels(labels, 0, whole).tolist() == [[12, IGNORED, IGNORED, 15]]


def test_the_mtp_loss_is_the_mean_of_the_modules_cross_entropies_over_packed_documents() -> None:
    model, ids = make(num_nextn_predict_layers=2), some_ids(1)
    documents = torch.tensor([[0] * 6 + [1] * 7])
    output = model(ids, documents_BT=documents, with_mtp=True)
    surprises: list[list[float]] = [[], []]
    for k, module in enumerate(output.mtp):
        log_p = model.logits(module.hidden_BTD).log_softmax(-1)
        for i in range(N_TOKENS - k - 2):
            if documents[0, i] == documents[0, i + k + 2]:
                surprises[k].append(-log_p[0, i, ids[0, i + k + 2]].item())
    assert [len(s) for s in surprises] == [4 + 5, 3 + 4]
    by_hand = sum(sum(s) / len(s) for s in surprises) / 2
    found = mtp_loss(model, output, next_token_labels(ids, documents))
    assert found.item() == pytest.approx(by_hand, rel=1e-5)


def test_further_steps_of_multi_token_prediction_weigh_less_and_less() -> None:
    model, ids = make(num_nextn_predict_layers=2, mtp_steps=3), some_ids()
    output, labels = model(ids, with_mtp=True), next_token_labels(ids)
    assert len(output.mtp) == 4
    means = [
        F.cross_entropy(model.logits(ahead.hidden_BTD)[:, :-1].flatten(0, 1), ids[:, k + 2 :].flatten())
        for k, ahead in enumerate(output.mtp)
    ]
    by_hand = (means[0] + means[1] + 0.6 * means[2] + 0.36 * means[3]) / 2.96
    assert mtp_loss(model, output, labels).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_an_mtp_loss_without_modules_that_ran_names_the_fix() -> None:
    model, ids = make(num_nextn_predict_layers=1, mtp_loss_coef=0.3), some_ids()
    with pytest.raises(UserError, match="with_mtp=True"):
        total_loss(model, model(ids), next_token_labels(ids))


def test_the_total_is_the_sum_of_its_parts_each_with_its_coefficient() -> None:
    model, ids = make(num_nextn_predict_layers=2, mtp_loss_coef=0.3, z_loss_coef=0.01), some_ids()
    labels = next_token_labels(ids)
    output = model(ids, with_mtp=True, with_logits=False)
    assert output.logits_BTV.shape == (2, 0, VOCABULARY)
    losses = total_loss(model, output, labels)
    logits = model(ids).logits_BTV[:, :-1]
    expected = {
        "cross_entropy": F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()),
        "z_loss": 0.01 * logits.logsumexp(-1).square().mean(),
        "mtp_loss": 0.3 * mtp_loss(model, output, labels),
    }
    assert losses.parts.keys() == expected.keys()
    for name, value in expected.items():
        assert losses.parts[name].item() == pytest.approx(value.item(), rel=1e-5), name
    assert losses.total.item() == pytest.approx(sum(v.item() for v in expected.values()), rel=1e-5)


def test_what_the_config_does_not_ask_for_is_not_computed() -> None:
    model, ids = make(num_nextn_predict_layers=1), some_ids()
    assert list(total_loss(model, model(ids), next_token_labels(ids)).parts) == ["cross_entropy"]


def test_two_halves_of_a_batch_add_up_to_the_whole_when_divided_by_all_labels() -> None:
    model, ids = make(num_nextn_predict_layers=1, mtp_loss_coef=0.3, z_loss_coef=0.01), some_ids(4)
    labels = next_token_labels(ids)
    labels[0, :9] = IGNORED
    n_labels = (labels != IGNORED).sum()
    whole = total_loss(model, model(ids, with_mtp=True), labels, n_labels=n_labels).total
    halves = [
        total_loss(model, model(part, with_mtp=True), part_labels, n_labels=n_labels).total
        for part, part_labels in zip(ids.split(2), labels.split(2), strict=True)
    ]
    assert (halves[0] + halves[1]).item() == pytest.approx(whole.item(), rel=1e-5)


EXPERTS = {
    "mlp_layer_types": ("dense", "moe"),
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "scoring_func": "sigmoid",
}


@pytest.mark.parametrize("steps", [1, 2])
def test_losses_on_routing_are_added_up_over_the_models_layers_and_the_modules(steps: int) -> None:
    """The routing of a module's further steps is not counted."""
    balancing = {"seq_aux_loss_coef": 0.5, "router_z_loss_coef": 0.25}
    model = make(num_nextn_predict_layers=2, mtp_steps=steps, **balancing, **EXPERTS)
    ids, n_experts, k = some_ids(), 6, 2
    output = model(ids, with_mtp=True)
    assert {layer: len(r.scores_NE) for layer, r in output.routing.items()} == {1: 26, 2: 24, 3: 22}
    balance = z = 0.0
    for routing in output.routing.values():
        rows = routing.scores_NE.view(2, -1, n_experts)
        for scores_TE in rows:
            T = len(scores_TE)
            f = torch.bincount(scores_TE.topk(k).indices.flatten(), minlength=n_experts) * n_experts / (k * T)
            P = (scores_TE / scores_TE.sum(-1, keepdim=True)).mean(0)
            balance += (f * P).sum().item() / len(rows)
        z += routing.logits_NE.exp().sum(-1).log().square().mean().item()
    parts = total_loss(model, output, next_token_labels(ids)).parts
    assert parts.keys() == {"cross_entropy", "seq_aux_loss", "router_z_loss"}
    assert parts["seq_aux_loss"].item() == pytest.approx(0.5 * balance, rel=1e-5)
    assert parts["router_z_loss"].item() == pytest.approx(0.25 * z, rel=1e-5)


def test_padding_takes_no_part_in_losses_on_routing() -> None:
    model, ids = make(seq_aux_loss_coef=0.5, router_z_loss_coef=0.25, **EXPERTS), some_ids()
    short, padded = ids[:, :9], ids.clone()
    padded[:, 9:] = 7
    labels = next_token_labels(padded)
    labels[:, 8:] = IGNORED
    counted = torch.arange(N_TOKENS).expand_as(ids) < 9
    expected = total_loss(model, model(short), next_token_labels(short))
    found = total_loss(model, model(padded), labels, counted_BT=counted)
    for name, value in expected.parts.items():
        assert found.parts[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_losses_on_routing_count_by_the_share_of_labels_of_their_micro_batch() -> None:
    model, ids = make(seq_aux_loss_coef=0.5, router_z_loss_coef=0.25, **EXPERTS), some_ids()
    labels = next_token_labels(ids)
    alone = total_loss(model, model(ids), labels).parts
    n_labels = 3 * (labels != IGNORED).sum()
    of_three = total_loss(model, model(ids), labels, n_labels=n_labels).parts
    for name in ("cross_entropy", "seq_aux_loss", "router_z_loss"):
        assert of_three[name].item() == pytest.approx(alone[name].item() / 3, rel=1e-5), name
