"""A writer of known replies, also as a process that kills itself in the middle of one."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from modelstack.data.synthetic.recipe import SyntheticRecipe
from modelstack.data.synthetic.run import NotWritten, Request, write_documents
from modelstack.recipe_file import checked_recipe

TEXT = "the small old river house was near a green hill and people there had many good stories to tell"
WORDS = TEXT.split()


def sentences(seed: int, n_words: int = 80) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n_words)).capitalize() + "."


class ScriptedWriter:
    """Writes by the request's seed: mostly good documents, every fifth way one that a check drops."""

    name = "scripted"
    sha256 = "5c" * 32

    def __init__(self, kill_at: int | None = None) -> None:
        self.requests: list[Request] = []
        self._kill_at = kill_at

    def __call__(self, request: Request) -> str:
        self.requests.append(request)
        if len(self.requests) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        kind, text = request.seed % 5, sentences(request.seed)
        if kind == 0:
            return text
        if kind == 1:
            raise NotWritten("context_full")
        if kind == 2:
            text = text[:40]
        if "pairs" in request.schema["properties"]:
            return json.dumps({"pairs": [{"question": "What is told?", "answer": text}]})
        return json.dumps({"title": "A story", "text": text})


def write_seeds(path: Path, n: int = 12) -> Path:
    records = [
        {
            "id": f"seed-{i}",
            "text": sentences(1000 + i, 60),
            "license": "CC0-1.0",
            "source": "tales",
            "url": f"u{i}",
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def values(seeds: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "inputs": [{"kind": "jsonl", "path": str(seeds)}],
        "templates": [
            {"name": "retold", "prompt": "Tell this in your own words:\n{seed}", "per_seed": 2},
            {"name": "asked", "form": "questions", "prompt": "Ask about this:\n{seed}\nNow ask."},
        ],
        "checks": {"min_characters": 100, "language": None},
    } | changes


def recipe(seeds: Path, **changes: Any) -> SyntheticRecipe:
    return checked_recipe(SyntheticRecipe, values(seeds, **changes))


if __name__ == "__main__":
    write_documents(recipe(Path(sys.argv[1])), ScriptedWriter(int(sys.argv[3])), Path(sys.argv[2]))
