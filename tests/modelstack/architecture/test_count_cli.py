"""`modelstack count`: names, files and folders side by side, and what it says to mistakes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from modelstack.architecture.counts.table import PARTS, Workload, quantity, sections
from modelstack.architecture.presets.registry import published, to_hf
from modelstack.cli import app
from modelstack.errors import UserError

WIDE = {"COLUMNS": "200"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["count", *arguments], env=WIDE)


def figures(output: str) -> dict[str, list[str]]:
    """Return the cells of each row by its label."""
    rows = (line.split("\t") for line in output.splitlines() if "\t" in line and not line.startswith("quantity\t"))
    return {label: cells for label, *cells in rows}


def test_models_stand_side_by_side() -> None:
    result = run("llama-3-8b", "deepseek-v3", "--context", "4096", "--batch", "2", "--tokens", "15e12")
    assert result.exit_code == 0, result.output
    found = figures(result.output)
    assert found["all"] == ["8,030,261,248", "671,026,404,352"]
    assert found["active per token"] == ["7.50 B (93.5%)", "36.6 B (5.5%)"]
    assert found["full_attention"][0] and not found["latent_attention"][0]
    assert found["on top: multi-token prediction"] == ["", "11.6 B"]
    assert found["weights, bf16"] == ["16.1 GB", "1.34 TB"]
    assert found["cache, each further token"] == ["131 kB", "70.3 kB"]
    assert found["cache, 2 x 4,096 tokens"] == ["1.07 GB", "576 MB"]
    assert found["training on 15.0 T tokens"][0] == "7.24e+23 FLOP"


def test_files_and_folders_count_as_the_sizes_that_they_hold(tmp_path: Path) -> None:
    folder = tmp_path / "[model]"
    folder.mkdir()
    file = folder / "config.json"
    file.write_text(json.dumps(to_hf(published("qwen3-0.6b"))), encoding="utf-8")
    result = run("qwen3-0.6b", str(file), str(folder))
    assert result.exit_code == 0, result.output
    for label, cells in figures(result.output).items():
        assert len(set(cells)) <= 1, label
    assert "[model]" in result.output


def test_cached_values_of_one_byte_halve_the_cache() -> None:
    found = [figures(run("llama-3-8b", "--bytes", n).output)["cache, each further token"] for n in ("1", "2")]
    assert found == [["65.5 kB"], ["131 kB"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lama-3-8b"], "no published size 'lama-3-8b'"),
        (["nowhere.json"], "nowhere.json does not exist"),
        (["llama-3-8b", "--context", "0"], "context 0 must be above 0"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize(("text", "message"), [("{", "is not valid JSON"), ("[]", "must contain one JSON object")])
def test_a_broken_config_names_its_path(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    result = run(str(tmp_path))
    assert result.exit_code == 1
    assert "config.json" in result.output and message in result.output


def test_the_table_names_every_kind_of_block_of_its_models() -> None:
    models = [published(name) for name in ("gemma3-1b", "deepseek-v4-flash", "gpt-oss-20b")]
    labels = {row.label.strip() for section in sections(models, Workload()) for row in section.rows}
    kinds = {kind for model in models for kind in (*model.layer_types, *model.mlp_layer_types)}
    assert kinds <= labels & set(PARTS)


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7 B"), (1.5, "1.50 B"), (999, "999 B"), (999.7, "1.00 kB"), (16.06e9, "16.1 GB"), (123456, "123 kB")],
)
def test_quantities_have_three_digits(value: float, text: str) -> None:
    assert quantity(value, "B") == text


def test_a_workload_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="batch -1 must be above 0"):
        Workload(batch=-1)
