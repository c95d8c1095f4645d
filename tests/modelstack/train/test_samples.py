"""Samples: seeded, from the most probable tokens, written so that no text can break the page."""

from pathlib import Path
from typing import Any

import pytest
import torch

from modelstack.errors import UserError
from modelstack.train.loop import train
from modelstack.train.metrics import JsonLines, Metrics, read_metrics
from modelstack.train.samples import (
    Samples,
    SamplingConfig,
    continuation,
    draw,
    last_section,
    prompt_ids,
    sample_section,
    sections_before,
)
from tests.modelstack.train.toy_runs import toy_model, toy_run, toy_tokenizer


def test_greedy_continuation_with_the_cache_is_that_of_whole_passes() -> None:
    model = toy_model().eval()
    ids = prompt_ids(toy_tokenizer(), "the cat")
    text = list(ids)
    for _ in range(12):
        with torch.no_grad():
            text.append(int(model(torch.tensor([text])).logits_BTV[0, -1].argmax()))
    config = SamplingConfig(n_tokens=12, temperature=0)
    assert continuation(model, ids, config, frozenset()) == text[len(ids) :]


def test_an_end_token_ends_the_text_and_is_left_out() -> None:
    model, ids = toy_model(), prompt_ids(toy_tokenizer(), "the cat")
    whole = continuation(model, ids, SamplingConfig(n_tokens=12, seed=3), frozenset())
    end = whole[5]
    assert (
        continuation(model, ids, SamplingConfig(n_tokens=12, seed=3), frozenset({end}))
        == whole[: whole.index(end)]
    )


def test_the_same_seed_draws_the_same_text_and_another_one_another() -> None:
    model, ids = toy_model(), prompt_ids(toy_tokenizer(), "the")
    texts = [continuation(model, ids, SamplingConfig(seed=seed), frozenset()) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_tokens_outside_top_p_are_never_drawn_and_the_others_by_their_probability() -> None:
    logits = torch.tensor([0.1, 0.5, 0.3, 0.1]).log()
    generator = torch.Generator().manual_seed(0)
    config = SamplingConfig(temperature=1.0, top_p=0.7)
    drawn = [draw(logits, config, generator) for _ in range(2000)]
    assert set(drawn) == {1, 2}
    assert drawn.count(1) / 2000 == pytest.approx(0.5 / 0.8, abs=0.03)


def test_the_most_probable_token_is_drawn_however_small_top_p_is() -> None:
    generator = torch.Generator().manual_seed(0)
    assert draw(torch.tensor([0.0, 1.0]), SamplingConfig(top_p=0.01), generator) == 1


def test_a_low_temperature_draws_the_most_probable_more_often() -> None:
    logits = torch.tensor([0.6, 0.4]).log()
    generator = torch.Generator().manual_seed(0)
    config = SamplingConfig(temperature=0.5, top_p=1.0)
    drawn = [draw(logits, config, generator) for _ in range(2000)]
    assert drawn.count(0) / 2000 == pytest.approx(0.36 / 0.52, abs=0.03)


def test_an_empty_prompt_needs_a_begin_token() -> None:
    assert len(prompt_ids(toy_tokenizer(), "")) == 1
    with pytest.raises(UserError, match="an empty prompt requires"):
        prompt_ids(toy_tokenizer(begin=False), "")


def test_a_text_cannot_leave_its_block() -> None:
    section = sample_section(3, 120, ("p",), ("a\n## After 9 steps\r# Title\n```",))
    assert section == (
        "## After 3 steps, 120 tokens\n\nPrompt:\n\n    p\n\nContinuation:\n\n"
        "    a\n    ## After 9 steps\u240d# Title\n    ```\n"
    )
    page = "# Samples\n\n" + section
    assert sections_before(page, 4) == page
    assert last_section(page) == section


def test_samples_of_steps_taken_again_are_dropped() -> None:
    sections = [sample_section(n, 40 * n, ("p",), (f"text {n}",)) for n in (2, 4, 6)]
    page = "# Samples\n\n" + "\n".join(sections)
    assert sections_before(page, 4) == "# Samples\n\n" + sections[0]
    assert sections_before(page, 1) == "# Samples\n"
    assert last_section("# Samples\n") == ""


def run_with_samples(folder: Path, n_steps: int, **options: Any) -> list[dict[str, float]]:
    run = toy_run(n_steps)
    metrics = Metrics([JsonLines(folder / "metrics.jsonl")])
    config = SamplingConfig(prompts=("the cat", ""), n_tokens=8)
    samples = Samples(folder / "samples.md", toy_tokenizer(), config, every=2, metrics=metrics, **options)
    run.hooks = {"metrics": metrics, "samples": samples}
    losses = [report.losses for report in train(run)]
    metrics.close()
    return losses


def test_the_hook_writes_every_so_many_steps_and_at_the_end_and_changes_no_step(tmp_path: Path) -> None:
    torch.manual_seed(5)
    assert run_with_samples(tmp_path, 5) == [report.losses for report in train(toy_run(5))]
    page = (tmp_path / "samples.md").read_text()
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == [f"## After {n} steps, {40 * n} tokens" for n in (2, 4, 5)]
    assert page.count("    the cat\n") == 3
    spent = read_metrics(tmp_path / "metrics.jsonl").spent
    assert [(record.step, record.cause) for record in spent] == [(1, "samples"), (3, "samples"), (4, "samples")]
    run_with_samples(tmp_path, 5)
    assert (tmp_path / "samples.md").read_text() == page


def test_a_rank_that_does_not_write_leaves_no_page(tmp_path: Path) -> None:
    run_with_samples(tmp_path, 2, writes=False)
    assert not (tmp_path / "samples.md").exists()
