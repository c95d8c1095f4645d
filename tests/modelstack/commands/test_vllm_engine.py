"""`modelstack serve --engine vllm`: the files, what vLLM makes of them, and its start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from modelstack.architecture.checkpoint import load_checkpoint
from modelstack.cli import app
from modelstack.commands.vllm_engine import OPTIONS_FILE, PARSERS, ROUTER_FILE, WEIGHTS, VllmServer
from modelstack.errors import UserError
from modelstack.posttrain.base import load_base
from modelstack.toolcalls.conventions import CONVENTIONS
from tests.modelstack.posttrain.toy_trainings import METHODS, World, write_world
from tests.vllm_environment import VLLM, needs_vllm

PARSED = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser
found = make_arg_parser(FlexibleArgumentParser()).parse_args(["--config", sys.argv[1]])
known = sorted(ToolParserManager.list_registered())
print(json.dumps({"modules": [[m.name, m.path] for m in found.lora_modules], "rank": found.max_lora_rank,
    "name": found.served_model_name, "port": found.port, "parsers": known}))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("vllm"))


@pytest.fixture(scope="module")
def stage(world: World) -> Path:
    """A stage with an adapter on the GGUF file."""
    assert METHODS["sft"].run(world, world.folder / "taught", steps=1)
    return world.folder / "taught"


def read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text("utf-8"))


def test_a_checkpoint_is_served_as_it_is(world: World, tmp_path: Path) -> None:
    server = VllmServer("toy", "0.0.0.0", 8001, 256, 4)
    (told,) = server.write(world.checkpoint, tmp_path / "out")
    assert "vLLM does not read calls: the convention is ours" in told
    assert read(tmp_path / "out" / OPTIONS_FILE) == {
        "model": str(world.checkpoint.resolve()),
        "served-model-name": "toy",
        "host": "0.0.0.0",
        "port": 8001,
        "max-num-seqs": 4,
        "max-model-len": 256,
    }
    router = read(tmp_path / "out" / ROUTER_FILE)
    backends = {"static_backends": ["http://127.0.0.1:8001"], "static_model_type": "chat"}
    assert router["static_models"] == {"toy": backends}
    assert not (tmp_path / "out" / WEIGHTS).exists()


def test_a_gguf_file_is_converted_once_and_its_adapters_are_models(
    world: World, stage: Path, tmp_path: Path
) -> None:
    server = VllmServer("taught", "127.0.0.1", 8000, None, 8, [("again", stage)])
    server.write(stage, tmp_path)
    options = read(tmp_path / OPTIONS_FILE)
    assert options["served-model-name"] == "taught-base"
    adapter = (stage / "adapter").resolve()
    assert options["lora-modules"] == [f"taught={adapter}", f"again={adapter}"]
    assert options["enable-lora"] is True and options["max-lora-rank"] == 8
    assert read(tmp_path / ROUTER_FILE)["static_models"].keys() == {"taught-base", "taught", "again"}
    converted = Path(options["model"])
    ours, theirs = load_base(world.base).model.state_dict(), load_checkpoint(converted).state_dict()
    assert all(
        (theirs[name].float() - value).abs().max() <= 2**-8 * value.abs().max() for name, value in ours.items()
    )
    before = (converted / "model.safetensors").stat().st_mtime_ns
    server.write(stage, tmp_path)
    assert (converted / "model.safetensors").stat().st_mtime_ns == before


def test_an_adapter_of_other_weights_is_refused(world: World, stage: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SHA-256"):
        VllmServer("toy", "127.0.0.1", 8000, None, 8, [("taught", stage)]).write(
            world.folder / "teacher", tmp_path
        )


def test_each_parser_is_of_a_convention() -> None:
    assert PARSERS.keys() <= CONVENTIONS.keys()


@pytest.mark.slow
@needs_vllm
def test_vllm_reads_the_options(stage: Path, tmp_path: Path) -> None:
    VllmServer("taught", "127.0.0.1", 8123, None, 8).write(stage, tmp_path)
    command = [str(VLLM), "-c", PARSED, str(tmp_path / OPTIONS_FILE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    found = yaml.safe_load(done.stdout.splitlines()[-1])
    assert found["modules"] == [["taught", str((stage / "adapter").resolve())]]
    assert (found["rank"], found["name"], found["port"]) == (8, ["taught-base"], 8123)
    assert set(PARSERS.values()) <= set(found["parsers"])


def test_an_installed_vllm_is_started_with_the_key_in_its_environment(world: World, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@" "key=$VLLM_API_KEY"\n', "utf-8")
    program.chmod(0o755)
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "modelstack",
        "serve",
        str(world.checkpoint),
        "--engine",
        "vllm",
        "--out",
        str(out),
    ]
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "MODELSTACK_API_KEY": "k"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    assert done.stdout == f"serve --config {out / OPTIONS_FILE} key=k\n"
    assert f"wrote {out / OPTIONS_FILE} and {out / ROUTER_FILE}" in done.stderr


def test_what_vllm_has_not_is_said(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    def run(*options: str) -> str:
        arguments = ["serve", str(world.checkpoint), "--engine", "vllm", "--out", str(tmp_path / "out"), *options]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1, result.output
        return " ".join(result.output.split())

    assert "vllm is not installed here" in run() and (tmp_path / "out" / OPTIONS_FILE).is_file()
    assert "--supervise is for the engines of this package" in run("--supervise")
    for given in (("--drafter", "lookup"), ("--timeout", "9"), ("--prefill-process",)):
        assert f"{given[0]} is for the engines of this package" in run(*given)
    arguments = ["serve", str(world.checkpoint), "--out", str(tmp_path)]
    assert "--out is for --engine vllm" in " ".join(CliRunner().invoke(app, arguments).output.split())
