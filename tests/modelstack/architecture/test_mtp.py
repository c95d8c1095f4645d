"""Multi-token prediction by its identities; with transformers it is compared in test_parity_deepseek_v3_mtp."""

from typing import Any

import pytest
import torch
from parity import ATOL, difference, poisoned, random_ids
from torch import Tensor

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM, make_context
from modelstack.architecture.mtp import name_in_model, released_name
from modelstack.architecture.presets.registry import published
from modelstack.errors import UserError

N_TOKENS, VOCABULARY, WIDTH, N_STREAMS = 18, 64, 32, 3
FORMS: dict[str, dict[str, Any]] = {
    "v3": {"norm_placement": "pre"},
    "v4": {"norm_placement": "hyper", "hc_mult": N_STREAMS},
}


def config(form: str, n_modules: int = 2, **changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "layer_types": ("full_attention",) * 2,
        "mlp_layer_types": ("dense",) * 2,
        "num_nextn_predict_layers": n_modules,
    }
    return ModelConfig(**(values | FORMS[form] | changes))


def make(form: str, **changes: Any) -> CausalLM:
    torch.manual_seed(0)
    return poisoned(CausalLM(config(form, **changes))).eval()  # pyright: ignore


def some_ids(batch: int = 2) -> Tensor:
    return random_ids(batch=batch, n_tokens=N_TOKENS, vocab_size=VOCABULARY)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_each_module_is_one_position_shorter_than_the_one_before(form: str) -> None:
    output = make(form)(some_ids(), with_mtp=True)
    assert [tuple(m.hidden_BTD.shape) for m in output.mtp] == [(2, N_TOKENS - 1, WIDTH), (2, N_TOKENS - 2, WIDTH)]
    assert output.mtp_state.shape == ((2, N_TOKENS, WIDTH) if form == "v3" else (2, N_TOKENS, N_STREAMS, WIDTH))


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_nothing_is_computed_ahead_unless_asked_for(form: str) -> None:
    model, ids = make(form), some_ids()
    plain, ahead = model(ids), model(ids, with_mtp=True)
    assert plain.mtp == []
    assert difference(plain.logits_BTV, ahead.logits_BTV) == 0


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_module_k_at_a_position_depends_on_the_tokens_up_to_k_plus_one_later_and_on_no_other(form: str) -> None:
    model, ids = make(form), some_ids()
    before = model(ids, with_mtp=True).mtp
    changed_at = 9
    ids[:, changed_at] = (ids[:, changed_at] + 1) % VOCABULARY
    after = model(ids, with_mtp=True).mtp
    for k in range(2):
        moved = (before[k].hidden_BTD - after[k].hidden_BTD).abs().amax(dim=(0, 2)) > 1e-6
        assert moved.nonzero()[0].item() == changed_at - k - 1


@torch.no_grad()
def test_v3_without_the_embedding_and_with_the_state_passed_through_is_one_more_layer() -> None:
    model, ids = make("v3", n_modules=1), some_ids()
    assert model.mtp is not None
    module: Any = model.mtp[0]
    module.hnorm = torch.nn.Identity()
    # [enorm(embedding) ; hnorm(state)]: the second half of the columns reads the state
    module.eh_proj.weight.copy_(torch.cat((torch.zeros(WIDTH, WIDTH), torch.eye(WIDTH)), dim=1))
    output = model(ids, with_mtp=True)
    context = make_context(ids[:, 1:])
    expected = module.norm(module.block(output.hidden_BTD[:, :-1], context))
    assert difference(output.mtp[0].hidden_BTD, expected) < ATOL


@torch.no_grad()
def test_v4_without_the_embedding_and_with_the_streams_passed_through_is_one_more_layer() -> None:
    """The whole model with three layers equals two layers and a module that has the third's weights."""
    model, ids = make("v4", n_modules=1), some_ids()
    assert model.mtp is not None
    module: Any = model.mtp[0]
    module.hnorm = torch.nn.Identity()
    module.h_proj.weight.copy_(torch.eye(WIDTH))
    module.e_proj.weight.zero_()
    deeper = CausalLM(
        config("v4", 0, num_hidden_layers=3, layer_types=("full_attention",) * 3, mlp_layer_types=("dense",) * 3)
    ).eval()
    deeper.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    for mine, its in zip(deeper.model.layers, [*model.model.layers, module.block], strict=True):
        mine.load_state_dict(its.state_dict())
    deeper.model.norm.load_state_dict(module.norm.state_dict())
    assert deeper.model.hc_head is not None
    deeper.model.hc_head.load_state_dict(module.hc_head.state_dict())
    expected = deeper(ids[:, :-1]).hidden_BTD
    assert difference(model(ids, with_mtp=True).mtp[0].hidden_BTD, expected) < ATOL


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_packed_documents_give_what_each_gives_alone_and_border_places_are_marked(form: str) -> None:
    model, ids = make(form), some_ids(batch=1)
    lengths = (7, 11)
    packed = model(ids, documents_BT=torch.tensor([[4] * 7 + [5] * 11]), with_mtp=True).mtp
    for k in range(2):
        whole = packed[k].is_whole_BT
        assert whole is not None
        alone = [model(part, with_mtp=True).mtp[k].hidden_BTD for part in ids.split(lengths, dim=1)]
        assert whole.sum() == sum(lengths) - 2 * (k + 1)
        assert difference(packed[k].hidden_BTD[whole], torch.cat(alone, dim=1)[0]) < ATOL


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_drafting_with_a_cache_gives_the_full_forms_logits(form: str) -> None:
    model, ids = make(form), some_ids()
    expected = model.logits(model(ids, with_mtp=True).mtp[0].hidden_BTD)
    cache, draft_cache, start = model.new_cache(), model.new_draft_cache(), 0
    for n in (6, 1, 1, 3, 1, 5):
        state = model(ids[:, start : start + n], cache=cache).mtp_state
        guess, _ = model.draft(state, ids[:, start + 1 : start + n + 1], draft_cache)
        start += n
        assert guess.shape == (2, 1, VOCABULARY)
        assert difference(guess[:, 0], expected[:, start - 1]) < ATOL
    assert (start, draft_cache.n_tokens) == (N_TOKENS - 1, N_TOKENS - 1)


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_of_a_module_learns_and_so_does_the_model_behind_it(form: str) -> None:
    model = make(form, n_modules=1)
    model(some_ids(), with_mtp=True).mtp[0].hidden_BTD.square().mean().backward()
    unmoved = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # The head is not asked; in V4's form the model's own collapse and norm come after the streams.
    assert unmoved == {"lm_head.weight"} | (
        {"model.norm.weight"} | {f"model.hc_head.hc_{part}" for part in ("fn", "base", "scale")}
        if form == "v4"
        else set()
    )


def test_a_model_without_modules_has_transformers_names_only_and_says_what_it_lacks() -> None:
    model = make("v3", n_modules=0)
    assert not [name for name in model.state_dict() if not name.startswith(("model.", "lm_head."))]
    with pytest.raises(UserError, match="num_nextn_predict_layers is 0"):
        model(some_ids(), with_mtp=True)
    with pytest.raises(UserError, match="num_nextn_predict_layers is 0"):
        model.new_draft_cache()


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_further_steps_apply_the_last_module_to_its_own_states(form: str) -> None:
    recursive, chained = make(form, num_nextn_predict_layers=1, mtp_steps=3), make(form, n_modules=3)
    assert recursive.mtp is not None and chained.mtp is not None
    for module in chained.mtp:
        module.load_state_dict(recursive.mtp[0].state_dict())
    chained.model.load_state_dict(recursive.model.state_dict())
    ids = some_ids()
    for mine, other in zip(recursive(ids, with_mtp=True).mtp, chained(ids, with_mtp=True).mtp, strict=True):
        assert difference(mine.hidden_BTD, other.hidden_BTD) < ATOL


def test_steps_need_a_module_and_long_enough_sequences() -> None:
    with pytest.raises(UserError, match="mtp_steps 3 needs a module"):
        config("v3", 0).with_(mtp_steps=3)
    with pytest.raises(UserError, match="mtp_steps 0 must be at least 1"):
        config("v3").with_(mtp_steps=0)
    with pytest.raises(UserError, match="4 tokens are too few for 4 multi-token predictions"):
        make("v3", mtp_steps=3)(some_ids()[:, :4], with_mtp=True)


def test_too_short_sequences_and_a_cache_are_refused() -> None:
    model = make("v3")
    with pytest.raises(UserError, match="2 tokens are too few for 2"):
        model(some_ids()[:, :2], with_mtp=True)
    with pytest.raises(UserError, match="call draft"):
        model(some_ids(), cache=model.new_cache(), with_mtp=True)


def test_the_modules_layer_is_the_last_ones_kind_and_routes_where_any_layer_does() -> None:
    extended = published("deepseek-v3").with_mtp_layers()
    assert extended.layer_types[61:] == ("latent_attention",)
    assert extended.mlp_layer_types[60:] == ("moe", "moe")
    dense = config("v3", no_rope_layers=(1, 0)).with_mtp_layers()
    assert dense.layer_types == ("full_attention",) * 4
    assert dense.mlp_layer_types == ("dense",) * 4
    assert dense.no_rope_layers == (1, 0, 0, 0)


def test_deepseek_v4s_modules_see_the_window_alone_and_do_not_hash() -> None:
    sizes = {"q_lora_rank": 8, "qk_rope_head_dim": 4, "sliding_window": 8, "o_groups": 2, "o_lora_rank": 8}
    index = {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 4}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    v4 = config(
        "v4",
        num_key_value_heads=1,
        layer_types=("shared_kv_sliding_attention", "compressed_sparse_attention"),
        mlp_layer_types=("hash_moe", "hash_moe"),
        compress_rates={"compressed_sparse_attention": 4},
        **sizes | index | experts,
    )
    extended = v4.with_mtp_layers()
    assert extended.layer_types[2:] == ("shared_kv_sliding_attention",) * 2
    assert extended.mlp_layer_types[2:] == ("moe",) * 2


@pytest.mark.parametrize("form", FORMS)
def test_released_names_lead_back_and_no_two_are_equal(form: str) -> None:
    model = make(form)
    released = [released_name(name, model.config) for name in model.state_dict()]
    assert len(set(released)) == len(released)
    assert [name_in_model(name, model.config) for name in released] == list(model.state_dict())


def test_v3s_released_names_are_those_of_a_further_layer() -> None:
    v3 = config("v3")
    names = {
        "mtp.0.enorm.weight": "model.layers.2.enorm.weight",
        "mtp.0.hnorm.weight": "model.layers.2.hnorm.weight",
        "mtp.1.eh_proj.weight": "model.layers.3.eh_proj.weight",
        "mtp.0.norm.weight": "model.layers.2.shared_head.norm.weight",
        "mtp.0.block.self_attn.q_proj.weight": "model.layers.2.self_attn.q_proj.weight",
        "mtp.0.block.input_layernorm.weight": "model.layers.2.input_layernorm.weight",
        "model.layers.1.mlp.up_proj.weight": "model.layers.1.mlp.up_proj.weight",
    }
    assert {name: released_name(name, v3) for name in names} == names
    for copied in ("embed_tokens", "shared_head.head"):
        assert name_in_model(f"model.layers.2.{copied}.weight", v3) is None
    assert name_in_model("model.layers.4.enorm.weight", v3) == "model.layers.4.enorm.weight"


def test_v4s_released_names_are_apart_from_the_layers() -> None:
    v4 = config("v4")
    names = {
        "mtp.0.enorm.weight": "mtp.0.enorm.weight",
        "mtp.0.e_proj.weight": "mtp.0.e_proj.weight",
        "mtp.1.h_proj.weight": "mtp.1.h_proj.weight",
        "mtp.0.norm.weight": "mtp.0.norm.weight",
        "mtp.0.hc_head.hc_fn": "mtp.0.hc_head_fn",
        "mtp.0.block.attn_hc.scale": "mtp.0.attn_hc.scale",
        "mtp.0.block.self_attn.q_proj.weight": "mtp.0.self_attn.q_proj.weight",
        "model.hc_head.hc_fn": "model.hc_head.hc_fn",
    }
    assert {name: released_name(name, v4) for name in names} == names
