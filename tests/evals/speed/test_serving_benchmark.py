"""The benchmark of serving compares programs that write the same tokens, and counts what they write."""

from __future__ import annotations

import pytest
import torch

from evals.speed import model_forward, serving_profile
from evals.speed.model_forward import build_pair
from evals.speed.serving import by_engine, by_transformers, check_equal, measure, run
from evals.speed.serving_works import TINY, Work

pytestmark = pytest.mark.filterwarnings("ignore")
N_VOCAB = 300


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"num_hidden_layers": 2, "vocab_size": N_VOCAB, "hidden_size": 64, "intermediate_size": 64}
    monkeypatch.setitem(
        model_forward.MODELS,
        "llama",
        ("smollm2-135m", changes | {"num_attention_heads": 2, "num_key_value_heads": 1}),
    )


def test_both_programs_write_the_same_tokens_and_others_are_not_timed() -> None:
    model, other = build_pair("llama", torch.float32)
    ours, theirs = by_engine(model, 200), by_transformers(other)
    check_equal(ours, theirs, N_VOCAB)
    with torch.no_grad():
        other.model.norm.weight.mul_(-1)
    with pytest.raises(RuntimeError, match="write different tokens"):
        check_equal(ours, theirs, N_VOCAB)


def test_both_run_in_turns_on_the_same_prompts_and_the_first_pair_is_not_counted() -> None:
    told = list[tuple[str, list[list[int]]]]()

    def write(name: str):
        return lambda prompts, n_reply: told.append((name, prompts)) or []

    seconds = measure(write("ours"), write("theirs"), Work("", 2, 3, 1), N_VOCAB, 2)
    assert [name for name, _ in told] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert told[2][1] == told[3][1] != told[4][1]
    assert [len(each) for each in seconds] == [2, 2]


def test_a_work_counts_the_tokens_written_or_those_read() -> None:
    assert Work("", 8, 64, 32).n_counted == 8 * 32
    assert Work("", 1, 512, 1).n_counted == 512


def test_every_work_gets_a_figure() -> None:
    result = run((Work("two", 2, 6, 2), Work("read", 1, 8, 1)), ["fp32"], 2)
    assert [figure.name.partition(":")[0] for figure in result.figures] == ["two, fp32", "read, fp32"]
    assert all(value > 0 for comparison in result.comparisons for value in comparison.values.values())


@pytest.mark.parametrize("dtype", ["int8", "fp32"])
def test_a_profile_accounts_for_all_of_the_time(dtype: str) -> None:
    model, _ = build_pair("llama", torch.float32)
    found = serving_profile.shares(model.eval(), TINY[0], dtype)
    assert set(found) == {*serving_profile.KINDS, serving_profile.OTHER, serving_profile.PYTHON}
    assert all(found[kind] > 0 for kind in ("products with weights", "attention", serving_profile.PYTHON))
