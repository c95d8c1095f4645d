"""Suite `ifeval`: prompts with instructions that a program checks, strict and loose.

Four accuracies are published for IFEval: by prompt (all instructions followed) and by instruction, each strict
(the reply as it is) and loose (one of eight variants of it). The score is strict, by prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentkit.errors import UserError
from agentkit.models.base import Model, ModelRequestParameters, ModelSettings
from evals.case import Case, Run, Score, failed_score
from evals.harness.solving import ask_model
from evals.harness.suite import Suite, Table, check_options
from evals.language.ifeval.instructions import LANGUAGE_INSTRUCTIONS, check_arguments, follows, follows_loosely
from evals.language.ifeval.language import require_detector
from evals.language.records import field, file_option, read_records
from evals.statistics import wilson

NAME = "ifeval"
OPTIONS = {"data": "input_data.jsonl of google-research's instruction_following_eval"}
HOW_TO_GET = "The file is in the repository google-research/google-research, instruction_following_eval/data."
DEFAULTS = ModelSettings(temperature=0.0, max_tokens=1280)
"""Token limit of lm-evaluation-harness for IFEval."""


def load(options: Mapping[str, str]) -> list[Case]:
    """Return one case per prompt.

    Raises:
        UserError: an option is not known, the file is missing or malformed, or the language detector is missing.
    """
    check_options(NAME, options, OPTIONS)
    path = file_option(NAME, options, "data", HOW_TO_GET)
    cases: list[Case] = []
    for number, record in enumerate(read_records(path), start=1):
        where = f"{path}, record {number}"
        ids = field(record, "instruction_id_list", list, path, number)
        arguments = field(record, "kwargs", list, path, number)
        if len(ids) != len(arguments) or not ids or not all(isinstance(entry, Mapping) for entry in arguments):
            raise UserError(f"{where}: the numbers of kwargs and instructions must be equal and at least one.")
        given = [{key: value for key, value in entry.items() if value is not None} for entry in arguments]
        for instruction, entry in zip(ids, given, strict=True):
            check_arguments(instruction, entry, where)
        instructions = [[instruction, entry] for instruction, entry in zip(ids, given, strict=True)]
        key = record.get("key", number)
        prompt = field(record, "prompt", str, path, number)
        cases.append(Case(f"{NAME}/{key}", prompt, data={"instructions": instructions}))
    if any(name in LANGUAGE_INSTRUCTIONS for case in cases for name, _ in case.data["instructions"]):
        require_detector()
    return cases


async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
    """Send the prompt without a system prompt."""
    return await ask_model(case, model, ModelRequestParameters(settings=DEFAULTS.merged(settings)))


def judge(case: Case, run: Run) -> list[tuple[str, bool, bool]]:
    """Return (instruction, followed strictly, followed loosely) for each instruction."""
    reply = str(run.output or "") if failed_score(run) is None else ""
    return [
        (name, follows(reply, name, arguments), follows_loosely(reply, name, arguments))
        for name, arguments in case.data["instructions"]
    ]


def score_reply(case: Case, run: Run) -> Score:
    """Return 1 if all instructions are followed strictly, else 0."""
    if failed := failed_score(run):
        return failed
    verdicts = judge(case, run)
    broken = [name for name, strict, _ in verdicts if not strict]
    return Score(
        float(not broken),
        f"not followed: {', '.join(broken)}" if broken else "all followed",
        answer=str(run.output or ""),
        numbers={
            "prompt_loose": float(all(loose for _, _, loose in verdicts)),
            "instructions_strict": sum(strict for _, strict, _ in verdicts) / len(verdicts),
            "instructions_loose": sum(loose for _, _, loose in verdicts) / len(verdicts),
        },
    )


def accuracy_tables(scored: Sequence[tuple[Case, Run, Score]]) -> list[Table]:
    """Return the four published accuracies, and accuracy by kind of instruction."""
    prompts = [judge(case, run) for case, run, _ in scored]
    flat = [verdict for verdicts in prompts for verdict in verdicts]
    rows = [
        ("prompts, strict", *_share([all(strict for _, strict, _ in verdicts) for verdicts in prompts])),
        ("prompts, loose", *_share([all(loose for _, _, loose in verdicts) for verdicts in prompts])),
        ("instructions, strict", *_share([strict for _, strict, _ in flat])),
        ("instructions, loose", *_share([loose for _, _, loose in flat])),
    ]
    kinds = sorted({name for name, _, _ in flat})
    by_kind = [
        (kind, *_share([strict for name, strict, _ in flat if name == kind]),
         _share([loose for name, _, loose in flat if name == kind])[1])
        for kind in kinds
    ]  # fmt: skip
    return [
        Table("IFEval accuracy", ("counted", "n", "accuracy (95 %)"), tuple(rows)),
        Table("By kind of instruction", ("instruction", "n", "strict (95 %)", "loose (95 %)"), tuple(by_kind)),
    ]


def _share(outcomes: Sequence[bool]) -> tuple[str, str]:
    return str(len(outcomes)), str(wilson(sum(outcomes), len(outcomes)))


SUITE = Suite(
    name=NAME,
    version=1,
    description="instructions that a program can check, strict and loose",
    load=load,
    solve=solve,
    score=score_reply,
    options=OPTIONS,
    tables=accuracy_tables,
)
