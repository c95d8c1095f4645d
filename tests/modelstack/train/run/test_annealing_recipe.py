"""A training whose end has a mix of its own, by its recipe: from records that name their source to the batches."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from modelstack.data.batches import Batch
from modelstack.data.loader import PackedLoader
from modelstack.errors import UserError
from modelstack.recipe_file import checked_recipe
from modelstack.run_folder import RunFolder
from modelstack.train.loop import train
from modelstack.train.run.assemble import loader, unsupervised
from modelstack.train.run.prepare import Prepared, prepare
from modelstack.train.run.recipe import Resolved, RunRecipe, resolve
from tests.modelstack.train.run.toy_run import WORDS, toy_values

MARKS = {"web": "zip", "books": "zap"}
"""A word that only one source has."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Resolved, Prepared]:
    folder = tmp_path_factory.mktemp("run")
    draw = random.Random(0)
    with (folder / "mixed.jsonl").open("w", encoding="utf-8") as file:
        for i in range(300):
            source = "books" if i % 5 == 0 else "web"
            text = " ".join(draw.choices([*WORDS, *[MARKS[source]] * 8], k=draw.randrange(20, 90)))
            file.write(json.dumps({"text": text, "source": source}) + "\n")
    resolved = resolved_of(folder / "mixed.jsonl")
    return resolved, prepare(resolved, RunFolder(folder / "out"))


def resolved_of(text: Path, **changes: Any) -> Resolved:
    values = toy_values(text)
    values["data"] |= {
        "source_field": "source",
        "weights": {"web": 1, "books": 0},
        "anneal_weights": {"web": 0, "books": 1},
        "anneal_share": 0.3,
    } | changes
    return resolve(checked_recipe(RunRecipe, values))


def sources_in(batch: Batch, prepared: Prepared) -> Counter[str]:
    text = prepared.tokenizer.vocabulary.decode(batch.ids_BT.flatten().tolist())
    return Counter({name: text.count(mark) for name, mark in MARKS.items()})


def test_the_last_steps_are_of_the_other_mix(prepared: tuple[Resolved, Prepared]) -> None:
    resolved, data = prepared
    assert data.shards.sources == ("books", "web")
    batches = list(itertools.islice(loader(resolved, data.shards), resolved.steps))
    by_step = [sources_in(batch, data) for batch in batches]
    assert len(by_step) == 20
    # 0.3 of 20 steps are 6; one row may be off, and a row that waited at the change comes behind it.
    assert all(step["web"] > 10 and step["books"] == 0 for step in by_step[:13])
    assert all(step["books"] > 10 for step in by_step[15:])
    assert sum(step["web"] for step in by_step[15:]) < sum(step["books"] for step in by_step[15:]) / 10


def test_a_run_takes_its_steps_and_a_loader_resumes_in_its_end(prepared: tuple[Resolved, Prepared]) -> None:
    resolved, data = prepared
    run = unsupervised(resolved, data, torch.device("cpu"))
    assert len(list(train(run))) == resolved.steps
    assert isinstance(run.loader, PackedLoader)
    assert run.loader.report()["n_rows"] == resolved.steps * resolved.rows
    assert run.loader.report()["epochs"]["books"] > 0
    resumed = loader(resolved, data.shards)
    resumed.load_state_dict(json.loads(json.dumps(run.loader.state_dict())))
    for _ in range(4):
        assert torch.equal(next(resumed).ids_BT, next(run.loader).ids_BT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anneal_share": None}, "must be set together"),
        ({"anneal_weights": None}, "must be set together"),
        ({"weights": None}, "anneal_weights requires weights"),
        ({"anneal_share": 1.0}, "'data.anneal_share'"),
    ],
)
def test_an_end_that_cannot_be_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        resolved_of(tmp_path / "mixed.jsonl", **changes)


def test_a_record_that_does_not_name_its_source_is_told(tmp_path: Path) -> None:
    text = tmp_path / "mixed.jsonl"
    text.write_text('{"text": "a", "source": "web"}\n{"text": "b", "source": 3}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"mixed\.jsonl, line 2: no text in the field 'source'"):
        prepare(resolved_of(text, held_out=1e-9), RunFolder(tmp_path / "out"))
