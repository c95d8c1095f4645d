"""Multi-token prediction of DeepSeek-V3 against transformers' generic module, run layer by layer."""

import warnings
from typing import Any

import pytest
import torch
from parity import ATOL, difference, poisoned, random_ids, reference
from test_parity_deepseek_v3 import TINY, YARN

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.mtp import released_name
from modelstack.architecture.presets.registry import from_hf

N_MODULES = 2


def pair(**changes: Any) -> tuple[Any, Any, CausalLM]:
    """Return transformers' model and its modules, and our model with the weights of both."""
    from transformers.modeling_layers import MtpModel

    theirs: Any = reference("deepseek_v3", **(TINY | changes | {"num_nextn_predict_layers": N_MODULES}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ahead: Any = MtpModel(theirs, N_MODULES).eval().float()
    for parameter in ahead.layers.parameters():
        if parameter.ndim > 1:  # transformers leaves experts and routers of these modules as memory was
            torch.nn.init.normal_(parameter, std=0.02)
    poisoned(ahead.layers, seed=3)
    model = CausalLM(from_hf(theirs.config.to_dict()))
    state = dict(theirs.state_dict())
    for name, tensor in ahead.layers.state_dict().items():
        state["mtp." + name.replace("mtp_block", "block").replace("post_norm", "norm")] = tensor
    model.load_state_dict(state, strict=True)
    return theirs, ahead, model.eval()


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None, "rope_parameters": YARN}])
@torch.no_grad()
def test_a_chain_of_two_modules_equals_transformers(changes: dict[str, Any]) -> None:
    from transformers.cache_utils import MtpCache

    theirs, ahead, model = pair(**changes)
    ids = random_ids()
    T = ids.shape[1]
    hidden = theirs.model(ids, use_cache=False).last_hidden_state
    found = model(ids, with_mtp=True).mtp
    for k in range(N_MODULES):
        n = T - 1 - k
        hidden = ahead.forward_layer(
            k,
            hidden[:, :n],
            torch.arange(k + 1, T)[None],
            MtpCache(config=theirs.config.get_mtp_config()),
            input_ids=ids[:, k + 1 :],
        )
        assert hidden.std() > 0.05
        assert difference(found[k].hidden_BTD, hidden) < ATOL
        expected = ahead._project_to_logits(hidden)
        assert difference(model.logits(found[k].hidden_BTD), expected) < ATOL


def test_the_released_names_are_those_that_transformers_modules_are_read_from() -> None:
    theirs, ahead, model = pair()
    del theirs
    renamed = {
        "enorm.weight": "enorm.weight",
        "post_norm.weight": "shared_head.norm.weight",
        "mtp_block.self_attn.kv_b_proj.weight": "self_attn.kv_b_proj.weight",
        "mtp_block.mlp.gate.e_score_correction_bias": "mlp.gate.e_score_correction_bias",
    }
    released = {released_name(name, model.config) for name in model.state_dict()}
    for in_theirs, in_file in renamed.items():
        assert f"0.{in_theirs}" in ahead.layers.state_dict()
        assert f"model.layers.2.{in_file}" in released
        assert f"model.layers.3.{in_file}" in released
