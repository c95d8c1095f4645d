"""A predicted reply changes nothing but the number of steps, and its tokens are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelstack.inference.llama.engine import LlamaCppEngine
from tests.modelstack.inference.server.serving import NAME, served


def test_a_prediction_is_drafted_from_and_counted(tiny_gguf: Path) -> None:
    asked = {"model": NAME, "messages": [{"role": "user", "content": "Go on, go on."}], "max_tokens": 40}
    drafted = 0
    with (
        LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1, n_cells=4096, drafter="lookup") as engine,
        served(engine) as running,
        running.client as client,
    ):

        def reply(**more: Any) -> str:
            nonlocal drafted
            answer = client.post("/v1/chat/completions", json=asked | more).json()
            details = answer["usage"]["completion_tokens_details"]
            drafted += details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"]
            return answer["choices"][0]["message"]["content"]

        content = reply()
        drafted = 0
        before = _drafted(client.get("/metrics").text)
        for text in (content, content[::-1]):
            assert reply(prediction={"type": "content", "content": text}) == content
            parts = [{"type": "text", "text": part} for part in (text[:9], text[9:])]
            assert reply(prediction={"type": "content", "content": parts}) == content
        assert drafted > 0
        assert _drafted(client.get("/metrics").text) - before == drafted
        refused = client.post("/v1/chat/completions", json=asked | {"prediction": "text"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prediction")


def _drafted(metrics: str) -> float:
    lines = dict(line.split() for line in metrics.splitlines() if line.startswith("modelstack_drafted"))
    return float(lines["modelstack_drafted_tokens_total"])
