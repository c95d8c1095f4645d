"""Output of the commands that make training data and adapters, as golden files; see `tests.golden`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agentkit.cli.main import app
from agentkit.models import resolve
from agentkit.specialise import run
from agentkit.testing import FunctionModel
from tests.agentkit.specialise.test_specialise_constitution import Answering
from tests.golden import UPDATE, Golden
from tests.modelstack.posttrain.toy_stages import toy_stage

FOLDER = Path(__file__).with_name("golden")


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Golden:
    """Golden files, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Golden(app, "agentkit", FOLDER, update=bool(request.config.getoption(UPDATE)))


def test_data_by_a_constitution_are_counted(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "resolve_model", lambda name: FunctionModel(Answering()))
    lines = "".join(json.dumps({"prompt": f"Question {number}?"}) + "\n" for number in range(3))
    Path("prompts.jsonl").write_text(lines, encoding="utf-8")
    asked = "-p prompts.jsonl -m test"
    golden.check(
        "constitution",
        f"constitution revise default revision.rounds=1 {asked} -o runs/revised",
        f"constitution compare default n_samples=2 {asked} -o runs/compared",
        f"constitution revise default revision.round=1 {asked} -o runs/revised",
        before=lambda: shutil.rmtree("runs", ignore_errors=True),
    )


def test_demonstrations_are_counted_with_their_replies(golden: Golden) -> None:
    golden.check("demonstrations", "demonstrations out.jsonl.zst --conversations 1")


def test_a_specialised_model_is_named_with_its_report(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = toy_stage(Path("made"), "shop")
    monkeypatch.setattr(run, "specialise", lambda wanted, folder, console: stage)
    Path("model.gguf").write_bytes(b"GGUF")
    command = ["specialise", "--mcp", "python -m mcp_servers.time"]
    golden.check(
        "specialise", [*command, "--model", "local:model.gguf", "name=shop"], [*command, "--model", "openai:gpt"]
    )
