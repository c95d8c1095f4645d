"""`modelstack infer`: the continuations of a model's own greedy passes, in one batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from modelstack.cli import app
from modelstack.posttrain.base import load_base
from tests.modelstack.sft.toy_sft import write_base

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_base(folder)
    return folder / "checkpoint"


def continued(checkpoint: Path, text: str, n_tokens: int) -> str:
    """Return the greedy continuation by whole passes."""
    base = load_base(checkpoint)
    vocabulary = base.tokenizer.vocabulary
    begin = ids = ([] if vocabulary.bos_id is None else [vocabulary.bos_id]) + base.tokenizer.encode(text)
    for _ in range(n_tokens):
        with torch.no_grad():
            logits_V = base.model(torch.tensor([ids])).logits_BTV[0, -1, : len(vocabulary)]
        logits_V[sorted(vocabulary.special_ids - set(vocabulary.end_ids))] = -torch.inf
        if (token := int(logits_V.argmax())) in vocabulary.end_ids:
            break
        ids = [*ids, token]
    return vocabulary.decode(ids[len(begin) :])


def test_texts_and_lines_of_a_file_are_continued_in_order(checkpoint: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("the dog\n\nthe house\n", encoding="utf-8")
    options = ["the cat sat", "--file", str(lines), "--max-tokens", "6", "--precision", "fp32", "--json"]
    result = RUNNER.invoke(app, ["infer", str(checkpoint), *options])
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    texts = ["the cat sat", "the dog", "the house"]
    assert [each["text"] for each in found] == texts
    assert [each["reply"] for each in found] == [continued(checkpoint, text, 6) for text in texts]
    assert "prompt tokens were shared" in result.stderr


def test_the_same_seed_draws_the_same_replies_and_a_question_takes_the_chat_format(checkpoint: Path) -> None:
    def run(*options: str) -> str:
        result = RUNNER.invoke(app, ["infer", str(checkpoint), "so", "--max-tokens", "8", *options])
        assert result.exit_code == 0, result.output
        return result.stdout

    one, same, other = (run("--temperature", "1", "--seed", seed) for seed in ("1", "1", "2"))
    assert one == same != other
    assert one.startswith("so") and "\x1b" not in one
    assert run("--chat") != run()


@pytest.mark.parametrize("kv_type", ["int8", "k8v4"])
def test_texts_are_continued_with_a_cache_in_fewer_bits(checkpoint: Path, kv_type: str) -> None:
    options = ["--kv-type", kv_type, "--max-tokens", "6", "--precision", "fp32"]
    result = RUNNER.invoke(app, ["infer", str(checkpoint), "the cat sat", *options])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("the cat sat")


def test_mistakes_are_one_line_with_the_fix(checkpoint: Path) -> None:
    for arguments, message in (
        ([str(checkpoint)], "there is no text to continue; give one or more, or a file with --file"),
        ([str(checkpoint), "the " * 2000], "tokens and at least one more must fit"),
        ([str(checkpoint), "so", "--temperature", "-1"], "temperature must be 0 (greedy) or more"),
    ):
        result = RUNNER.invoke(app, ["infer", *arguments])
        assert result.exit_code == 1
        assert message in " ".join(result.stderr.split())
