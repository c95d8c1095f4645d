"""Output of the commands that read and write data, as golden files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from modelstack.decide import isoflop
from modelstack.decide.scaling_laws import BESIROGLU
from modelstack.sft.prior.masses import write_masses
from tests.golden import Golden, Replace
from tests.modelstack.data.pipeline.test_data_recipe import STEPS, corpus
from tests.modelstack.data.quality_model.test_quality_model import texts
from tests.modelstack.posttrain.toy_stages import toy_stage
from tests.modelstack.sft.test_decision_fit import ORIGIN, planted
from tests.modelstack.sft.toy_sft import write_base
from tests.modelstack.train.run.toy_run import write_text, write_toml

pytestmark = pytest.mark.usefixtures("no_pictures")
FIGURES: Replace = tuple((rf"(\d\.\d)\d{{{n}}}\b", rf"\1{'x' * n}") for n in (2, 3, 4, 5))
"""The last digits of measurements differ between processors."""


def remove_runs() -> None:
    shutil.rmtree("runs", ignore_errors=True)


def write_lines(file: str, lines: list[str]) -> None:
    Path(file).write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")


def test_a_data_run_shows_its_steps_and_what_was_kept(golden: Golden) -> None:
    corpus(Path("raw"))
    inputs = [{"kind": "jsonl", "path": "raw", "source": "made"}]
    write_toml(Path("web.toml"), {"name": "web", "inputs": inputs, "steps": list(STEPS)})
    command = "data run web.toml --workers 1"
    golden.check("data-run", command, before=remove_runs)


def test_documents_of_a_model_are_counted_with_the_reasons_of_those_that_were_dropped(
    golden: Golden, tiny_gguf: Path
) -> None:
    write_lines("seeds.jsonl", ["The heron stood in the water and waited for a fish until the evening."])
    template = {"name": "retold", "prompt": "Retell: {seed}", "per_seed": 4, "max_tokens": 60}
    inputs = [{"kind": "jsonl", "path": "seeds.jsonl"}]
    recipe = {"name": "herons", "inputs": inputs, "templates": [template], "checks": {"min_characters": 1}}
    write_toml(Path("herons.toml"), recipe)
    golden.check(
        "data-synthesise",
        ("data", "synthesise", "herons.toml", "--model", str(tiny_gguf)),
        replace=[(re.escape(str(tiny_gguf)), "tiny.gguf")],
        before=remove_runs,
    )


def test_a_quality_model_shows_what_its_thresholds_keep(golden: Golden) -> None:
    write_lines("books.jsonl", texts(["theorem", "chapter", "because"], 200, 1))
    write_lines("crawl.jsonl", texts(["click", "subscribe", "because"], 200, 2))
    command = "data quality --good books.jsonl --raw crawl.jsonl -o runs/quality"
    golden.check("data-quality", command, replace=FIGURES)


def test_tool_data_shows_its_sorts_and_sets(golden: Golden) -> None:
    command = "data tools synthetic tokens=6000 validation_examples=6 evaluations=[]"
    golden.check("data-tools", command, before=remove_runs)


def test_a_tokenizer_shows_what_it_was_trained_on(golden: Golden) -> None:
    write_text(Path("stories.jsonl"), 60)
    golden.check("tokenizer-train", "tokenizer train vocab_size=320 stories.jsonl -o runs/tokenizer")


def test_a_law_is_shown_beside_the_published_ones(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isoflop, "N_STARTS", 4)
    runs = [
        {"n_parameters": N, "n_tokens": C / 6 / N, "loss": BESIROGLU.loss(N, C / 6 / N)}
        for C in (1e14, 1e15, 1e16)
        for N in (BESIROGLU.optimum(C).n_parameters * factor for factor in (0.4, 0.7, 1.2, 2.5))
    ]
    Path("runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs), encoding="utf-8")
    golden.check("fit-law", "fit-law runs.jsonl --bootstrap 3")


def test_a_plan_has_a_line_for_each_warning(golden: Golden) -> None:
    golden.check("plan-warnings", "plan --money 4000 --preset nano-9m --device h100")


def test_tasks_are_counted_with_their_verifier(golden: Golden) -> None:
    golden.check(
        "tasks",
        "tasks json --out runs/tasks/json/train.jsonl --n 20",
        "tasks effects --side held-back --out runs/tasks/effects/held-back.jsonl --n 10",
    )


def test_a_checkpoint_becomes_a_gguf_file_and_a_checkpoint_again(golden: Golden) -> None:
    write_base(Path("base"))
    golden.check(
        "gguf",
        "export gguf base/checkpoint model.gguf --type q8_0",
        "import gguf model.gguf runs/model",
    )


def test_a_prior_shows_decisions_before_and_after(golden: Golden) -> None:
    write_masses(Path("prior.masses.jsonl"), ORIGIN, planted(300, 3.0, 1.0))
    golden.check("fit-prior", "fit-prior prior.masses.jsonl --refit --out prior.json", replace=FIGURES)


def test_the_keys_of_a_recipe_have_type_default_and_meaning(golden: Golden) -> None:
    golden.check("keys", "merge --keys", piped=False)


def test_a_damaged_stage_is_named_below_the_tree(golden: Golden) -> None:
    stage = toy_stage(Path("runs/one"), "one")
    (stage.path / "metrics.jsonl").write_text("changed", encoding="utf-8")
    golden.check(
        "stage-lineage-damaged", "stage lineage runs", replace=[(re.escape(str(Path.cwd())), "/home/ada")]
    )


def test_a_mistake_names_the_value_the_rule_and_the_fix(golden: Golden) -> None:
    golden.check(
        "mistakes",
        "train nano stesp=200",
        "sft no-such-recipe",
        "sft tools base=missing.gguf",
        "data mixx",
        "count no-such-model",
        "goodput .",
        "plan --hours 24 --money 10",
    )
