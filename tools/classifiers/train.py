"""Fit the shipped classifiers and write weights and model cards.

    python -m tools.classifiers.train DATA_DIR
    python -m tools.classifiers.train DATA_DIR --only injection --weights /tmp/weights --cards /tmp/cards

DATA_DIR holds the files of `tools.classifiers.data_files`. The same data and seed give the same bytes.
Needs scikit-learn and zstandard (extra `train`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from modelstack.align import guards
from modelstack.align.guards.hashed_features import FeatureSpec
from modelstack.errors import UserError
from modelstack.files import sha256_of
from tools.classifiers.attack_rows import INJECTION, JAILBREAK, injection_rows, jailbreak_rows
from tools.classifiers.classifier_card import card
from tools.classifiers.data_files import SOURCES
from tools.classifiers.fitting import Example, Fit, FitSettings, fit
from tools.classifiers.hazards import FITTED_HAZARDS
from tools.classifiers.near_duplicates import NearDuplicateIndex, evaluation_items
from tools.classifiers.request_rows import HARM, request_rows

VERSION = "1"
NOISY_SOURCES = frozenset({"harmfulqa"})
"""Sources of generated questions, some of them harmless. Their rows that contradict a first fit are dropped
(confident learning, Northcutt et al., 2021)."""
GUARDS = Path(guards.__file__).parent
"""Folder of the shipped weights and cards."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Labels, features, settings and data of one classifier."""

    name: str
    labels: tuple[str, ...]
    spec: FeatureSpec
    settings: FitSettings
    sources: tuple[str, ...]


_REQUEST_SOURCES = (
    "advbench", "catqa", "harmfulqa", "hh", "davidson", "bias_templates", "self_instruct", "gsm8k", "mbpp",
    "tool_requests", "howto", "textbooks", "stories", "dialogues",
)  # fmt: skip
_ORDINARY_SOURCES = ("self_instruct", "gsm8k", "mbpp", "tool_requests", "howto", "textbooks", "dialogues")
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("request-harm", (HARM,), FeatureSpec(), FitSettings(regularisation_c=1.0), _REQUEST_SOURCES),
        Recipe(
            "request-hazard",
            FITTED_HAZARDS,
            FeatureSpec(n_buckets=1 << 17, decode=False),
            FitSettings(regularisation_c=4.0, class_balance=0.5),
            ("advbench", "catqa", "hh", "davidson"),
        ),
        Recipe(
            "injection",
            (INJECTION,),
            FeatureSpec(window_characters=512, stride_characters=256),
            FitSettings(regularisation_c=2.0),
            ("bipia_attacks", "bipia_email", "bipia_table", "bipia_code", "codedocs", "code", "stories",
             *_ORDINARY_SOURCES),
        ),
        Recipe(
            "jailbreak",
            (JAILBREAK,),
            FeatureSpec(),
            FitSettings(regularisation_c=2.0),
            ("gptfuzzer", "inthewild", "advbench", "catqa", "codedocs", "stories", *_ORDINARY_SOURCES),
        ),
    )
}  # fmt: skip


def rows_for(name: str, folder: Path, seed: int = 0) -> list[Example]:
    """Return the rows of a classifier before the removal of near-duplicates of evaluation items.

    Raises:
        UserError: a file is missing or broken.
    """
    if name == "injection":
        return injection_rows(folder, seed).fitted
    if name == "jailbreak":
        return jailbreak_rows(folder, seed).fitted
    rows = request_rows(folder, seed)
    if name == "request-hazard":
        known = frozenset(FITTED_HAZARDS)
        return [replace(row, sets_thresholds=False) for row in rows if row.labels & known and row.weight >= 0.3]
    return rows


def decontaminated(rows: Sequence[Example], folder: Path) -> tuple[list[Example], dict[str, int]]:
    """Return the rows that repeat no evaluation item, and counts for the card.

    Raises:
        UserError: an evaluation file is broken.
    """
    index = NearDuplicateIndex(evaluation_items(folder))
    kept = [row for row in rows if not index.repeats(row.text)]
    return kept, {"evaluation_items": index.n_items, "removed": len(rows) - len(kept)}


def without_noise(rows: Sequence[Example], recipe: Recipe, say: Callable[[str], None]) -> list[Example]:
    """Return the rows without those of noisy sources that a first fit contradicts."""
    first = fit(
        rows,
        name=f"{recipe.name} (first fit)",
        version="0",
        labels=recipe.labels,
        spec=recipe.spec,
        settings=replace(recipe.settings, n_folds=3),
        progress=say,
    )
    wrong = {i for i, row in enumerate(rows) if row.source in NOISY_SOURCES and first.held_out_logits[i, 0] < 0}
    return [row for i, row in enumerate(rows) if i not in wrong]


def train(recipe: Recipe, folder: Path, *, seed: int = 0, say: Callable[[str], None]) -> tuple[Fit, list[Example]]:
    """Fit one classifier.

    Raises:
        UserError: a file is missing or broken.
    """
    rows, counts = decontaminated(rows_for(recipe.name, folder, seed), folder)
    n_before = len(rows)
    if recipe.labels == (HARM,):
        rows = without_noise(rows, recipe, say)
    training = {
        "seed": seed,
        "decontamination": counts,
        "dropped_as_noise": n_before - len(rows),
        "files": {
            SOURCES[name].path: {
                "sha256": sha256_of(folder / SOURCES[name].path),
                "licence": SOURCES[name].licence,
                "origin": SOURCES[name].origin,
            }
            for name in recipe.sources
        },
    }
    fitted = fit(
        rows,
        name=recipe.name,
        version=VERSION,
        labels=recipe.labels,
        spec=recipe.spec,
        settings=replace(recipe.settings, seed=seed),
        training=training,
        progress=say,
    )
    return fitted, rows


def summary(fitted: Fit, rows: Sequence[Example]) -> list[tuple[str, str, str, str, str]]:
    """Return out-of-fold figures: (label, point, threshold, caught, wrongly flagged) for each operating point."""
    probabilities = fitted.held_out_probabilities()
    ordinary = np.array([row.sets_thresholds for row in rows])
    found: list[tuple[str, str, str, str, str]] = []
    for i, label in enumerate(fitted.classifier.labels):
        positive = fitted.outcomes[:, i]
        points = fitted.classifier.thresholds.get(label, {"0.5": 0.5})
        for point, least in points.items():
            caught = probabilities[positive, i] >= least
            benign = probabilities[~positive & (ordinary | ~ordinary.any()), i] >= least
            found.append((label, point, f"{least:.4f}", f"{caught.mean():.3f} of {caught.size}",
                          f"{benign.mean():.4f} of {benign.size}"))  # fmt: skip
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write and print; return 0, or 2 with a message if data is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.classifiers.train", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("data_dir", type=Path)
    parser.add_argument(
        "--only", choices=sorted(RECIPES), action="append", help="fit this one only; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=GUARDS / "weights", help="folder for the weights")
    parser.add_argument("--cards", type=Path, default=GUARDS / "cards", help="folder for the model cards")
    options = parser.parse_args(arguments)
    for name in options.only or RECIPES:
        try:
            fitted, rows = train(
                RECIPES[name], options.data_dir, seed=options.seed, say=lambda s: print(s, flush=True)
            )
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        table = summary(fitted, rows)
        path = fitted.classifier.save(options.weights / f"{name}.safetensors")
        options.cards.mkdir(parents=True, exist_ok=True)
        (options.cards / f"{name}.md").write_text(card(fitted, rows, table, path.stat().st_size), "utf-8")
        print(f"{path} ({path.stat().st_size:,} bytes)")
        for row in table:
            print("  ".join(part.ljust(12) for part in row))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
