"""Bytes by layout: states by hand, activations against what autograd saves, shards against each other."""

import pytest
import torch

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.parameters import count_parameters
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.presets.registry import published, published_sizes
from modelstack.decide.memory import Layout, activation_bytes, parse_layout, training_memory
from modelstack.errors import UserError

CONTEXT = 4096
LLAMA = published("llama-3-8b")
MOE = published("qwen3-30b-a3b")


def states(config: ModelConfig, layout: Layout) -> float:
    memory = training_memory(config, layout, CONTEXT)
    return memory.masters + memory.gradients + memory.moments


@pytest.mark.parametrize("name", sorted(published_sizes()))
def test_states_are_sixteen_bytes_a_parameter_on_one_device(name: str) -> None:
    config = published(name)
    assert states(config, Layout()) == 16 * count_parameters(config).total


def test_one_device_holds_a_copy_of_the_weights_in_the_type_it_computes_with() -> None:
    assert training_memory(LLAMA, Layout(), CONTEXT).gathered == 2 * 8_030_261_248
    assert training_memory(LLAMA, Layout(), CONTEXT, "fp32").gathered == 0


def test_shards_tensor_and_context_parallelism_divide_states_and_replicas_do_not() -> None:
    whole = states(LLAMA, Layout())
    for layout in (Layout(shard=8), Layout(shard=4, cp=2), Layout(shard=4, tp=2), Layout(tp=8)):
        assert states(LLAMA, layout) == pytest.approx(whole / 8)
    assert states(LLAMA, Layout(replicate=4, shard=2)) == pytest.approx(whole / 2)


def test_experts_are_stored_once_over_all_ranks_and_gathered_by_their_owners() -> None:
    fsdp, ep = (training_memory(MOE, Layout(shard=8, ep=ep), CONTEXT) for ep in (1, 8))
    assert ep.masters == fsdp.masters == 4 * count_parameters(MOE).total / 8
    experts = 128 * 3 * 2048 * 768
    assert fsdp.gathered - ep.gathered == pytest.approx(3 * 2 * experts * 7 / 8)


def test_a_pipeline_is_as_full_as_its_heaviest_stage() -> None:
    per_layer = (count_parameters(LLAMA).total - 2 * 128256 * 4096 - 4096) / 32
    stage = 8 * per_layer + 128256 * 4096 + 4096
    assert states(LLAMA, Layout(pp=4)) == pytest.approx(16 * stage)


def test_a_sharded_pipeline_keeps_its_heaviest_stage_gathered_and_its_gradients_whole() -> None:
    per_layer = (count_parameters(LLAMA).total - 2 * 128256 * 4096 - 4096) / 32
    stage = 8 * per_layer + 128256 * 4096 + 4096
    memory = training_memory(LLAMA, Layout(pp=4, shard=8, tp=2), 4096)
    assert memory.gathered == pytest.approx((2 + 4) * stage / 2)


def test_a_tied_table_is_on_the_first_and_the_last_stage() -> None:
    nano = published("nano-34m")
    total, table = count_parameters(nano).total, 16384 * 512
    assert states(nano, Layout()) == 16 * total
    assert states(nano, Layout(pp=2)) == pytest.approx(16 * ((total - table - 512) / 2 + 512 + table))


def test_checkpointing_keeps_a_width_for_each_layer_and_one_layer_in_full() -> None:
    kept, full = (training_memory(LLAMA, Layout(checkpointing=how), CONTEXT) for how in ("none", "full"))
    a_layer = activation_bytes(LLAMA, 0, 2)
    assert kept.activations == CONTEXT * 32 * a_layer
    assert full.activations == CONTEXT * (32 * 2 * 4096 + a_layer)
    assert full.logits == kept.logits == CONTEXT * 128256 * 10


def test_selective_checkpointing_keeps_what_products_and_attention_gave() -> None:
    # Beside the block's input: q, k, v, attention's output, o, gate, up, down; log-sums of the heads.
    a_layer = 2 * (4096 + 48 * 128 + 4096 + 4096 + 2 * 14336 + 4096) + 4 * 32
    selective = training_memory(LLAMA, Layout(checkpointing="selective"), CONTEXT)
    assert selective.activations == CONTEXT * (32 * a_layer + activation_bytes(LLAMA, 0, 2))


def test_a_pipelines_first_stage_holds_a_micro_batch_for_each_stage() -> None:
    assert training_memory(LLAMA, Layout(pp=4), CONTEXT).activations == pytest.approx(
        training_memory(LLAMA, Layout(), CONTEXT).activations
    )


def test_activations_by_hand() -> None:
    # 4 D + 2 (H + G) d + 4 I values of two bytes, and H log-sums of four.
    assert activation_bytes(LLAMA, 0, 2) == 2 * (4 * 4096 + 2 * 40 * 128 + 4 * 14336) + 4 * 32
    assert activation_bytes(MOE, 0, 2) == 2 * (4 * 2048 + 3 * 36 * 128 + 4 * 8 * 768 + 2 * 8 * 2048) + 4 * 32


@pytest.mark.parametrize("name", ["nano-9m", "nano-moe-24m"])
def test_activations_are_near_what_autograd_saves(name: str) -> None:
    torch.set_num_threads(1)
    config = published(name, vocab_size=256, num_hidden_layers=4)
    shallow = published(name, vocab_size=256, num_hidden_layers=2)
    n_tokens = 256
    measured = (_saved_bytes(config, n_tokens) - _saved_bytes(shallow, n_tokens)) / 2 / n_tokens
    # The formula has no copies that norms, rotations and routers keep: a floor, and a near one.
    assert 0.8 < activation_bytes(config, 0, 4) / measured <= 1


def _saved_bytes(config: ModelConfig, n_tokens: int) -> int:
    """Return the bytes of different storages that a forward pass saves, parameters aside."""
    model = CausalLM(config)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}
    keep = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
            keep.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.zeros(1, n_tokens, dtype=torch.long))
    return sum(saved.values())


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(pp=33), "pp 33 is more than the model's 32 layers"),
        (Layout(tp=3), "tp 3 does not divide num_attention_heads 32"),
        (Layout(shard=4, ep=4), "ep 4 does not divide n_routed_experts 0"),
    ],
)
def test_a_layout_that_does_not_fit_the_model_is_refused(layout: Layout, message: str) -> None:
    with pytest.raises(UserError, match=message):
        training_memory(LLAMA, layout, CONTEXT)


def test_layouts_are_written_as_pairs() -> None:
    assert parse_layout("shard=8, tp=2,checkpointing=full") == Layout(shard=8, tp=2, checkpointing="full")
    assert parse_layout("shard=8,tp=2").n_devices == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fsdp=8", "fsdp: Extra"),
        ("tp=0", "tp: Input"),
        ("ep=3", "ep 3 must divide"),
        ("tp=x", "tp: Input"),
    ],
)
def test_a_bad_layout_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_layout(text)
