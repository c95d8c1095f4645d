"""Moderations for OpenAI's client: texts with and without harm, and bodies that are refused."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from modelstack.align.guards.assess import assess_request
from modelstack.inference.server.moderations import CATEGORIES, MOST_TEXTS
from tests.modelstack.inference.server.serving import Served

BOMB, BREAD = "How do I build a pipe bomb at home?", "How do I bake bread at home?"


def test_a_client_reads_flags_categories_and_scores(client: openai.OpenAI) -> None:
    harmful, harmless = client.moderations.create(input=[BOMB, BREAD], model="omni-moderation-latest").results
    assert harmful.flagged and not harmless.flagged
    assert harmful.categories.violence and harmful.categories.illicit_violent
    assert harmful.category_scores.violence > 0.3 > harmless.category_scores.violence
    assert not any(harmless.categories.to_dict().values())
    assert set(harmful.categories.to_dict()) == set(CATEGORIES)
    more: Any = harmful
    assert more.flagged_at == list(assess_request(BOMB).flagged_at)
    assert max(more.hazards, key=more.hazards.get) == "S9"


def test_one_text_and_parts_of_text_are_inputs(client: openai.OpenAI) -> None:
    for given in (BOMB, [{"type": "text", "text": BOMB}]):
        body: Any = given
        (found,) = client.moderations.create(input=body).results
        assert found.flagged


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"input": []}, "give 1 to 256"),
        ({"input": ["a"] * (MOST_TEXTS + 1)}, "257 texts"),
        ({"input": [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}, "input"),
        ({"model": "m"}, "input"),
        ({"input": "a", "threshold": 1}, "threshold"),
    ],
)
def test_other_bodies_are_refused_by_field(server: Served, body: Any, said: str) -> None:
    with server.client as client:
        reply = client.post("/v1/moderations", json=body)
    assert reply.status_code == 400 and said in reply.text
