"""`modelstack export gguf` and `modelstack import gguf`; the exported model behind the house's own engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf_models import toy_config, toy_model
from llama_child import needs_llama_cpp
from typer.testing import CliRunner, Result

from modelstack.architecture.checkpoint import load_checkpoint, save_checkpoint
from modelstack.architecture.decoder import CausalLM
from modelstack.cli import app
from modelstack.tokenizer.tokenizer_folder import load_tokenizer, save_tokenizer
from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer

TEXT = "The quick brown fox jumps over the lazy dog, and 42 lines of todo.md say so. Grüße aus Köln! "
PROMPT = "The quick brown"
N_GREEDY = 24
VOCAB_SIZE = 512


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model with a tokenizer that was trained for it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    trained = train_tokenizer([TEXT * 20], TokenizerConfig(vocab_size=VOCAB_SIZE))
    save_tokenizer(trained, folder / "tokenizer")
    n_rows = -(-trained.tokenizer.get_vocab_size() // 64) * 64
    model = toy_model(toy_config("qwen3", vocab_size=n_rows, head_dim=32))
    return save_checkpoint(model, folder / "toy", tokenizer=folder / "tokenizer")


def test_export_and_import_give_the_checkpoint_again(checkpoint: Path, tmp_path: Path) -> None:
    file, again = tmp_path / "toy.gguf", tmp_path / "again"
    result = _run("export", "gguf", str(checkpoint), str(file), "--type", "f32")
    assert result.exit_code == 0, result.output
    assert str(file) in result.output
    result = _run("import", "gguf", str(file), str(again))
    assert result.exit_code == 0, result.output
    before, after = load_checkpoint(checkpoint), load_checkpoint(again)
    assert before.config.with_(bos_token_id=None, eos_token_id=None, pad_token_id=None) == after.config.with_(
        bos_token_id=None, eos_token_id=None, pad_token_id=None
    )
    assert all(torch.equal(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())
    first, second = load_tokenizer(checkpoint), load_tokenizer(again)
    assert second.encode(TEXT) == first.encode(TEXT)
    assert second.chat_template == first.chat_template
    assert second.names == first.names


def test_import_writes_the_float_type_that_is_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    file, again = tmp_path / "toy.gguf", tmp_path / "again"
    _run("export", "gguf", str(checkpoint), str(file), "--type", "bf16")
    result = _run("import", "gguf", str(file), str(again), "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    weight = load_checkpoint(again).lm_head.weight
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, load_checkpoint(checkpoint).lm_head.weight.bfloat16())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "gguf", "CHECKPOINT", "x.gguf", "--type", "q9"], "number type 'q9' is not known"),
        (["export", "gguf", "nowhere", "x.gguf"], "nowhere"),
        (["import", "gguf", "nowhere.gguf", "x"], "nowhere.gguf does not exist"),
    ],
)
def test_a_mistake_is_one_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run(*[str(checkpoint) if argument == "CHECKPOINT" else argument for argument in arguments])
    assert result.exit_code == 1
    assert message in result.output
    assert result.output.count("\n") == 1
    assert not list(tmp_path.iterdir())


@needs_llama_cpp
def test_an_exported_model_answers_through_the_engine(checkpoint: Path, tmp_path: Path) -> None:
    from modelstack.inference.engine import GenerateRequest, SamplingParams
    from modelstack.inference.llama.engine import LlamaCppEngine

    file = tmp_path / "toy.gguf"
    assert _run("export", "gguf", str(checkpoint), str(file), "--type", "f32").exit_code == 0
    tokenizer = load_tokenizer(checkpoint)
    with LlamaCppEngine(file, n_threads=1, n_threads_prefill=1, kv_type="f32", flash_attention=False) as engine:
        ids = engine.vocabulary.encode(PROMPT)
        assert ids == tokenizer.encode(PROMPT)
        assert engine.chat_template == tokenizer.chat_template
        n_rows = load_checkpoint(checkpoint).config.vocab_size
        assert len(engine.vocabulary) == n_rows
        generation = engine.generate(GenerateRequest(ids, N_GREEDY, sampling=SamplingParams(temperature=0)))
    assert list(generation.ids) == _greedy(load_checkpoint(checkpoint), ids, N_GREEDY)[: len(generation.ids)]
    assert generation.ids


@torch.no_grad()
def _greedy(model: CausalLM, ids: list[int], n: int) -> list[int]:
    cache, found = model.new_cache(), []
    latest = model(torch.tensor([ids]), cache=cache).logits_BTV
    for _ in range(n):
        found.append(int(latest[0, -1].argmax()))
        latest = model(torch.tensor([found[-1:]]), cache=cache).logits_BTV
    return found


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)
