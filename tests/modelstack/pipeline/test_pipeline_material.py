"""Material of a pipeline: raw pages with planted faults, twins, examples for the agent's tools, preferences."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch (extra `train`)")

from modelstack.data.documents import Document
from modelstack.data.examples import Example, check_example
from modelstack.data.reading import open_input
from modelstack.data.reading.warc import WarcInput
from modelstack.pipeline.material.agent_examples import (
    ASKED_BY_THE_AGENT,
    TURNS,
    agent_requests,
    agent_tools,
    call_examples,
    conversations,
)
from modelstack.pipeline.material.conversations import as_text, call_tasks, tool_pairs, twin_examples, twin_pairs
from modelstack.pipeline.material.raw_pages import SHARES, made_pages, write_warc
from modelstack.pipeline.material.texts import corpus_texts
from modelstack.pipeline.material.twins import made_twins
from modelstack.pipeline.recipe import AgentTable
from modelstack.preferences.examples import read_preferences
from modelstack.reasoning.tasks.task import read_tasks

TEXTS = [
    "\n".join(f"Sentence {i} of text {n} says something plain about it." for i in range(40)) for n in range(30)
]


def test_made_pages_have_the_planned_kinds_and_are_read_as_a_crawl(tmp_path: Path) -> None:
    pages = made_pages(TEXTS, ["Which lamp is on in the kitchen?"], 100, seed=1)
    assert Counter(page.kind for page in pages) == {kind: round(100 * share) for kind, share in SHARES.items()}
    assert pages == made_pages(TEXTS, ["Which lamp is on in the kitchen?"], 100, seed=1)
    assert pages != made_pages(TEXTS, ["Which lamp is on in the kitchen?"], 100, seed=2)
    write_warc(tmp_path / "a.warc.gz", pages)
    write_warc(tmp_path / "b.warc.gz", pages)
    assert (tmp_path / "a.warc.gz").read_bytes() == (tmp_path / "b.warc.gz").read_bytes()
    found = list(open_input(WarcInput(path=tmp_path / "a.warc.gz")))
    assert all(isinstance(each, Document) for each in found)
    assert [each.url for each in found if isinstance(each, Document)] == [page.url for page in pages]


def test_a_copy_is_after_its_article_and_a_question_of_the_evaluation_is_in_its_page() -> None:
    pages = made_pages(TEXTS, ["Which lamp is on in the kitchen?"], 100, seed=1)
    first = {page.body: place for place, page in reversed(list(enumerate(pages)))}
    for place, page in enumerate(pages):
        if page.kind == "copy":
            assert first[page.body] < place
        assert ("Which lamp" in page.body) == (page.kind == "evaluation")


def test_twins_share_their_words_and_no_request_is_on_two_sides() -> None:
    training, measured = made_twins(160, seed=0)
    assert len(training) + len(measured) == 160 and len(measured) >= 40
    asked = [{twin.harmful for twin in side} | {twin.harmless for twin in side} for side in (training, measured)]
    assert not asked[0] & asked[1]
    assert len(asked[0]) == 2 * len(training)
    for twin in (*training, *measured):
        common = set(twin.harmful.lower().split()) & set(twin.harmless.lower().split())
        assert len(common) >= 2, twin
        assert "can't" in twin.refusal and "can't" not in twin.answer
    assert made_twins(160, seed=0)[0] == training != made_twins(160, seed=1)[0]


def test_the_tools_of_the_agent_are_those_that_its_server_lists() -> None:
    from mcp import Client

    from mcp_servers.time.server import build_server

    async def listed() -> list[dict[str, Any]]:
        async with Client(build_server()) as client:
            found = (await client.list_tools()).tools
        return [
            {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
            for tool in found
        ]

    assert [tool.model_dump(mode="json") for tool in agent_tools()] == asyncio.run(listed())


def test_results_in_examples_are_what_the_server_answers() -> None:
    from mcp import Client
    from mcp.types import TextContent

    from mcp_servers.time.server import build_server

    requests, _ = agent_requests(30, seed=3)

    async def checked() -> None:
        async with Client(build_server()) as client:
            for asked in requests:
                found = await client.call_tool(asked.call.name, asked.call.arguments)
                assert isinstance(found.content[0], TextContent)
                assert found.content[0].text == asked.result
                assert asked.result in asked.answer

    asyncio.run(checked())


def test_examples_are_valid_and_the_agents_own_tasks_are_in_none() -> None:
    learnt, held_back = agent_requests(200, seed=0)
    assert len(learnt) == 200 and held_back
    for example in (*conversations(learnt, "learnt"), *call_examples(held_back, "held-back")):
        check_example(example)
    texts = {asked.text for asked in learnt}
    assert len(texts) == len(learnt)
    assert not texts & {asked.text for asked in held_back}
    tasks = {task.task for task in AgentTable().tasks}
    assert tasks == set(ASKED_BY_THE_AGENT)
    assert not tasks & {asked.text for asked in (*learnt, *held_back)}


def test_every_call_and_every_answer_of_a_conversation_is_learnt() -> None:
    requests, _ = agent_requests(2 * TURNS - 1, seed=0)
    first, last = conversations(requests, "talk")
    said = [message for message in first.messages if message.role == "assistant"]
    assert all(message.train for message in said) and len(said) == 2 * TURNS - 1
    assert [call for message in said for call in message.calls] == [asked.call for asked in requests[:TURNS]]
    assert [message.content for message in said if not message.calls] == [
        asked.answer for asked in requests[: TURNS - 1]
    ]
    assert (first.reply, last.reply) == (requests[TURNS - 1].answer, requests[-1].answer)


def test_a_preference_has_a_worse_reply_that_differs_and_is_read_back(tmp_path: Path) -> None:
    calls = call_examples(agent_requests(40, seed=0)[0], "call")
    twins, _ = made_twins(100, seed=0)
    pairs = [*tool_pairs(calls, seed=0), *twin_pairs(twins[:5])]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in pairs), encoding="utf-8")
    found = list(read_preferences(file))
    assert len(found) == len(pairs) >= len(calls)
    assert all(each.is_pair and each.chosen != each.rejected for each in found)


def test_tasks_have_the_examples_call_as_their_gold(tmp_path: Path) -> None:
    learnt = call_examples(agent_requests(10, seed=0)[0], "call")
    (tmp_path / "tasks.jsonl").write_text("".join(call_tasks(learnt)), encoding="utf-8")
    tasks = [task.judged_by("calls") for task in read_tasks(tmp_path / "tasks.jsonl")]
    assert len(tasks) == 10
    assert [task.item.gold.calls[0].name for task in tasks] == [example.calls[0].name for example in learnt]


def test_conversations_as_text_and_twins_as_examples() -> None:
    text = as_text(call_examples(agent_requests(1, seed=0)[0], "call")[0])
    assert "User: " in text and "Assistant calls: " in text
    twins, _ = made_twins(100, seed=0)
    examples: list[Example] = list(twin_examples(twins[:1]))
    assert [example.reply for example in examples] == [twins[0].refusal, twins[0].answer]


def test_texts_of_the_corpus_keep_source_and_licence() -> None:
    texts = corpus_texts("howto", 0.05)
    assert 0 < sum(len(text.text.encode()) for text in texts) <= 50_000
    assert all(text.source and text.license for text in texts)
    assert texts == corpus_texts("howto", 0.05)
