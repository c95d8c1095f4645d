"""A served agent remembers each of its clients apart, whatever process runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, Memory
from agentkit.messages import ModelResponse, TextPart
from agentkit.testing import FunctionModel
from tests.agentkit.serving.served_agents import KEYS, client_of, served

pytestmark = pytest.mark.anyio


async def test_a_client_is_the_user_of_its_runs_and_sees_its_own_memories_only(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.db", write="rule", requires_user=True)

    def echo(messages: Any, parameters: Any) -> ModelResponse:
        return ModelResponse((TextPart(messages[-1].parts[-1].text),))

    agent = Agent(FunctionModel(echo), toolsets=[memory])
    assert {"ann", "bob"} <= set(KEYS)
    answers: dict[str, str] = {}
    async with served(agent, tmp_path / "runs.db", key="ann") as ann:
        await ann.end(await ann.run("Remember that I am allergic to nuts."))
        async with client_of(str(ann.http.base_url), "bob") as bob:
            for name, client in (("ann", ann), ("bob", bob)):
                answers[name] = (await client.end(await client.run("Am I allergic to nuts?")))["output"]
    assert "The user asked to remember: I am allergic to nuts" in answers["ann"]
    assert answers["bob"] == "Am I allergic to nuts?"
    assert len(await memory.store.list("ann")) == 1 and await memory.store.list(None) == []
