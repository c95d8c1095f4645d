"""Worth of the data and the tokenizer: small trainings that differ in one of them, scored on the same text.

Raw pages are compared with those that the rules kept, and a tokenizer of bytes with the run's own. All trainings
have the same shape, steps, rows and seeds, so the same computation. Bits per byte compare between tokenizers. The
pages are scored on clean text of their domains, of which no page was made; the tokenizers on held-out text of all
domains. A crawl of your own has no such clean text: its pages are scored on held-out text too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from modelstack.pipeline.job import StepJob
from modelstack.pipeline.material.texts import held_out_share
from modelstack.pipeline.measuring import CLEAN_FILE, TEXT_FILE
from modelstack.pipeline.record import write_json

if TYPE_CHECKING:
    from modelstack.train.run.recipe import Resolved

FOLDER, FILE = "comparison", "comparison.json"
BYTES = {"vocab_size": 300, "pretokenizer": "qwen2"}
"""Bytes, the special tokens and a handful of pairs: the smallest vocabulary that a tokenizer can have."""
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ROWS, ROW_TOKENS, SCORED_BYTES = 8, 128, 60_000


@dataclass(frozen=True, slots=True)
class Variant:
    """A text and a tokenizer to train on."""

    name: str
    text: Path
    tokenizer: Path | None
    """Folder of a tokenizer; None: bytes."""


def comparisons(job: StepJob, tokenizer: Path, steps: int, n_seeds: int) -> tuple[tuple[str, ...], ...]:
    """Train all variants, write their figures, and return them as a table, its head first.

    Raises:
        UserError: There is too little text.
    """
    held_out = job.of("data/evaluation") / TEXT_FILE
    clean = job.of("data/evaluation") / CLEAN_FILE
    pairs = (
        (
            Variant("raw pages", job.of("data/raw"), tokenizer),
            Variant("kept pages", job.of("data/kept"), tokenizer),
            clean if clean.exists() else held_out,
        ),
        (
            Variant("bytes", job.of("data/text"), None),
            Variant("own tokenizer", job.of("data/text"), tokenizer),
            held_out,
        ),
    )
    rows: list[tuple[str, ...]] = []
    figures: list[dict[str, Any]] = []
    for first, second, scored in pairs:
        before, after = (_scores(job, each, scored, steps, n_seeds) for each in (first, second))
        differences = [b - a for a, b in zip(before, after, strict=True)]
        names = f"{first.name}, {second.name}"
        rows.append((names, f"{fmean(before):.4f}", f"{fmean(after):.4f}", _difference(differences), str(n_seeds)))
        figures.append({"names": names, "before": before, "after": after, "steps": steps})
    write_json(job.folder / FOLDER / FILE, figures)
    return (("bits per byte after a small training", "first", "second", "difference, 95 %", "seeds"), *rows)


def _difference(values: Sequence[float]) -> str:
    from modelstack.student import half_width_95

    mean = fmean(values)
    return f"{mean:+.4f}" if len(values) < 2 else f"{mean:+.4f} ± {half_width_95(values):.4f}"


def _scores(job: StepJob, variant: Variant, scored: Path, steps: int, n_seeds: int) -> list[float]:
    """Return bits per byte of a variant on the documents of a file, for each seed."""
    from modelstack.run_folder import RunFolder
    from modelstack.tokenizer.documents import read_documents, sample_of
    from modelstack.train.run.prepare import prepare
    from modelstack.train.run.short_run import train_and_score

    texts = [each.text for each in sample_of(read_documents(scored), SCORED_BYTES)]
    folder = RunFolder(job.folder / "trainings" / variant.name.replace(" ", "-"))
    folder.path.mkdir(parents=True, exist_ok=True)
    scores: list[float] = []
    for seed in range(n_seeds):
        resolved = _resolved(job, variant, steps, seed)
        if not seed:
            prepare(resolved, folder)
        scores.append(train_and_score(resolved, folder, texts).score.bits_per_byte)
        job.say(f"{variant.name}, seed {seed}: {scores[-1]:.4f} bits per byte")
    return scores


def _resolved(job: StepJob, variant: Variant, steps: int, seed: int) -> Resolved:
    from modelstack.recipe_file import checked_recipe
    from modelstack.train.run.recipe import RunRecipe, resolve

    own = None if variant.tokenizer is None else variant.tokenizer.as_posix()
    content = {
        "name": "comparison",
        "steps": steps,
        "rows": ROWS,
        "seed": seed,
        "threads": job.recipe.threads,
        "device": "cpu",
        "data": {"text": [variant.text.as_posix()], "held_out": held_out_share(job), "row_tokens": ROW_TOKENS},
        "tokenizer": {"learn": BYTES} if own is None else {"path": own},
        "model": {"preset": "nano-2m", "config": SHAPE},
        "optimizer": {"name": "adamw", "lr": 3e-3},
        "schedule": {"warmup_steps": max(1, steps // 10), "decay_steps": max(1, steps // 2)},
    }
    return resolve(checked_recipe(RunRecipe, content))
