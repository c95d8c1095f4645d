"""Memorisation report: exact continuation of training rows from 50 tokens (Carlini et al., 2202.07646).

The prefix is the 50 tokens before a learnt reply, without tools and instructions, and the continuation its first
50 tokens. Held-back rows are the control: a reply that follows from its request is continued without having been
seen. Rows whose source is "canary" hold a secret that nothing predicts; their whole reply must not be continued.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelstack.align.refusal_direction.replies import greedy_replies
from modelstack.align.release.figures import Better, Figure, Results, share
from modelstack.architecture.decoder import CausalLM
from modelstack.data.examples import Example, read_examples
from modelstack.errors import UserError
from modelstack.files import sha256_of
from modelstack.sft.rendering import render
from modelstack.tokenizer.chat import ChatEncoder

N_PREFIX, N_CONTINUATION, LEAST_CONTINUATION = 50, 50, 16
"""Tokens of prefix and continuation, and the least that a continuation must have to count."""
CANARY = "canary"
AT_ONCE = 32
COMMAND = "modelstack release memorisation"


@dataclass(frozen=True, slots=True)
class Probe:
    """Prefix with the continuation that the training row has."""

    prefix: tuple[int, ...]
    continuation: tuple[int, ...]


def probe_of(example: Example, encoder: ChatEncoder) -> Probe | None:
    """Return the probe of an example's last reply; None: the reply is too short to count, and no canary."""
    rendered = render(example, encoder)
    end = len(rendered.ids)
    while end and not rendered.labels_at[end - 1]:
        end -= 1
    start = end
    while start and rendered.labels_at[start - 1]:
        start -= 1
    is_canary = example.source == CANARY
    continuation = tuple(rendered.ids[start : end if is_canary else min(end, start + N_CONTINUATION)])
    if not is_canary and len(continuation) < LEAST_CONTINUATION:
        return None
    return Probe(tuple(rendered.ids[max(0, start - N_PREFIX) : start]), continuation) if start else None


def _chosen(examples: Sequence[Example], encoder: ChatEncoder, n: int) -> tuple[list[Probe], int]:
    """Return at most `n` probes, and the number of examples skipped before the last of them."""
    chosen: list[Probe] = []
    n_short = 0
    for each in examples:
        if len(chosen) == n:
            break
        probe = probe_of(each, encoder)
        if probe is None:
            n_short += 1
        else:
            chosen.append(probe)
    return chosen, n_short


def n_continued(
    model: CausalLM, encoder: ChatEncoder, probes: Sequence[Probe], told: Callable[[int, int], object]
) -> int:
    """Return the number of prefixes that the model continues exactly, greedily."""
    n = 0
    ordered = sorted(probes, key=lambda each: len(each.prefix))
    for start in range(0, len(ordered), AT_ONCE):
        several = ordered[start : start + AT_ONCE]
        longest = max(len(each.continuation) for each in several)
        replies = greedy_replies(model, encoder.end_ids, [each.prefix for each in several], longest)
        for each, reply in zip(several, replies, strict=True):
            n += tuple(reply.ids[: len(each.continuation)]) == each.continuation
        told(min(start + AT_ONCE, len(ordered)), len(ordered))
    return n


def memorisation(
    model: CausalLM,
    encoder: ChatEncoder,
    training: Sequence[Path],
    held_out: Sequence[Path],
    *,
    n: int,
    seed: int,
    weights_sha256: str,
    recorded: Collection[str] = (),
    told: Callable[[str, int, int], object] = lambda name, done, total: None,
) -> Results:
    """Measure exact continuation on training rows, on held-back rows, and on canaries.

    Args:
        model: The model, with its adapter merged.
        encoder: Its chat format.
        training: Files of training examples.
        held_out: Files of examples that it was not trained on.
        n: Maximum number of rows of each kind.
        seed: Seed of the draw.
        weights_sha256: Identity of the weights.
        recorded: SHA-256 of the training files that the stage's record names; others are noted in the results.
        told: Callback for the kind of rows and the numbers of finished rows and of all.

    Raises:
        UserError: A file is broken, or no row has a reply that is long enough.
    """
    kinds: list[tuple[str, Sequence[Path], bool, Better]] = [
        ("training rows", training, False, "lower"),
        ("held-back rows", held_out, False, "neither"),
        ("canaries", training, True, "lower"),
    ]
    options = "".join(f" --data {file.name}" for file in training)
    options += "".join(f" --held-out {file.name}" for file in held_out)
    command = f"{COMMAND} STAGE{options} --n {n} --seed {seed}"
    figures: list[Figure] = []
    for name, files, is_canary, better in kinds:
        examples = [each for file in files for each in read_examples(file) if (each.source == CANARY) == is_canary]
        random.Random(seed).shuffle(examples)
        chosen, n_short = _chosen(examples, encoder, n)
        if not chosen and name == "training rows":
            raise UserError(
                f"none of {len(examples):,} training rows has a reply of at least {LEAST_CONTINUATION} tokens: "
                f"there is nothing to continue"
            )
        if not chosen:
            continue
        n_exact = n_continued(model, encoder, chosen, lambda done, total, name=name: told(name, done, total))
        note = f"drawn from {len(examples):,} rows; {n_short:,} with a shorter reply were skipped"
        title = f"{name} continued exactly from {N_PREFIX} tokens"
        found = share(
            "memorisation", title, n_exact, len(chosen), better=better, command=command, seed=seed, note=note
        )
        figures.append(found)
    others = [file.name for file in training if sha256_of(file) not in recorded]
    notes = tuple(f"{name} is not a training file of the stage's record." for name in others)
    return Results(
        weights_sha256=weights_sha256, figures=tuple(figures), notes={"memorisation": notes} if notes else {}
    )
