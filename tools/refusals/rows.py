"""Examples that teach a model to refuse what harms, and to answer what only sounds alike.

    python -m tools.refusals.rows tasks runs/guard-rows --out runs/refusal-tasks.jsonl
    modelstack sample rejection model=qwen2.5-coder-0.5b verifier=refusal forget_system=true \
        'tasks=["runs/refusal-tasks.jsonl"]' max_tokens=110 name=answers
    python -m tools.refusals.beginnings runs/guard-rows --model qwen2.5-coder-0.5b --out runs/beginnings.jsonl
    python -m tools.refusals.rows examples runs/guard-rows --answers runs/beginnings.jsonl \
        --answers runs/answers/examples.jsonl --tools runs/tool-data/train.jsonl.zst \
        --out runs/refusal-examples.jsonl

Rows are those of `tools.guard_model.rows`, nearly all of them twins: two requests with the same words, one harmful
and one harmless. The model that is trained answers the harmless one itself, and a judge leaves out its needless
refusals; the harmful one gets a reply of `replies.toml`, drawn by its hazard. Most replies are cut after their
first words, which decide whether a model refuses. A third of the refusals follow words of compliance that are
given and not learnt, so that a refusal does not depend on the first words alone (Qi et al., arXiv 2406.05946); a
quarter of the answers follow them too. No harmful text is written for it.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelstack.align.guard_training.rows import GuardRow, read_rows
from modelstack.data.examples import Example, Message, Tool, read_examples, write_examples
from modelstack.errors import UserError
from modelstack.files import read_toml, replacing

REPLIES = Path(__file__).with_name("replies.toml")
OTHER = "other"
"""Key of the replies to harmful requests of no category."""
N_PAIRS, N_OTHER_HARMFUL, N_ORDINARY = 3000, 700, 2400
MAX_CHARACTERS = 120
"""Longest request: five of six are shorter, and a longer one costs as much as three of them."""
N_TASKS, N_TOOLS = 300, 180
"""Harmless requests that are answered as a whole, and examples with tools."""
BRIEFLY = "Answer in two or three plain sentences, without a list or a heading."
OPENINGS = (
    "Sure, here is how to do that:\n\n1.",
    "Sure! Here's a step-by-step guide:\n\nStep 1:",
    "Of course! First of all, you need to",
    "Certainly. Here is what you asked for:\n\n",
    "Absolutely, I can help you with that. To begin with,",
    "Yes, that is possible. The easiest way is to",
    "Here is a plan:\n\n1. Prepare everything that you need.\n2.",
    "Okay, here you go: the first thing that you should do is to find",
)
"""Words of compliance without harmful content; an example has the first few words of one."""
TURNS_BACK = (
    "\n\nNo, I have to stop here.",
    " - wait, I should not do this.",
    "\n\nOn reflection, no.",
    " ... no.",
)
SHARE_PREFILLED, SHARE_WITH_TOOLS, SHARE_CUT = 0.35, 0.04, 0.6
"""Shares of the refusals that follow words of compliance, that are shown tools, that are cut after a few words."""
SHARE_ANSWERS_PREFILLED = 0.25
MAX_PREFILL_WORDS, N_WORDS_CUT = 12, 10
_WORDS = re.compile(r"\s*\S+")


def chosen(rows: Sequence[GuardRow], seed: int) -> tuple[list[GuardRow], list[GuardRow]]:
    """Return harmful and harmless requests to train on: pairs of twins, other harmful ones, ordinary ones."""
    draw = random.Random(seed)
    requests = [row for row in rows if row.judged == "user" and len(_asked(row)) <= MAX_CHARACTERS]
    by_pair: dict[str, list[GuardRow]] = {}
    for row in requests:
        if row.pair is not None:
            by_pair.setdefault(row.pair, []).append(row)
    twins = [pair for pair in by_pair.values() if len(pair) == 2]
    pairs = draw.sample(twins, min(N_PAIRS, len(twins)))
    others = [row for row in requests if row.unsafe and row.pair is None and row.categories]
    ordinary = [row for row in requests if row.ordinary]
    harmful = [row for pair in pairs for row in pair if row.unsafe]
    harmful += draw.sample(others, min(N_OTHER_HARMFUL, len(others)))
    harmless = [row for pair in pairs for row in pair if not row.unsafe]
    harmless += draw.sample(ordinary, min(N_ORDINARY, len(ordinary)))
    return harmful, harmless


def write_tasks(harmless: Sequence[GuardRow], path: Path) -> None:
    """Write requests as tasks for `modelstack sample`, whose verifier wants an answer."""
    lines = [
        {
            "id": row.id,
            "messages": [{"role": "system", "content": BRIEFLY}, {"role": "user", "content": _asked(row)}],
            "gold": "answer",
            "license": row.license,
        }
        for row in harmless
    ]
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), "utf-8")


def refused(harmful: Sequence[GuardRow], tools: Sequence[tuple[Tool, ...]], seed: int) -> Iterator[Example]:
    """Yield a refusal for each harmful request, some after words of compliance, some with tools shown."""
    replies: dict[str, list[str]] = read_toml(REPLIES, "replies")
    for row in harmful:
        draw = random.Random(f"{seed} {row.id}")
        hazard = draw.choice(row.categories) if row.categories else OTHER
        reply = draw.choice(replies.get(hazard, replies[OTHER]))
        prefill = opening(draw) if draw.random() < SHARE_PREFILLED else ""
        if prefill:
            reply = f"{draw.choice(TURNS_BACK)} {reply}"
        words = _WORDS.findall(reply)
        is_cut = draw.random() < SHARE_CUT and len(words) > N_WORDS_CUT
        shown = draw.choice(tools) if tools and draw.random() < SHARE_WITH_TOOLS else ()
        yield Example(
            id=f"refused-{row.id}",
            source=row.source,
            license=row.license,
            kind="answer",
            tools=shown,
            messages=(Message(role="user", content=_asked(row)),),
            reply="".join(words[:N_WORDS_CUT]) if is_cut else reply,
            prefill=prefill,
            unfinished=is_cut,
        )


def opening(draw: random.Random) -> str:
    """Return the first words of a sentence of compliance."""
    words = _WORDS.findall(draw.choice(OPENINGS))
    return "".join(words[: draw.randint(1, min(len(words), MAX_PREFILL_WORDS))])


def _asked(row: GuardRow) -> str:
    return row.turns[-1].content


def main(arguments: Sequence[str] | None = None) -> int:
    """Write tasks or examples; return 0, or 2 with a message."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("tasks", "examples"))
    parser.add_argument("rows", type=Path, help="folder of tools.guard_model.rows")
    parser.add_argument(
        "--answers", type=Path, action="append", default=[], help="answers to harmless requests; several files"
    )
    parser.add_argument("--tools", type=Path, help="examples of `modelstack data tools`, taken over as they are")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        harmful, harmless = chosen(list(read_rows(options.rows / "training.jsonl")), options.seed)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        if options.what == "tasks":
            tasks = random.Random(options.seed).sample(harmless, min(N_TASKS, len(harmless)))
            write_tasks(tasks, options.out)
            print(f"{options.out}: {len(tasks):,} tasks; verifier: refusal")
            return 0
        examples = [example for path in options.answers for example in read_examples(path)]
        with_tools = list(read_examples(options.tools)) if options.tools else []
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    draw = random.Random(options.seed)
    draw.shuffle(with_tools)
    shown = [each.tools for each in with_tools if len(each.tools) <= 3 and len(each.model_dump_json()) < 3000]
    made = [*refused(harmful, shown, options.seed), *examples, *with_tools[:N_TOOLS]]
    draw.shuffle(made)
    write_examples(options.out, made)
    counts = Counter("with calls" if each.calls else "without" for each in made)
    print(f"{options.out}: {len(made):,} examples; {len(harmful):,} refusals, {len(examples):,} answers; {counts}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
