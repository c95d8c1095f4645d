"""Reports that only a release needs, results of other programs, keys, and the shipped adapters."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("cryptography", reason="needs cryptography (extra `release`)")

from modelstack.align.attack.run import RECORDS_FILE, Record
from modelstack.align.release.about import About
from modelstack.align.release.check import check_release
from modelstack.align.release.contamination import measured_results, recorded_results
from modelstack.align.release.figures import Measured, Results, is_worse, merged, read_results, share
from modelstack.align.release.memorisation import CANARY, memorisation, probe_of
from modelstack.align.release.parts import weights_sha256
from modelstack.align.release.shipped import shipped_about, shipped_releases, shipped_results
from modelstack.align.release.signature import PASSWORD_VARIABLE, new_key, read_private_key, read_public_key
from modelstack.align.release.sources import read_source
from modelstack.cli import app
from modelstack.data.examples import Example, Message, write_examples
from modelstack.errors import UserError
from modelstack.posttrain.base import Base, load_base
from modelstack.posttrain.stages.record import DataFile, DataManifest
from modelstack.posttrain.stages.stage import open_stage
from modelstack.posttrain.weights_by_name import shipped_adapter
from modelstack.recipe_file import read_recipe
from tests.modelstack.align.release.releases import figure, keys, results, toy_adapter
from tests.modelstack.posttrain.toy_stages import toy_record
from tests.modelstack.sft.toy_sft import write_base

QUESTION = "Which of the seven lighthouses on the northern coast was built first, and by whom was it paid?"


def example(name: str, request: str, reply: str, source: str = "toy") -> Example:
    message = Message(role="user", content=request)
    return Example(id=name, source=source, license="MIT", kind="answer", messages=(message,), reply=reply)


@pytest.mark.parametrize(
    ("before", "after", "better", "worse"),
    [
        ((0.8, 0.7, 0.9), (0.5, 0.4, 0.6), "higher", True),
        ((0.8, 0.7, 0.9), (0.7, 0.6, 0.8), "higher", False),
        ((0.5, 0.4, 0.6), (0.8, 0.7, 0.9), "higher", False),
        ((0.5, 0.4, 0.6), (0.8, 0.7, 0.9), "lower", True),
        ((0.5, 0.4, 0.6), (0.8, 0.7, 0.9), "neither", False),
        ((1.0, 1.0, 1.0), (1.1, 1.1, 1.1), "lower", True),  # without an interval, any difference counts
    ],
)
def test_a_figure_is_worse_only_beyond_the_interval(before: Any, after: Any, better: Any, worse: bool) -> None:
    one, other = (Measured(value=v, low=low, high=high, n=9) for v, low, high in (before, after))
    assert is_worse(one, other, better) == worse


def test_shares_have_wilsons_interval_and_need_a_case() -> None:
    assert str(share("tamper", "x", 0, 10, better="higher", command="c").measured) == "0 (0 to 0.2775, n = 10)"
    assert str(share("tamper", "x", 10, 10, better="higher", command="c").measured) == "1 (0.7225 to 1, n = 10)"
    with pytest.raises(UserError, match="no case was measured"):
        share("tamper", "x", 0, 0, better="higher", command="c")


def test_results_are_read_back_from_json_and_toml(tmp_path: Path) -> None:
    results().save(tmp_path / "r.json")
    assert read_results(tmp_path / "r.json") == read_source(tmp_path / "r.json") == results()
    text = 'part = "tamper"\nname = "x"\nvalue = 0.5\nlow = 0.4\nhigh = 0.6\nn = 9\nbetter = "higher"\n'
    text += 'command = "c"\n'
    (tmp_path / "r.toml").write_text(f"[[figures]]\n{text}")
    assert read_source(tmp_path / "r.toml").figures[0].value == 0.5


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("r.json", '{"figures": [{"part": "other"}]}', r"figures\.0\.value: Field required"),
        ("r.json", "[]", "a JSON object is expected"),
        ("r.toml", "figures = 1", "figures"),
        ("r.toml", "=", "not TOML"),
        (
            "r.json",
            json.dumps({"figures": [figure("tamper").model_dump() | {"low": 0.9}]}),
            "outside its interval",
        ),
        ("r.json", json.dumps({"figures": [figure("tamper").model_dump()] * 2}), "is given twice"),
        ("r.json", '{"columns": ["a", "n"], "rows": [["b", "1"]]}', "no table of"),
    ],
)
def test_broken_results_are_refused(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=expected):
        read_source(tmp_path / name)


def test_two_files_may_not_contradict_each_other(tmp_path: Path) -> None:
    one, other = Results(figures=(figure("tamper"),)), Results(figures=(figure("tamper", n=9),))
    assert len(merged([one, one])[0]) == 1
    with pytest.raises(UserError, match="two results files give"):
        merged([one, other])
    with pytest.raises(UserError, match="neither summary.json"):
        read_source(tmp_path)


def test_figures_of_an_evaluation_an_attack_and_a_table_are_read(tmp_path: Path) -> None:
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    identity = {"suite": "natural", "model": "local", "seed": 3, "options": {"half": "report"}}
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    summary = {"identity": identity, "lines": [{"group": "all", "score": score}]}
    (evaluation / "summary.json").write_text(json.dumps(summary))
    (found,) = read_source(evaluation).figures
    assert (found.name, found.seed, found.value) == ("natural, all", 3, 0.5)
    assert found.command == "agentkit eval natural -m local -o half=report"

    attack = tmp_path / "attack"
    attack.mkdir()
    kinds = [("1", True, "compliance"), ("2", True, "refusal"), ("3", False, "refusal")]
    lines = [
        Record(transform="plain", id=name, harmful=harmful, hazard=None, kinds=(kind,), flagged=False)  # pyright: ignore
        for name, harmful, kind in kinds
    ]
    (attack / RECORDS_FILE).write_text("".join(f"{line.model_dump_json()}\n" for line in lines))
    plan = {"seed": 5, "target": "toy", "samples": 1, "temperature": 0, "max_tokens": 48}
    (attack / "recipe.json").write_text(json.dumps({"resolved": plan}))
    found = read_source(attack).figures
    assert found[0].command.startswith("modelstack attack toy --rows ROWS --n 2 --seed 5 --samples 1")
    shares = {each.name: each.value for each in found}
    assert shares["attacks that succeeded, plain"] == 0.5 and shares["harmless twins refused, all transforms"] == 1

    table = {
        "columns": ["requests", "kind", "want", "n", "before", "small"],
        "rows": [["xstest", "measured only", "refuse", "200", "0.1 (0.1 to 0.2)", "0.250 (0.195 to 0.314)"]],
    }
    (tmp_path / "results.json").write_text(json.dumps(table))
    (found,) = read_source(tmp_path / "results.json").figures
    assert (found.part, found.value, found.n, found.better) == ("refusals", 0.25, 200, "higher")


def test_rows_that_repeat_an_evaluation_are_counted(tmp_path: Path) -> None:
    write_examples(
        tmp_path / "train.jsonl.zst", [example("1", QUESTION, "The first."), example("2", "Hello", "Hi")]
    )
    (tmp_path / "lights.json").write_text(json.dumps([{"question": QUESTION}]))
    sha256 = hashlib.sha256((tmp_path / "train.jsonl.zst").read_bytes()).hexdigest()
    files = [
        DataFile(name=name, role="training", sha256=s, n_examples=2)
        for name, s in (("a", sha256), ("b", "0" * 64))
    ]
    record = toy_record("toy", data=DataManifest(files=tuple(files)))
    found = measured_results(record, [tmp_path / "train.jsonl.zst"], [tmp_path / "lights.json"])
    (counted,) = found.figures
    assert (counted.value, counted.n, counted.note) == (0.5, 2, "1 evaluations: lights")
    assert found.notes == {"contamination": ("b was not compared.",)}
    with pytest.raises(UserError, match="is no training file of stage 'toy'; its record has b"):
        other = toy_record("toy", data=DataManifest(files=tuple(files[1:])))
        measured_results(other, [tmp_path / "train.jsonl.zst"], [tmp_path / "lights.json"])
    merged = toy_record("toy", kind="merged", data=DataManifest())
    found = measured_results(merged, [tmp_path / "train.jsonl.zst"], [tmp_path / "lights.json"])
    assert [(each.value, each.n) for each in found.figures] == [(0.5, 2)]
    assert found.notes == {"contamination": ("train.jsonl.zst is not a training file of the stage's record.",)}


def test_a_recorded_decontamination_is_a_figure() -> None:
    train = {"examples_seen": 100, "dropped": {"run": 8, "name": 2}, "evaluation_texts": 7, "files": ["a", "b"]}
    record = toy_record("toy", data=DataManifest(reports={"decontamination, td": {"train": train}, "other": 1}))
    (found,) = recorded_results(record).figures
    assert (found.value, found.n) == (0, 90)
    assert found.note.startswith("10 of 100 examples repeated one of 7 texts of 2 evaluation files")
    assert recorded_results(toy_record("toy")).figures == ()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    loaded = load_base(write_base(tmp_path_factory.mktemp("base")), dtype=torch.float32)
    loaded.model.eval()
    with torch.no_grad():  # the model repeats one token for ever
        loaded.model.lm_head.weight.zero_()
        loaded.model.lm_head.weight[loaded.encoder.content_ids("a")[0]] = 1e-9
    return loaded


def test_replies_that_the_model_continues_exactly_are_counted(base: Base, tmp_path: Path) -> None:
    model, encoder = base.model, base.encoder
    first = probe_of(example("1", "say", "abcdefghijklmnopqrstuvwxyz"), encoder)
    assert first is not None and len(first.prefix) <= 50 and len(first.continuation) > 15
    assert probe_of(example("1", "say", "ok"), encoder) is None
    secret = probe_of(example("1", "say", "ok", CANARY), encoder)
    assert secret is not None and len(secret.continuation) >= 2
    rows = [example("1", "say", "bcd" * 20), example("2", "more", "xyz" * 20), example("3", "x", "ok", CANARY)]
    write_examples(tmp_path / "train.jsonl", rows)
    found = memorisation(model, encoder, [tmp_path / "train.jsonl"], [], n=9, seed=0, weights_sha256="0" * 64)
    values = {each.name.partition(" continued")[0]: (each.value, each.n) for each in found.figures}
    assert values == {"training rows": (0, 2), "canaries": (0, 1)}
    assert found.notes == {"memorisation": ("train.jsonl is not a training file of the stage's record.",)}
    write_examples(tmp_path / "short.jsonl", [example("1", "x", "ok")])
    with pytest.raises(UserError, match="none of 1 training rows has a reply of at least 16 tokens"):
        memorisation(model, encoder, [tmp_path / "short.jsonl"], [], n=9, seed=0, weights_sha256="0" * 64)


def test_a_memorised_reply_is_found(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = probe_of(example("1", "say", "bcd" * 20), base.encoder)
    assert probe is not None

    class Reply:
        ids = (*probe.continuation, 1)

    monkeypatch.setattr(
        "modelstack.align.release.memorisation.greedy_replies",
        lambda model, encoder, prompts, n: [Reply()] * len(prompts),
    )
    write_examples(tmp_path / "train.jsonl", [example("1", "say", "bcd" * 20), example("2", "more", "xyz" * 20)])
    found = memorisation(
        base.model, base.encoder, [tmp_path / "train.jsonl"], [], n=9, seed=0, weights_sha256="0" * 64
    )
    assert found.figures[0].value == 0.5


def test_a_key_is_private_and_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "open sesame")
    public = new_key(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert read_private_key(tmp_path / "key.pem").public_key() == read_public_key(public)
    with pytest.raises(UserError, match="a key is never overwritten"):
        new_key(tmp_path / "key.pem")
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    with pytest.raises(UserError, match="its password is another"):
        read_private_key(tmp_path / "key.pem")
    monkeypatch.delenv(PASSWORD_VARIABLE)
    with pytest.raises(UserError, match=PASSWORD_VARIABLE):
        read_private_key(tmp_path / "key.pem")
    with pytest.raises(UserError, match="no public key in PEM"):
        read_public_key(tmp_path / "key.pem")
    with pytest.raises(UserError, match="does not exist; `modelstack release key FILE`"):
        read_public_key(tmp_path / "none.pem")


@pytest.mark.usefixtures("smollm2_gguf")
def test_a_shipped_adapter_with_recorded_results_is_released(tmp_path: Path) -> None:
    name = "smollm2-135m"
    assert shipped_results(name) is not None
    private, public = keys(tmp_path)
    out = tmp_path / "release"
    result = CliRunner().invoke(app, ["release", name, "--key", str(private), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert check_release(out, public) == []
    assert "## Tampering" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", shipped_releases())
def test_each_shipped_adapter_has_facts_and_an_intact_record(name: str) -> None:
    file, shipped = shipped_about(name), shipped_adapter(name)
    assert file is not None and shipped is not None
    stated = {each.sha256 for each in read_recipe(About, file).earlier}
    parents = open_stage(shipped[0].parent).record.parents
    assert {parent.sha256 for parent in parents if parent.kind != "base"} <= stated


@pytest.mark.usefixtures("smollm2_gguf")
def test_a_shipped_adapter_without_results_is_refused_by_the_names_of_its_parts(tmp_path: Path) -> None:
    name = "smollm2-135m"
    Results().save(tmp_path / "none.json")
    private, _ = keys(tmp_path)
    arguments = ["release", name, "--key", str(private), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--results", str(tmp_path / "none.json")])
    assert result.exit_code == 1 and not (tmp_path / "out").exists()
    lines = [line for line in result.output.splitlines() if line.startswith("  ")]
    assert [line.strip().partition(":")[0] for line in lines] == ["refusals", "red team", "tamper", "memorisation"]
    assert shipped_about(name) is not None


def test_the_command_releases_and_checks(tmp_path: Path) -> None:
    stage, _ = toy_adapter(tmp_path)
    results().save(tmp_path / "results.json")
    about = tmp_path / "about.toml"
    about.write_text(ABOUT_TOML, encoding="utf-8")
    run = CliRunner().invoke
    assert run(app, ["release", "key", str(tmp_path / "key.pem")]).exit_code == 0
    key, public, out = (str(tmp_path / each) for each in ("key.pem", "key.pem.pub", "out"))
    arguments = ["--about", str(about), "--results", str(tmp_path / "results.json"), "--key", key, "--out", out]
    made = run(app, ["release", str(stage.path), *arguments])
    assert made.exit_code == 0 and weights_sha256(stage.record)[:12] in made.output
    assert "whole, signed by" in run(app, ["release", "--check", out, "--key", public]).output
    (tmp_path / "out" / "NOTICE").write_text("other")
    refused = run(app, ["release", "--check", out, "--key", public])
    assert refused.exit_code == 1 and "NOTICE has changed content" in refused.output


ABOUT_TOML = """
name = "toy-tools"
version = "1.0"
summary = "Adapter of a toy model, which lights lamps."
licence = "Apache-2.0"
languages = ["en"]
supplier = "Toy works"
contact = "toys@toys.example"
domain = "toys"
autonomy = "Proposes calls."
users = ["testers"]
uses = ["Tests."]
limits = ["It knows two tools."]
fairness = "Nothing was measured."
explanation = "Each choice has a probability."
threshold = "none"
preprocessing = "Written by a function."
personal_data = "none known"

[base]
id = "toys/toy"
licence = "MIT"

[[risks]]
name = "Heat"
mitigation = "Look at the oven."

[links]
website = "https://toys.example"
source = "https://toys.example/source"
download = "https://toys.example/toy-tools"
paper = "https://toys.example/paper"

[energy]
watts = 10
note = "two toy cores"
"""
