"""A module for multi-token prediction drafts for its model, and changes no reply."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from modelstack.architecture.decoder import CausalLM
from modelstack.inference.engine import EngineError, Generation, SamplingParams
from modelstack.inference.speculation.speculation import DraftedReply, Guess
from modelstack.inference.torch.engine import TorchEngine
from modelstack.inference.torch.mtp_drafter import MtpDrafter
from tests.modelstack.architecture.gguf_models import toy_chat_tokenizer, toy_config, toy_model
from tests.modelstack.inference.speculation.no_costs import NoCosts
from tests.modelstack.inference.stepping import run
from tests.modelstack.inference.torch_engines import engine_of, prompt_of, request

FAMILIES = {"grouped keys": "llama", "latents": "deepseek_v3"}
N_TEXT = 64
"""Number of tokens that occur in the text."""


def next_tokens(ids: torch.Tensor) -> torch.Tensor:
    """Return the token that follows each: a permutation of the text's tokens."""
    return (ids * 5 + 3) % N_TEXT


@cache
def trained(kind: str) -> CausalLM:
    """Return a model and its module that have learnt which token follows which."""
    config = toy_config(FAMILIES[kind], max_position_embeddings=256)
    model = toy_model(config.with_(num_nextn_predict_layers=1)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        tokens = [torch.randint(0, N_TEXT, (16,), generator=generator)]
        for _ in range(15):
            tokens.append(next_tokens(tokens[-1]))
        ids = torch.stack(tokens, dim=1)
        output = model(ids, with_mtp=True)
        ahead = model.logits(output.mtp[0].hidden_BTD)
        loss = F.cross_entropy(output.logits_BTV[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss = loss + F.cross_entropy(ahead[:, :-1].flatten(0, 1), ids[:, 2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    return model.eval()


def engine(kind: str, **options: Any) -> TorchEngine:
    found = TorchEngine(trained(kind), toy_chat_tokenizer(), block_tokens=4, seed=0, **options)
    if found._speculation is not None:
        found._speculation.costs = NoCosts()
    return found


def text_of(first: int, n_tokens: int) -> list[int]:
    ids = [first]
    while len(ids) < n_tokens:
        ids.append(int(next_tokens(torch.tensor(ids[-1]))))
    return ids


def alike(replies: list[Generation], others: list[Generation]) -> bool:
    return [reply.ids for reply in replies] == [other.ids for other in others]


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("options", [{}, {"max_rows": 2, "max_step_tokens": 9}], ids=str)
def test_replies_are_the_same_in_fewer_calls(kind: str, temperature: float, options: dict[str, int]) -> None:
    def asked(number: int) -> Any:
        sampling = SamplingParams(temperature, seed=number)
        prompt = text_of(number, 3 + 4 * number) if number % 3 else prompt_of(number, 11)
        return request(prompt, 30, conversation=str(number), sampling=sampling)

    with engine(kind) as plain, engine(kind, drafter="mtp", **options) as drafting:
        expected = [plain.generate(asked(number)) for number in range(5)]
        replies = run(drafting, *(drafting.submit(asked(number)) for number in range(5)))
        assert alike(replies, expected)
        on_text = [replies[number].stats for number in (1, 2, 4)]
        assert sum(stats.forward_calls for stats in on_text) < 3 * 15
        accepted, drafted = (
            sum(getattr(stats, name) for stats in on_text) for name in ("accepted_tokens", "drafted_tokens")
        )
        assert accepted > 0.6 * drafted
        again = drafting.generate(asked(4))
        assert again.ids == expected[4].ids
        assert again.stats.reused_tokens > 0
        assert again.stats.forward_calls < 15, "the module drafts without the part that was cached"
        assert not drafting._batch.drafter._ahead, "nothing is kept of ended streams"  # pyright: ignore


def test_a_module_that_is_always_wrong_is_asked_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model(toy_config("llama", max_position_embeddings=256).with_(num_nextn_predict_layers=1))
    n_asked = 0
    guess = MtpDrafter.guess

    def counted(self: MtpDrafter, each: DraftedReply, n_tokens: int) -> Guess | None:
        nonlocal n_asked
        n_asked += 1
        return guess(self, each, n_tokens)

    monkeypatch.setattr(MtpDrafter, "guess", counted)
    sampling = SamplingParams(1.0, seed=0)  # nearly uniform: no guess is right
    with TorchEngine(model, toy_chat_tokenizer(), seed=0, drafter="mtp") as drafting:
        assert drafting._speculation is not None
        drafting._speculation.costs = NoCosts()
        drafting.generate(request(prompt_of(5, 9), 200, sampling=sampling))
        n_first = n_asked
        assert 10 < n_first < 100
        drafting.generate(request(prompt_of(6, 9), 200, sampling=sampling))
        assert n_asked - n_first <= 10


@pytest.mark.parametrize("numbers", ["float", "int8"])
def test_a_module_drafts_with_packed_weights(numbers: Any) -> None:
    options: dict[str, Any] = {"block_tokens": 4, "seed": 0, "owns_model": True, "numbers": numbers}
    asked = request(text_of(7, 12), 24)
    with TorchEngine(copy.deepcopy(trained("latents")), toy_chat_tokenizer(), **options) as plain:
        expected = plain.generate(asked).ids
    with TorchEngine(
        copy.deepcopy(trained("latents")), toy_chat_tokenizer(), drafter="mtp", **options
    ) as drafting:
        reply = drafting.generate(asked)
        assert reply.ids == expected
        assert reply.stats.accepted_tokens > 0


def test_what_has_no_module_is_refused() -> None:
    with pytest.raises(EngineError, match="needs a model with a module for multi-token prediction"):
        engine_of("llama", drafter="mtp")
