"""Several LoRA adapters in one batch: each reply is that of a model into which its adapter was merged."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.inference.engine import EngineError, GenerateRequest
from modelstack.inference.torch.batch_adapters import LowRank
from modelstack.inference.torch.engine import TorchEngine
from modelstack.inference.torch.packing import Numbers
from modelstack.posttrain.lora.adapters import add_lora, lora_state, merge_lora
from modelstack.posttrain.lora.batch_adapter import engine_changes
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.files import Adapter
from tests.modelstack.architecture.gguf_models import toy_chat_tokenizer
from tests.modelstack.inference.torch_engines import FAMILIES, greedy_of, model_of, prompt_of

NAMES = ("calls", "sums", "poems")
RANKS = {"calls": 2, "sums": 4, "poems": 3}


@cache
def adapted(family: str, name: str) -> tuple[Adapter, CausalLM]:
    """Return an adapter with large random values, and the model into which it was merged."""
    model = copy.deepcopy(model_of(family))
    some = ("q_b_proj", "o_proj") if family == "deepseek-v3" else ("q_proj", "v_proj")
    targets = some if name == "poems" else LoraConfig().targets
    config = LoraConfig(rank=RANKS[name], alpha=8, targets=targets)
    add_lora(model, config)
    generator = torch.Generator().manual_seed(NAMES.index(name))
    with torch.no_grad():
        for tensor in lora_state(model).values():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    state = {key: tensor.clone() for key, tensor in lora_state(model).items()}
    return Adapter(config, state), merge_lora(model).eval()


def engine_with(family: str, *names: str, numbers: Numbers = "float", **options: Any) -> TorchEngine:
    given: dict[str, Any] = {"block_tokens": 4, "seed": 0} | options
    model = copy.deepcopy(model_of(family))
    engine = TorchEngine(model, toy_chat_tokenizer(), owns_model=True, numbers=numbers, **given)
    for name in names:
        engine.add_adapter(name, engine_changes(adapted(family, name)[0]))
    return engine


def asked(number: int, adapter: str | None, n_prompt: int = 21) -> GenerateRequest:
    return GenerateRequest(
        prompt_of(number, n_prompt), 6, conversation=f"{number}", adapter=adapter, end_ids=frozenset()
    )


def greedy(family: str, asked_for: GenerateRequest) -> list[int]:
    """Return the continuation by whole passes through the merged model."""
    model = model_of(family) if asked_for.adapter is None else adapted(family, asked_for.adapter)[1]
    return greedy_of(model, list(asked_for.prompt_ids), asked_for.max_tokens)


def replies(engine: TorchEngine, requests: list[GenerateRequest]) -> list[list[int]]:
    submissions = [engine.submit(each) for each in requests]
    while not all(submission.is_done for submission in submissions):
        engine.step()
        engine.check_integrity()
    return [submission.result().ids for submission in submissions]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_reply_of_a_batch_is_that_of_its_merged_model(family: str) -> None:
    requests = [asked(n, adapter) for n, adapter in enumerate((None, *NAMES, "calls", None, "sums"))]
    expected = [greedy(family, each) for each in requests]
    assert len({tuple(greedy(family, asked(0, adapter))) for adapter in (None, *NAMES)}) == 4
    with engine_with(family, *NAMES) as engine:
        assert replies(engine, requests) == expected
    with engine_with(family, *NAMES, max_step_tokens=5, n_cached_tokens=120, max_rows=3) as engine:
        assert replies(engine, requests) == expected


def test_a_batch_in_int_8_writes_what_each_adapter_writes_alone() -> None:
    requests = [asked(n, adapter) for n, adapter in enumerate((None, *NAMES))]
    with engine_with("llama", *NAMES, numbers="int8") as engine:
        together = replies(engine, requests)
    with engine_with("llama", *NAMES, numbers="int8") as engine:
        assert [engine.generate(each).ids for each in requests] == together
    assert len({*map(tuple, together)}) == 4


def test_blocks_are_shared_by_requests_of_one_adapter_alone() -> None:
    with engine_with("llama", "calls", "sums") as engine:

        def reused(adapter: str | None) -> int:
            return engine.generate(asked(0, adapter)).stats.reused_tokens

        assert [reused("calls"), reused(None), reused("sums")] == [0, 0, 0]
        assert [reused("calls"), reused(None), reused("sums")] == [20, 20, 20]


def test_an_adapter_under_the_name_of_a_removed_one_finds_no_block_of_it() -> None:
    with engine_with("llama", "calls") as engine:
        engine.generate(asked(0, "calls"))
        engine.remove_adapter("calls")
        engine.add_adapter("calls", engine_changes(adapted("llama", "sums")[0]))
        found = engine.generate(asked(0, "calls"))
        assert found.stats.reused_tokens == 0
        assert found.ids == greedy("llama", asked(0, "sums"))
        engine.remove_adapter("calls")
        assert engine.generate(asked(0, None)).ids == greedy("llama", asked(0, None))


def test_the_fingerprint_is_that_of_the_base() -> None:
    with engine_with("llama") as plain, engine_with("llama", "calls") as engine:
        assert engine.fingerprint == plain.fingerprint


def test_mistakes_are_named_and_change_nothing() -> None:
    changes = dict(engine_changes(adapted("llama", "calls")[0]))
    layer = "model.layers.0.self_attn.q_proj"
    wide = LowRank(torch.zeros(2, 7), torch.zeros(64, 2))
    with engine_with("llama") as engine:
        for wrong, message in (
            ({}, "changes no layer"),
            (changes | {"model.layers.9.mlp.up_proj": changes[layer]}, "does not have as a layer"),
            (changes | {layer: wide}, "is of another base"),
        ):
            with pytest.raises(EngineError, match=message):
                engine.add_adapter("calls", wrong)
        with pytest.raises(EngineError, match="there is no adapter 'calls'; this engine has none"):
            engine.submit(asked(0, "calls"))
        engine.add_adapter("calls", changes)
        with pytest.raises(EngineError, match="there is an adapter 'calls' already"):
            engine.add_adapter("calls", changes)
        with pytest.raises(EngineError, match="there is no adapter 'sums'; this engine has 'calls'"):
            engine.submit(asked(0, "sums"))
        submission = engine.submit(asked(0, "calls"))
        with pytest.raises(EngineError, match="adapter 'calls' is used by 1 requests"):
            engine.remove_adapter("calls")
        engine.cancel(submission)
        engine.remove_adapter("calls")
        assert engine.generate(asked(0, None)).ids == greedy("llama", asked(0, None))
    with (
        TorchEngine(copy.deepcopy(model_of("llama")), toy_chat_tokenizer()) as engine,
        pytest.raises(EngineError, match="which this engine does not own"),
    ):
        engine.add_adapter("calls", changes)


def test_adapters_that_cannot_share_a_batch_are_refused() -> None:
    adapter, _ = adapted("llama", "calls")
    with pytest.raises(UserError, match="a DoRA adapter"):
        engine_changes(Adapter(adapter.config.model_copy(update={"dora": True}), adapter.state))
    half = {name: tensor for name, tensor in adapter.state.items() if "lora_A" in name}
    with pytest.raises(UserError, match="must have an A and a B for each layer"):
        engine_changes(Adapter(adapter.config, half))
