"""Examples that teach a model to refuse what harms, and to answer what only sounds alike.

    python -m tools.refusals.rows tasks runs/guard-rows --out runs/refusal-tasks.jsonl
    modelstack sample rejection model=qwen2.5-coder-0.5b verifier=refusal forget_system=true \
        'tasks=["runs/refusal-tasks.jsonl"]' max_tokens=110 name=answers
    python -m tools.refusals.rows examples runs/guard-rows --answers runs/answers/examples.jsonl \
        --tools runs/tool-data/train.jsonl.zst --out runs/refusal-examples.jsonl

Rows are those of `tools.guard_model.rows`, nearly all of them twins: two requests with the same words, one harmful
and one harmless. The model that is trained answers the harmless one itself, told to be brief, and a judge leaves
out its needless refusals; the harmful one gets a reply of `replies.toml`, drawn by its hazard. Half of the harmful
examples begin with words of compliance that are given and not learnt, so that a refusal does not depend on the
first words alone (Qi et al., arXiv 2406.05946). No harmful text is written for it.
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
N_PAIRS, N_OTHER_HARMFUL, N_ORDINARY = 800, 200, 300
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
SHARE_PREFILLED, SHARE_WITH_TOOLS, SHARE_BEGUN = 0.5, 0.2, 0.15
MAX_PREFILL_WORDS = 12
OWN = "Apache-2.0"
_WORDS = re.compile(r"\s*\S+")


def chosen(rows: Sequence[GuardRow], seed: int) -> tuple[list[GuardRow], list[GuardRow]]:
    """Return harmful and harmless requests to train on: pairs of twins, other harmful ones, ordinary ones."""
    draw = random.Random(seed)
    requests = [row for row in rows if row.judged == "user"]
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
    """Write the harmless requests as tasks for `modelstack sample`, whose verifier wants an answer."""
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
        prefill = ""
        if draw.random() < SHARE_PREFILLED:
            words = _WORDS.findall(draw.choice(OPENINGS))
            prefill = "".join(words[: draw.randint(1, min(len(words), MAX_PREFILL_WORDS))])
            reply = f"{draw.choice(TURNS_BACK)} {reply}"
        shown = draw.choice(tools) if tools and draw.random() < SHARE_WITH_TOOLS else ()
        yield _example(row, reply, prefill, shown)


def answered(answers: Sequence[Example], seed: int) -> Iterator[Example]:
    """Yield the model's own answers; some begin with a given word of compliance, as attacks do."""
    for answer in answers:
        draw = random.Random(f"{seed} {answer.id}")
        prefill = draw.choice(("Sure.", "Of course.", "Yes.")) if draw.random() < SHARE_BEGUN else ""
        reply = f" {answer.reply}" if prefill else answer.reply
        yield answer.model_copy(update={"prefill": prefill, "reply": reply})


def _example(row: GuardRow, reply: str, prefill: str, tools: tuple[Tool, ...]) -> Example:
    return Example(
        id=f"refused-{row.id}",
        source=row.source,
        license=row.license,
        kind="answer",
        tools=tools,
        messages=(Message(role="user", content=_asked(row)),),
        reply=reply,
        prefill=prefill,
    )


def _asked(row: GuardRow) -> str:
    return row.turns[-1].content


def main(arguments: Sequence[str] | None = None) -> int:
    """Write tasks or examples; return 0, or 2 with a message."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("tasks", "examples"))
    parser.add_argument("rows", type=Path, help="folder of tools.guard_model.rows")
    parser.add_argument(
        "--answers", type=Path, action="append", default=[], help="examples of `modelstack sample`"
    )
    parser.add_argument("--tools", type=Path, help="examples of `modelstack data tools`, taken over as they are")
    parser.add_argument("--n-tools", type=int, default=180)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        harmful, harmless = chosen(list(read_rows(options.rows / "training.jsonl")), options.seed)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        if options.what == "tasks":
            write_tasks(harmless, options.out)
            print(f"{options.out}: {len(harmless):,} tasks; verifier: refusal")
            return 0
        examples = [example for path in options.answers for example in read_examples(path)]
        with_tools = list(read_examples(options.tools)) if options.tools else []
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    draw = random.Random(options.seed)
    draw.shuffle(with_tools)
    shown = [each.tools for each in with_tools if len(each.tools) <= 3 and len(each.model_dump_json()) < 3000]
    made = [
        *refused(harmful, shown, options.seed),
        *answered(examples, options.seed),
        *with_tools[: options.n_tools],
    ]
    draw.shuffle(made)
    write_examples(options.out, made)
    counts = Counter("with calls" if each.calls else "without" for each in made)
    print(f"{options.out}: {len(made):,} examples; {len(harmful):,} refusals, {len(examples):,} answers; {counts}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
