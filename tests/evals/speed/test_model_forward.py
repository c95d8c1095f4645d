"""The benchmark beside transformers compares equal models and computes its ratio pair by pair."""

import pytest
import torch

from evals.speed import model_forward
from evals.speed.model_forward import Sizes, build_pair, check_equal, decode, measure, ratio_of, run

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"num_hidden_layers": 2, "vocab_size": 300, "hidden_size": 64, "intermediate_size": 64}
    monkeypatch.setitem(
        model_forward.MODELS,
        "llama",
        ("smollm2-135m", changes | {"num_attention_heads": 2, "num_key_value_heads": 1}),
    )
    monkeypatch.setattr(model_forward, "N_PROMPT", 8)


def pair() -> tuple:
    ours, theirs = build_pair("llama", torch.float32)
    return ours, theirs, torch.arange(24)[None] * 7 % 300


def test_models_of_a_pair_have_the_same_weights_logits_and_greedy_tokens() -> None:
    ours, theirs, ids = pair()
    check_equal(ours, theirs, ids, "fp32")
    assert theirs.lm_head.weight is theirs.model.embed_tokens.weight
    assert decode(ours, ids)() == decode(theirs, ids)()


def test_a_model_that_computes_something_else_is_not_timed() -> None:
    ours, theirs, ids = pair()
    with torch.no_grad():
        theirs.model.layers[0].mlp.up_proj.weight.mul_(-3)
    with pytest.raises(RuntimeError, match="logits differ"):
        check_equal(ours, theirs, ids, "fp32")


def test_both_run_in_turns_and_the_first_changes() -> None:
    order: list[str] = []
    measure(lambda: order.append("ours"), lambda: order.append("theirs"), 3)
    assert order == ["ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_the_ratio_is_of_pairs() -> None:
    ratio, low, high = ratio_of([1.0, 10.0, 2.0], [2.0, 20.0, 4.0])
    assert (ratio, low, high) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.slow
def test_every_kind_of_work_gets_a_figure_with_its_promise() -> None:
    result = run(["llama"], Sizes(n_forward=16, n_training=8, n_decoded=2, repeats=2))
    assert len(result.figures) == len(result.comparisons) == 6
    assert all(figure.bound == 1.0 and figure.bound_kind == "at least" for figure in result.figures)
    assert all(value > 0 for comparison in result.comparisons for value in comparison.values.values())
