"""Replies by llama.cpp for a model in training: drawn from its distribution, at its weights of the moment."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.gguf.load import load_gguf
from modelstack.errors import UserError
from modelstack.inference.engine import EngineError
from modelstack.inference.llama.model import LlamaContext, LlamaWeights
from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.lora.adapters import add_lora, lora_layers
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.merge import Merged, write_merged_gguf
from modelstack.reasoning.sampling.group_sampler import GroupSampler
from modelstack.reasoning.sampling.llama import served_policy
from modelstack.reasoning.sampling.llama.policy import LlamaPolicy, shared_prefix
from modelstack.reasoning.sampling.llama.q4_1_split import write_split
from modelstack.reasoning.sampling.llama.rollout_adapter import write_rollout_adapter
from modelstack.reasoning.sampling.llama.served_policy import LlamaSampling
from modelstack.reasoning.sampling.sampled import Asked, Sampled
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.rewards import Item
from tests.modelstack.architecture.gguf_models import toy_config, toy_file, toy_model
from tests.modelstack.sft.toy_sft import write_base

PREFIX = (5, 9, 3, 7, 60, 61)
PROMPTS = ((*PREFIX, 8), (*PREFIX, 100, 101, 102, 103, 104), (*PREFIX, 8, 9), (33, 34))
EXACT = LlamaSampling(type_name="f32", kv_type="f32")
"""Numbers in full, so that only the order of sums differs from torch's."""
VOCAB_SIZE = 288


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama_sampler")
    write_base(folder)
    return folder


def asked(prompts: Sequence[Sequence[int]] = PROMPTS, seed: int = 0) -> list[Asked]:
    return [
        Asked(PolicyTask(Item(str(n), "", prompt=""), ()), tuple(prompt), seed + n)
        for n, prompt in enumerate(prompts)
    ]


class OnLlama:
    """A sampler of groups on llama.cpp, closed by a `with` block."""

    def __init__(
        self,
        base: Base,
        *,
        end_ids: frozenset[int] = frozenset(),
        max_tokens: int = 8,
        temperature: float = 1.0,
        plan: LlamaSampling = EXACT,
        prefix: tuple[int, ...] = PREFIX,
    ) -> None:
        self.policy = LlamaPolicy(base, plan, prefix=prefix)
        self.sample = GroupSampler(self.policy, end_ids, max_tokens, temperature).sample
        self.close = self.policy.close

    def __enter__(self) -> OnLlama:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


sampler = OnLlama


def adapted(file: Path, **lora: Any) -> Base:
    base = load_base(file)
    add_lora(base.model, LoraConfig(rank=4, **lora))
    return base


@torch.no_grad()
def move(model: CausalLM, seed: int, size: float = 0.3) -> None:
    torch.manual_seed(seed)
    for _, layer in lora_layers(model):
        layer.lora_B.normal_(std=size)


def log_probs(model: CausalLM, prompt: Sequence[int], reply: Sampled, temperature: float = 1.0) -> list[float]:
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *reply.ids]])).logits_BTV[0, len(prompt) - 1 : -1].float()
    return torch.log_softmax(logits / temperature, -1)[range(len(reply.ids)), list(reply.ids)].tolist()


def distance(model: CausalLM, groups: list[list[Sampled]], temperature: float = 1.0) -> float:
    """Return how far sampled log-probabilities are from the model's at most."""
    return max(
        abs(ours - theirs)
        for prompt, group in zip(PROMPTS, groups, strict=True)
        for reply in group
        for ours, theirs in zip(reply.log_probs, log_probs(model, prompt, reply, temperature), strict=True)
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_the_model_in_training_as_its_adapter_moves(
    folder: Path, temperature: float
) -> None:
    base = adapted(folder / "toy.gguf")
    with sampler(base, temperature=temperature) as llama:
        first = llama.sample(asked(), 4)
        assert distance(base.model, first, temperature) < 1e-3
        for seed in (1, 2):
            move(base.model, seed)
            again = llama.sample(asked(), 4)
            assert distance(base.model, again, temperature) < 1e-3
            assert distance(base.model, first, temperature) > 0.1  # the weights did move
        assert len({reply.ids for reply in again[0]}) == 4


@pytest.mark.parametrize("kind", ["full", "dora", "checkpoint"])
def test_models_without_an_adapter_of_llama_cpp_are_written_and_loaded_whole(folder: Path, kind: str) -> None:
    source = folder / ("checkpoint" if kind == "checkpoint" else "toy.gguf")
    base = load_base(source) if kind == "full" else adapted(source, dora=kind == "dora")
    with sampler(base) as llama:
        assert distance(base.model, llama.sample(asked(), 2)) < 1e-3
        with torch.no_grad():
            if kind == "full":
                base.model.lm_head.weight.mul_(0.5)
            else:
                move(base.model, 1)
        assert distance(base.model, llama.sample(asked(), 2)) < 1e-3


@pytest.mark.parametrize("max_rows", [1, 5, 32])
def test_prompts_asked_together_are_answered_as_each_alone(folder: Path, max_rows: int) -> None:
    base = adapted(folder / "toy.gguf")
    ends = frozenset(range(0, VOCAB_SIZE, 5))  # so that replies end at different times and others take their place
    questions = asked([*PROMPTS, *PROMPTS])
    plan = EXACT.model_copy(update={"max_rows": max_rows})
    with sampler(base, end_ids=ends, max_tokens=12, plan=plan) as llama:
        together = llama.sample(questions, 3)
        alone = [llama.sample([one], 3)[0] for one in questions]
        with sampler(base, end_ids=ends, max_tokens=12, prefix=()) as without_prefix:
            read_whole = without_prefix.sample(questions, 3)
    for one, other, third in zip(together, alone, read_whole, strict=True):
        assert [reply.ids for reply in one] == [reply.ids for reply in other] == [reply.ids for reply in third]
        for left, right in zip(one, other, strict=True):
            assert left.log_probs == pytest.approx(right.log_probs, abs=1e-4)


def test_an_end_ends_its_reply_alone(folder: Path) -> None:
    base = adapted(folder / "toy.gguf")
    ends = frozenset(range(0, VOCAB_SIZE, 4))
    with sampler(base, end_ids=ends, max_tokens=6) as llama:
        replies = [reply for group in llama.sample(asked(), 8) for reply in group]
    assert len({len(reply.ids) for reply in replies}) > 2
    for reply in replies:
        assert not any(token in ends for token in reply.ids[:-1])
        assert reply.is_truncated == (reply.ids[-1] not in ends)
        assert not reply.is_truncated or len(reply.ids) == 6


def test_the_same_weights_and_call_give_the_same_replies_whatever_was_asked_before(folder: Path) -> None:
    base = adapted(folder / "toy.gguf")
    move(base.model, 1)
    with sampler(base) as llama:
        first = llama.sample(asked(), 3)
        other = llama.sample(asked(PROMPTS[1:3], seed=50), 5)
        move(base.model, 2)
        llama.sample(asked(), 3)
        move(base.model, 1)
        assert llama.sample(asked(), 3) == first
    with sampler(base) as anew:
        assert anew.sample(asked(PROMPTS[1:3], seed=50), 5) == other
        assert anew.sample(asked(), 3) == first
        assert anew.sample(asked(seed=9), 3) != first
        anew.close()
        assert anew.sample(asked(), 3) == first  # closed, it loads again


def test_samples_follow_the_distribution(folder: Path) -> None:
    base, n = adapted(folder / "toy.gguf"), 40 * 100
    move(base.model, 1, size=0.1)
    with sampler(base, max_tokens=1, temperature=1.5) as llama:
        groups = llama.sample(asked([PROMPTS[0]] * 40), 100)
    ids = torch.tensor([reply.ids[0] for group in groups for reply in group])
    with torch.no_grad():
        p = (base.model(torch.tensor([PROMPTS[0]])).logits_BTV[0, -1].float() / 1.5).softmax(-1)
    expected = n * p
    usual = expected > 5
    assert int(usual.sum()) > 5
    counts = torch.bincount(ids, minlength=VOCAB_SIZE)
    chi2 = ((counts[usual] - expected[usual]) ** 2 / expected[usual]).sum()
    degrees = int(usual.sum()) - 1
    assert chi2 < degrees + 4 * (2 * degrees) ** 0.5  # four standard deviations above the mean of chi squared


def test_greedy_replies_are_the_most_probable_tokens(folder: Path) -> None:
    base = adapted(folder / "toy.gguf")
    with sampler(base, temperature=0.0) as llama:
        ((one, other),) = llama.sample(asked(PROMPTS[:1]), 2)
    assert one.ids == other.ids
    with torch.no_grad():
        logits = base.model(torch.tensor([[*PROMPTS[0], *one.ids]])).logits_BTV[0, len(PROMPTS[0]) - 1 : -1]
    assert logits.argmax(-1).tolist() == list(one.ids)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_split_q4_1_model_computes_what_the_q4_1_file_says(family: str, tmp_path: Path) -> None:
    model = toy_model(toy_config(family, hidden_size=64, intermediate_size=96, head_dim=16))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name and "head" not in name:
                # Blocks whose numbers are not around zero: what Q4_1 is for, and where the second part counts.
                weight.add_(
                    0.05 * torch.randn(len(weight), weight.shape[1] // 32, 1).expand(-1, -1, 32).flatten(1)
                )
    toy_file(model, tmp_path / "q4_1.gguf", "q4_1")
    stored = load_gguf(tmp_path / "q4_1.gguf").model
    missing = write_split(tmp_path / "q4_1.gguf", tmp_path / "split.gguf")
    assert len(missing) == 7 * model.config.num_hidden_layers
    write_rollout_adapter(stored, missing, tmp_path / "adapter.gguf")
    ids = list(PROMPTS[1])
    found = {
        name: last_logits(tmp_path / file, adapter, ids)
        for name, file, adapter in (
            ("q4_1", "q4_1.gguf", None),
            ("split", "split.gguf", tmp_path / "adapter.gguf"),
            ("q4_0 alone", "split.gguf", None),
        )
    }
    with torch.no_grad():
        expected = stored(torch.tensor([ids])).logits_BTV[0, -1].numpy()
    spread = expected.std()
    # llama.cpp rounds what it multiplies by to 8 bits, in both.
    for name in ("q4_1", "split"):
        assert np.abs(found[name] - expected).max() < 0.15 * spread
    assert np.abs(found["q4_0 alone"] - expected).max() > 0.5 * spread


def last_logits(file: Path, adapter: Path | None, ids: list[int]) -> np.ndarray:
    weights = LlamaWeights(file, adapter)
    context = LlamaContext(weights, n_cells=256, n_sequences=1, n_batch=32, kv_type="f32")
    assert context.evaluate(ids, position=0, sequence=0, want_logits=1) == 0
    found = context.logits().copy()
    context.free()
    weights.free()
    return found


@pytest.mark.parametrize("is_split", [True, False])
def test_a_q4_1_base_is_sampled_with_its_own_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_split: bool
) -> None:
    monkeypatch.setattr(served_policy, "rearranges_q4_0", lambda: is_split)
    write_base(tmp_path)
    plain = load_base(tmp_path / "toy.gguf")
    file = write_merged_gguf(Merged(plain.model, plain.tokenizer), tmp_path / "q4_1.gguf", type_name="q4_1").path
    base = adapted(file)
    with sampler(base) as llama:
        for seed in (1, 2):
            move(base.model, seed)
            assert distance(base.model, llama.sample(asked(), 2)) < 0.5


def test_no_file_outlives_its_reading(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    base = adapted(folder / "toy.gguf")
    with sampler(base) as llama:
        llama.sample(asked(), 2)
        move(base.model, 1)
        llama.sample(asked(), 2)
        assert list(tmp_path.iterdir()) == []


def test_broken_weights_end_in_an_error_and_sound_ones_sample_again(folder: Path) -> None:
    base = adapted(folder / "toy.gguf")
    layer = next(layer for _, layer in lora_layers(base.model))
    with sampler(base) as llama:
        first = llama.sample(asked(), 2)
        with torch.no_grad():
            layer.lora_B.fill_(torch.nan)
        with pytest.raises(EngineError, match="not finite"):
            llama.sample(asked(), 2)
        with torch.no_grad():
            layer.lora_B.zero_()
        assert llama.sample(asked(), 2) == first


@pytest.mark.parametrize(
    ("prompts", "n_replies", "options", "complaint"),
    [
        (PROMPTS, 2, {"max_tokens": 1020}, "11 tokens and 1020 more exceed the context of 1024"),
        ([()], 2, {}, "prompt 0 is empty"),
        ([(1, VOCAB_SIZE)], 2, {}, "outside the vocabulary of 288"),
        ([(1, -1)], 2, {}, "outside the vocabulary of 288"),
        (PROMPTS, 2, {"temperature": -1.0}, "temperature is -1.0"),
    ],
    ids=["long", "empty", "beyond", "negative", "temperature"],
)
def test_what_cannot_be_sampled_is_refused(
    folder: Path, prompts: Any, n_replies: int, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint), sampler(load_base(folder / "toy.gguf"), **options) as llama:
        llama.sample(asked(prompts), n_replies)


def test_layers_that_llama_cpp_has_not_are_refused_with_the_way_out(folder: Path, monkeypatch: Any) -> None:
    base = adapted(folder / "toy.gguf")
    monkeypatch.setattr(
        "modelstack.reasoning.sampling.llama.rollout_adapter.lora_layers", lambda _: [("model.other", None)]
    )
    with pytest.raises(UserError, match=r"no separate weight for model\.other: leave it out of lora\.targets"):
        sampler(base).sample(asked(), 2)


def test_a_shared_prefix_leaves_every_prompt_something_of_its_own() -> None:
    assert shared_prefix([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3]]) == (1, 2)
    assert shared_prefix([[1, 2], [1, 2, 3]]) == (1,)
    assert shared_prefix([[1, 2, 3]]) == (1, 2)
    assert shared_prefix([[1], [2]]) == shared_prefix([]) == ()
