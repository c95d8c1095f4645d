from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from agentkit.cli.main import app
from agentkit.errors import UserError
from agentkit.specialise.recipe import SpecialiseRecipe
from agentkit.specialise.run import Start, Wanted, specialise
from modelstack.posttrain.lora.unpack import pack, unpack
from modelstack.posttrain.stages.stage import open_stage
from tests.agentkit.specialise.live_servers import database_server, write_world
from tests.modelstack.architecture.llama_child import needs_llama_cpp
from tests.modelstack.sft.toy_sft import write_base

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("specialise_run"),
    pytest.mark.usefixtures("pictures_drawn_once", "short_replies"),
    needs_llama_cpp,
]

RECIPE = SpecialiseRecipe(
    name="toy", examples=24, test_examples=10, general_share=0.1, row_tokens=1024, minutes=5, max_tools=2
)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def done(base: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done")
    assert specialise(wanted(base, world), out, Console(quiet=True)) is not None
    return out


def wanted(base: Path, world: Path, **changes: Any) -> Wanted:
    return replace(Wanted([database_server(world)], (), Start(base), RECIPE), **changes)


def test_servers_become_an_adapter_with_a_report_of_before_and_after(done: Path) -> None:
    stage = open_stage(done / "stage")
    names = {each.name for each in stage.record.evaluation.after}
    assert "exact replies" in names
    assert (done / "adapter.gguf").read_bytes() == (done / "stage" / "adapter.gguf").read_bytes()
    report = (done / "report.md").read_text()
    for text in ("exact replies", "`query`", "adapter.gguf", "examples, train"):
        assert text in report
    assert (done / "report.png").stat().st_size > 1000


def test_a_finished_specialisation_is_left_alone(base: Path, world: Path, done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.name == "stage.json"}
    assert specialise(wanted(base, world), done, Console(quiet=True)) is not None
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_data_for_other_tools_or_another_recipe_are_not_mixed(base: Path, world: Path, done: Path) -> None:
    with pytest.raises(UserError, match="the servers' tools changed since"):
        specialise(wanted(base, world, toolsets=[database_server(world, "--write")]), done, Console(quiet=True))
    other = RECIPE.model_copy(update={"seed": 9})
    with pytest.raises(UserError, match="the recipe changed since"):
        specialise(wanted(base, world, recipe=other), done, Console(quiet=True))


def test_a_shipped_adapter_is_unpacked_and_gone_on_with(
    base: Path, world: Path, done: Path, tmp_path: Path
) -> None:
    shipped = tmp_path / "shipped"
    pack(done / "stage", shipped)
    assert set(open_stage(shipped).record.files) == {"README.md", "adapter.gguf", "curves.png"}
    out = tmp_path / "out"
    stage = specialise(wanted(base, world, start=Start(base, shipped)), out, Console(quiet=True))
    assert stage is not None
    (parent,) = stage.record.parents
    assert parent.name == "toy"
    assert parent.kind == "sft"
    before = {each.name: each.value for each in stage.record.evaluation.before}
    after = {each.name: each.value for each in open_stage(done / "stage").record.evaluation.after}
    assert before["validation loss"] == pytest.approx(after["validation loss"], rel=2e-3)  # rounded to half


def test_a_shipped_adapter_that_was_changed_is_refused(base: Path, done: Path, tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "stage.json").write_bytes((done / "stage" / "stage.json").read_bytes())
    (shipped / "adapter.gguf").write_bytes((done / "stage" / "adapter.gguf").read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="is not the adapter that"):
        unpack(shipped, base, tmp_path / "out")


def test_the_command_takes_a_configuration_and_keys(base: Path, world: Path, tmp_path: Path) -> None:
    servers = {"shop": {"command": "python", "args": ["-m", "mcp_servers.sqlite", str(world / "shop.db")]}}
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps({"mcpServers": servers}))
    arguments = ["specialise", "--mcp", str(config), "--model", f"local:{base}", "--out", str(tmp_path / "out")]
    keys = [
        "examples=20",
        "test_examples=10",
        "general_share=0",
        "row_tokens=1024",
        "minutes=0.05",
        "max_tools=1",
    ]
    result = CliRunner().invoke(app, [*arguments, *keys])
    assert result.exit_code == 0, result.output
    report = (tmp_path / "out" / "report.md").read_text()
    assert f"agentkit run --model 'local:{base}?lora={tmp_path / 'out' / 'adapter.gguf'}&abstain=true'" in report


def test_a_model_that_is_not_local_cannot_be_trained(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["specialise", "--mcp", "python -m mcp_servers.time", "--model", "openai:gpt", "--out", str(tmp_path)]
    )
    assert result.exit_code == 1
    assert "cannot be trained" in result.output
