"""The benchmark against nanoGPT's recipe: one split, one way to judge, runs kept, and figures that can fail."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("tokenizers", reason="needs tokenizers (extra `train`)")

from evals.speed import train_to_loss
from evals.speed.loss_corpus import SIDES, LossCorpus, bits_per_byte, pieces, prepare, side_of
from evals.speed.loss_recipes import NANOGPT, NANOGPT_TUNED, OURS_RECIPE, shortened
from evals.speed.loss_runs import (
    ModelstackRecipe,
    NanoGptRecipe,
    Outcome,
    nanogpt_lr,
    train_modelstack,
    train_nanogpt,
)
from evals.speed.results import BenchmarkResult, Figure
from evals.speed.train_to_loss import OURS, THEIRS, Program, figures, main, outcomes, p_not_below, programs, report
from modelstack.architecture.counts.parameters import count_parameters
from modelstack.architecture.presets.registry import from_hf
from modelstack.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")

CHECKOUT = """
import torch
from dataclasses import dataclass
from torch import nn
from torch.nn import functional as F

@dataclass
class GPTConfig:
    block_size: int = 8
    vocab_size: int = 8
    n_layer: int = 1
    n_head: int = 1
    n_embd: int = 8
    dropout: float = 0.5
    bias: bool = True

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        print("its sizes")
        assert config.dropout == 0.0 and not config.bias
        self.table = nn.Embedding(config.vocab_size, config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size)

    def forward(self, ids, targets=None):
        logits = self.head(self.table(ids))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)
"""
"""The surface of nanoGPT's model.py that is used, around a model of bigrams."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> LossCorpus:
    folder = tmp_path_factory.mktemp("corpus")
    texts = [
        f"Tale {n}: the {n % 7} foxes met {n % 11} hens, and went home by {n % 5} roads. " * 3 for n in range(900)
    ]
    lines = "\n".join(json.dumps({"text": text}) for text in texts)
    (folder / "tales.jsonl").write_text(lines + "\n", encoding="utf-8")
    return prepare(folder / "shards", folder / "tales.jsonl")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(CHECKOUT, encoding="utf-8")
    return tmp_path


def small_theirs() -> NanoGptRecipe:
    return NanoGptRecipe(layers=1, width=16, heads=1, rows=2, micro_batches=2, steps=6, warmup_steps=2, lr=1e-2)


def small_ours() -> ModelstackRecipe:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    model = OURS_RECIPE.model | sizes | {"num_attention_heads": 2, "num_key_value_heads": 1}
    return shortened(OURS_RECIPE).model_copy(update={"model": model, "rows": 1})


def outcome(bits: float, n_tokens: int = 1000, seconds: float = 10.0) -> Outcome:
    return Outcome(bits, n_tokens, seconds, 2 * seconds, 5, tuple(4.0 - k / 10 for k in range(10)))


def test_every_document_is_on_one_side_and_the_side_is_of_its_text(corpus: LossCorpus) -> None:
    counts = {side: corpus.sides[side].n_documents for side in SIDES}
    assert sum(counts.values()) == 900
    assert counts["train"] > 800 and counts["validation"] and counts["test"]
    assert {side_of(f"text {n}") for n in range(900)} == set(SIDES)


def test_pieces_name_every_token_but_the_first_once(corpus: LossCorpus) -> None:
    shards = corpus.sides["test"]
    labels = [int(token) for _, piece in pieces(shards, 16) for token in piece]
    expected = [int(token) for d in range(shards.n_documents) for token in shards.tokens(d)[1:]]
    assert labels == expected
    assert all(len(ids) == len(piece) <= 16 for ids, piece in pieces(shards, 16))


def test_a_uniform_guess_costs_the_logarithm_of_the_vocabulary(corpus: LossCorpus) -> None:
    bits = bits_per_byte(lambda ids: torch.zeros(*ids.shape, 512), corpus, "test", 16)
    n_labels = sum(len(labels) for _, labels in pieces(corpus.sides["test"], 16))
    assert bits == pytest.approx(n_labels * math.log2(512) / corpus.n_bytes["test"])


def test_padding_costs_nothing(corpus: LossCorpus) -> None:
    def knows_the_end_of_text(ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, 512)
        logits[..., corpus.sides["test"].index.end_id] = 3.0
        return logits

    by_piece = 0.0
    for _, labels in pieces(corpus.sides["test"], 16):
        logits = knows_the_end_of_text(labels[None])[0].log_softmax(-1)
        by_piece -= float(logits[torch.arange(len(labels)), labels].sum()) / math.log(2)
    found = bits_per_byte(knows_the_end_of_text, corpus, "test", 16)
    assert found == pytest.approx(by_piece / corpus.n_bytes["test"], rel=1e-5)


def test_nanogpts_rate_warms_up_and_falls_to_a_tenth() -> None:
    recipe = small_theirs().model_copy(update={"steps": 102})
    rates = [nanogpt_lr(recipe, step) for step in range(103)]
    assert rates[:3] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])
    assert rates[52] == pytest.approx(5.5e-3)
    assert rates[102] == pytest.approx(1e-3)


def test_both_programs_learn_from_the_same_text(corpus: LossCorpus, checkout: Path) -> None:
    guess = bits_per_byte(lambda ids: torch.zeros(*ids.shape, 4096), corpus, "validation", 256)
    for found in (
        train_nanogpt(small_theirs(), checkout, corpus, "validation", 0),
        train_modelstack(small_ours(), corpus, "validation", 0),
    ):
        assert found.bits_per_byte < guess
        assert len(found.losses) == 6
        assert found.seconds > 0 and found.n_parameters > 4096


def test_a_folder_without_model_py_is_named(corpus: LossCorpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model\.py.*--nanogpt"):
        train_nanogpt(small_theirs(), tmp_path, corpus, "validation", 0)


def test_a_run_that_is_there_is_not_made_again_and_another_recipe_is(corpus: LossCorpus, tmp_path: Path) -> None:
    made: list[int] = []

    def train(seed: int) -> Outcome:
        made.append(seed)
        return outcome(2.0 + seed)

    first = [Program(OURS, small_ours(), train)]
    assert outcomes(first, 2, corpus, tmp_path) == outcomes(first, 2, corpus, tmp_path)
    assert made == [0, 1]
    other = [Program(OURS, small_ours().model_copy(update={"rows": 3}), train)]
    outcomes(other, 1, corpus, tmp_path)
    assert made == [0, 1, 0]


def test_programs_take_turns_and_who_goes_first_changes(corpus: LossCorpus, tmp_path: Path) -> None:
    order: list[tuple[str, int]] = []

    def program(name: str) -> Program:
        def train(seed: int) -> Outcome:
            order.append((name, seed))
            return outcome(2.0)

        return Program(name, small_ours(), train)

    outcomes([program("a"), program("b")], 3, corpus, tmp_path)
    assert order == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]


def held(found: tuple[Figure, ...]) -> list[bool | None]:
    return [figure.holds for figure in found]


def test_a_clear_gain_holds_every_promise() -> None:
    theirs = [outcome(2.50, 4000, 40.0), outcome(2.51, 4000, 42.0), outcome(2.49, 4000, 41.0)]
    ours = [outcome(2.20, 1000, 15.0), outcome(2.21, 1000, 16.0), outcome(2.19, 1000, 14.0)]
    found = figures(ours, theirs)
    assert held(found) == [True, True, True, True, None]
    assert found[2].value == 4.0


def test_a_worse_or_doubtful_loss_or_too_little_saved_breaks_its_promise() -> None:
    theirs = [outcome(2.50, 1500, 15.0), outcome(2.90, 1500, 15.0), outcome(2.10, 1500, 15.0)]
    doubtful = figures([outcome(2.4), outcome(2.5), outcome(2.3)], theirs)
    assert held(doubtful) == [True, False, False, False, None]
    worse = figures([outcome(2.8), outcome(2.81), outcome(2.79)], theirs)
    assert worse[0].holds is False


def test_the_p_value_is_welchs_and_needs_two_runs() -> None:
    # By hand: variances of the means 1e-4/3 each, t = -0.3 / sqrt(2e-4/3) = -36.7 with 4 degrees of freedom.
    p = p_not_below([2.20, 2.21, 2.19], [2.50, 2.51, 2.49])
    assert p == pytest.approx(1.6e-6, rel=0.05)
    assert p_not_below([2.5, 2.5001], [2.2, 2.2001]) > 0.999
    assert math.isnan(p_not_below([2.0], [3.0]))


def test_one_seed_alone_promises_nothing_significant() -> None:
    assert figures([outcome(2.2)], [outcome(2.5, 4000, 40.0)])[1].holds is False


def test_the_report_compares_and_draws_both_as_far_as_ours_goes() -> None:
    result = report({THEIRS: [outcome(2.5, 4000)], OURS: [outcome(2.2, 1000)]}, {})
    assert [comparison.ours for comparison in result.comparisons] == [OURS] * 4
    (drawn,) = result.curves
    assert drawn.x[-1] == 1000
    assert {len(line) for line in drawn.lines.values()} == {len(drawn.x)}
    assert drawn.lines[OURS][-1] == pytest.approx(3.1)
    assert drawn.lines[THEIRS][-1] == pytest.approx(3.9)  # 400 tokens a step: its second


def test_without_a_checkout_ours_runs_alone_and_says_so() -> None:
    result = report({OURS: [outcome(2.2)]}, {})
    assert not result.broken and not result.comparisons
    assert "--nanogpt" in result.notes[0]


def test_ours_is_no_larger_than_nanogpts_and_plans_its_end_before_half_of_the_tokens() -> None:
    config = from_hf({**OURS_RECIPE.model, "vocab_size": 4096})
    D = NANOGPT.width
    theirs = NANOGPT.layers * (12 * D * D + 2 * D) + D + (4096 + 256) * D
    assert count_parameters(config).total <= theirs
    assert 2 * OURS_RECIPE.n_tokens <= NANOGPT.n_tokens


def test_the_tuned_recipe_has_the_same_model_and_tokens(corpus: LossCorpus, checkout: Path) -> None:
    assert NANOGPT_TUNED.n_tokens == NANOGPT.n_tokens
    assert (NANOGPT_TUNED.layers, NANOGPT_TUNED.width) == (NANOGPT.layers, NANOGPT.width)
    own, tuned = (programs(corpus, checkout, is_tuned=flag, is_quick=False)[0].recipe for flag in (False, True))
    assert (own, tuned) == (NANOGPT, NANOGPT_TUNED)


@pytest.mark.slow
def test_the_command_writes_its_result(
    corpus: LossCorpus, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_to_loss, "prepare", lambda folder: corpus)
    monkeypatch.setattr(train_to_loss, "OURS_RECIPE", small_ours())
    monkeypatch.setattr(train_to_loss, "NANOGPT", small_theirs())
    target = tmp_path / "result.json"
    arguments = ["--quick", "--seeds", "1", "--nanogpt", str(checkout), "--keep", str(tmp_path / "kept")]
    assert main([*arguments, "--result", str(target)]) == 1  # one seed proves nothing
    assert len(BenchmarkResult(**json.loads(target.read_text())).figures) == 5
    assert main([*arguments[:-4], "--nanogpt", str(tmp_path / "nowhere"), "--keep", str(tmp_path / "other")]) == 2
