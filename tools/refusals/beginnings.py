"""First words of a model's own answers to harmless requests, for `tools.refusals.rows`.

    python -m tools.refusals.beginnings runs/guard-rows --model qwen2.5-coder-0.5b --out runs/beginnings.jsonl

Whether a model answers or refuses is decided by the first words of its reply. Examples that end there cost a tenth
of whole replies, so that ten times as many requests fit the same training. A model that refuses needlessly gets
a first word of an answer, and that word and its continuation are learnt. A quarter of the replies continue given
words of compliance, as refusals do, so that such words alone do not mean a refusal. Requests are those of
`tools.refusals.rows.chosen`; an interrupted run continues.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from modelstack.align.guard_training.rows import GuardRow, read_rows
from modelstack.align.guards.refusal_judge import judge_refusal
from modelstack.align.refusal_direction.find import prompt_ids
from modelstack.data.examples import Example, Message, read_examples
from modelstack.errors import UserError
from modelstack.files import whole_lines
from modelstack.posttrain.starting_point import starting_point
from modelstack.reasoning.sampling.continuing import TorchPolicy
from modelstack.reasoning.sampling.frozen_model import Base, load_merged
from modelstack.reasoning.sampling.grammar_sampler import TextReplies
from modelstack.reasoning.sampling.sampled import completion_of
from modelstack.terminal.progress_bars import Tell, progress_bars
from modelstack.train.process import set_up_process
from tools.refusals.rows import SHARE_ANSWERS_PREFILLED, chosen, opening

N_TOKENS, AT_ONCE = 16, 48
FIRST_WORDS = {"how": "To", "what": "The", "why": "The", "who": "The", "when": "The", "where": "The"}
"""First word of an answer by that of the request, where the model would refuse."""
OTHER_FIRST_WORD = "Here"
REFUSING = ("sorry", "i cannot", "i can't", "i'm unable", "i'm not able", "as an ai")
"""Words of a refusal that may be too short to judge."""


def given_words(row: GuardRow, seed: int) -> str:
    """Return the words of compliance that the reply to a request begins with, for a share of the requests."""
    draw = random.Random(f"{seed} {row.id}")
    return opening(draw) if draw.random() < SHARE_ANSWERS_PREFILLED else ""


def beginning(row: GuardRow, prefill: str, reply: str, *, ended: bool) -> Example | None:
    """Return the example of a reply's first words; None if they refuse."""
    request = row.turns[-1].content
    refuses = any(words in reply.lower() for words in REFUSING)
    if not reply.strip() or "\ufffd" in reply or refuses or judge_refusal(request, reply).kind == "refusal":
        return None
    return Example(
        id=row.id,
        source=row.source,
        license=row.license,
        kind="answer",
        messages=(Message(role="user", content=request),),
        reply=reply,
        prefill=prefill,
        unfinished=not ended,
    )


def write_beginnings(base: Base, rows: Sequence[GuardRow], path: Path, seed: int, tell: Tell) -> int:
    """Append first words of a reply to each request that the file lacks; return the number of refusals."""
    done = {each.id for each in read_examples(path)} if path.exists() else set()
    left = [row for row in rows if row.id not in done]
    left.sort(key=lambda row: len(row.turns[-1].content))  # batches of about one length
    refusals = 0
    with path.open("a", encoding="utf-8") as lines:
        for start in range(0, len(left), AT_ONCE):
            several = left[start : start + AT_ONCE]
            for made in answered(base, several, seed):
                refusals += made is None
                if made is not None:
                    lines.write(f"{made.model_dump_json(exclude_defaults=True)}\n")
            lines.flush()
            tell("requests", len(done) + start + len(several), len(done) + len(left))
    return refusals


def answered(base: Base, rows: Sequence[GuardRow], seed: int) -> list[Example | None]:
    """Return the first words of an answer to each request; None if the model refuses after a first word too."""
    prefills = [given_words(row, seed) for row in rows]
    made = _continued(base, rows, prefills, [""] * len(rows))
    refused = [number for number, example in enumerate(made) if example is None]
    again = [rows[number] for number in refused]
    words = [FIRST_WORDS.get(row.turns[-1].content.split()[0].lower(), OTHER_FIRST_WORD) for row in again]
    for number, example in zip(refused, _continued(base, again, [""] * len(again), words), strict=True):
        made[number] = example
    return made


def _continued(
    base: Base, rows: Sequence[GuardRow], prefills: Sequence[str], first_words: Sequence[str]
) -> list[Example | None]:
    """Return replies that begin with a first word, after words that are given and not learnt."""
    encoder, made = base.encoder, list[Example | None]()
    prompts = [prompt_ids(encoder, row.turns[-1].content) for row in rows]
    given = [encoder.content_ids(prefill + word) for prefill, word in zip(prefills, first_words, strict=True)]
    replies = TextReplies(TorchPolicy(base.model), encoder, N_TOKENS).to(prompts, given) if rows else []
    for row, prefill, word, reply in zip(rows, prefills, first_words, replies, strict=True):
        text = word + completion_of(reply, encoder).text
        made.append(beginning(row, prefill, text, ended=not reply.is_truncated))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file; return 0, or 2 with a message."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", type=Path, help="folder of tools.guard_model.rows")
    parser.add_argument("--model", required=True, help="a model, a checkpoint or a stage")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        harmless = chosen(list(read_rows(options.rows / "training.jsonl")), options.seed)[1]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        whole_lines(options.out)
        set_up_process(options.threads)
        base = load_merged(starting_point(options.model, None), precision="bf16", device="cpu")
        with progress_bars(Console(stderr=True)) as tell:
            refusals = write_beginnings(base, harmless, options.out, options.seed, tell)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: first words of {len(harmless) - refusals:,} replies; {refusals:,} refused")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
