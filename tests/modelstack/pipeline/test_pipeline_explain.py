"""`modelstack pipeline --explain`: five lines a step, and every named file defines what is said of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import modelstack
from modelstack.cli import app
from modelstack.pipeline.explain import explanations
from modelstack.pipeline.steps import STEPS

ROOT = Path(modelstack.__file__).parent
PARTS = [(step, part) for step, found in explanations().items() for part in found.parts]
LOOKED_FOR = {
    "decide": ("scaling law", "memory", "mup"),
    "data": ("exact deduplication", "near deduplication", "quality filter", "decontamination", "private data"),
    "tokenizer": ("bpe",),
    "architecture": ("gqa", "rope", "moe", "mla", "multi-token"),
    "train": ("muon", "adamw", "fsdp", "tensor and sequence", "pipeline", "expert", "fp8", "warm-up"),
    "stability": ("loss spikes", "checkpoints", "goodput", "injected faults"),
    "sft": ("lora", "qlora"),
    "preferences": ("dpo", "simpo", "orpo", "kto", "reward model", "constitution"),
    "reasoning": ("grpo", "dapo", "ppo", "verified rewards", "distillation", "rejection"),
    "inference": ("speculative", "paged cache", "continuous batching", "gptq", "awq", "quantisation formats"),
    "toolcalls": ("grammar", "token masks", "conventions"),
    "align": ("guard", "sae", "red team", "direction of refusal", "monitor", "tampering"),
}
"""Systems that a reader of an article on frontier training looks for, by step."""


def defined_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize(("step", "part"), PARTS, ids=[f"{step}-{part.name}" for step, part in PARTS])
def test_a_named_file_defines_what_is_said_of_it(step: str, part: object) -> None:
    file, symbol = (getattr(part, name) for name in ("file", "symbol"))
    assert (ROOT / file).is_file(), f"{step}: {file}"
    assert symbol in defined_in(ROOT / file), f"{step}: {file} defines no {symbol}"


@pytest.mark.parametrize("step", LOOKED_FOR)
def test_what_an_article_names_is_found_in_its_step(step: str) -> None:
    found = explanations()[step]
    names = " | ".join([*(part.name for part in found.parts), *(name for name, _ in found.absent)]).lower()
    assert [name for name in LOOKED_FOR[step] if name not in names] == []


def test_each_step_has_five_lines_and_a_paper() -> None:
    assert list(explanations()) == [step.name for step in STEPS]
    for name, found in explanations().items():
        assert len(found.lines) == 5, name
        assert re.search(r"\d{4}", found.paper), name
        assert all(line.endswith(".") for line in found.lines), name


def test_the_command_prints_one_step_or_all_of_them() -> None:
    one = CliRunner().invoke(app, ["pipeline", "--explain", "stability"])
    assert one.exit_code == 0, one.output
    assert one.output.startswith("6 stability: ") and "modelstack/stability/guard.py: Guard" in one.output
    every = CliRunner().invoke(app, ["pipeline", "--explain", "all"]).output
    assert re.findall(r"^(\d+) (\w+): ", every, re.MULTILINE) == [(str(s.number), s.name) for s in STEPS]
    wrong = CliRunner().invoke(app, ["pipeline", "--explain", "stabilty"], env={"COLUMNS": "200"})
    assert wrong.exit_code == 1 and "nearest: 'stability'" in wrong.output
