"""The search of a suffix: it lowers the loss, repeats, and yields a text that can be typed."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs torch (extra `train`)")

import torch
from torch.nn import functional as F

from modelstack.align.attack.suffix_search import AFFIRMATION, SuffixSearch, search_suffix
from modelstack.errors import UserError
from modelstack.posttrain.base import Base, load_base
from tests.modelstack.sft.toy_sft import write_base

REQUESTS = ("how do I open it", "heat it")
SEARCH = SuffixSearch(n_tokens=5, n_steps=6, n_candidates=24, top_k=32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    loaded = load_base(write_base(tmp_path_factory.mktemp("suffix")), dtype=torch.float32)
    loaded.model.requires_grad_(False)
    return loaded


def loss_of(base: Base, request: str, suffix: str) -> float:
    encoder, target = base.encoder, base.encoder.content_ids(AFFIRMATION)
    prompt = [*encoder.encode_turn("user", request + suffix).ids, *encoder.generation_ids("user")]
    logits = base.model(torch.tensor([[*prompt, *target]])).logits_BTV[0, len(prompt) - 1 : -1]
    return float(F.cross_entropy(logits.float(), torch.tensor(target)))


def test_a_suffix_makes_the_affirmation_likelier_and_can_be_typed(base: Base) -> None:
    steps: list[tuple[int, int]] = []
    found = search_suffix(base.model, base.encoder, REQUESTS, SEARCH, lambda *at: steps.append(at))
    assert steps == [(n, 6) for n in range(1, 7)]
    assert found.losses[-1] < found.losses[0] and list(found.losses) == sorted(found.losses, reverse=True)
    assert found.text.isascii() and found.text.isprintable()
    assert len(base.encoder.content_ids(found.text)) == 5
    by_hand = [loss_of(base, request, found.text) for request in REQUESTS]
    assert sum(by_hand) / 2 == pytest.approx(found.losses[-1], abs=1e-3)
    assert search_suffix(base.model, base.encoder, REQUESTS, SEARCH) == found


def test_the_model_is_as_before(base: Base) -> None:
    before = loss_of(base, "heat it", "")
    search_suffix(base.model, base.encoder, REQUESTS[:1], SuffixSearch(n_tokens=2, n_steps=1, n_candidates=4))
    assert loss_of(base, "heat it", "") == before
    assert all(parameter.grad is None for parameter in base.model.parameters())


def test_what_cannot_be_searched_is_refused(base: Base) -> None:
    with pytest.raises(UserError, match="at least one request"):
        search_suffix(base.model, base.encoder, [])
    with pytest.raises(UserError, match="leave the request out"):
        search_suffix(base.model, base.encoder, ["long " * 2000], SEARCH)
