"""A run's tasks on datatrove's executors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.pipeline.run import run_recipe
from modelstack.data.pipeline.scale_out import executors, run_on
from modelstack.errors import UserError
from modelstack.recipe_file import checked_recipe


def recipe(folder: Path) -> DataRecipe:
    folder.mkdir(exist_ok=True)
    for number in range(3):
        lines = [json.dumps({"text": f"text {i % 4} of many"}) for i in range(number, number + 6)]
        (folder / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    inputs = [{"kind": "jsonl", "path": folder}]
    return checked_recipe(DataRecipe, {"name": "test", "inputs": inputs, "steps": [{"kind": "exact"}]})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_datatrove_runs_the_same_tasks(tmp_path: Path) -> None:
    from datatrove.executor import LocalPipelineExecutor

    made = recipe(tmp_path / "raw")
    run_recipe(made, tmp_path / "ours")
    chain = executors(made, tmp_path / "theirs", LocalPipelineExecutor, workers=1)
    chain[-1].run()
    ours, theirs = (
        {path.relative_to(tmp_path / run): path.read_bytes() for path in (tmp_path / run).rglob("0*.*")}
        for run in ("ours", "theirs")
    )
    assert ours == {path: data for path, data in theirs.items() if path.parts[0] != "logs"} != {}
    with pytest.raises(UserError, match="all tasks are done"):
        executors(made, tmp_path / "theirs", LocalPipelineExecutor)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    start = [
        sys.executable,
        "-m",
        "modelstack",
        "data",
        "run",
        str(folder / "recipe.toml"),
        "--out",
        str(folder / "run"),
    ]
    return subprocess.run([*start, *arguments], capture_output=True, text=True, timeout=120, cwd=folder)


@pytest.mark.slow
def test_the_command_runs_a_recipe_by_an_executor_and_writes_its_report(tmp_path: Path) -> None:
    recipe(tmp_path / "raw")
    text = 'name = "test"\ninputs = [{kind = "jsonl", path = "raw"}]\nsteps = [{kind = "exact"}]\n'
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    done = command(tmp_path, "--on", "processes", "--with", "workers=1")
    assert done.returncode == 0, done.stderr
    assert "18 documents read, 4 kept" in done.stdout
    assert (tmp_path / "run" / "logs").is_dir() and (tmp_path / "run" / "report.md").is_file()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cloud", [], "known: processes, slurm, ray"),
        ("slurm", ["time"], "give key=value"),
        ("slurm", ["queue=long"], "'queue' is no option of slurm"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_unknown_executor_or_option_is_refused(
    tmp_path: Path, name: str, options: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_on(name, recipe(tmp_path / "raw"), tmp_path / "run", options)
