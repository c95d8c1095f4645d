"""Files of prompts and of tools' results, in every arrangement of agents, with guardrails, stores and models."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkit import (
    Agent,
    BinaryContent,
    FallbackModel,
    FileLimits,
    FunctionModel,
    InMemorySession,
    ModelResponse,
    RunContext,
    SQLiteSession,
    TextPart,
    ToolOutput,
    UserError,
)
from agentkit.errors import CheckpointError
from agentkit.events import ModelRequestEvent, ToolResultEvent
from agentkit.files import FileKind, files_of
from agentkit.guardrails import CheckedResult, Rewrite, input_guardrail, tool_result_guardrail
from agentkit.history.compaction import FILE_CHARS, size
from agentkit.messages import ModelMessage, ModelRequest, ToolReturnPart, UserPromptPart
from agentkit.models.base import ModelProfile, ModelRequestParameters
from agentkit.persistence import SQLiteCheckpointer
from agentkit.testing import call
from agentkit.tracing.jsonl import FILES
from agentkit.tracing.reading import read_events
from tests.agentkit.arrangements import ARRANGEMENTS, Arrangement, World, approvals
from tests.agentkit.pictures import picture, sound

pytestmark = pytest.mark.anyio
RED, BLUE = BinaryContent(picture(colour="red"), "image/png"), BinaryContent(picture(colour="blue"), "image/png")


class Seeing(FunctionModel):
    """A model that reads some kinds of files, and notes which it was sent."""

    def __init__(self, inputs: frozenset[FileKind] | None, script: Sequence[ModelResponse]) -> None:
        """Answer with `script` in turn."""
        self.seen: list[list[BinaryContent]] = []
        replies = iter(script)

        def reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
            self.seen.append(files_in(messages))
            return next(replies)

        super().__init__(reply)
        self._inputs = inputs

    @property
    def profile(self) -> ModelProfile:
        """Capabilities of the model."""
        return ModelProfile(inputs=self._inputs)


def files_in(messages: Sequence[ModelMessage]) -> list[BinaryContent]:
    """Return all files of a conversation."""
    parts = (part for message in messages if isinstance(message, ModelRequest) for part in message.parts)
    return [file for part in parts for file in files_of(part.content)]


def answer(text: str = "done") -> ModelResponse:
    """Return an answer."""
    return ModelResponse((TextPart(text),))


def draw() -> list[str | BinaryContent]:
    """Draw something."""
    return ["drawn", BLUE]


async def test_the_model_gets_the_files_of_the_prompt_and_of_a_result_in_order() -> None:
    model = Seeing(None, [ModelResponse((call("draw"),)), answer()])
    events: list[object] = []
    result = await Agent(model, tools=[draw], on_event=events.append).run(["look", RED, "then draw"])
    assert model.seen == [[RED], [RED, BLUE]]
    (prompt,) = result.messages[0].parts
    assert isinstance(prompt, UserPromptPart) and prompt.content == ("look", RED, "then draw")
    (part,) = result.messages[2].parts
    assert isinstance(part, ToolReturnPart) and part.content == ("drawn", BLUE)
    assert part.text == f"drawn\n{BLUE.note}"
    (told,) = (event for event in events if isinstance(event, ToolResultEvent))
    assert told.files == (BLUE.reference,) and told.content == part.text


async def test_a_prompt_with_a_file_that_the_model_cannot_read_is_refused() -> None:
    sounds: frozenset[FileKind] = frozenset({"audio"})
    for inputs in (frozenset[FileKind](), sounds):
        with pytest.raises(UserError, match=r"does not read files like \[image/png, \d+ bytes\]"):
            await Agent(Seeing(inputs, [])).run(["look", RED])
    model = Seeing(frozenset({"audio"}), [answer()])
    heard = BinaryContent(sound(), "audio/wav")
    await Agent(model).run([heard])
    assert model.seen == [[heard]]


async def test_of_a_chain_one_model_that_reads_the_file_is_enough() -> None:
    blind, seeing = Seeing(frozenset(), [answer("blind")]), Seeing(frozenset({"image"}), [answer()])
    assert FallbackModel(blind, seeing).profile.inputs == {"image"}
    assert FallbackModel(blind, Seeing(None, [])).profile.inputs is None
    assert (await Agent(FallbackModel(seeing, blind)).run(["look", RED])).output == "done"


async def test_a_tools_file_that_is_refused_becomes_a_note() -> None:
    def bad() -> BinaryContent:
        return BinaryContent(b"GIF89a" + bytes(2000), "image/png")

    model = Seeing(None, [ModelResponse((call("bad"), call("draw"))), answer()])
    result = await Agent(model, tools=[bad, draw], file_limits=FileLimits(max_bytes=1000)).run("go")
    one, two = (part for part in result.messages[2].parts if isinstance(part, ToolReturnPart))
    assert "was left out: it has more than 1,000 bytes" in one.text and two.content == ("drawn", BLUE)
    assert model.seen[1] == [BLUE]


@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=lambda each: each.name)
async def test_a_tools_file_reaches_the_model_that_called_it_in_another_process_too(
    arrangement: Arrangement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if arrangement.needs_code:
        pytest.importorskip("pydantic_monty")
    world, requests = World(), list[list[BinaryContent]]()
    asking = world.pay(asks=True)

    async def pay(arguments: dict[str, int], context: Any) -> ToolOutput:
        paid = await asking.call(arguments, context)
        return ToolOutput((paid, RED if arguments["amount"] == 7 else BLUE), {"paid": arguments["amount"]})

    answer_request = FunctionModel.request

    async def watched(model: FunctionModel, messages: Sequence[ModelMessage], *args: Any, **named: Any) -> Any:
        requests.append(files_in(messages))
        return await answer_request(model, messages, *args, **named)

    monkeypatch.setattr(FunctionModel, "request", watched)
    calls = [call("pay", amount=7), call("pay", amount=8)]

    def build() -> Agent[None, str]:
        return arrangement.build([replace(asking, call=pay)], calls, tmp_path / "runs.db")

    result = await build().run("Go.")
    while result.status == "needs_approval":
        requests.clear()
        result = await build().resume(result.run_id, approvals(result.pending))
    assert (result.status, world.paid) == ("completed", [7, 8])
    assert [RED, BLUE] in requests, "the model was not sent both files, one from before the last approval"


async def test_guardrails_check_the_text_and_leave_the_files() -> None:
    @input_guardrail
    def polite(text: str, context: RunContext[None]) -> Rewrite:
        return Rewrite(text.replace("look", "please look"))

    @tool_result_guardrail
    def quiet(result: CheckedResult, context: RunContext[None]) -> Rewrite:
        return Rewrite(result.text.replace("drawn", "[drawn]"))

    model = Seeing(None, [ModelResponse((call("draw"),)), answer()])
    result = await Agent(model, tools=[draw], guardrails=[polite, quiet]).run(["look", RED])
    assert model.seen[-1] == [RED, BLUE]
    parts = [message.parts[0] for message in result.messages if isinstance(message, ModelRequest)]
    contents = [part.content for part in parts]
    assert contents == [(f"please look\n{RED.note}", RED), (f"[drawn]\n{BLUE.note}", BLUE)]


async def test_a_conversation_keeps_its_files(tmp_path: Path) -> None:
    for session in (InMemorySession(), SQLiteSession(tmp_path / "chats.db", "one")):
        model = Seeing(None, [answer(), answer()])
        await Agent(model).run(["look", RED], session=session)
        await Agent(model).run("and now?", session=session)
        assert model.seen == [[RED], [RED]]


async def test_a_journal_stores_a_file_once_and_deletes_it_with_its_last_run(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    runs = [
        await Agent(Seeing(None, [answer()]), checkpointer=path).run([text, RED, RED]) for text in ("one", "two")
    ]
    keeper, file = SQLiteCheckpointer(path), sqlite3.connect(path)
    counts = "SELECT (SELECT count(*) FROM files), (SELECT count(*) FROM message_files)"
    assert file.execute(counts).fetchone() == (1, 2)
    bodies = [body for (body,) in file.execute("SELECT body FROM messages")]
    assert all(len(body) < 1000 for body in bodies) and len(bodies) == 4
    await keeper.delete(runs[0].run_id)
    assert file.execute(counts).fetchone() == (1, 1)
    assert files_in((await keeper.load(runs[1].run_id)).state.messages) == [RED, RED]
    await keeper.delete(runs[1].run_id)
    assert file.execute(counts).fetchone() == (0, 0)
    keeper.close()
    file.close()


async def test_a_file_that_was_changed_in_the_journal_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    result = await Agent(Seeing(None, [answer()]), checkpointer=path).run(["look", RED])
    with sqlite3.connect(path) as file:
        file.execute("UPDATE files SET data = ?", (BLUE.data,))
    file.close()
    with pytest.raises(CheckpointError, match=f"the file {RED.reference.sha256} was changed"):
        await SQLiteCheckpointer(path).load(result.run_id)


async def test_a_trace_refers_to_files_beside_it(tmp_path: Path) -> None:
    model = Seeing(None, [ModelResponse((call("draw"),)), answer()])
    await Agent(model, tools=[draw], trace=tmp_path).run(["look", RED])
    (trace,) = tmp_path.glob("*.jsonl")
    assert max(map(len, trace.read_bytes().splitlines())) < 4000
    assert {path.name: path.read_bytes() for path in (tmp_path / FILES).iterdir()} == {
        RED.reference.sha256: RED.data,
        BLUE.reference.sha256: BLUE.data,
    }
    events = [event for _, event in read_events(trace)]
    (first, *_) = (event for event in events if isinstance(event, ModelRequestEvent))
    assert first.messages[0].parts[-1].content == ("look", RED.reference)


def test_a_file_counts_as_much_as_a_provider_charges_for_an_image() -> None:
    assert size(ModelRequest((UserPromptPart(("look", RED)),))) == 4 + FILE_CHARS
