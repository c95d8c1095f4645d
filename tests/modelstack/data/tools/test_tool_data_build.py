"""A recipe becomes sets and a manifest: the same bytes again, shares kept, evaluations not repeated."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from modelstack.data.examples import Call, Example, Message, Tool, check_example, read_examples, write_examples
from modelstack.data.tools.build import build, tokens_of
from modelstack.data.tools.decontamination import RULES, Cleaner, read_evaluations
from modelstack.data.tools.recipe import ToolDataRecipe
from modelstack.data.tools.sources import chosen, fitted, read_schemas, schemas_of
from modelstack.errors import UserError
from modelstack.recipe_file import checked_recipe, read_recipe
from modelstack.shipped_recipes import shipped_recipe

ROOT = Path(__file__).parents[4]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TIDE_QUESTION = "When is the next high tide in the harbour of Porto on the coming Sunday morning please"
SHARES = {"single": 0.4, "parallel": 0.2, "beyond": 0.2, "tool_removed": 0.1}


def example(name: str, words: str, source: str = "toys", tool: str = "get_tide", n_tools: int = 1) -> Example:
    others = [Tool(name=f"other_{i}", description="Something else", parameters=CITY) for i in range(n_tools - 1)]
    return Example(
        id=name, source=source, license="MIT", kind="call",
        tools=(Tool(name=tool, description="Tide of a city", parameters=CITY), *others),
        messages=(Message(role="user", content=words),), calls=(Call(name=tool, arguments={"city": "Porto"}),),
    )  # fmt: skip


def recipe(**changes: Any) -> ToolDataRecipe:
    return checked_recipe(
        ToolDataRecipe, {"name": "toy", "tokens": 12_000, "validation_examples": 8, "shares": SHARES} | changes
    )


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    function = {"name": "get_tide", "description": "Tide", "parameters": CITY}
    rows = [
        {"question": TIDE_QUESTION, "function": [function]},
        {"question": "Tell me the tide"},
    ]  # fmt: skip
    path = tmp_path / "evaluation.json"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    first, again = (build(recipe(), tmp_path / name) for name in ("a", "b"))
    assert first["outputs"] == again["outputs"]
    assert build(recipe(seed=1), tmp_path / "c")["outputs"] != first["outputs"]
    for name in ("train.jsonl.zst", "validation.jsonl.zst"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_sets_are_valid_disjoint_and_as_large_as_asked(tmp_path: Path) -> None:
    manifest = build(recipe(), tmp_path)
    train, validation = (list(read_examples(tmp_path / f"{name}.jsonl.zst")) for name in ("train", "validation"))
    for each in [*train, *validation]:
        check_example(each)
    assert {e.split for e in train} == {"train"}
    assert {e.split for e in validation} == {"validation"}
    assert not {e.id for e in train} & {e.id for e in validation}
    said = [{e.messages[-1].content for e in part} for part in (train, validation)]
    assert not said[0] & said[1]
    total = sum(tokens_of(e, 3.72) for e in train)
    assert 0.85 * 12_000 <= total <= 1.1 * 12_000
    assert manifest["train"]["examples"] == len(train)
    assert manifest["train"]["by_kind"] == dict(Counter(e.kind for e in train).most_common())
    assert manifest["train"]["abstentions"] > 0
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8")) == json.loads(json.dumps(manifest))


def test_examples_of_files_come_by_their_share_with_source_and_licence(tmp_path: Path) -> None:
    path = tmp_path / "files.jsonl"
    write_examples(path, [example(f"e{i}", f"tide number {i} in Porto", tool=f"tide_{i}") for i in range(40)])
    made = build(recipe(files=[str(path)], sources={"toys": 0.1}, schemas_from=[]), tmp_path / "out")
    n_toys = made["train"]["by_source"]["toys"]
    assert 8 <= n_toys <= 13
    assert made["train"]["by_license"]["MIT"] == n_toys
    assert made["passed_over"]["toys: enough"] == 40 - n_toys
    assert made["inputs"][str(path)]


def test_examples_that_repeat_an_evaluation_are_dropped_and_counted(evaluation: Path) -> None:
    cleaner = Cleaner(read_evaluations([evaluation]))
    copy = example("1", "so: when is the next high tide in the harbour of porto on the coming sunday morning")
    part = example("2", "Is the next high tide in the harbour of Lagos?")
    named_else = example("3", "Is the next high tide in the harbour of Lagos?", tool="tides")
    short = example("4", "tell me the tide!")
    free = example("5", "tide in Porto?")
    assert not any(cleaner.is_clean(e, names_are_kept=True) for e in (copy, part, named_else, short))
    assert [cleaner.dropped[rule] for rule in RULES] == [1, 1, 1, 1, 0]
    assert cleaner.is_clean(free, names_are_kept=True)
    assert not cleaner.is_clean(free, names_are_kept=False)
    report = cleaner.report()
    assert report["kept_with_a_function_named_alike"] == 1
    assert report["examples_seen"] == 6
    assert report["dropped"]["name of a function"] == 1


def test_a_name_that_is_only_shown_counts_for_what_is_made_here(evaluation: Path) -> None:
    cleaner = Cleaner(read_evaluations([evaluation]))
    other = example("1", "what is the wind in Porto?", tool="get_wind")
    shown = other.model_copy(update={"tools": (*other.tools, Tool(name="Get_Tide", parameters=CITY))})
    assert cleaner.is_clean(other, names_are_kept=False)
    assert not cleaner.is_clean(shown, names_are_kept=False)


def test_a_missing_evaluation_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.json does not exist"):
        build(recipe(evaluations=[str(tmp_path / "nowhere.json")]), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": {"singel": 0.5}}, "unknown sorts"),
        ({"shares": {"single": 0.9, "multi": 0.3}}, "add up to 1.2"),
        ({"shares": {"api_single": 0.5}}, "need schemas"),
        ({"sources": {"toys": 0.1}}, "no files"),
        ({"colour": 1}, "not known"),
    ],
)
def test_a_recipe_that_cannot_be_made_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(**changes)


def test_real_schemas_are_spoken_too(tmp_path: Path) -> None:
    path = tmp_path / "schemas.jsonl"
    things = "tide wind fog swell current salinity visibility temperature pressure moonrise"
    base = {"source": "toys", "license": "MIT", "origin": "sea", "parameters": CITY}
    records = [base | {"name": f"get_{t}", "description": f"Get the {t} of a city"} for t in things.split()]
    path.write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")
    changes = {"schemas": [str(path)], "shares": {"api_single": 0.5}, "api_shares": {"toys": 1.0}, "tokens": 3000}
    made = build(recipe(**changes), tmp_path / "out")
    assert made["train"]["by_source"] == {"api:toys": made["train"]["examples"]}
    names = {c.name for e in read_examples(tmp_path / "out" / "train.jsonl.zst") for c in e.calls}
    held_out = {c.name for e in read_examples(tmp_path / "out" / "validation.jsonl.zst") for c in e.calls}
    assert len(names) > 3
    assert not names & held_out


def test_a_broken_schema_record_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "schemas.jsonl"
    path.write_text('{"name": "x"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 1: a schema record has the fields"):
        read_schemas(path)


def test_distractors_beyond_the_most_are_left_out_but_gold_tools_stay() -> None:
    many = example("1", "tide in Porto?", n_tools=9)
    short = fitted(many, 3, 0)
    assert len(short.tools) == 3
    assert "get_tide" in [tool.name for tool in short.tools]
    assert fitted(short, 3, 0) is short


def test_an_abstention_in_prose_becomes_the_explicit_one() -> None:
    prose = example("1", "order a pizza").model_copy(
        update={"kind": "irrelevant", "calls": (), "reply": "I cannot."}
    )
    assert fitted(prose, 3, 0).reply is None


def test_no_function_takes_more_than_its_part_of_a_source() -> None:
    common = [example(f"a{i}", f"tide {i} in Porto", tool="get_tide") for i in range(50)]
    rare = [example(f"b{i}", f"wind {i} in Porto", tool=f"wind_{i}") for i in range(10)]
    taken, _ = chosen([*common, *rare], {"toys": 20}, 0)
    assert sum(e.calls[0].name != "get_tide" for e in taken) == 10


def test_what_is_too_long_or_not_wanted_is_counted() -> None:
    long = example("1", "tide " * 1000)
    taken, passed = chosen([long, example("2", "tide in Porto", source="else")], {"toys": 5}, 0)
    assert taken == []
    assert passed == {"toys: too long": 1, "else: not in the recipe": 1}


def test_tools_that_examples_show_are_schemas() -> None:
    records = schemas_of([example("1", "tide in Porto", n_tools=3)], "toys")
    assert [r["name"] for r in records] == ["get_tide", "other_0", "other_1"]
    assert records[0]["license"] == "MIT"


@pytest.mark.parametrize("name", ["general", "synthetic"])
def test_the_shipped_recipes_are_read(name: str) -> None:
    read = read_recipe(ToolDataRecipe, shipped_recipe(f"data/tools/{name}").path)
    assert read.name == f"tool-data-{name}"
    assert sum(read.shares.values()) + sum(read.sources.values()) == pytest.approx(1, abs=0.03)


def test_the_command_writes_sets_and_says_what_is_in_them(tmp_path: Path) -> None:
    from modelstack.cli import app

    file = tmp_path / "toy.toml"
    file.write_text(
        'name = "toy"\ntokens = 4000\nvalidation_examples = 3\n[shares]\nsingle = 0.5\n', encoding="utf-8"
    )
    done = CliRunner().invoke(app, ["data", "tools", str(file), "seed=3", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "train: " in done.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "train.jsonl.zst",
        "validation.jsonl.zst",
    ]


def test_data_is_made_without_torch() -> None:
    code = "import sys, modelstack.data.tools.build, modelstack.commands.data; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
