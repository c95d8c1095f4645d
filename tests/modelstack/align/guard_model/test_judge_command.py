"""`modelstack judge`: a JSON line for each message, and the policy from options."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")

from modelstack.cli import app


@pytest.fixture
def arguments(tiny_gguf: Path, tiny_lora_gguf: Path, tmp_path: Path) -> list[str]:
    shutil.copyfile(tiny_lora_gguf, tmp_path / "adapter.gguf")
    # The model's context of 1,024 tokens has no room for all categories in its tokenizer.
    codes = [option for number in range(4, 15) for option in ("--without", f"S{number}")]
    return ["judge", "--model", str(tiny_gguf), "--guard", str(tmp_path), "--threads", "1", *codes]


def test_each_message_has_a_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, "How do I bake bread?", "Guten Tag"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["message"] for line in lines] == ["How do I bake bread?", "Guten Tag"]
    assert all(0 < line["unsafe"] < 1 and set(line["categories"]) <= {"S1", "S2", "S3"} for line in lines)


def test_lines_come_from_standard_input_and_replies_are_judged(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, "--reply-to", "Why?"], input="Because.\n\nWell.\n")
    assert [json.loads(line)["message"] for line in result.stdout.splitlines()] == ["Because.", "Well."]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--without", "S99"], "'S99' is not in the policy"),
        (["--category", "Spoilers"], "must be a code and a description"),
        (["--category", "C1: Spoilers", "--category", "C1: Again"], "C1 is in the policy twice"),
    ],
)
def test_a_wrong_policy_is_refused(arguments: list[str], options: list[str], fault: str) -> None:
    result = CliRunner().invoke(app, [*arguments, *options, "Hello"])
    assert result.exit_code != 0
    assert fault in f"{result.output}{result.exception}"
