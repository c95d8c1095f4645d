"""Model card of a classifier: data with licences and hashes, figures, limits, operating points.

After "Model Cards for Model Reporting" (Mitchell et al., 2019). `python -m tools.classifiers.evaluation` prints
the figures on sets outside the fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tools.classifiers.fitting import Example, Fit

PURPOSES: dict[str, str] = {
    "request-harm": "Whether a user's request asks for harm (MLCommons hazards S1 to S14).",
    "request-hazard": "Which MLCommons hazard a request that was found harmful belongs to.",
    "injection": "Whether a document or tool result carries instructions for the model that reads it (A1).",
    "jailbreak": "Whether a message tries to unlock a model: personas without rules, searched suffixes (A2).",
}
LIMITS: dict[str, tuple[str, ...]] = {
    "request-harm": (
        "A linear model over n-grams: it knows words and short phrases, not meaning. Harm that is stated in "
        "everyday words, long indirections and other languages than English pass; harmless uses of harmful words "
        "in ways that no contrast family covers are flagged.",
        "Hate speech was labelled by crowds (Davidson et al.), with a known bias against African-American "
        "English; posts labelled merely offensive were left out for that reason.",
        "S4 (child sexual exploitation) has no training rows, since such prompts are not kept. Use a "
        "hash-matching service and a provider's classifier for it.",
        "Advice that is dangerous only for who knows the subject (physical safety) is invisible to it.",
        "First turns of red-teamers (hh-rlhf) were labelled once, by one reader.",
    ),
    "request-hazard": (
        "Read it only where request-harm flags. AdvBench rows and red-team openings were given hazards by keyword "
        "rules, so its own figures are optimistic there.",
        "S4 is not among its labels. Rare hazards (S3, S5, S6) have few dozen rows.",
    ),
    "injection": (
        "Never the only defence: toolset, approvals and taint rules limit what a tool result may cause.",
        "Requests that people put to each other (emails with tasks) are the hardest negatives; the share of them "
        "flagged is printed by the evaluation.",
        "Instructions that look like ordinary questions inside a document (BIPIA's 'text' attacks) are found only "
        "where they break with their context in wording.",
    ),
    "jailbreak": (
        "Personas and templates of the years 2022 and 2023 dominate the data. Paraphrasing attacks (PAIR) read "
        "like ordinary requests and pass; request-harm is the second line there.",
        "Suffixes were made by rule, not by search on a model.",
        "Plain harmful requests are negatives: run request-harm beside it.",
    ),
}


def card(fitted: Fit, rows: Sequence[Example], table: Sequence[tuple[str, ...]], n_bytes: int) -> str:
    """Return the card as Markdown.

    Args:
        fitted: The fit.
        rows: Rows of the fit.
        table: Rows of `tools.classifiers.train.summary`.
        n_bytes: Size of the file of weights.
    """
    classifier = fitted.classifier
    training = classifier.training
    parts = [
        f"# {classifier.name}, version {classifier.version}",
        PURPOSES[classifier.name],
        f"Logistic regression over {classifier.spec.n_buckets:,} hashed buckets of word 1-3-grams and character "
        f"3-5-grams and a few dense features; int8 weights, {n_bytes:,} bytes. Windows of "
        f"{classifier.spec.window_characters:,} characters, largest logit counts"
        + (", hidden encodings decoded and read as well." if classifier.spec.decode else "."),
        "## Data",
        f"{training['n_rows']:,} rows, SHA-256 {training['rows_sha256']}. Of the rows collected, "
        f"{training['decontamination']['removed']} repeated one of "
        f"{training['decontamination']['evaluation_items']:,} evaluation items "
        f"(trigram Jaccard at least 0.6) and were removed; {training['dropped_as_noise']} were "
        "dropped because a first fit contradicted their label. No development or test set was fitted on, and "
        "no threshold or calibration was set on one. Development sets were looked at while rows made by rule were "
        "written, so results on them are no blind test.",
        _lines(
            ("file", "licence", "origin", "SHA-256"),
            [
                (path, str(f["licence"]), str(f["origin"]), str(f["sha256"])[:16])
                for path, f in training["files"].items()
            ],
        ),
        "Rows by source (rows named contrast, ordinary, tldr, triggers, made, tool and suffix are made by rule):",
        _lines(("source", "rows", "positive", "mean probability out of fold"), _by_source(fitted, rows)),
        "## Figures, out of fold",
        "Rows were judged by weights that saw no row of their group (template family or near-duplicates). A "
        "threshold is named after the share of ordinary texts that it flags wrongly.",
        _lines(("label", "operating point", "threshold", "caught", "wrongly flagged"), table),
        "## Limits",
        "\n".join(f"- {limit}" for limit in LIMITS[classifier.name]),
        "## Use",
        "Weights are Apache-2.0, as the package. Probabilities are calibrated on the mix above; on other sources "
        "they are not. Choose an operating point for each action: warn at fpr_5, ask for approval at fpr_1, "
        "block at fpr_0.5, and measure on your own traffic.",
    ]
    return "\n\n".join(parts) + "\n"


def _by_source(fitted: Fit, rows: Sequence[Example]) -> list[tuple[str, ...]]:
    highest = fitted.held_out_probabilities().max(axis=1)
    positive = np.array([bool(row.any()) for row in fitted.outcomes])
    return [
        (source, str(int(of.sum())), str(int(positive[of].sum())), f"{highest[of].mean():.3f}")
        for source in sorted({row.source for row in rows})
        for of in [np.array([row.source == source for row in rows])]
    ]


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
