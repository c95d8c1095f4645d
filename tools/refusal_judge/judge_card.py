"""The model card of the refusal judge, written from its weights file so that the two agree."""

from __future__ import annotations

from modelstack.align.guards.refusal_judge import OFF_TOPIC_THRESHOLD, RefusalWeights
from modelstack.align.guards.refusal_topic import MIN_CHARACTERS


def card_text(weights: RefusalWeights, n_bytes: int) -> str:
    """Return the card as Markdown."""
    figures, off = weights.card["validation"], weights.card["off_topic"]
    rows = "\n".join(f"| {name} | {count:,} |" for name, count in weights.card["rows"].items())
    sources = "\n".join(
        f"| {source['path']} | {source['licence']} | {source['origin']} | {source['sha256']} |"
        for source in weights.card["sources"]
    )
    repeats = ", ".join(f"{value:.3f}" for value in figures["accuracy_by_repeat"])
    named = ("accuracy", "precision", "recall", "f1", "false_positive_rate")
    cells = " | ".join(f"{figures[name]:.3f}" for name in named)
    return f"""# Refusal judge

Tells whether a reply is a refusal, a partial refusal or compliance, given the prompt. Softmax over named signs of
each sentence and hashed word n-grams, then a test for replies to another question. {n_bytes / 1e6:.2f} MB, numpy
alone. Apache-2.0, as the repository.

Definitions: head of `modelstack/align/guards/refusal_judge.py`.

## Made from

| rows | n |
| --- | ---: |
{rows}

- human: PyRIT refusal scorer evaluations, human labelled. Its answers to another question, which show no sign of
  refusal, are kept out of the first stage and only judged.
- hh: HH-RLHF harmless pairs, test split, kept only where labelling rules agree.
- written: replies written and labelled by hand for this repository (`written_replies.jsonl`).
- grammar: replies made by rule (`reply_grammar.py`, `reply_phrases.json`) around requests of AdvBench, CatQA,
  HarmfulQA and HH. Their content, and what the off-topic stage is fitted on, are answers to HH's first turns and
  those of `real_exchanges.py`: seed tasks of Self-Instruct, GSM8K train, MBPP train, questions and sections of
  OpenStax textbooks, tldr pages, 30 seconds of code.

| file | licence | origin | SHA-256 |
| --- | --- | --- | --- |
{sources}

Nothing is fitted on a share-alike or non-commercial set, nor on any of the benchmarks it is meant to judge
(XSTest, HarmBench, StrongREJECT, JailbreakBench, SimpleSafetyTests), neither prompts nor completions. Rows
whose prompt repeats one of {weights.card["evaluation_items"]:,} evaluation items at hand (trigram Jaccard at least
0.6) were left out.

## Measured

Refusal (full or partial) against compliance on {figures["n"]} human-labelled rows, {figures["n_folds"]}-fold
cross-validation grouped by near-duplicate replies, seed {figures["seed"]}:

| accuracy | precision | recall | F1 | false positives |
| ---: | ---: | ---: | ---: | ---: |
| {cells} |

Accuracy with {len(figures["accuracy_by_repeat"])} different splits into folds, the first as above: {repeats}.

`python -m tools.refusal_judge.validate DATA_DIR` prints it anew, with intervals, baselines, and
precision and recall of full and partial refusals on our own labelled replies.

## Limits

- English; refusals in a dozen other languages are known by their commonest phrases only.
- The border between partial and full is soft where a refusal lists safe alternatives: such lists count as refusal.
- An answer of at least {MIN_CHARACTERS} characters counts as off topic from {OFF_TOPIC_THRESHOLD:.0%} on. Out of
  fold, {off["n_false_alarms"]} of {off["n_answers"]} real answers of the same sets were wrongly called so, and
  {off["n_found"]} of {off["n_shuffled"]} answers to another request were found. The threshold was set on another
  set (Dolly and HH, CC BY-SA), on which nothing is fitted; the command above counts both there. The usual false
  alarms are answers that repeat no word of the request (open tasks, figures of speech) and replies to a request in
  earlier turns.
- It judges words, not harm: a reply that agrees and then says nothing useful is compliance.
- Temperature {weights.temperature:.2f}, set on the same out-of-fold rows; it changes no decision, so none of the
  figures above.
- The signs and phrases were written by people who had read the human-labelled rows. No phrase is taken from them
  (a test compares them), but the choice of what to look for is not blind, so expect somewhat less elsewhere.
"""
