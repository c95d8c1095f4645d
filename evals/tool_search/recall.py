"""Recall of the tool search: whether one of the first k tools serves the request.

1,000 real tools of 500 servers, 300 requests in the words of people. Words alone, embeddings alone and both.

    python -m evals.tool_search.recall [--tuning] [--misses] [--cache FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from agentkit.tools.definition import ToolDefinition
from agentkit.tools.tool_search import tool_index
from agentkit.tools.tool_search.tool_index import IndexedTool, ToolIndex
from evals.statistics import wilson
from evals.tool_search.tool_data import REQUESTS, TUNING, Request, read_requests, read_tools
from modelstack.inference.minilm import minilm

AT = (1, 5, 10)
"""Numbers of tools that are looked at."""


def indexed_tools() -> list[IndexedTool]:
    """Return the tools as the index takes them."""
    return [
        IndexedTool(ToolDefinition(row["name"], row["description"], row["parameters"]), row["server"])
        for row in read_tools()
    ]


def ranks(found: Sequence[Sequence[str]], requests: Sequence[Request]) -> list[int]:
    """Return the place of the first tool that serves each request, from 0; the number of places if none does."""
    return [
        min((place for place, name in enumerate(names) if name in request.tools), default=len(names))
        for names, request in zip(found, requests, strict=True)
    ]


def line_of(title: str, places: Sequence[int]) -> str:
    """Return a line of the table: recall at each k with its 95 % interval."""
    cells = []
    for k in AT:
        share = wilson(sum(place < k for place in places), len(places))
        cells.append(f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]")
    return f"{title:22} " + "  ".join(cells)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the recall of the three searches."""
    parser = argparse.ArgumentParser(prog="python -m evals.tool_search.recall", description=__doc__)
    parser.add_argument("--tuning", action="store_true", help="use the tuning requests")
    parser.add_argument(
        "--misses", action="store_true", help="print the requests without a right tool in the first 5"
    )
    parser.add_argument("--cache", type=Path, help="file in which the embeddings of the tools are kept")
    options = parser.parse_args(arguments)
    requests = read_requests(TUNING if options.tuning else REQUESTS)
    tools = indexed_tools()
    with tempfile.TemporaryDirectory() as folder:
        cache = options.cache or Path(folder) / "embeddings.sqlite"
        begun = time.perf_counter()
        both = ToolIndex(tools, minilm(), cache)
        first_s = time.perf_counter() - begun
        begun = time.perf_counter()
        ToolIndex(tools, minilm(), cache)
        again_s = time.perf_counter() - begun
    searches = {"words": ToolIndex(tools).search, "embeddings": _without_words(both), "both": both.search}
    print(f"{len(tools)} tools, {len(requests)} requests; index made in {first_s:.1f} s, again in {again_s:.2f} s")
    print(f"{'recall at':22} " + "  ".join(f"{k:<20}" for k in AT))
    for title, search in searches.items():
        found = [[tool.name for tool in search(request.text, max(AT))] for request in requests]
        places = ranks(found, requests)
        print(line_of(title, places))
        if options.misses:
            for request, names, place in zip(requests, found, places, strict=True):
                if place >= 5:
                    print(f"    {request.text}\n        {', '.join(request.tools)} <- {', '.join(names[:5])}")
    return 0


def _without_words(index: ToolIndex):
    def search(request: str, top: int) -> list[ToolDefinition]:
        weight, tool_index.LEXICAL_WEIGHT = tool_index.LEXICAL_WEIGHT, 0.0
        try:
            return index.search(request, top)
        finally:
            tool_index.LEXICAL_WEIGHT = weight

    return search


if __name__ == "__main__":
    raise SystemExit(main())
