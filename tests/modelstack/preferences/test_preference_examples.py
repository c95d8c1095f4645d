"""Preferences in the forms that people have, and the units that losses are trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelstack.errors import UserError
from modelstack.posttrain.base import load_base
from modelstack.preferences.examples import Preference, Reply, read_preferences
from modelstack.preferences.loader import unit_batch
from modelstack.preferences.units import units_of
from modelstack.tokenizer.chat import ChatEncoder
from tests.modelstack.sft.toy_sft import write_base

SAID = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ChatEncoder:
    return load_base(write_base(tmp_path_factory.mktemp("base"))).encoder


def read(tmp_path: Path, *records: Any) -> list[Preference]:
    (tmp_path / "some.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in records), encoding="utf-8"
    )
    return list(read_preferences(tmp_path / "some.jsonl"))


@pytest.mark.parametrize(
    "record",
    [
        {"messages": SAID, "chosen": {"reply": "a"}, "rejected": {"reply": "b"}},
        {"prompt": "hi", "chosen": "a", "rejected": "b"},
        {"prompt": SAID, "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"},
        {
            "chosen": [*SAID, {"role": "assistant", "content": "a"}],
            "rejected": [*SAID, {"role": "assistant", "content": "b"}],
        },
        {
            "prompt": [{"from": "human", "value": "hi"}],
            "chosen": [{"from": "gpt", "value": "a"}],
            "rejected": [{"from": "gpt", "value": "b"}],
        },
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": "b",
        },
        {"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: hi\n\nAssistant: b"},
    ],
    ids=["ours", "texts", "messages", "no prompt", "from and value", "conversations", "marked"],
)
def test_every_usual_form_of_a_pair_is_read(tmp_path: Path, record: dict[str, Any]) -> None:
    (pair,) = read(tmp_path, record)
    assert (pair.id, pair.source, pair.license) == ("some-1", "some", "unknown")
    assert [message.content for message in pair.messages] == ["hi"]
    assert (pair.chosen, pair.rejected) == (Reply(reply="a"), Reply(reply="b"))


def test_thumbs_are_one_side(tmp_path: Path) -> None:
    up, down = read(tmp_path, *({"prompt": "hi", "completion": "a", "label": label} for label in (True, False)))
    assert (up.chosen, up.rejected) == (Reply(reply="a"), None)
    assert (down.chosen, down.rejected) == (None, Reply(reply="a"))


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"prompt": "hi"}, "a preference needs messages"),
        ({"prompt": "hi", "chosen": "a", "rejected": "a"}, "a preference needs different replies"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "a prompt must be a text or a list"),
        ({"prompt": "hi", "completion": "a", "label": "yes"}, "it must be true"),
        ({"prompt": [{"role": "tool", "content": "x"}], "chosen": "a", "rejected": "b"}, "its role is 'tool'"),
        ({"chosen": SAID, "rejected": SAID}, "differ in the last one only"),
        ({"messages": SAID, "chosen": {"reply": "a"}, "rejected": {"reply": "b"}, "x": 1}, "x: Extra inputs"),
        ({"messages": SAID}, "neither chosen nor rejected"),
        ({"chosen": "a", "rejected": "b"}, "texts without a prompt"),
        ([1], "a preference is a JSON object"),
    ],
    ids=range(10),
)
def test_what_is_in_no_form_is_refused_by_line(tmp_path: Path, record: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=rf"some\.jsonl, line 2: .*{complaint}"):
        read(tmp_path, {"prompt": "hi", "chosen": "a", "rejected": "b"}, record)


def test_lines_that_prefer_nothing_may_be_left_out(tmp_path: Path) -> None:
    lines = [{"prompt": "hi", "chosen": chosen, "rejected": "b"} for chosen in ("a", "", "b", "c")]
    with pytest.raises(UserError, match="line 2"):
        read(tmp_path, *lines)
    skipped: list[int] = []
    assert [p.id for p in read_preferences(tmp_path / "some.jsonl", skipped.append)] == ["some-1", "some-4"]
    assert skipped == [2, 3]


def preference(n: int, chosen: str | None, rejected: str | None) -> Preference:
    sides = {name: {"reply": text} for name, text in (("chosen", chosen), ("rejected", rejected)) if text}
    messages = ({"role": "user", "content": f"question {n}"},)
    return Preference.model_validate_json(json.dumps({"id": str(n), "source": "s", "messages": messages, **sides}))


def told(encoder: ChatEncoder, document: tuple[Any, Any]) -> tuple[str, str]:
    """Return prompt and reply of a document as text."""
    ids, is_target = document
    first = int(np.argmax(is_target))
    assert is_target[first:].all()
    return encoder.vocabulary.decode(ids[:first].tolist()), encoder.vocabulary.decode(ids[first:].tolist())


def test_a_pairs_documents_differ_in_the_reply_alone(encoder: ChatEncoder) -> None:
    several = [preference(1, "yes", "no"), preference(2, "yes", None), preference(3, "x" * 900, "no")]
    units = units_of({"s": several}, "pairs", encoder, row_tokens=400)
    assert len(units) == 1 and units.n_dropped == {"s": 2}
    (prompt, chosen), (same, rejected) = (told(encoder, units.document(0, second)) for second in (False, True))
    assert prompt == same and "question 1" in prompt
    assert chosen.startswith("yes") and rejected.startswith("no")


def test_a_single_completions_second_document_is_another_reply_of_its_kind(encoder: ChatEncoder) -> None:
    several = [preference(1, "a1", "r1"), preference(2, "a2", None), preference(3, None, "r3")]
    units = units_of({"s": several}, "single", encoder, row_tokens=400)
    found = [
        (told(encoder, units.document(n, False))[1][:2], told(encoder, units.document(n, True))[1][:2], desirable)
        for n, desirable in enumerate(units.is_desirable)
    ]
    assert found == [("a1", "a2", True), ("a2", "a1", True), ("r1", "r3", False), ("r3", "r1", False)]
    for n in range(4):
        assert told(encoder, units.document(n, False))[0] == told(encoder, units.document(n, True))[0]


def test_labels_stand_where_they_are_predicted(encoder: ChatEncoder) -> None:
    units = units_of(
        {"s": [preference(1, "yes", "no"), preference(2, "well", "ah")]}, "pairs", encoder, row_tokens=400
    )
    batch = unit_batch(units, [1, 0])
    assert batch.units_B.tolist() == [1, 0] and len(batch.ids_BT) == 4
    for row, (unit, second) in enumerate(((1, False), (0, False), (1, True), (0, True))):
        ids, is_target = units.document(unit, second)
        labels = batch.labels_BT[row]
        assert labels[labels >= 0].tolist() == ids[is_target].tolist()
        at = int((labels >= 0).nonzero()[0])
        assert batch.ids_BT[row, at + 1 : len(ids) - 1].tolist() == labels[labels >= 0][:-1].tolist()
