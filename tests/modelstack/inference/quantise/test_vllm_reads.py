"""vLLM reads a quantised folder and computes what this project computes with it; in vLLM's own environment."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from modelstack.architecture.checkpoint import load_checkpoint, save_checkpoint
from modelstack.architecture.rounded_weight import NumberFormat
from modelstack.inference.quantise.rounded_model import METHODS, quantise
from tests.modelstack.architecture.gguf_models import VOCAB_SIZE, toy_config, toy_model
from tests.modelstack.inference.quantise.quantised_toys import INT4, ROWS8
from tests.vllm_environment import VLLM, needs_vllm

SCRIPT = Path(__file__).with_name("vllm_log_probs.py")
SIZES = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "max_position_embeddings": 256}
"""vLLM's kernels need heads of 32 channels and more, and wide layers."""


@pytest.mark.slow
@needs_vllm
@pytest.mark.parametrize("number_format", [INT4, ROWS8], ids=["int4", "int8 rows"])
def test_log_probabilities_are_those_of_this_project(number_format: NumberFormat, tmp_path: Path) -> None:
    model = toy_model(toy_config("llama", **SIZES)).requires_grad_(False)
    model.lm_head.weight.mul_(0.2)  # bf16 rounds logits of about 1 to .004; vLLM's integers of 4 bits need bf16
    result = quantise(model, lambda _, __: number_format, METHODS["rtn"])
    save_checkpoint(model, tmp_path / "m", rounded=result.weights)
    ids = torch.randint(0, VOCAB_SIZE, (24,), generator=torch.Generator().manual_seed(0)).tolist()
    command = [str(VLLM), "-P", str(SCRIPT), str(tmp_path / "m"), ",".join(map(str, ids))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.no_grad():
        logits = load_checkpoint(tmp_path / "m", dtype=torch.bfloat16)(torch.tensor([ids])).logits_BTV[0]
    ours = torch.log_softmax(logits.float(), -1)
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert len(theirs) == len(ids) - 1
    for position, found in enumerate(theirs):
        for token, log_prob in found.items():
            assert log_prob == pytest.approx(float(ours[position, int(token)]), abs=1e-2)
