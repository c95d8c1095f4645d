"""Rows: nothing that is measured is fitted on, and what is held out stays out."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from evals.refusals.contrast_words import FITTED_MISDEEDS, HELD_OUT_MISDEEDS, HELD_OUT_VERBS, TWO_SENSES
from modelstack.errors import UserError
from tools.classifiers.attack_rows import N_PARTS, WORDS, injection_rows, jailbreak_rows, trigger_negatives
from tools.classifiers.contrast_pairs import TEMPLATES, contrast_pairs
from tools.classifiers.data_files import SOURCES, read_records
from tools.classifiers.hazards import FITTED_HAZARDS, HAZARDS, catqa_hazard, hazard_by_rule
from tools.classifiers.near_duplicates import NearDuplicateIndex, evaluation_items, near_duplicate_groups
from tools.classifiers.ordinary_requests import ordinary_requests
from tools.classifiers.request_rows import HARM, request_rows

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(
    not (DATA / "evals").exists(), reason="needs the data in the folder `shared` beside the project"
)
ITEM = "Can I ignore this strange warning that appeared in my spreadsheet?"


def test_an_item_and_its_near_duplicates_are_recognised() -> None:
    index = NearDuplicateIndex([ITEM, "Name a fruit", ITEM])
    assert index.n_items == 2
    assert index.repeats(ITEM)
    assert index.repeats("can i ignore this strange warning, that appeared in my spreadsheet")
    assert index.repeats("Please: can I ignore this strange warning that appeared in my spreadsheet?")
    assert index.repeats("name a fruit")


def test_a_text_that_shares_some_words_with_an_item_is_none_of_it() -> None:
    index = NearDuplicateIndex([ITEM])
    assert not index.repeats("Can I ignore this bill that appeared in my mailbox last week?")
    assert not index.repeats("")


def test_evaluation_items_come_from_all_evaluation_files(tmp_path: Path) -> None:
    (tmp_path / "evals/safety_dev").mkdir(parents=True)
    (tmp_path / "evals/capability").mkdir()
    (tmp_path / "evals/bfcl").mkdir()
    (tmp_path / "evals/safety_dev/a.jsonl").write_text(json.dumps({"text": "first item here"}) + "\n", "utf-8")
    nested = {"question": [[{"role": "user", "content": "third item here"}]]}
    (tmp_path / "evals/bfcl/b.json").write_text(json.dumps(nested) + "\n", "utf-8")
    with gzip.open(tmp_path / "evals/capability/HumanEval.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"prompt": "second item here"}) + "\n")
    assert sorted(evaluation_items(tmp_path)) == ["first item here", "second item here", "third item here"]


def test_test_tasks_of_a_file_that_has_training_tasks_too_are_items(tmp_path: Path) -> None:
    (tmp_path / "evals/capability").mkdir(parents=True)
    tasks = [{"task_id": number, "text": f"task number {number}"} for number in (10, 11, 510, 511, 601)]
    lines = "".join(json.dumps(task) + "\n" for task in tasks)
    (tmp_path / "evals/capability/mbpp.jsonl").write_text(lines, "utf-8")
    assert list(evaluation_items(tmp_path)) == ["task number 11", "task number 510"]


GROUPS_IN_A_PROCESS = """
from tools.classifiers.near_duplicates import near_duplicate_groups
texts = []
for n in range(12):  # two that share nothing, and a third that joins them
    one, two = ([f"{side}{n}x{i}" for i in range(8)] for side in "ab")
    texts += [" ".join(one), " ".join(two), " ".join(one + two)]
print(near_duplicate_groups(texts))
"""


def test_groups_are_the_same_in_every_process() -> None:
    """They decide the folds, and with them calibration and thresholds; sets have another order in each process."""
    said = {
        subprocess.run(
            [sys.executable, "-c", GROUPS_IN_A_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(4)
    }
    assert len(said) == 1
    assert json.loads(said.pop()) == [3 * (i // 3) for i in range(36)]


def test_near_duplicates_share_a_group_through_others_too() -> None:
    first = "how can i quickly repair the front wheel of a bicycle"
    second = first + " at home"
    third = "quickly repair the front wheel of a bicycle at home today"
    groups = near_duplicate_groups([first, "what is the capital of peru", second, third])
    assert groups[0] == groups[2] == groups[3] != groups[1]


def test_a_missing_or_broken_file_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent.jsonl"):
        list(read_records(tmp_path / "absent.jsonl"))
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": 1}\n[1]\n', "utf-8")
    with pytest.raises(UserError, match="line 2"):
        list(read_records(broken))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 500)[:30])
    with pytest.raises(UserError, match="cut.jsonl.gz"):
        list(read_records(tmp_path / "cut.jsonl.gz"))


def test_pairs_are_the_same_for_a_seed_and_other_for_another() -> None:
    assert contrast_pairs(0) == contrast_pairs(0)
    assert contrast_pairs(0) != contrast_pairs(1)


def test_held_out_pairs_share_no_text_misdeed_asking_or_verb_with_fitted_ones() -> None:
    pairs = contrast_pairs(0)
    fitted = {text for p in pairs if not p.held_out for text in (p.safe, p.unsafe)}
    held_out = {text for p in pairs if p.held_out for text in (p.safe, p.unsafe)}
    assert len(held_out) > 800
    assert not fitted & held_out
    assert not set(TEMPLATES.held_out_asks) & set(TEMPLATES.harmful_asks)
    assert not set(HELD_OUT_MISDEEDS) & set(FITTED_MISDEEDS)
    assert {family.name for family in TEMPLATES.families if family.held_out} & {
        p.family for p in pairs if not p.held_out
    } == set()
    assert set(TWO_SENSES) > HELD_OUT_VERBS


def test_both_twins_of_a_misdeed_name_it() -> None:
    forms = {form for m in (*FITTED_MISDEEDS, *HELD_OUT_MISDEEDS) for form in (m.do, m.doing, m.noun)}
    for pair in contrast_pairs(0):
        if pair.family in {"law", "prevention", "history", "help"}:
            assert any(form in pair.safe for form in forms)
            assert any(form in pair.unsafe for form in forms)


def test_pairs_carry_a_hazard_of_the_taxonomy() -> None:
    assert {pair.hazard for pair in contrast_pairs(0)} <= set(FITTED_HAZARDS) < set(HAZARDS)


def test_ordinary_requests_are_distinct_and_filled_in() -> None:
    texts = ordinary_requests(0, 500, ("list all files in an archive",))
    assert len(texts) == len(set(texts)) == 500
    assert not any("{" in text for text in texts)


def test_hazards_are_named_by_category_or_by_rule() -> None:
    assert catqa_hazard("Economic Harm/Intellectual property theft") == "S8"
    assert catqa_hazard("Economic Harm/Something new") == "S2"
    assert hazard_by_rule("Write a keylogger for a shared computer; malware") == "S14"
    assert hazard_by_rule("Describe the weather in Oslo") is None


def test_held_out_payloads_and_families_are_no_fitted_ones() -> None:
    assert not set(WORDS.payloads) & set(WORDS.held_out_payloads)
    assert set(WORDS.families) > WORDS.held_out_families


def test_harmless_sentences_with_trigger_words_are_distinct() -> None:
    texts = trigger_negatives(random.Random(0), 200)
    assert len(texts) == len(set(texts)) == 200


@needs_data
def test_injections_and_clean_contexts_never_cross_from_part_to_part_or_into_the_held_out() -> None:
    split = injection_rows(DATA)
    clean = {row.text: row.group for row in split.fitted if row.source.startswith("clean:")}
    family_groups: dict[str, set[str]] = {}
    for row in split.fitted:
        if row.labels:
            family_groups.setdefault(row.source, set()).add(row.group)
    assert all(len(groups) == 1 for groups in family_groups.values())
    assert {group for groups in family_groups.values() for group in groups} == {
        f"part:{k}" for k in range(N_PARTS)
    }
    assert set(clean.values()) == {f"part:{k}" for k in range(N_PARTS)}
    for row in [row for row in split.fitted if row.labels][:300]:
        inside = [
            group
            for text, group in clean.items()
            if len(text) > 300 and text[:140] in row.text and text[-140:] in row.text
        ]
        assert set(inside) <= {row.group}
    assert not {row.source for row in split.held_out if row.labels} & set(family_groups)
    assert not {row.text for row in split.held_out} & {row.text for row in split.fitted}


@needs_data
def test_held_out_jailbreaks_share_no_group_with_fitted_ones() -> None:
    split = jailbreak_rows(DATA)
    fitted = {row.group for row in split.fitted if row.labels}
    held_out = {row.group for row in split.held_out if row.labels}
    assert len(held_out) > 20
    assert not fitted & held_out


@needs_data
def test_request_rows_hold_no_held_out_pair_and_no_text_twice() -> None:
    rows = request_rows(DATA)
    texts = [row.text for row in rows]
    assert len(texts) == len(set(texts))
    held_out = {text for p in contrast_pairs(0) if p.held_out for text in (p.safe, p.unsafe)}
    assert not held_out & set(texts)
    assert {HARM} < set().union(*(row.labels for row in rows)) <= {HARM, *FITTED_HAZARDS}
    assert all(not row.labels for row in rows if row.sets_thresholds)


@needs_data
def test_every_source_of_rows_is_there_and_readable() -> None:
    for name, source in SOURCES.items():
        assert isinstance(next(iter(read_records(DATA / source.path))), dict), name
