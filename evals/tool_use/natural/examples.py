"""Exports the natural requests as examples, for fitting on held-out requests.

python -m evals.tool_use.natural.examples --half validation --out natural.jsonl
modelstack fit-prior natural.jsonl --model BASE.gguf --lora ADAPTER.gguf --out prior.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evals.tool_use.natural.requests import Half, NaturalRequest, half_of, natural_requests
from modelstack.data.examples import Call, Example, Kind, Message, Tool, write_examples


def example_of(request: NaturalRequest) -> Example:
    """Return a request with its tools and correct calls as an example."""
    names = {call["name"] for call in request.calls}
    several: Kind = "parallel" if len(names) == 1 else "multi"
    kind: Kind = ("irrelevant", "call")[len(request.calls)] if len(request.calls) < 2 else several
    system = (Message(role="system", content=request.system),) if request.system else ()
    return Example(
        id=request.id,
        source="natural",
        license="Apache-2.0",
        split="validation",
        kind=kind,
        tools=tuple(Tool(**tool) for tool in request.tools),
        messages=(*system, Message(role="user", content=request.request)),
        calls=tuple(Call(name=call["name"], arguments=dict(call["arguments"])) for call in request.calls),
    )


def main(
    out: Annotated[Path, typer.Option("--out", "-o", help="JSONL file of the examples.")],
    half: Annotated[
        Half | None, typer.Option(help="Only this half; a prior is fitted on the validation half.")
    ] = None,
) -> None:
    """Write the natural requests as examples."""
    chosen = [request for request in natural_requests() if half in (None, half_of(request))]
    write_examples(out, [example_of(request) for request in chosen])


if __name__ == "__main__":
    typer.run(main)
