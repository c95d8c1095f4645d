"""The benchmarks of drafts, of all techniques and of long prompts: every row is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.speed import agent_serving, prompt_arrival, speculation
from evals.speed.agent_workload import TOOLS, agent_requests, free_requests


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")
    from tests.modelstack.inference.tiny_gguf import TinyShape, write_tiny_gguf

    return write_tiny_gguf(tmp_path_factory.mktemp("wide") / "tiny.gguf", shape=TinyShape(context=8192))


def test_conversations_share_their_beginning_and_grow_by_turns() -> None:
    asked = agent_requests()
    assert [each.conversation for each in asked] == list(range(8)) * 4
    assert len({each.request.turns[0] for each in asked}) == 1
    for earlier, later in zip(asked, asked[8:], strict=False):
        assert later.request.turns[: len(earlier.request.turns)] == earlier.request.turns
        assert earlier.request.tools == TOOLS
    assert {each.kind for each in free_requests()} == {"free text"}


def test_each_kind_of_work_is_measured_with_and_without_drafts(gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    options = ["--model", str(gguf), "--engine", "fp32", "--requests", "1", "--repeats", "1"]
    assert speculation.main([*options, "--result", str(out)]) in (0, 1)
    result = json.loads(out.read_text("utf-8"))
    kinds = ("calls", "results shown", "free text")
    assert [each["title"] for each in result["comparisons"]] == [f"{kind}, fp32" for kind in kinds]
    assert all(set(each["values"]) == {"with drafts", "without"} for each in result["comparisons"])
    assert [each["bound"] for each in result["figures"]] == [1.5, 1.5, 0.97]


def test_every_row_answers_every_request(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, list[list[int]]] = {}
    load = agent_serving.load

    def kept(model: str, techniques: agent_serving.Techniques) -> object:
        found = load(model, techniques)
        written[str(techniques)] = found.engine.written  # pyright: ignore[reportAttributeAccessIssue]
        return found

    monkeypatch.setattr(agent_serving, "load", kept)
    out = tmp_path / "result.json"
    rows = [argument for row in (agent_serving.NAIVE, "+ drafts") for argument in ("--row", row)]
    options = ["--model", str(gguf), "--turns", "1", "--no-transformers", *rows]
    assert agent_serving.main([*options, "--result", str(out)]) in (0, 1)
    (comparison,) = json.loads(out.read_text("utf-8"))["comparisons"]
    assert [*comparison["values"]] == [agent_serving.NAIVE, "+ drafts"]
    assert [len(each) for each in written.values()] == [8, 8]


def test_gaps_are_measured_with_one_process_and_with_two(gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    sizes = ["--model", str(gguf), "--numbers", "fp32", "--rounds", "1", "--tokens", "300"]
    assert prompt_arrival.main([*sizes, "--result", str(out)]) == 0
    result = json.loads(out.read_text("utf-8"))
    (comparison,) = result["comparisons"]
    assert [*comparison["values"]] == [*prompt_arrival.PIECES]
    assert all(figure["value"] > 0 for figure in result["figures"])
