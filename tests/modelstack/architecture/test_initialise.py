"""Initial weights: by name and seed, with the moments that the config asks for."""

import pytest
import torch
from families import FAMILIES
from parity import COMMON, reference

from modelstack.architecture import initialise as initialise_file
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import OUTPUTS, OwnPart, initialise
from modelstack.architecture.presets.registry import from_hf, published

pytestmark = pytest.mark.filterwarnings("ignore")


def config_of(model_type: str):
    return from_hf(reference(model_type, **FAMILIES[model_type]).config.to_dict())  # pyright: ignore


def test_a_seed_gives_the_same_weights_and_another_seed_others() -> None:
    config = published("nano-9m", num_hidden_layers=2)
    first, again, other = (initialise(CausalLM(config), seed).state_dict() for seed in (1, 1, 2))
    name = "model.layers.1.mlp.up_proj.weight"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize("at_once", [1, 100, 1000])
@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (4, 4), (65, 3), (129, 16), (200, 33), (7, 6, 5)])
def test_pieces_are_what_one_draw_gives_and_a_share_is_a_block_of_it(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], at_once: int
) -> None:
    monkeypatch.setattr(initialise_file, "DRAWN_AT_ONCE", at_once)
    whole = torch.empty(shape).normal_(0.0, 0.02, generator=torch.Generator().manual_seed(1))
    for first, *others in ((0,) * len(shape), (shape[0] // 2, *(1 for _ in shape[1:])), (shape[0],) + shape[1:]):
        block = whole[(slice(first, None), *(slice(o, None) for o in others))]
        part = OwnPart(torch.empty_like(block), (first, *others))
        initialise_file._draw_normal(part, whole.shape, 0.02, torch.Generator().manual_seed(1))
        assert torch.equal(part.values, block)


def test_what_two_variants_share_starts_equal() -> None:
    config = published("nano-9m", num_hidden_layers=2)
    base = initialise(CausalLM(config)).state_dict()
    other = initialise(CausalLM(config.with_(qk_norm=None, norm_placement="sandwich"))).state_dict()
    shared = base.keys() & other.keys()
    assert "model.layers.1.self_attn.q_proj.weight" in shared
    assert len(shared) < len(base)
    assert all(torch.equal(base[name], other[name]) for name in shared)


def test_matrices_have_the_configs_deviation() -> None:
    model = initialise(CausalLM(published("nano-9m", initializer_range=0.05)))
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.03), name
            assert abs(parameter.mean().item()) < 0.002, name


@pytest.mark.parametrize("model_type", FAMILIES)
def test_single_axes_start_as_transformers_has_them(model_type: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **COMMON | FAMILIES[model_type]))
    ours = dict(initialise(CausalLM(config_of(model_type))).named_parameters())
    for name, parameter in theirs.named_parameters():
        # gpt-oss draws sinks and router biases; transformers starts hyper-connections at scale 1 (paper: 0.01).
        if parameter.ndim == 1 and not name.endswith(("sinks", "router.bias", "scale")):
            assert torch.equal(ours[name].data, parameter.data), name


def test_nothing_is_left_as_it_was() -> None:
    for model_type in FAMILIES:
        model = CausalLM(config_of(model_type))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
        assert all(parameter.isfinite().all() for parameter in initialise(model).parameters()), model_type


def test_hash_tables_choose_distinct_experts() -> None:
    model = initialise(CausalLM(config_of("deepseek_v4")))
    table = model.state_dict()["model.layers.0.mlp.gate.tid2eid"]
    assert (table[:, 0] != table[:, 1]).all()
    assert table.flatten().bincount(minlength=8).float().std() < 2


@pytest.mark.parametrize("model_type", FAMILIES)
def test_outputs_of_zeros_make_every_block_the_identity(model_type: str) -> None:
    config = config_of(model_type)
    model = initialise(CausalLM(config), zero_outputs=True)
    matrices = {name: p for name, p in model.named_parameters() if name.endswith(OUTPUTS)}
    assert len(matrices) >= 2 * config.num_hidden_layers
    assert all((p == 0).all() for p in matrices.values())
    if config.norm_placement == "hyper":
        return  # its streams are mixed between blocks all the same
    ids = torch.arange(6)[None]
    embedded = model.model.norm(model.model.embed(ids))
    assert torch.allclose(model(ids).hidden_BTD, embedded, atol=1e-6)
