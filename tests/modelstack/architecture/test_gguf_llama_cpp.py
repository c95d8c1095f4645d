"""Exported models compute in llama.cpp what they compute here: logits, and what is decoded greedily.

All files run in one child process: a shape that llama.cpp does not expect would abort this one.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_models import MODELS, toy_config, toy_file, toy_model
from llama_child import Task, needs_llama_cpp, run_in_llama_cpp
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.gguf.export import Exported
from modelstack.architecture.gguf.load import load_gguf

pytestmark = [pytest.mark.xdist_group("gguf in llama.cpp"), needs_llama_cpp]

N_TOKENS, N_TOKENS_V4 = 48, 160
"""DeepSeek-V4's heavier compression begins behind 128 tokens."""
N_GREEDY = 32
N_WORDS = 262
"""Tokens of the toy vocabulary; rows behind them are padding."""
ATOL = 5e-6
LOOSE_ATOL = {
    "gemma3": 2e-3,  # ggml's GELU looks up a table in F16
    "gpt_oss, YaRN unrounded": 5e-4,  # llama.cpp rounds YaRN's bounds
}


QUANTISED: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {},
    "gemma3": {},
    "smollm3": {},
    "olmo3": {},
    "gpt_oss": {},
    "deepseek_v3": {"kv_lora_rank": 32, "qk_nope_head_dim": 32, "v_head_dim": 32},
    "deepseek_v4": {},
}
"""Of each family one, with rows of multiples of 32."""


REPLY_OF_THE_ENGINE = """
import sys
from pathlib import Path

from modelstack.inference.engine import GenerateRequest
from modelstack.inference.llama.engine import LlamaCppEngine

with LlamaCppEngine(Path(sys.argv[1]), context_window=64, n_threads=1) as engine:
    print(len(engine.generate(GenerateRequest([1, 2, 3], 4)).ids))
"""
LOAD_WITH_MODULES = """
import sys
import llama_cpp.llama_cpp as lib

parameters = lib.llama_model_default_params()
parameters.load_mtp = True
model = lib.llama_model_load_from_file(sys.argv[1].encode(), parameters)
print(lib.llama_model_n_layer_nextn(model), lib.llama_model_n_params(model))
"""
"""Left to its defaults, llama.cpp skips these tensors."""


@dataclass(frozen=True)
class _Run:
    """One model, here and there."""

    exported: Exported
    logits: Tensor
    """Ours, [T, V]."""
    greedy: list[int]
    """Ours, decoded with the cache."""
    theirs: dict[str, Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, _Run]:
    """Every model of `MODELS`, exported in F32 and run by llama.cpp."""
    folder = tmp_path_factory.mktemp("gguf")
    exported, logits, greedy, tasks = {}, {}, {}, []
    for n, name in enumerate(MODELS):
        model = toy_model(toy_config(name))
        exported[name] = toy_file(model, folder / f"{n}.gguf")
        ids = _ids(N_TOKENS_V4 if "v4" in name else N_TOKENS)
        logits[name], greedy[name] = _decode(model, ids, N_GREEDY)
        tasks.append(Task(name, exported[name].path, ids[0].tolist(), N_GREEDY))
    theirs = run_in_llama_cpp(tasks, folder)
    return {name: _Run(exported[name], logits[name], greedy[name], theirs[name]) for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_the_same_logits(runs: dict[str, _Run], name: str) -> None:
    run = runs[name]
    theirs = torch.from_numpy(run.theirs["logits"])
    assert run.logits.std() > 0.1, "logits too small for the tolerance to bite"
    assert (run.logits - theirs).abs().max() < LOOSE_ATOL.get(name, ATOL)
    assert torch.equal(run.logits.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_decodes_the_same_text(runs: dict[str, _Run], name: str) -> None:
    assert runs[name].greedy == runs[name].theirs["greedy"]


def test_every_family_runs_with_quantised_weights(tmp_path: Path) -> None:
    """Against ours with the file's weights, dequantised: llama.cpp rounds activations to 8 bits beside them."""
    tasks, logits = [], {}
    for name, changes in QUANTISED.items():
        path = toy_file(toy_model(toy_config(name, **changes)), tmp_path / f"{name}.gguf", "q8_0").path
        ids = _ids(N_TOKENS_V4 if "v4" in name else N_TOKENS)
        logits[name], _ = _decode(load_gguf(path).model, ids, 0)
        tasks.append(Task(name, path, ids[0].tolist()))
    theirs = run_in_llama_cpp(tasks, tmp_path)
    for name, ours in logits.items():
        error = (ours - torch.from_numpy(theirs[name]["logits"])).norm() / ours.norm()
        assert error < (0.2 if "v4" in name else 0.1), name  # V4 chooses entries, and a choice may tip over


def test_the_engine_replies_with_quantised_latent_attention(tmp_path: Path) -> None:
    """On processors with AMX, llama.cpp as it is by default aborts."""
    model = toy_model(toy_config("deepseek_v3", **QUANTISED["deepseek_v3"]))
    path = toy_file(model, tmp_path / "v3.gguf", "q8_0").path
    done = subprocess.run([sys.executable, "-c", REPLY_OF_THE_ENGINE, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr[-1000:]


def test_what_llama_cpp_rounds_is_told(runs: dict[str, _Run]) -> None:
    (note,) = runs["gpt_oss, YaRN unrounded"].exported.notes
    assert "truncate is false" in note
    assert not runs["gpt_oss, YaRN"].exported.notes


def test_llama_cpp_loads_v3s_module_for_multi_token_prediction(tmp_path: Path) -> None:
    model = toy_model(toy_config("deepseek_v3, prediction module"))
    path = toy_file(model, tmp_path / "v3.gguf").path
    done = subprocess.run([sys.executable, "-c", LOAD_WITH_MODULES, str(path)], capture_output=True, text=True)
    n_numbers = sum(tensor.numel() for tensor in model.state_dict().values())
    assert (done.returncode, done.stdout.split()) == (0, ["1", str(n_numbers)]), done.stderr[-1000:]


def test_modules_that_llama_cpp_cannot_run_are_left_out_and_told(tmp_path: Path) -> None:
    """DeepSeek-V4's collapse streams with weights of their own, for which llama.cpp has no tensors."""
    model = toy_model(toy_config("deepseek_v4", num_nextn_predict_layers=1))
    exported = toy_file(model, tmp_path / "v4.gguf")
    (note,) = exported.notes
    assert "multi-token prediction are not exported" in note
    ids = _ids(16)
    theirs = run_in_llama_cpp([Task("v4", exported.path, ids[0].tolist())], tmp_path)["v4"]["logits"]
    logits, _ = _decode(model, ids, 0)
    assert (logits - torch.from_numpy(theirs)).abs().max() < ATOL


def _ids(n: int) -> Tensor:
    return torch.randint(0, N_WORDS, (1, n), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def _decode(model: CausalLM, ids: Tensor, n: int) -> tuple[Tensor, list[int]]:
    """Return logits of `ids` in one pass, [T, V], and `n` ids decoded behind them with the cache."""
    cache, greedy = model.new_cache(), []
    logits = latest = model(ids, cache=cache).logits_BTV
    for _ in range(n):
        greedy.append(int(latest[0, -1].argmax()))
        latest = model(torch.tensor([greedy[-1:]]), cache=cache).logits_BTV
    return logits[0], greedy
