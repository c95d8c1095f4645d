"""A screenshot of the browser server on its way to a model: the bytes that the provider receives."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from browser_site import needs_chromium, settings, site_and_trap
from PIL import Image

from agentkit import Agent, MCPToolset, OpenAICompatibleModel, SQLiteCheckpointer
from mcp_servers.browser.server import build_server
from tests.agentkit.models.chat_server import ChatServer, answer, completion

pytestmark = [pytest.mark.anyio, needs_chromium, pytest.mark.xdist_group("browser")]
BLUE = "<style>body{margin:0;background:#00f}</style><p>nothing to read"


def calling(name: str, **arguments: object) -> dict[str, object]:
    """Return a completion that calls a tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": f"call_{name}", "type": "function", "function": function}
    return completion({"role": "assistant", "content": None, "tool_calls": [call]}, finish_reason="tool_calls")


async def test_a_screenshot_reaches_the_model_and_the_journal(tmp_path: Path) -> None:
    with (
        site_and_trap() as (site, _),
        ChatServer(
            answer(calling("open", url=site.page("/blue", BLUE))),
            answer(calling("screenshot")),
            answer(completion({"role": "assistant", "content": "It is blue."})),
        ) as provider,
    ):
        browser = MCPToolset(build_server([site.origin], settings(640, 480)), assume_harmless=True)
        model = OpenAICompatibleModel("seeing", base_url=provider.base_url, api_key="")
        agent = Agent(model, toolsets=[browser], taint_rule=False, checkpointer=tmp_path / "runs.db")
        result = await agent.run("What colour is the page?")
    assert result.output == "It is blue."
    text, image = provider.bodies[2]["messages"][-2:]
    assert text["role"] == "tool" and "[image/png, " in text["content"]
    said, shown = image["content"]
    assert image["role"] == "user" and said == {"type": "text", "text": "Files of the result of screenshot:"}
    head, _, data = shown["image_url"]["url"].partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/png;base64" and picture.size == (640, 480)
    assert picture.convert("RGB").getpixel((600, 400)) == (0, 0, 255)
    stored = await SQLiteCheckpointer(tmp_path / "runs.db").load(result.run_id)
    assert stored.state.messages == result.messages
