"""A step of the torch engine gives the logits of a training pass, whatever runs beside a stream."""

from __future__ import annotations

import pytest
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.inference.scheduler import StepLimits
from modelstack.inference.streams import Stream
from modelstack.inference.torch.stream_batch import StreamBatch, UnsupportedModelError, require_paged
from tests.modelstack.architecture.gguf_models import toy_config
from tests.modelstack.inference.torch_engines import FAMILIES, OTHERS, model_of, prompt_of

TOLERANCE = 2e-4
"""Tolerance of float32 logits of up to about 30, because sums have another order."""


def whole_pass(model: CausalLM, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits_BTV[0]


def compare(model: CausalLM, batch: StreamBatch, texts: dict[Stream, list[int]]) -> int:
    """Read the texts token by token behind their prompts; compare all logits; return their number."""
    wholes = {stream: whole_pass(model, text) for stream, text in texts.items()}
    n_compared = 0
    while len(batch.queue):
        ready = batch.step()
        batch.queue.check()
        for stream, logits_V in zip(ready.streams, ready.logits_RV, strict=True):
            n, text = len(stream.tokens), texts[stream]
            torch.testing.assert_close(
                torch.from_numpy(logits_V), wholes[stream][n - 1], atol=TOLERANCE, rtol=TOLERANCE
            )
            n_compared += 1
            if n == len(text):
                batch.queue.remove(stream)
            else:
                batch.queue.extend(stream, text[n : n + 1 + n % 3])
    return n_compared


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
@pytest.mark.parametrize("max_tokens", [5, 64])
def test_logits_equal_those_of_a_training_pass(name: str, max_tokens: int) -> None:
    model = model_of(name)
    batch = StreamBatch(model, 160, StepLimits(4, max_tokens), block_tokens=4)
    texts = {}
    for number, (n_prompt, n_text) in enumerate([(1, 9), (30, 41), (3, 22), (17, 18), (30, 33), (2, 37)]):
        text = prompt_of(number // 2, 60)[:n_text]
        texts[batch.queue.submit(text[:n_prompt], n_text)] = text
    assert compare(model, batch, texts) > 40
    assert batch.queue.pool.n_free == batch.queue.pool.n_blocks


def test_cached_and_recomputed_keys_give_the_same_logits() -> None:
    model = model_of("llama")
    batch = StreamBatch(model, 64, StepLimits(4, 16), block_tokens=4)
    text = prompt_of(1, 44)
    for _ in range(2):
        first = batch.queue.submit(text[:30], 44)
        others = {batch.queue.submit(prompt_of(n, 12), 20): prompt_of(n, 20) for n in (2, 3)}
        compare(model, batch, {first: text} | {s: list(s.tokens) + t[12:] for s, t in others.items()})
    assert first.n_reused


def test_a_step_that_fails_leaves_all_streams_in_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("qwen3")
    batch = StreamBatch(model, 160, StepLimits(4, 16), block_tokens=4)
    texts = {batch.queue.submit(prompt_of(n, 20), 24): prompt_of(n, 24) for n in range(3)}
    batch.step()
    with monkeypatch.context() as patch:

        def broken(hidden: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of memory")

        patch.setattr(model, "logits", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            batch.step()
    batch.queue.check()
    assert (batch.queue.n_waiting, batch.queue.pool.n_cached) == (3, 0)
    compare(model, batch, {stream: list(stream.tokens) + text[20:] for stream, text in texts.items()})


def test_memory_is_allocated_by_the_first_step_and_can_be_freed() -> None:
    model = model_of("llama")
    batch = StreamBatch(model, 40, StepLimits(), block_tokens=4)
    assert batch.bytes_in_use() == 0
    stream = batch.queue.submit([1, 2, 3], 4)
    batch.step()
    config = model.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert batch.bytes_in_use() == 40 * per_token
    batch.queue.remove(stream)
    batch.free()
    assert batch.bytes_in_use() == 0


@pytest.mark.parametrize(
    ("family", "layer_type"),
    [
        ("llama", "linear_attention"),
        ("deepseek_v4", "compressed_sparse"),
    ],
)
def test_layers_with_another_past_are_refused_by_their_kind(family: str, layer_type: str) -> None:
    config = toy_config(family)
    if layer_type == "linear_attention":
        sizes = {"key_heads": 2, "value_heads": 2, "key_head_dim": 8, "value_head_dim": 8}
        linear = {f"linear_{name}" if "dim" in name else f"linear_num_{name}": n for name, n in sizes.items()}
        config = config.with_(layer_types=("linear_attention", "full_attention"), **linear)
    with pytest.raises(UnsupportedModelError, match=f"layers of type .*{layer_type}.* keep another past"):
        require_paged(config)


def test_positions_that_depend_on_the_length_are_refused() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
    with pytest.raises(UnsupportedModelError, match="rope_type 'dynamic' .* turns all keys"):
        require_paged(toy_config("llama", rope_parameters=rope))
