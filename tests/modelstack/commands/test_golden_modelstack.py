"""Output of modelstack's commands as golden files, at 80 columns and in a pipe; see `tests.golden`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelstack.align.attack.suffix_search import SearchedSuffix
from modelstack.align.refusal_direction.direction import RefusalDirection
from modelstack.align.refusal_direction.replies import Refused as RefusedRequests
from modelstack.align.release.build import Refused
from modelstack.align.release.figures import Results, share
from modelstack.align.release.gate import Fault
from modelstack.align.release.signature import new_key
from modelstack.cli import app
from modelstack.commands.attacking import read_suffixes
from modelstack.errors import UserError
from modelstack.stability.run_events import Event, Restored, Saved, Started, Stepped
from modelstack.tokenizer.tokenizer_folder import save_tokenizer
from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.golden import Golden, commands_of
from tests.modelstack.align.attack.scripted import Scripted, rows
from tests.modelstack.data.toy_shards import toy_shards
from tests.modelstack.posttrain.toy_stages import toy_stage


def test_the_overview_shows_steps_and_last_runs(golden: Golden) -> None:
    for name, mark in (("nano", "report.md"), ("plan", "plan.json"), ("a-long-name-" * 4, "law.json")):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, mark).write_text("{}", encoding="utf-8")
        os.utime(Path("runs", name, mark), (1_772_353_800, 1_772_353_800))
    golden.check("overview", "")


def test_commands_of_one_word_list_those_that_follow(golden: Golden) -> None:
    golden.check("group", "data")


def test_recipes_are_listed_by_command(golden: Golden) -> None:
    golden.check("recipes", "recipes")


def test_a_step_of_the_pipeline_is_explained_with_its_files(golden: Golden) -> None:
    golden.check("pipeline", "pipeline test --explain stability")


def test_counts_stand_side_by_side(golden: Golden) -> None:
    golden.check(
        "count",
        "count nano-9m",
        "count llama-3-8b qwen3-30b-a3b nano-9m --tokens 15e12",
        "count llama-3-8b qwen3-30b-a3b nano-9m deepseek-v3 llama-3-70b",
        "count nano-9m --json",
    )


def test_choices_of_an_ablation_are_listed(golden: Golden) -> None:
    golden.check("ablate-list", "ablate --list")


def test_a_plan_is_a_sentence_with_its_warnings_and_files(golden: Golden) -> None:
    golden.check("plan", "plan --hours 24 --device h100 --devices 8")


def test_a_mix_has_a_line_for_each_source(golden: Golden) -> None:
    toy_shards(Path("shards"))
    command = "data mix square-root shards n_tokens=8000 -o mix.toml"
    golden.check("data-mix", command, f"{command} --json")


def test_stages_are_a_tree_on_a_terminal_and_rows_in_a_pipe(golden: Golden) -> None:
    one = toy_stage(Path("runs/one"), "one")
    two = toy_stage(Path("runs/two"), "two", one.origin, kind="preference")
    toy_stage(Path("runs/merged"), "both", one.origin, two.origin, kind="merged")
    golden.check("stage-lineage", "stage lineage runs", replace=[(re.escape(str(Path.cwd())), "/home/ada")])


def test_the_time_of_a_run_is_accounted_for(golden: Golden) -> None:
    def steps(first: int, n: int, begin: float) -> list[Event]:
        return [Stepped(time=begin + k + 1, step=first + k, seconds=1.0) for k in range(n)]

    events: list[Event] = [
        Started(time=0.0),
        *steps(0, 4, 2.0),
        Saved(time=6.5, step=4, seconds=0.5),
        *steps(4, 3, 6.5),
        Started(time=12.0),
        Restored(time=13.0, step=4, seconds=1.0, n_damaged=1),
        *steps(4, 6, 14.5),
    ]
    lines = "".join(event.model_dump_json() + "\n" for event in events)
    Path("events.jsonl").write_text(lines, encoding="utf-8")
    golden.check("goodput", "goodput .", "goodput . --json")


def test_tokenizers_are_compared_column_by_column(golden: Golden) -> None:
    text = "the cat sat on the mat, and 2024 cats sat on 1,999 mats\n" * 40
    for name in ("notes", "letters"):
        Path(f"{name}.txt").write_text(text if name == "notes" else text.upper(), encoding="utf-8")
    for name, size in (("small", 300), ("large-with-a-long-name", 320)):
        train_into(Path(name), [text], TokenizerConfig(vocab_size=size))
    report = (
        "tokenizer report small --against large-with-a-long-name --text notes.txt --text letters.txt --held-out 1"
    )
    golden.check(
        "tokenizer-report", report, replace=[(r"(encoding, MB/s\s+)[\d.]+(\s+)[\d.]+", r"\g<1>1.0\g<2>1.0")]
    )


def train_into(folder: Path, texts: list[str], config: TokenizerConfig) -> None:
    save_tokenizer(train_tokenizer(texts, config), folder)


@pytest.mark.parametrize("words", commands_of(app), ids=" ".join)
def test_help_is_plain_text(golden: Golden, words: tuple[str, ...]) -> None:
    words = tuple(" ".join(words).split())
    golden.check("help/" + ("-".join(words) or "modelstack"), (*words, "--help"), piped=False)


def test_a_model_without_a_key_is_not_served_to_other_machines(golden: Golden) -> None:
    golden.check("serve", "serve model.gguf --host 0.0.0.0")


def test_a_policy_without_a_category_that_it_never_had_is_refused(golden: Golden) -> None:
    golden.check("judge", "judge Hello --without S99")


def test_an_attack_is_reported_from_both_sides(
    golden: Golden, monkeypatch: pytest.MonkeyPatch, no_pictures: None
) -> None:
    monkeypatch.setattr("modelstack.commands.attacking._local", lambda *_: Scripted())
    Path("rows.jsonl").write_text("".join(f"{row.model_dump_json()}\n" for row in rows()), encoding="utf-8")
    attack = "attack scripted --rows rows.jsonl --n 6 --transform plain --transform rot13 --transform prefill"
    golden.check("attack", attack, "attack scripted --rows rows.jsonl --samples 4")


def test_suffixes_are_shown_with_their_losses(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SearchedSuffix(" unlock !pages", (7.25, 3.5))
    model = SimpleNamespace(requires_grad_=lambda _: None)
    base = SimpleNamespace(model=model, encoder=None)
    monkeypatch.setattr("modelstack.posttrain.starting_point.starting_point", lambda *_: toy_start())
    monkeypatch.setattr("modelstack.reasoning.sampling.frozen_model.load_merged", lambda *_, **__: base)
    monkeypatch.setattr("modelstack.align.attack.suffix_search.search_suffix", lambda *_: found)
    Path("rows.jsonl").write_text("".join(f"{row.model_dump_json()}\n" for row in rows()), encoding="utf-8")
    golden.check("suffix", "suffix toy --rows rows.jsonl --out suffixes.json --n 1")
    assert read_suffixes(Path("suffixes.json")) == (" unlock !pages",)
    for text in ("", "[]", '["a", 1]'):
        Path("broken.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"broken\.json"):
            read_suffixes(Path("broken.json"))


def test_a_direction_of_refusal_is_shown_with_what_it_does(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = [
        {"layer": layer, "size": 1.5 * layer, "separation": 0.9, "added": 2.0, "ablated": -3.0, "kl": 0.02 * layer}
        for layer in (1, 2)
    ]
    found = RefusalDirection(2, np.array([0.6, 0.8], np.float32), 3.0, "0" * 64, {"layers": figures})
    counts = {"as it is": (3, 0), "projected out": (1, 0), "strength +1": (4, 2)}
    states = [RefusedRequests(name, *each) for name, each in counts.items()]
    monkeypatch.setattr("modelstack.posttrain.starting_point.starting_point", lambda *_: toy_start())
    monkeypatch.setattr("modelstack.reasoning.sampling.frozen_model.load_merged", lambda *_, **__: toy_base())
    monkeypatch.setattr("modelstack.align.refusal_direction.find.find_direction", lambda *_, **__: found)
    monkeypatch.setattr("modelstack.align.refusal_direction.replies.refused_by_strength", lambda *_, **__: states)
    many = [row.model_copy(update={"id": f"{n}-{row.id}"}) for n in range(20) for row in rows()]
    Path("rows.jsonl").write_text("".join(f"{row.model_dump_json()}\n" for row in many), encoding="utf-8")
    golden.check("direction", "direction toy --rows rows.jsonl --out refusal.safetensors --n 64 --replies 4")


def test_a_pair_of_keys_is_written(golden: Golden) -> None:
    def remove() -> None:
        for name in ("release.pem", "release.pem.pub"):
            Path(name).unlink(missing_ok=True)

    golden.check("release-key", "release key release.pem", before=remove)


def test_a_release_without_a_key_or_facts_or_parts_is_refused(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [
        Fault("tamper", "no figure", "a release reports this part", "Measure it with `modelstack release tamper`"),
        Fault(
            "LICENSE", "missing", "a release has its licence", "Give the text of the licence with --licence FILE"
        ),
    ]

    def refuse(*_: object) -> None:
        raise Refused(faults)

    monkeypatch.setattr("modelstack.align.release.build.build", refuse)
    monkeypatch.setattr("modelstack.align.release.check.check_release", lambda *_: list(map(str, faults)))
    new_key(Path("release.pem"))
    release = "release smollm2-135m --key release.pem --out release"
    checked = "release --check release --key release.pem.pub"
    golden.check(
        "release", "release runs/tools", "release runs/tools --key release.pem --out release", release, checked
    )


def test_results_of_a_release_are_shown_with_intervals(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Results(
        figures=(
            share("refusals", "harmful requests refused, as it is", 30, 40, better="higher", command="tamper"),
            share(
                "tamper", "harmful requests refused, direction projected out", 4, 40, better="higher", command="t"
            ),
        ),
        notes={"tamper": ("Projecting the direction out changes the model by a KL divergence of 0.02.",)},
    )
    monkeypatch.setattr("modelstack.align.release.subject.loadable", lambda *_: (toy_start(), "0" * 64))
    monkeypatch.setattr("modelstack.align.release.subject.open_subject", lambda _: toy_subject())
    monkeypatch.setattr("modelstack.reasoning.sampling.frozen_model.load_merged", lambda *_, **__: toy_base())
    monkeypatch.setattr("modelstack.align.tamper.report.tamper_results", lambda *_: found)
    for report in ("memorisation.memorisation", "contamination.measured_results"):
        monkeypatch.setattr(f"modelstack.align.release.{report}", lambda *_, **__: found)
    Path("rows.jsonl").write_text("".join(f"{row.model_dump_json()}\n" for row in rows()), encoding="utf-8")
    golden.check("release-tamper", "release tamper runs/tools --rows rows.jsonl --out tamper.json")
    golden.check("release-memorisation", "release memorisation runs/tools --data rows.jsonl --out m.json")
    golden.check(
        "release-contamination", "release contamination runs/tools --data rows.jsonl --evaluations . --out c.json"
    )


def toy_subject() -> Any:
    return SimpleNamespace(record=SimpleNamespace(data=SimpleNamespace(files=())))


def toy_start() -> Any:
    return SimpleNamespace(parent=SimpleNamespace(sha256="0" * 64))


def toy_base() -> Any:
    return SimpleNamespace(model=None, encoder=None)
