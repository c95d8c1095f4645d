"""The gate of a release: each fault is named with its value, the rule and the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch (extra `train`)")

from modelstack.align.release.about import About
from modelstack.align.release.build import Inputs, parts_of
from modelstack.align.release.figures import REQUIRED, Measured, Part, of_part, read_results
from modelstack.align.release.gate import Fault, faults_of, required_files
from modelstack.align.release.licences import verdict
from modelstack.align.release.parts import Compute, ModelFacts, Parity, Release, compute_of, weights_sha256
from modelstack.align.release.provenance import provenance
from modelstack.align.release.shipped import shipped_about, shipped_releases, shipped_results
from modelstack.align.release.subject import open_subject
from modelstack.posttrain.stages.record import Evaluation, FileFacts, Measurement, Origin, StageRecord
from modelstack.recipe_file import read_recipe
from tests.modelstack.align.release.releases import METRICS, about, data_manifest, figure, results
from tests.modelstack.posttrain.toy_stages import BASE, sha256, toy_record

APACHE = (Path(__file__).parents[4] / "LICENSE").read_text(encoding="utf-8")
MODEL = ModelFacts(
    family="llama",
    n_parameters=1_000,
    vocab_size=300,
    context=512,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    mlp_width=64,
    rope_dimension=8,
    gguf_type="F16",
)
FILES = {"adapter.gguf": FileFacts(n_bytes=1, sha256=sha256("weights"))}


def record(**changes: Any) -> StageRecord:
    return toy_record(
        "toy",
        **{"metrics": METRICS, "data": data_manifest(), "files": FILES, "evaluation": Evaluation()} | changes,
    )


def parts(stage: StageRecord | None = None, **changes: Any) -> Release:
    stage = stage or record()
    data = provenance(stage, changes.pop("earlier", ()), changes.get("about", about()).earlier)
    values: dict[str, Any] = {
        "about": about(),
        "date": "2026-12-01",
        "stage": stage,
        "model": MODEL,
        "parity": Parity(n_tensors=4, max_difference=0.0),
        "data": data,
        "compute": compute_of(stage, data, MODEL.n_parameters, 10),
        "figures": results().figures,
    }
    return Release(**values | changes)


def faults(release: Release, text: str = "", previous: Release | None = None) -> list[Fault]:
    return faults_of(release, required_files(release), text, previous)


def told(release: Release, text: str = "", previous: Release | None = None) -> str:
    found = faults(release, text, previous)
    assert all(each.part and each.value and each.rule and each.fix for each in found)
    return " ".join(map(str, found))


def test_a_whole_release_has_no_fault() -> None:
    assert faults(parts()) == []


@pytest.mark.parametrize("name", required_files(parts()))
def test_a_missing_file_is_named(name: str) -> None:
    names = [each for each in required_files(parts()) if each != name]
    (fault,) = faults_of(parts(), names, "")
    assert (fault.part, fault.value) == (name, "missing")


@pytest.mark.parametrize("part", REQUIRED)
def test_a_missing_part_is_named_with_the_command_that_measures_it(part: Part) -> None:
    figures = tuple(each for each in results().figures if each.part != part)
    (fault,) = faults(parts(figures=figures))
    assert (fault.part, fault.value) == (part, "no figure") and REQUIRED[part] in fault.fix


@pytest.mark.parametrize(
    ("licence", "reason"),
    [
        ("CC-BY-NC-4.0", "non-commercial"),
        ("CC BY-NC-SA 4.0", "non-commercial"),
        ("Apache-2.0 (non-commercial use)", "non-commercial"),
        ("research only", "non-commercial"),
        ("CC-BY-ND-4.0", "no derivatives"),
        ("GPL-3.0-only", "not on the list"),
        ("Apache-2.0 / CC-BY-NC-4.0", "non-commercial"),
        ("custom", "unknown"),
        ("MIT, custom", "unknown"),
        ("", "missing"),
        ("none", "missing"),
    ],
)
def test_a_licence_that_may_not_ship_is_named(licence: str, reason: str) -> None:
    assert verdict(licence) == reason
    (fault,) = faults(parts(record(data=data_manifest({licence: 3}, {"chatter": 3}))))
    assert "stage 'toy', 3 rows of chatter" in fault.part
    assert (f"{licence!r} is {reason}" if licence else "no licence is named") in fault.value


@pytest.mark.parametrize(
    "licence",
    [
        "Apache-2.0",
        "MIT License",
        "CC-BY-SA-4.0",
        "public domain, CC0-1.0",
        "Apache-2.0 (ToolACE) / CC-BY-4.0 (xLAM, Hammer)",
        "CC0-1.0, CC-BY-4.0, MIT, Apache-2.0",
        "GPL-3.0-only OR MIT",
    ],
)
def test_a_licence_that_may_ship_passes(licence: str) -> None:
    assert verdict(licence) == "may ship"


@pytest.mark.parametrize(
    ("by", "counts"), [("source", {"sources": {"snips": 2}}), ("licence", {"licences": {"MIT": 2}})]
)
def test_rows_that_are_not_all_counted_are_named(by: str, counts: dict[str, Any]) -> None:
    (fault,) = faults(parts(record(data=data_manifest(**counts))))
    assert fault.part == "data file 'train.jsonl'" and fault.value == f"2 of 3 training rows have a {by}"


def test_an_earlier_stage_is_proven_by_record_or_stated_and_else_refused() -> None:
    first = record(recipe_sha256=sha256("first"))
    stage = record(parents=(first.origin,))
    (fault,) = faults(parts(stage))
    assert "data of stage 'toy'" in fault.part and fault.value.startswith("no record of")
    assert faults(parts(stage, earlier=[first])) == []
    said = {
        "name": "toy",
        "sha256": first.fingerprint,
        "sources": ["snips"],
        "licences": ["CC-BY-NC-4.0"],
        "statement": "Its record was lost in the fire.",
    }
    (fault,) = faults(parts(stage, about=about(earlier=[said])))
    assert "'CC-BY-NC-4.0' is non-commercial" in fault.value
    assert faults(parts(stage, about=about(earlier=[said | {"licences": ["MIT"]}]))) == []


def test_a_record_of_other_data_proves_no_earlier_stage() -> None:
    parent = Origin(kind="sft", name="first", sha256=sha256("other"), parents=(BASE,))
    assert "no record of" in told(parts(record(parents=(parent,)), earlier=[record()]))


def test_parts_that_contradict_the_record_are_named() -> None:
    stage = record(data=data_manifest({"CC-BY-NC-4.0": 3}, {"chatter": 3}))
    hidden = parts(stage, data=provenance(record(), (), ()))
    assert "stage.json counts 3 rows by source and licence, and others" in told(hidden)
    first = record(recipe_sha256=sha256("first"))
    left_out = parts(record(parents=(first.origin,)))
    assert "no record of" in told(left_out.model_copy(update={"data": left_out.data[:1]}))
    measured = Evaluation(after=(Measurement(name="exact calls", value=0.75, n=40),))
    stage = record(evaluation=measured)
    assert "evaluation, 'exact calls': no figure; stage.json measured 0.75" in told(parts(stage))
    better = figure("evaluation", "exact calls", n=39)
    figures = (*results().figures, better)
    assert "evaluation, 'exact calls': 0.975 (" in told(parts(stage, figures=figures))


def test_data_without_rows_and_a_training_without_tokens_are_named() -> None:
    text = told(parts(record(data=data_manifest({}, {}, 0), metrics={})))
    assert "data: no training row is recorded" in text
    assert "energy and compute: 0 tokens in 0.0 s" in text


def test_a_figure_that_got_worse_beyond_the_interval_is_named() -> None:
    before = Measured(value=0.9, low=0.8, high=0.95, n=40)
    now = figure("evaluation", "lamps", n=20, before=before)
    (fault,) = faults(parts(figures=results(evaluation=(now,)).figures))
    assert fault.part == "evaluation, 'lamps'"
    assert fault.value == "0.5 (0.352 to 0.648, n = 40), before 0.9 (0.8 to 0.95, n = 40)"
    within = figure("evaluation", "lamps", n=33, before=before)
    assert faults(parts(figures=results(evaluation=(within,)).figures)) == []
    told_only = figure("evaluation", "lamps", n=20, before=before, better="neither")
    assert faults(parts(figures=results(evaluation=(told_only,)).figures)) == []
    lower = figure("evaluation", "lamps", n=20, before=before, better="lower")
    assert faults(parts(figures=results(evaluation=(lower,)).figures)) == []


def test_a_figure_of_the_release_before_may_not_disappear() -> None:
    previous = parts(figures=results(evaluation=(figure("evaluation", "lamps"),)).figures)
    text = told(parts(), previous=previous)
    assert "evaluation, 'lamps': no figure; release 1.0 before reported 0.75" in text


def test_figures_of_other_weights_are_named() -> None:
    stage = record()
    assert faults(parts(stage, measured_weights=(weights_sha256(stage),))) == []
    (fault,) = faults(parts(stage, measured_weights=(sha256("other"),)))
    assert fault.part == "results" and sha256("other")[:12] in fault.value


def test_contamination_above_the_limit_is_named() -> None:
    figures = [each for each in results().figures if each.part != "contamination"]
    found = figure("evaluation", "x", n=2).model_copy(update={"part": "contamination", "better": "lower"})
    (fault,) = faults(parts(figures=(*figures, found)))
    assert fault.part == "contamination, 'x'" and "max_contamination" in fault.rule
    assert faults(parts(figures=(*figures, found), about=about(max_contamination=0.1))) == []


def test_weights_that_differ_between_formats_are_named() -> None:
    assert "parity: relative difference 0.1 of 4 tensors" in told(
        parts(parity=Parity(n_tensors=4, max_difference=0.1))
    )
    assert "parity: not compared" in told(parts(parity=None))


def test_the_licence_of_the_folder_and_of_the_base_must_ship() -> None:
    text = told(
        parts(about=about(licence="CC-BY-NC-4.0", base={"id": "toys/toy", "licence": "Gemma Terms of Use"}))
    )
    assert "licence: 'CC-BY-NC-4.0' is non-commercial" in text
    assert "licence of the base: 'Gemma Terms of Use' is unknown" in text


def test_the_text_of_another_licence_is_named() -> None:
    assert faults(parts(), APACHE) == []
    assert "LICENSE: not the text of 'Apache-2.0'" in told(parts(), "All rights reserved.")


def test_compute_counts_adapters_and_all_weights() -> None:
    def flops(train: str) -> Compute:
        stage = record(recipe={"train": train})
        return compute_of(stage, provenance(stage, (), ()), 1_000, 100)

    assert flops("lora").flops == 4 * 1_000 * 3_000 and flops("full").flops == 6 * 1_000 * 3_000
    assert flops("lora").watt_hours == 1.0  # 100 W for 36 s


@pytest.mark.parametrize("name", shipped_releases())
def test_facts_and_recorded_figures_of_each_shipped_adapter_pass_the_gate(name: str) -> None:
    # Sizes and parity are read from the base's weights; `test_release_reports.py` writes a whole folder of one.
    about_file, results_file = shipped_about(name), shipped_results(name)
    assert about_file is not None and results_file is not None
    inputs = Inputs(name, read_recipe(About, about_file), (read_results(results_file),))
    release = parts_of(inputs, open_subject(name).record, MODEL, Parity(n_tensors=1, max_difference=0.0))
    assert faults_of(release, required_files(release), APACHE) == []
    assert release.measured_weights == (release.weights_sha256,)
    tampered = {each.name.partition(", ")[2] for each in of_part(release.figures, "tamper")}
    assert tampered == {"direction projected out", "after 100 LoRA steps on harmless rows"}
