"""A run's tasks on datatrove's executors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.pipeline.run import run_recipe
from modelstack.data.pipeline.scale_out import executors
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
