"""`modelstack quantise`: from a checkpoint and text to a folder or a file, with a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from modelstack.architecture.checkpoint import load_checkpoint
from modelstack.architecture.gguf.load import load_gguf
from modelstack.architecture.rounded_weight import RoundedWeight
from modelstack.cli import app
from modelstack.inference.quantise import rounded_model
from modelstack.posttrain.starting_point import starting_point
from modelstack.reasoning.sampling.frozen_model import load_merged
from tests.golden import UPDATE, Golden
from tests.modelstack.reasoning.merging.toy_merging import adapter_stage
from tests.modelstack.sft.toy_sft import write_base

TEXTS = [f"the cat number {n} sat on the mat, and the dog saw it {n * n} times" for n in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_base(folder)
    rows = [json.dumps({"text": text}) for text in TEXTS]
    (folder / "text.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def quantise(folder: Path, out: Path, *options: str) -> Result:
    text = ["--text", str(folder / "text.jsonl"), "--tokens", "256", "--held-out", "64", "--length", "32"]
    given = [*(text if "--no-text" not in options else []), *(each for each in options if each != "--no-text")]
    return CliRunner().invoke(app, ["quantise", str(folder / "checkpoint"), str(out), *given])


def test_a_folder_is_written_with_a_report_and_infer_reads_it(folder: Path, tmp_path: Path) -> None:
    result = quantise(folder, tmp_path / "m", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report == json.loads((tmp_path / "m" / "quantisation.json").read_text())
    assert report["method"] == "gptq"
    assert report["bits_per_weight"] == 4.5
    assert report["comparison"]["n_tokens"] == 64 - 2
    assert 0 < report["comparison"]["kl"] < 1
    names = {name for name in load_checkpoint(tmp_path / "m").state_dict() if "_proj" in name}
    assert {tensor["name"] for tensor in report["tensors"]} == names
    infer = CliRunner().invoke(app, ["infer", str(tmp_path / "m"), "the cat", "--max-tokens", "2"])
    assert infer.exit_code == 0, infer.output


def test_gptq_and_a_larger_budget_diverge_less(folder: Path, tmp_path: Path) -> None:
    kl: dict[str, float] = {}
    for name, options in {
        "rtn": ["--method", "rtn"],
        "gptq": [],
        "budget": ["--format", "int4-g32", "--format", "int8-g32", "--bits", "6"],
    }.items():
        result = quantise(folder, tmp_path / f"{name}.gguf", "--json", *options)
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        kl[name] = report["comparison"]["kl"]
        assert report["bits_per_weight"] <= 6
        load_gguf(tmp_path / f"{name}.gguf")
        assert (tmp_path / f"{name}.gguf.quantisation.json").is_file()
    assert kl["budget"] < kl["gptq"] < kl["rtn"]


def test_shares_of_right_calls_stand_in_the_report(folder: Path, tmp_path: Path) -> None:
    tool = {"name": "look", "description": "See.", "parameters": {"type": "object", "properties": {}}}
    calls = [{"name": "look", "arguments": {}}]
    tasks = [{"id": f"{n}", "prompt": f"look {n}", "tools": [tool], "gold": calls} for n in range(3)]
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(task) + "\n" for task in tasks), encoding="utf-8")
    result = quantise(folder, tmp_path / "m", "--no-text", "--tasks", str(file), "--json")
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)["measured"]
    names = {"valid calls", "right calls", "right calls under a grammar"}
    assert (
        measured.keys() == {"before", "after"} and measured["before"].keys() == names == measured["after"].keys()
    )
    file.write_text("", encoding="utf-8")
    refused = quantise(folder, tmp_path / "n", "--no-text", "--tasks", str(file))
    assert refused.exit_code == 1 and "has no tasks" in refused.output


def test_a_folder_in_int8_needs_no_text_and_is_computed_in_int8(folder: Path, tmp_path: Path) -> None:
    result = quantise(folder, tmp_path / "m", "--format", "int8", "--no-text", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["method"] == "rtn"
    assert report["comparison"] is None
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["dynamic"]
    runs = [
        CliRunner().invoke(app, ["infer", str(tmp_path / "m"), "the cat sat", "--max-tokens", "8", *options])
        for options in ([], ["--precision", "int8"], ["--precision", "bf16"])
    ]
    assert all(run.exit_code == 0 for run in runs), runs[0].output
    assert runs[0].stdout == runs[1].stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "int9"], "format 'int9' is not known. Integers: int4-g32"),
        (["--method", "magic"], "method 'magic' is not known; known: rtn, awq, gptq, awq-gptq"),
        (["--bits", "5"], "a budget and several formats belong together"),
        (["--format", "int4-g32", "--format", "int8-g32"], "a budget and several formats belong together"),
        (["--format", "int8-g0"], "format 'int8-g0' is not known"),
        (["--held-out", "32"], "32 held-out tokens are one row of 32"),
        (["--format", "int5-g32"], "integers of 5 bits with one scale per group have no layout"),
        (["--no-text", "--method", "gptq"], "the method gptq requires calibration text; give some with --text"),
        (["--tokens", "1000000"], "tokens; 1,000,000 are required"),
        (["--format", "int4-g48"], "no weight of this model can be rounded to this format"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    folder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = quantise(folder, tmp_path / "m", *options)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_formats_of_a_folder_are_refused_for_a_file(folder: Path, tmp_path: Path) -> None:
    result = quantise(folder, tmp_path / "m.gguf", "--format", "fp8")
    assert result.exit_code == 1
    assert "have no type in GGUF files" in " ".join(result.stderr.split())


@pytest.mark.parametrize(("method", "is_damaged"), [("gptq", False), ("gptq", True), ("awq-gptq", False)])
def test_an_interrupted_run_continues_and_gives_the_same_bytes(
    method: str, is_damaged: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of a finished block that is damaged is made again."""
    whole = quantise(folder, tmp_path / "whole", "--method", method, "--json")
    assert whole.exit_code == 0, whole.output
    rounded: list[int] = []
    round_by_gptq = rounded_model.round_by_gptq

    def interrupt(*arguments: Any) -> RoundedWeight:
        rounded.append(len(rounded))
        if len(rounded) == 10:  # in the second block
            raise KeyboardInterrupt
        return round_by_gptq(*arguments)

    monkeypatch.setattr(rounded_model, "round_by_gptq", interrupt)
    assert quantise(folder, tmp_path / "parts", "--method", method, "--json").exit_code == 130
    assert [file.name for file in sorted((tmp_path / "parts.part").iterdir())] == [
        "block-0000.safetensors",
        "key.txt",
    ]
    if is_damaged:
        file = tmp_path / "parts.part" / "block-0000.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    again = quantise(folder, tmp_path / "parts", "--method", method, "--json")
    assert again.exit_code == 0, again.output
    assert len(rounded) == 10 + 7 * (1 + is_damaged)  # seven layers of each block that is not finished
    assert not (tmp_path / "parts.part").exists()
    assert json.loads(again.stdout)["comparison"] == json.loads(whole.stdout)["comparison"]
    assert json.loads(again.stdout)["tensors"] == json.loads(whole.stdout)["tensors"]
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


def test_blocks_of_other_parameters_are_not_taken(folder: Path, tmp_path: Path) -> None:
    whole = quantise(folder, tmp_path / "m.gguf", "--json")
    for name in ("key.txt", "block-0000.safetensors"):
        (tmp_path / "m.gguf.part").mkdir(exist_ok=True)
        (tmp_path / "m.gguf.part" / name).write_text("of another run", encoding="utf-8")
    again = quantise(folder, tmp_path / "m.gguf", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == json.loads(whole.stdout)
    assert not (tmp_path / "m.gguf.part").exists()


def test_an_adapter_is_merged_before_it_is_rounded(folder: Path, tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    adapter_stage(stage, folder / "checkpoint", 0)
    base = str(folder / "checkpoint")
    for given, name in (([str(stage), "--weights", base], "adapted"), ([base], "plain")):
        result = CliRunner().invoke(app, ["quantise", *given, str(tmp_path / name), "--format", "int8"])
        assert result.exit_code == 0, result.output
    start = starting_point(stage, folder / "checkpoint")
    merged = load_merged(start, precision="fp32", device="cpu").model
    adapted, plain = (load_checkpoint(tmp_path / name, dtype=torch.float32) for name in ("adapted", "plain"))
    ids = torch.tensor([[3, 4, 5, 6]])
    expected, found, other = (model(ids).logits_BTV for model in (merged, adapted, plain))
    assert (expected - found).norm() < 0.2 * (expected - other).norm()


def test_golden_quantise(folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.chdir(folder)
    update = bool(request.config.getoption(UPDATE))
    golden = Golden(app, "modelstack", Path(__file__).parent / "golden", update=update)
    line = "quantise checkpoint m.gguf --text text.jsonl --tokens 256 --held-out 64 --length 32"
    golden.check("quantise", line, replace=[(r"\d\.\d{3,}", "0.000"), (r"\d+\.\d%", "0.0%")])
