"""`modelstack data mix`: tokens of shards and of data runs, a table, and the part of a training recipe."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from modelstack.cli import app
from modelstack.data.mix import MixRecipe, plan_mix
from modelstack.data.mix_fragment import training_fragment
from modelstack.data.pipeline import report
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.pipeline.run import run_recipe
from modelstack.data.shards import Shards
from modelstack.data.source_tokens import SourceTokens, tokens_of
from modelstack.errors import UserError
from modelstack.recipe_file import checked_recipe, read_recipe
from modelstack.shipped_recipes import shipped_recipe
from modelstack.tokenizer.documents import find_files, read_documents
from modelstack.train.run.recipe import DataRecipe as TrainingData
from tests.modelstack.data.toy_shards import toy_documents, toy_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return toy_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def data_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over two files; of the source "tales" one document is dropped."""
    folder = tmp_path_factory.mktemp("data")
    records = {
        "a": [("tales", "A tale " * 10 + str(i)) for i in range(8)] + [("letters é", "Dear you " * 5)],
        "b": [("tales", "A tale " * 10 + "3"), ("letters é", "Yours " * 20)],
    }
    for name, rows in records.items():
        lines = [json.dumps({"text": text, "source": source}) + "\n" for source, text in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    values = {
        "name": "toy",
        "inputs": [{"kind": "jsonl", "path": str(folder / "*.jsonl")}],
        "steps": [{"kind": "exact"}],
    }
    recipe = checked_recipe(DataRecipe, values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw", lambda *_: None)  # of all the page its plot costs the most, and is not read
        report.write_report(recipe, folder / "run", run_recipe(recipe, folder / "run"))
    return folder / "run"


def mix(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "mix", *map(str, arguments)], env={"COLUMNS": "200"})


def data_of(file: Path) -> TrainingData:
    return TrainingData.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))["data"])


def test_tokens_of_shards_are_counted_and_sources_in_several_folders_are_added_up(
    shards: Shards, tmp_path: Path
) -> None:
    other = toy_shards(tmp_path / "other", toy_documents(60, seed=5))
    expected: Counter[str] = Counter()
    for each in (shards, other):
        for document in range(each.n_documents):
            expected[each.sources[each.source_of[document]]] += len(each.tokens(document))
    found = tokens_of([shards.folder, other.folder])
    assert found.tokens == expected
    assert sum(found.tokens.values()) == shards.n_tokens + other.n_tokens
    assert (found.text, found.is_estimate) == ((), False)


def test_tokens_of_a_data_run_are_its_characters_by_source_and_the_trainer_reads_what_it_kept(
    data_run: Path,
) -> None:
    found = tokens_of([data_run], 4)
    documents = [d for file in find_files(found.text) for d in read_documents(file, "source")]
    characters: Counter[str] = Counter()
    for document in documents:
        characters[document.domain] += len(document.text)
    assert len(documents) == 10
    assert found.tokens == {name: round(n / 4) for name, n in characters.items()}
    assert found.is_estimate


def test_the_command_prints_what_each_source_gives_and_writes_what_the_trainer_reads(
    shards: Shards, tmp_path: Path
) -> None:
    sizes = tokens_of([shards.folder]).tokens
    n_tokens = 3 * shards.n_tokens
    recipe = tmp_path / "mix.toml"
    recipe.write_text(
        f"n_tokens = {n_tokens}\nanneal_share = 0.1\n"
        "weights = {big = 0.5, mid = 0.3, small = 0.2}\nanneal_weights = {big = 0, mid = 0.25, small = 0.75}\n",
        encoding="utf-8",
    )
    result = mix(recipe, "max_epochs=3.5", shards.folder, "--out", tmp_path / "deep" / "part.toml", "--json")
    assert result.exit_code == 0, result.output
    values = {
        "n_tokens": n_tokens,
        "anneal_share": 0.1,
        "max_epochs": 3.5,
        "weights": {"big": 0.5, "mid": 0.3, "small": 0.2},
        "anneal_weights": {"big": 0, "mid": 0.25, "small": 0.75},
    }
    plan = plan_mix(sizes, checked_recipe(MixRecipe, values))
    data = data_of(tmp_path / "deep" / "part.toml")
    assert plan.anneal is not None
    assert data.weights == pytest.approx(plan.stable.weights, rel=1e-5)
    assert data.anneal_weights == pytest.approx(plan.anneal.weights, rel=1e-5)
    assert data.anneal_share == 0.1
    assert (data.text, data.source_field) == ((), None)
    rows = {row["source"]: row for row in json.loads(result.stdout)}
    for name, size in sizes.items():
        assert rows[name] == {
            "source": name,
            "tokens": size,
            "stable_weight": round(plan.stable.weights[name], 6),
            "stable_drawn": round(plan.stable.tokens[name]),
            "stable_epochs": round(plan.stable.tokens[name] / size, 6),
            "anneal_weight": round(plan.anneal.weights[name], 6),
            "anneal_drawn": round(plan.anneal.tokens[name]),
            "anneal_epochs": round(plan.anneal.tokens[name] / size, 6),
            "epochs_in_all": plan.epochs[name],
        }


def test_of_a_data_run_the_part_names_the_text_and_the_field_of_the_sources(
    data_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "part.toml"
    result = mix("n_tokens=200", "temperature=2", data_run, "--characters-per-token", "4", "--out", out)
    assert result.exit_code == 0, result.output
    data = data_of(out)
    assert data.source_field == "source"
    assert {d.domain for file in find_files(data.text) for d in read_documents(file, "source")} == set(
        data.weights or ()
    )
    assert data.weights is not None and sum(data.weights.values()) == pytest.approx(1, abs=1e-5)
    assert data.anneal_weights is None
    assert "anneal" not in result.output


@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=4, unique=True
    ),
    seed=st.integers(0, 99),
)
def test_the_part_is_toml_whatever_sources_are_called(names: list[str], seed: int) -> None:
    sources = SourceTokens({name: 10 ** (seed % 9) + i for i, name in enumerate(names)}, (Path("a 'b\" \\c"),))
    recipe = MixRecipe(n_tokens=1)
    content = tomllib.loads(training_fragment(plan_mix(sources.tokens, recipe), recipe, sources))
    data = TrainingData.model_validate(content["data"])
    assert set(data.weights or ()) == set(names)
    assert all(weight > 0 for weight in (data.weights or {}).values())
    assert data.text == ("a 'b\" \\c",)


def test_a_name_that_no_toml_file_can_hold_is_told() -> None:
    sources, recipe = SourceTokens({"\ud800": 5}), MixRecipe(n_tokens=1)
    with pytest.raises(UserError, match="lone surrogate"):
        training_fragment(plan_mix(sources.tokens, recipe), recipe, sources)


def test_mistakes_are_told_in_one_line(shards: Shards, data_run: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "part.toml")
    many = f"n_tokens={10 * shards.n_tokens}"
    for arguments, message in (
        (("n_tokens=5",), "no folder: name token shards"),
        (("a.toml", "b.toml", shards.folder), "at most one recipe, not 2"),
        (("n_tokens=5", tmp_path), "neither index.json of token shards nor manifest.json"),
        (("n_tokens=5", shards.folder, data_run), "name folders of one kind"),
        (("n_tokens=5", data_run), "give --characters-per-token"),
        (("n_tokens=5", shards.folder, "--characters-per-token", 4), "are counted"),
        ((shards.folder,), "recipe key 'n_tokens' is missing: give it in the recipe, or as n_tokens=VALUE"),
        (("n_token=5", shards.folder), "nearest: 'n_tokens'"),
        ((many, shards.folder), "in max_epochs=4"),
    ):
        result = mix(*arguments, *out)
        assert result.exit_code == 1
        assert message in result.stderr, arguments
        assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "part.toml").exists()


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"chars_by": {"source": {"a": -1}}}', '{"chars_by": {"source": {"a": 5}}}', "{"]
)
def test_a_manifest_that_says_something_else_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"manifest\.json"):
        tokens_of([tmp_path], 4)


def test_the_recipe_that_comes_with_the_sources_is_one() -> None:
    shipped = read_recipe(MixRecipe, shipped_recipe("data/mix/square-root").path)
    assert (shipped.temperature, shipped.max_epochs) == (2, 4)
