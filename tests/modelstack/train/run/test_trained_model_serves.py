"""What a run leaves is served by llama.cpp: exported to GGUF, it continues texts as our own model does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from modelstack.architecture.checkpoint import load_checkpoint
from modelstack.inference.engine import GenerateRequest
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.tokenizer.tokenizer_folder import load_tokenizer
from modelstack.train.run.launch import launch
from modelstack.train.run.recipe import resolve
from modelstack.train.samples import SamplingConfig, continuation, prompt_ids
from tests.modelstack.train.run.toy_run import toy_recipe, toy_values, write_text
from tests.processes import modelstack

pytest.importorskip("llama_cpp")


def test_a_trained_model_answers_through_llama_cpp_as_it_does_here(tmp_path: Path) -> None:
    text = write_text(tmp_path / "toy.jsonl")
    shape = toy_values(text)["model"]["config"] | {"hidden_size": 64, "head_dim": 32}
    recipe = toy_recipe(text, steps=60, model={"preset": "nano-9m", "config": shape})
    assert launch(resolve(recipe), tmp_path / "run", None, Console(quiet=True))
    folder, file = tmp_path / "run" / "model", tmp_path / "nano.gguf"
    done = modelstack("export", "gguf", folder, file, "--type", "f32")
    assert done.returncode == 0, done.stderr

    tokenizer, model = load_tokenizer(folder), load_checkpoint(folder)
    ids = prompt_ids(tokenizer, "The small red")
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits_BTV[0, -1]
    gap = logits.topk(2).values.diff().abs().item()
    assert gap > 1e-3, "a tie would leave the first token to rounding"
    ours = continuation(model, ids, SamplingConfig(n_tokens=12, temperature=0), frozenset())
    with LlamaCppEngine(file, n_threads=1, n_threads_prefill=1, kv_type="f32", flash_attention=False) as engine:
        assert (
            engine.vocabulary.token_bytes[: len(tokenizer.vocabulary.token_bytes)]
            == tokenizer.vocabulary.token_bytes
        )
        theirs = engine.generate(GenerateRequest(ids, 12, end_ids=frozenset({0})))
    assert theirs.ids == ours
    assert tokenizer.vocabulary.decode(ours).strip()
