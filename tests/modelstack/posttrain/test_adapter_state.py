"""Checkpoints of an adapter's training hold the adapter: the frozen base is not in them and does not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modelstack.architecture.decoder import CausalLM
from modelstack.data.batches import Batch
from modelstack.errors import UserError
from modelstack.posttrain.lora.adapters import add_lora, lora_optimizer
from modelstack.posttrain.lora.config import LoraConfig
from modelstack.posttrain.lora.state import AdapterState
from modelstack.stability.run_checkpoints import load_run, save_run
from modelstack.train.optimizers.config import OptimizerConfig
from modelstack.train.passes import LocalPasses
from modelstack.train.step import train_step
from tests.modelstack.architecture.gguf_models import toy_config, toy_model

LORA = LoraConfig(rank=2, alpha=4)
ADAMW = OptimizerConfig(name="adamw", lr=1e-2)


def toy_state(lora: LoraConfig = LORA, lr: float = 1e-2) -> AdapterState:
    model = toy_model(toy_config("llama tied, biases"))
    add_lora(model, lora)
    optimizer = lora_optimizer(model, lora, ADAMW.model_copy(update={"lr": lr}))
    return AdapterState(model, optimizer, LocalPasses(model))


def batch(seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 256, (2, 12), generator=draw)
    return Batch(ids[:, :-1], ids[:, 1:].clone(), torch.zeros(2, 11, dtype=torch.int64), 0)


def frozen(state: AdapterState) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in state.model.named_parameters() if not p.requires_grad}


def test_a_checkpoint_holds_the_adapter_and_never_the_base(tmp_path: Path) -> None:
    state = toy_state()
    train_step(state, [batch(0)])
    path = save_run(tmp_path, 1, {"run": {"train": state.state_dict()}})
    names = set(state.state_dict()["model"])
    assert names == {name for name, p in state.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in names)
    n_trained = sum(p.numel() for p in state.model.parameters() if p.requires_grad)
    size = (path / "tensors.safetensors").stat().st_size
    assert size < 3 * 4 * n_trained + 40_000  # weights and two moments in fp32, and the file's own index
    assert isinstance(state.model, CausalLM)


def test_steps_behind_a_checkpoint_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    whole = toy_state()
    base = frozen(whole)
    train_step(whole, [batch(0)])
    save_run(tmp_path, 1, whole.state_dict())
    train_step(whole, [batch(1)])

    other = toy_state()
    loaded = load_run(tmp_path)
    assert loaded is not None
    other.load_state_dict(loaded.state)
    assert (other.step, other.n_tokens) == (1, 22)
    train_step(other, [batch(1)])
    for name, tensor in whole.state_dict()["model"].items():
        assert torch.equal(tensor, other.state_dict()["model"][name]), name
    assert all(torch.equal(base[name], tensor) for name, tensor in frozen(other).items())


def test_another_adapters_checkpoint_is_refused() -> None:
    with pytest.raises(UserError, match=r"another adapter: .* the first is 'model.layers.0"):
        toy_state().load_state_dict(toy_state(LoraConfig(rank=3)).state_dict())
    with pytest.raises(UserError, match="another adapter"):
        toy_state().load_state_dict(toy_state(LoraConfig(rank=2, targets=("q_proj",))).state_dict())
