"""`agentkit run --file` and `/file` in a chat: files on their way to a server."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.agentkit.models.chat_server import ChatServer, answer, completion
from tests.agentkit.pictures import picture


def test_a_file_goes_to_the_model_with_the_task(agentkit: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(picture())
    with ChatServer(answer(completion({"role": "assistant", "content": "It is red."}))) as server:
        model = f"{server.base_url}#seeing"
        done = agentkit("run", "--model", model, "--file", str(tmp_path / "photo.png"), "--json", "What colour?")
        typed = f"/file {tmp_path / 'photo.png'}\nWhat colour?\nAnd now?\n"
        chat = agentkit("chat", "--model", model, "--no-trace", stdin=typed)
    assert done.returncode == 0 and json.loads(done.stdout)["output"] == "It is red."
    words, image = server.bodies[0]["messages"][-1]["content"]
    assert words == {"type": "text", "text": "What colour?"}
    assert base64.b64decode(image["image_url"]["url"].partition(",")[2]) == picture()
    assert chat.returncode == 0 and "photo.png] goes with the next message" in chat.stderr
    asked = [body["messages"][-1]["content"] for body in server.bodies[1:]]
    assert asked == [[words, image], "And now?"]


def test_a_file_that_cannot_be_sent_is_named(agentkit: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("a,b\n")
    done = agentkit("run", "--model", "test", "--file", str(tmp_path / "list.csv"), "Add them.")
    assert done.returncode == 1 and "list.csv' is an unknown type; models read image/png" in done.stderr
    chat = agentkit("chat", "--model", "test", "--no-trace", stdin=f"/file {tmp_path / 'none.png'}\nhello\n")
    assert chat.returncode == 0 and "none.png' cannot be read: No such file" in chat.stderr
