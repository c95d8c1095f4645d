"""Bits per byte: the sum over all tokens, over all bytes."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest

from agentkit.errors import UserError
from agentkit.testing import TestModel
from evals.case import Case, Run
from evals.harness.evaluation import evaluate
from evals.harness.specification import Specification
from evals.language import bits_per_byte
from evals.language.bits_per_byte import bits_of, bits_tables, corpus_bits_per_byte, load, score_document

TEXT = "The quick brown fox jumps over the lazy dog. Où est la bibliothèque? " * 6


def test_it_is_the_direct_sum_over_the_tokens(tmp_path: Path, tiny_gguf: Path) -> None:
    from modelstack.inference.llama.engine import LlamaCppEngine
    from modelstack.inference.scoring import document_start

    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    specification = Specification("bits-per-byte", f"local:{tiny_gguf}", {"data": str(tmp_path / "a.txt")})
    (scored,) = evaluate(specification, tmp_path / "run").scored
    assert scored.run.status == "completed", scored.run.error
    with LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1) as engine:
        ids = [document_start(engine.vocabulary), *engine.vocabulary.encode(TEXT)]
        nats = [engine.score_tokens(ids[: i + 1], i).logprobs[0] for i in range(1, len(ids))]
    expected = -math.fsum(nats) / math.log(2) / len(TEXT.encode())
    assert scored.score.numbers["bits_per_byte"] == pytest.approx(expected, rel=1e-3)
    assert scored.run.observed["n_tokens"] == len(ids) - 1


def test_a_window_costs_context_but_no_token(tmp_path: Path, tiny_gguf: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    found: dict[str, int] = {}
    for window in ("0", "16"):
        options = {"data": str(tmp_path / "a.txt"), "window": window}
        specification = Specification("bits-per-byte", f"local:{tiny_gguf}", options)
        (scored,) = evaluate(specification, tmp_path / f"run{window}").scored
        assert scored.run.status == "completed", scored.run.error
        found[window] = scored.run.observed["n_tokens"]
    assert found["0"] == found["16"]


def test_documents_are_weighted_by_their_bytes() -> None:
    assert corpus_bits_per_byte([(8.0, 1), (99.0, 99)]).value == pytest.approx(107 / 100)
    for documents in ([], [(0.0, 0)]):
        with pytest.raises(ValueError, match="at least one document"):
            corpus_bits_per_byte(documents)


def run_of(case: Case, logprob: float) -> Run:
    observed = {"logprob": logprob, "n_tokens": 4, "n_bytes": case.data["n_bytes"]}
    return Run(case.id, "completed", observed=observed)


def test_the_table_counts_a_failed_document_as_a_guess_over_bytes() -> None:
    cases = [Case(f"f/{i}", "x" * 10, group="f", data={"n_bytes": 10}) for i in range(2)]
    runs = [run_of(cases[0], -10 * math.log(2)), Run("f/1", "failed", error="down")]
    scored = [(case, run, score_document(case, run)) for case, run in zip(cases, runs, strict=True)]
    (row,) = bits_tables(scored)[0].rows
    assert (row[0], row[1], row[2], row[3], row[4][:5], row[5], row[6]) == (
        "f",
        "2",
        "20",
        "4",
        "4.500",
        "2.500",
        "1",
    )


def test_one_document_has_no_interval() -> None:
    case = Case("f/0", "x" * 10, group="f", data={"n_bytes": 10})
    run = run_of(case, -10 * math.log(2))
    assert bits_tables([(case, run, score_document(case, run))])[0].rows[0][4] == "1.000"


def test_the_score_falls_from_certainty_to_a_guess() -> None:
    case = Case("a", "x" * 4, data={"n_bytes": 4})
    assert score_document(case, run_of(case, 0.0)).value == 1.0
    guessed = score_document(case, run_of(case, -32 * math.log(2)))
    assert (guessed.value, guessed.numbers) == (0.0, {"bits_per_byte": pytest.approx(8.0), "bytes_per_token": 1.0})
    assert bits_of(-math.log(2)) == pytest.approx(1.0)


def test_files_folders_and_fields_are_read_and_cut_at_a_character(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("größer", encoding="utf-8")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"body": "one"}) + "\n" + json.dumps({"body": "two"}) + "\n")
    (tmp_path / "picture.png").write_bytes(b"\x89")
    cases = load({"data": str(tmp_path), "field": "body", "max_bytes": "3"})
    assert [(case.id, case.prompt, case.data["n_bytes"]) for case in cases] == [
        ("a.txt/0", "gr", 2),
        ("b.jsonl.gz/0", "one", 3),
        ("b.jsonl.gz/1", "two", 3),
    ]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", b"\xff\xfe", {}, "a.txt is not UTF-8"),
        ("a.txt", b"", {}, "holds no text"),
        ("a.jsonl", b'{"body": "x"}', {}, "record 1: no text in 'text'; --option field=NAME"),
        ("a.txt", b"x", {"window": "8", "stride": "9"}, "stride=9 is more than window=8"),
        ("a.txt", b"x", {"window": "-1"}, "window='-1' must be a whole number"),
        ("a.png", b"x", {"data": "."}, "no file of .txt"),
    ],
)
def test_what_cannot_be_read_is_named(
    name: str, content: bytes, options: dict[str, str], message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    path = tmp_path / name if "data" not in options else tmp_path
    with pytest.raises(UserError, match=message):
        load(options | {"data": str(path)})
    with pytest.raises(UserError, match="Name a .txt"):
        load({})


def test_a_window_larger_than_the_models_is_refused(tmp_path: Path, tiny_gguf: Path) -> None:
    (tmp_path / "a.txt").write_text("a fox", encoding="utf-8")
    options = {"data": str(tmp_path / "a.txt"), "window": "1000000"}
    specification = Specification("bits-per-byte", f"local:{tiny_gguf}", options)
    (scored,) = evaluate(specification, tmp_path / "run").scored
    assert scored.run.status == "failed"
    assert "the model's context window" in (scored.run.error or "")


def test_a_model_without_log_likelihoods_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a fox", encoding="utf-8")
    specification = Specification("bits-per-byte", "test", {"data": str(tmp_path / "a.txt")})
    (scored,) = evaluate(specification, tmp_path / "run", model=TestModel()).scored
    assert "needs a model in this process" in (scored.run.error or "")
    assert scored.score.value == 0.0
    assert bits_per_byte.SUITE.needs_model
