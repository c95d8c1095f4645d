"""Serve a model to other programs, here to OpenAI's protocol, and ask it for JSON that follows a schema.

`modelstack serve smollm2-135m` does the same from the command line. Needs the extras `local` and `serve`.
"""

import json
import threading

import httpx
import uvicorn

from agentkit.models.catalog.entries import local_path
from mcp_servers.uvicorn_settings import uvicorn_settings
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.server.app import ServerApp
from modelstack.inference.server.served_model import ServedModel

ANSWER = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


def main() -> None:
    """Serve the smallest model on a free port, and ask it once."""
    with LlamaCppEngine(local_path("smollm2-135m")) as engine:
        app = ServerApp(ServedModel(engine, "smollm2"))
        config = uvicorn.Config(app.asgi(), port=0, **uvicorn_settings())
        listener = config.bind_socket()
        listener.listen()
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        reply = httpx.post(
            f"http://127.0.0.1:{listener.getsockname()[1]}/v1/chat/completions",
            json={
                "model": "smollm2",
                "messages": [{"role": "user", "content": "What colour is the sky?"}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER}},
            },
            timeout=60,
            trust_env=False,  # a proxy has no way to this machine
        ).json()
        answer = json.loads(reply["choices"][0]["message"]["content"])
        print(answer, reply["usage"])
        assert answer["colour"] in ("red", "green", "blue"), "the grammar allows nothing else"
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
