"""A release of a toy stage and of a shipped one: built, validated by outside tools, checked, tampered with."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch (extra `train`)")
pytest.importorskip("cryptography", reason="needs cryptography (extra `release`)")

from modelstack.align.release.build import Refused
from modelstack.align.release.card import card, front_matter_of
from modelstack.align.release.check import check_release, read_release
from modelstack.align.release.gate import EVAL_RESULTS
from modelstack.align.release.listing import SIGNATURE, SUMS, hashes_of, sums_text
from modelstack.align.release.signature import read_private_key, sign
from modelstack.errors import UserError
from modelstack.posttrain.stages.merge import merge_stage
from modelstack.posttrain.stages.stage import Stage
from tests.modelstack.align.release.releases import (
    about,
    copied,
    data_manifest,
    figure,
    keys,
    results,
    toy_adapter,
    toy_release,
)

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return toy_adapter(tmp_path_factory.mktemp("stage"))[0]


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def released(stage: Stage, signer: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    dataset = {"id": "toys/lamps", "task_id": "lamp"}
    evaluation = (figure("evaluation", "lamps lit", dataset=dataset, date="2026-11-30"),)
    toy_release(folder, stage, signer[0], results=(results(evaluation=evaluation),))
    return folder / "release"


def resigned(folder: Path, signer: tuple[Path, Path]) -> None:
    """Write checksums and signature of a changed folder anew."""
    for name in (SUMS, SIGNATURE):
        (folder / name).unlink()
    (folder / SUMS).write_text(sums_text(hashes_of(folder)))
    (folder / SIGNATURE).write_text(sign(hashes_of(folder), folder.name, read_private_key(signer[0])))


def changed_text(name: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")

    return change


def test_a_release_is_whole_signed_and_fit_to_ship(released: Path, signer: tuple[Path, Path]) -> None:
    assert check_release(released, signer[1]) == []
    names = {each.relative_to(released).as_posix() for each in released.rglob("*") if each.is_file()}
    assert {"adapter.gguf", "adapter_model.safetensors", "tokenizer.json", "stage.json", EVAL_RESULTS} <= names


def test_the_same_release_of_the_same_day_has_the_same_files(
    released: Path, stage: Stage, signer: tuple[Path, Path], tmp_path: Path
) -> None:
    dataset = {"id": "toys/lamps", "task_id": "lamp"}
    evaluation = (figure("evaluation", "lamps lit", dataset=dataset, date="2026-11-30"),)
    toy_release(tmp_path, stage, signer[0], results=(results(evaluation=evaluation),))
    assert (tmp_path / "release" / SUMS).read_bytes() == (released / SUMS).read_bytes()


def test_sha256sum_accepts_the_list_of_hashes(released: Path) -> None:
    told = subprocess.run(["sha256sum", "-c", SUMS], cwd=released, capture_output=True, text=True, check=True)
    assert told.stdout.count(": OK") == len((released / SUMS).read_text().splitlines())


def test_model_signing_verifies_the_signature_and_refuses_a_changed_byte(
    released: Path, signer: tuple[Path, Path], tmp_path: Path
) -> None:
    # Imported late: the package takes half a second.
    from model_signing import hashing, verifying

    def verify(folder: Path) -> None:
        unsigned = [folder / SIGNATURE]
        config = verifying.Config().use_elliptic_key_verifier(public_key=signer[1])
        hashes = hashing.Config().set_ignored_paths(paths=unsigned, ignore_git_paths=True)
        config.set_hashing_config(hashes).verify(folder, folder / SIGNATURE)

    verify(released)
    copy = copied(released, tmp_path / "release")
    with (copy / "adapter.gguf").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xaa")
    with pytest.raises(ValueError, match=r"adapter\.gguf"):
        verify(copy)


def test_we_verify_a_signature_of_model_signing(released: Path, signer: tuple[Path, Path], tmp_path: Path) -> None:
    copy = copied(released, tmp_path / "release")
    (copy / SIGNATURE).unlink()
    command = [sys.executable, "-m", "model_signing", "sign", "key", str(copy)]
    options = ["--private_key", str(signer[0]), "--signature", str(copy / SIGNATURE)]
    subprocess.run([*command, *options], check=True, capture_output=True)
    assert check_release(copy, signer[1]) == []


@pytest.mark.parametrize("spec", ["V1_6", "V1_7"])
def test_the_bill_is_valid_cyclonedx(released: Path, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from jsonschema import Draft7Validator

    checks = Draft7Validator.FORMAT_CHECKER.checkers
    monkeypatch.setitem(checks, "iri-reference", checks["uri-reference"])  # a URI reference is one of IRIs too
    assert {"date-time", "idn-email", "uri"} <= checks.keys(), "a format would be left unchecked"
    text = (released / "bom.cdx.json").read_text(encoding="utf-8")
    written = text.replace('"specVersion": "1.6"', f'"specVersion": "{spec[1:].replace("_", ".")}"')
    written = written.replace("bom-1.6.schema", f"bom-{spec[1:].replace('_', '.')}.schema")
    assert JsonStrictValidator(SchemaVersion[spec]).validate_str(written) is None


def test_the_bill_has_every_field_of_owasps_list(released: Path) -> None:
    content = json.loads((released / "bom.cdx.json").read_text(encoding="utf-8"))
    model = content["components"][0]
    stated = {each["name"] for each in content["metadata"]["properties"]}
    assert {
        *("standardCompliance", "domain", "autonomyType", "energyConsumption", "energyQuantity", "energyUnit"),
        *("safetyRiskAssessment", "informationAboutTraining", "informationAboutApplication", "metric"),
        *("metricDecisionThreshold", "modelDataPreprocessing", "useSensitivePersonalInformation"),
        *("primaryPurpose", "suppliedBy", "intendedUse", "typeOfModel", "hyperparameter", "external_references"),
    } <= stated
    sizes = {each["name"].rpartition(":")[2] for each in model["modelCard"]["properties"]}
    assert {
        *("hyperparameter", "modelCardExplainability", "vocabSize", "tokenizerClass", "contextLength"),
        *("embeddingLength", "blockCount", "attentionHeadCount", "attentionHeadCountKV", "feedForwardLength"),
        *("ropeDimensionCount", "quantizationVersion", "quantizationFileType"),
    } <= sizes
    assert {"name", "type", "version", "purl", "description", "licenses", "supplier"} <= model.keys()
    assert {"website", "vcs", "distribution", "documentation"} <= {r["type"] for r in model["externalReferences"]}
    considerations = model["modelCard"]["considerations"]
    assert considerations["useCases"] and considerations["technicalLimitations"]
    assert considerations["ethicalConsiderations"] and considerations["environmentalConsiderations"]
    assert all(value not in ("", None) for each in content["metadata"]["properties"] for value in each.values())


def test_the_hub_reads_card_and_evaluation_results(released: Path) -> None:
    import yaml
    from huggingface_hub import ModelCard
    from huggingface_hub import _eval_results as hub

    loaded = ModelCard.load(released / "README.md")
    data: Any = loaded.data
    assert (data.license, data.base_model, data.library_name) == ("apache-2.0", "toys/toy", "peft")
    assert data.to_dict()["base_model_relation"] == "adapter"
    figures = {each.key: each for each in read_release(released).figures}
    found = {(each.dataset_name, each.metric_name): each for each in data.eval_results or ()}
    assert found["Evaluation", "lamps lit"].metric_value == figures["evaluation", "lamps lit"].value == 0.75
    assert found["Tampering", "figure of tamper"].metric_args["n"] == 40
    entries = yaml.safe_load((released / EVAL_RESULTS).read_text())
    (entry,) = hub.parse_eval_result_entries(entries)
    assert (entry.dataset_id, entry.task_id, entry.value, entry.date) == ("toys/lamps", "lamp", 0.75, "2026-11-30")


def test_the_card_prints_the_tamper_figures(released: Path) -> None:
    text = (released / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Tampering")[2].partition("\n## ")[0]
    assert "| figure of tamper | 0.75 (0.5981 to 0.8581, n = 40) | higher | 0 |" in section


def test_a_command_that_all_figures_of_a_table_share_is_stated_once(released: Path) -> None:
    pair = tuple(figure("tamper", name) for name in ("as it is", "ablated"))
    text = card(read_release(released).model_copy(update={"figures": pair}))
    assert f"Seed: 0. Command: `{pair[0].command}`." in text and text.count(pair[0].command) == 1
    assert "| as it is | 0.75 (0.5981 to 0.8581, n = 40) | higher |\n" in text


CHANGES: dict[str, tuple[Change, str]] = {
    "a changed byte of the weights": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 100),
        "adapter_model.safetensors has changed content",
    ),
    "a removed file": (lambda folder: (folder / "NOTICE").unlink(), "NOTICE is missing"),
    "an added file": (lambda folder: (folder / "payload.py").write_text("1"), "payload.py was added"),
    "an added file in a folder": (
        lambda folder: (folder / ".eval_results" / "more.yaml").write_text("[]"),
        ".eval_results/more.yaml was added",
    ),
    "a missing licence": (lambda folder: (folder / "LICENSE").unlink(), "LICENSE: missing; a release has"),
    "no signature": (
        lambda folder: (folder / SIGNATURE).unlink(),
        "model.sig is missing: the release is not signed",
    ),
    "a changed list of files in the signature": (
        lambda folder: (folder / SIGNATURE).write_text(forged((folder / SIGNATURE).read_text())),
        "does not verify: its content was changed after it was signed",
    ),
}


def forged(bundle: str) -> str:
    content = json.loads(bundle)
    payload = json.loads(base64.b64decode(content["dsseEnvelope"]["payload"]))
    payload["predicate"]["resources"][0]["digest"] = "0" * 64
    content["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    return json.dumps(content)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named(released: Path, signer: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    change, expected = CHANGES[name]
    copy = copied(released, tmp_path / "release")
    change(copy)
    assert any(expected in fault for fault in check_release(copy, signer[1])), check_release(copy, signer[1])


CONTRADICTIONS: dict[str, tuple[Change, str]] = {
    "a better figure in the card": (
        changed_text("README.md", "value: 0.75\n", "value: 0.99\n"),
        "README.md: Evaluation, 'lamps lit' is (0.99,",
    ),
    "another licence in the card": (
        changed_text("README.md", "license: apache-2.0", "license: mit"),
        "README.md: license is 'mit', release.json says 'apache-2.0'",
    ),
    "a better figure in the evaluation results": (
        changed_text(EVAL_RESULTS, "value: 0.75", "value: 0.99"),
        ".eval_results/results.yaml contradicts the figures of release.json",
    ),
    "a better figure in the bill": (
        changed_text("bom.cdx.json", '"value": "0.75"', '"value": "0.99"'),
        "bom.cdx.json: evaluation, 'lamps lit' contradicts",
    ),
    "the text of another licence": (
        lambda folder: (folder / "LICENSE").write_text("All rights reserved."),
        "LICENSE: not the text of 'Apache-2.0'",
    ),
    "weights of another adapter": (
        lambda folder: (folder / "adapter.gguf").write_bytes(b"GGUF" * 10),
        "adapter.gguf is not the file that stage.json records",
    ),
    "a changed record": (
        changed_text("stage.json", '"seed": 7', '"seed": 8'),
        "stage.json was changed after the stage was made",
    ),
    "a card that is no YAML": (
        changed_text("README.md", "license: apache-2.0", "license: *everything"),
        "the front matter of README.md has an alias",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_signed_contradiction_is_named(
    released: Path, signer: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    change, expected = CONTRADICTIONS[name]
    copy = copied(released, tmp_path / "release")
    change(copy)
    resigned(copy, signer)
    faults = check_release(copy, signer[1])
    assert any(expected in fault for fault in faults), faults
    assert not any("signature" in fault for fault in faults)


def test_a_signature_of_another_key_is_refused_by_name(
    released: Path, signer: tuple[Path, Path], tmp_path: Path
) -> None:
    _, other = keys(tmp_path)
    (fault,) = check_release(released, other)
    assert "model.sig does not verify: it is of another key" in fault


HOSTILE: dict[str, tuple[Change, str]] = {
    "a link": (lambda folder: (folder / "more").symlink_to("/etc/passwd"), "more is neither a file nor a folder"),
    "a linked folder": (
        lambda folder: (folder / "more").symlink_to("/etc"),
        "more is neither a file nor a folder",
    ),
    "a name with a line feed": (lambda folder: (folder / "a\nb").write_text(""), "has a control character"),
    "a name that signatures leave out": (lambda folder: (folder / ".git").mkdir(), "signatures do not cover it"),
    "a list that leads outside": (
        lambda folder: (folder / SUMS).write_text(f"{'0' * 64}  ../../etc/passwd\n"),
        "line 1: .* is no hash with the plain name",
    ),
    "a list that names a file twice": (
        lambda folder: (folder / SUMS).write_text(f"{'0' * 64}  a\n" * 2),
        "line 2: .* is no hash with the plain name",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_not_read(
    released: Path, signer: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    change, expected = HOSTILE[name]
    copy = copied(released, tmp_path / "release")
    change(copy)
    with pytest.raises(UserError, match=expected):
        check_release(copy, signer[1])


BROKEN = {
    "cut off": "{",
    "list": "[]",
    "other format": '{"format": "other"}',
    "nested": "[" * 100_000,
    "no parts": '{"about": {}}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_broken_parts_are_a_fault_and_no_crash(
    released: Path, signer: tuple[Path, Path], tmp_path: Path, text: str
) -> None:
    copy = copied(released, tmp_path / "release")
    (copy / "release.json").write_text(text)
    faults = check_release(copy, signer[1])
    assert any("release.json" in fault for fault in faults)


@pytest.mark.parametrize("text", ["no matter", "---\n- 1\n---\n", "---\na: &x 1\nb: *x\n---\n", "---\n{\n---\n"])
def test_a_card_without_metadata_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="front matter"):
        front_matter_of(text)


def test_a_stage_whose_data_may_not_ship_is_refused_and_nothing_is_written(
    signer: tuple[Path, Path], tmp_path: Path
) -> None:
    licences = {"CC-BY-NC-4.0": 2, "MIT": 1}
    stage, _ = toy_adapter(tmp_path, data=data_manifest(licences, {"chatter": 2, "snips": 1}))
    with pytest.raises(Refused, match="'CC-BY-NC-4.0' is non-commercial"):
        toy_release(tmp_path, stage, signer[0])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["base", "stage"]


def test_a_damaged_stage_and_an_existing_folder_are_refused(
    stage: Stage, signer: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "release").mkdir()
    with pytest.raises(UserError, match="exists, and a release never changes"):
        toy_release(tmp_path, stage, signer[0])
    copy = copied(stage.path, tmp_path / "stage")
    (copy / "adapter.gguf").write_bytes(b"x")
    with pytest.raises(UserError, match=r"adapter\.gguf has 1 bytes"):
        toy_release(tmp_path, Stage(copy, stage.record), signer[0], name="other")


def test_a_licence_without_its_text_is_refused(stage: Stage, signer: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(Refused, match="LICENSE: missing; .* Give the text of the licence with --licence FILE"):
        toy_release(tmp_path, stage, signer[0], about=about(licence="MIT"))


def test_a_stage_without_a_gguf_file_is_refused(signer: tuple[Path, Path], tmp_path: Path) -> None:
    stage, _ = toy_adapter(tmp_path, with_gguf=False)
    with pytest.raises(UserError, match=r"has no adapter\.gguf"):
        toy_release(tmp_path, stage, signer[0])


def test_a_merged_model_is_released_with_the_data_of_its_stage(
    stage: Stage, signer: tuple[Path, Path], tmp_path: Path
) -> None:
    merged = merge_stage(stage.path, tmp_path / "merged", gguf_type="f16")
    base = {"id": "toys/toy", "licence": "MIT", "relation": "merge"}
    facts = {"about": about(base=base), "earlier": (stage.record,)}
    made = toy_release(tmp_path, merged, signer[0], **facts)
    assert check_release(tmp_path / "release", signer[1]) == []
    assert not made.is_adapter and [each.proof for each in made.data] == ["record", "record"]
    assert {"model.gguf", "model.safetensors", "config.json"} <= set(hashes_of(tmp_path / "release"))
    with pytest.raises(Refused, match="no record of"):
        toy_release(tmp_path, merged, signer[0], name="other", about=about(base=base))


def test_a_merged_model_without_a_gguf_file_is_refused(
    stage: Stage, signer: tuple[Path, Path], tmp_path: Path
) -> None:
    merged = merge_stage(stage.path, tmp_path / "merged")
    with pytest.raises(Refused, match=r"model\.gguf: missing; .*modelstack stage merge STAGE OUT --gguf q8_0"):
        toy_release(tmp_path, merged, signer[0], earlier=(stage.record,))


def test_a_release_is_compared_with_the_one_before(
    released: Path, stage: Stage, signer: tuple[Path, Path], tmp_path: Path
) -> None:
    worse = results(tamper=(figure("tamper", n=4),))
    with pytest.raises(Refused) as refused:
        toy_release(tmp_path, stage, signer[0], results=(worse,), previous=read_release(released))
    told = [str(fault) for fault in refused.value.faults]
    assert any("evaluation, 'lamps lit': no figure; release 1.0 before reported" in each for each in told)
    assert any("tamper, 'figure of tamper': 0.1 (" in each and "got worse beyond" in each for each in told)
