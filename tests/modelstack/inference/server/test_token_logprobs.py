"""Log-probabilities over OpenAI's client: of the model, beside the text that a client sees, on both engines."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelstack.inference.engine import Generation
from modelstack.inference.server.visible_tokens import VisibleTokens
from tests.modelstack.inference.server.serving import NAME, Served
from tests.modelstack.inference.server.test_official_clients import ANSWER, ASK, SCHEMA, TOOLS

N_BEST = 3
PROMPT = "The quick brown fox"
Best = Callable[[list[int]], list[dict[int, float]]]


@pytest.fixture(scope="module")
def best_after(tiny_gguf: Path) -> Best:
    """The most probable tokens after each of some tokens, by one pass of the model without an engine."""
    torch = pytest.importorskip("torch", reason="needs torch (extra `train`)")
    from modelstack.architecture.gguf.load import load_gguf

    model = load_gguf(tiny_gguf, dtype=torch.float32).model.eval()

    def best(ids: list[int]) -> list[dict[int, float]]:
        with torch.no_grad():
            found = model(torch.tensor([ids])).logits_BTV[0].log_softmax(-1).topk(N_BEST)
        rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return [dict(zip(*row, strict=True)) for row in rows]

    return best


def joined(tokens: Any) -> str:
    return b"".join(bytes(each.bytes) for each in tokens).decode()


def assert_alike(one: Any, other: Any) -> None:
    """Check that tokens are the same, with figures that may differ by what batch and cache change."""
    assert [each.token for each in one] == [each.token for each in other]
    for a, b in zip(one, other, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-3)
        figures = [sorted(each.logprob for each in token.top_logprobs) for token in (a, b)]
        assert figures[0] == pytest.approx(figures[1], abs=1e-3)


def both(chat: Any, **options: Any) -> Any:
    """Return the choice of a whole reply; as a stream it has the same tokens, and each chunk those of its text."""
    asked = {"model": NAME, "messages": ASK, "logprobs": True, "top_logprobs": N_BEST, **options}
    (choice,) = chat.create(**asked).choices
    tokens = list[Any]()
    for chunk in chat.create(**asked, stream=True):
        (piece,) = chunk.choices
        new = [] if piece.logprobs is None else piece.logprobs.content
        assert not piece.delta.content or joined(new) == piece.delta.content
        tokens += new
    assert_alike(tokens, choice.logprobs.content)
    return choice


def test_the_most_probable_tokens_are_the_models_before_the_temperature(
    client: openai.OpenAI, server: Served, best_after: Best, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, replies = server.model.engine, list[Generation]()
    generate = engine.generate

    def recorded(*arguments: Any, **options: Any) -> Generation:
        replies.append(generate(*arguments, **options))
        return replies[-1]

    monkeypatch.setattr(engine, "generate", recorded)
    prompt = server.model.encode(PROMPT)
    options: Any = {
        "model": NAME, "prompt": prompt, "max_tokens": 10, "temperature": 0.5, "top_p": 0.9, "seed": 2,
        "logprobs": N_BEST, "extra_body": {"ignore_eos": True},
    }  # fmt: skip
    found: Any = client.completions.create(**options).choices[0].logprobs
    ids = replies[0].ids
    table = [data.decode("utf-8", "replace") for data in engine.vocabulary.token_bytes]
    assert found.tokens == [table[token] for token in ids] and len(ids) == 10
    expected = best_after([*prompt, *ids])[len(prompt) - 1 :]
    for token, logprob, best, wanted in zip(ids, found.token_logprobs, found.top_logprobs, expected, strict=False):
        named: dict[str, float] = {}
        for other, value in (*wanted.items(), (token, logprob)):
            named.setdefault(table[other], value)
        assert best == pytest.approx(named, abs=5e-3)  # llama.cpp keeps keys and values in float16
        assert wanted.get(token, logprob) == pytest.approx(logprob, abs=5e-3)
    text, tokens = "", list[str]()
    for chunk in client.completions.create(**options, stream=True):
        piece: Any = chunk.choices[0]
        assert piece.logprobs.text_offset[:1] in ([], [len(text)])
        text += piece.text
        tokens += piece.logprobs.tokens
    assert tokens == found.tokens
    alone = client.completions.create(**{**options, "logprobs": 0}).choices[0].logprobs
    assert alone is not None and alone.top_logprobs is None
    assert alone.token_logprobs == pytest.approx(found.token_logprobs, abs=1e-3)


def test_an_answers_tokens_are_those_of_its_json_alone(client: openai.OpenAI) -> None:
    for seed in range(4):
        choice = both(
            client.chat.completions, response_format=SCHEMA, temperature=1.5, seed=seed, max_tokens=80,
            tools=TOOLS, tool_choice="none",
        )  # fmt: skip
        tokens = choice.logprobs.content
        assert joined(tokens) == choice.message.content and set(json.loads(choice.message.content)) == {
            "sure",
            "n",
        }
        forced = [each for each in tokens if not each.top_logprobs]
        assert forced and all(each.logprob == 0 for each in forced)
        for each in tokens:
            best = [other.logprob for other in each.top_logprobs]
            assert best == sorted(best, reverse=True) and (not best or best[0] >= each.logprob)
            assert len(best) in (0, N_BEST)


def test_an_answer_that_is_checked_at_its_end_has_its_tokens_in_one_chunk(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "not": {"required": ["x"]},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    choice = both(client.chat.completions, response_format=wanted, temperature=1.5, seed=1, max_tokens=60)
    assert joined(choice.logprobs.content) == choice.message.content


def test_calls_have_all_their_tokens_and_thoughts_have_none(client: openai.OpenAI) -> None:
    chat: Any = client.chat.completions
    asked = {"model": NAME, "messages": ASK, "tools": TOOLS, "tool_choice": "required", "max_tokens": 120}
    for streams in (False, True):
        reply = chat.create(**asked, logprobs=True, stream=streams)
        chunks = list(reply) if streams else [reply]
        found = [each.logprobs.content for chunk in chunks for each in chunk.choices if each.logprobs]
        tokens = [token for each in found for token in each]
        assert '"name"' in joined(tokens) or "weather" in joined(tokens) or "now" in joined(tokens)
        assert streams or len(tokens) == reply.usage.completion_tokens
    choice = both(chat, max_tokens=6, extra_body={"thinking_tokens": 6})
    assert choice.message.reasoning_content and joined(choice.logprobs.content) == choice.message.content


def test_a_stop_text_is_cut_from_the_tokens_as_from_the_text(client: openai.OpenAI) -> None:
    chat: Any = client.chat.completions
    whole = chat.create(model=NAME, messages=ASK, max_tokens=30).choices[0].message.content
    for at in range(4, 12):
        choice = both(chat, max_tokens=30, stop=[whole[at : at + 2]])
        assert joined(choice.logprobs.content) == choice.message.content == whole[: whole.find(whole[at : at + 2])]


def test_a_text_that_ends_as_a_stop_text_begins_is_streamed_whole(client: openai.OpenAI) -> None:
    chat: Any = client.chat.completions
    asked: dict[str, Any] = {"model": NAME, "messages": ASK, "max_tokens": 30}
    whole = chat.create(**asked).choices[0].message.content
    for logprobs in (False, True):
        chunks = chat.create(**asked, stop=[whole[-1] + "never"], logprobs=logprobs, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def test_responses_have_them_where_they_are_included(client: openai.OpenAI) -> None:
    options: Any = {
        "model": NAME, "input": "Will it rain?", "max_output_tokens": 40, "top_logprobs": 2,
        "include": ["message.output_text.logprobs"],
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": ANSWER}},
    }  # fmt: skip
    (item,) = client.responses.create(**options).output
    assert item.type == "message" and item.content[0].type == "output_text"
    part = item.content[0]
    assert part.logprobs and joined(part.logprobs) == part.text
    events = list(client.responses.create(**options, stream=True))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert all("".join(token.token for token in event.logprobs) == event.delta for event in deltas)
    streamed = [token for event in deltas for token in event.logprobs]
    assert_alike(streamed, part.logprobs)
    (done,) = [event for event in events if event.type == "response.output_text.done"]
    assert len(done.logprobs) == len(part.logprobs)
    assert events[-1].type == "response.completed"
    (last,) = events[-1].response.output
    assert last.type == "message" and last.content[0].type == "output_text"
    assert_alike(last.content[0].logprobs, part.logprobs)


@pytest.mark.parametrize(
    ("path", "fields", "param", "says"),
    [
        ("chat/completions", {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "given: 21"),
        ("chat/completions", {"logprobs": True, "top_logprobs": -1}, "top_logprobs", "given: -1"),
        ("chat/completions", {"top_logprobs": 5}, "top_logprobs", "top_logprobs=5 .* add logprobs=true"),
        ("responses", {"top_logprobs": 5}, "top_logprobs", "message.output_text.logprobs"),
        ("responses", {"include": ["file_search_call.results"]}, "include.0", "file_search_call.results"),
        ("completions", {"logprobs": 6}, "logprobs", "given: 6"),
    ],
)
def test_what_cannot_be_told_is_refused_by_its_field(
    tiny_server: Served, path: str, fields: dict[str, Any], param: str, says: str
) -> None:
    content = {"responses": {"input": "x"}, "completions": {"prompt": "x"}}.get(path, {"messages": ASK})
    with tiny_server.client as http:
        response = http.post(f"/v1/{path}", json={"model": NAME, **content, **fields})
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == param
    assert re.search(says, error["message"]), error


@given(text=st.text(st.characters(codec="utf-8"), max_size=12), data=st.data())
def test_tokens_join_to_their_text_wherever_it_is_cut(text: str, data: st.DataObject) -> None:
    """Tokens may end inside a character, inside the wrapper, and inside the text after the end."""
    wrapper, after = data.draw(st.sampled_from(["", "{{"])), data.draw(st.sampled_from(["", "}", "é}"]))
    content = (wrapper + text + after).encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(content) - 1)), max_size=8)))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    tokens = VisibleTokens(pieces, wrapper)
    generation = Generation()
    taken = list[Any]()
    end = 0
    for number in range(len(pieces)):
        generation.ids.append(number)
        generation.logprobs.append(math.nan)
        tokens.read(generation)
        written = len(content[: sum(map(len, pieces[: number + 1]))].decode("utf-8", "ignore"))
        if written >= len(wrapper):
            start = max(end, len(wrapper))
            end, new = tokens.take(min(written, len(wrapper + text)))
            assert b"".join(each.data for each in new).decode() == (wrapper + text)[start:end]
            taken += new
    whole = tokens.before(len(wrapper + text))
    assert b"".join(each.data for each in whole).decode() == text
    assert list(whole[: len(taken)]) == taken
    assert all(each.logprob == 0 for each in whole)
