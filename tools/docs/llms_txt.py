"""Writes `docs/llms.txt`: the documentation's table of contents for language models, in the format of llmstxt.org.

python -m tools.docs.llms_txt
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "llms.txt"
HEAD = """# agentkit

> An agent SDK that owns its model: a typed agent runtime with MCP tools and constrained decoding, MCP servers, and
> modelstack, which trains and post-trains the models. It runs offline on a CPU.

The import packages are `agentkit`, `modelstack`, `mcp_servers` and `evals`; the distribution is
`agentkit-modelstack`. Code that uses the SDK: agentkit/SKILL.md.
"""


def entries(navigation: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield title and file of each page below an entry of the navigation."""
    for entry in navigation:
        for title, below in entry.items():
            if isinstance(below, str):
                yield title, below
            else:
                yield from entries(below)


def first_sentence(page: Path) -> str:
    """Return the first paragraph of a page in one line, without links."""
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"^---\n.*?^---\n", "", text.lstrip(), flags=re.DOTALL | re.MULTILINE)
    paragraph = next(
        (p for p in text.split("\n\n") if p.strip() and not p.lstrip().startswith(("#", "!", "|", ":::"))), ""
    )
    plain = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", " ".join(paragraph.split()))
    return re.split(r"(?<=[.:]) (?=[A-Z])", plain)[0]


def llms_txt() -> str:
    """Return the table of contents: a section for each top entry of the navigation."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    parts = [HEAD.rstrip()]
    single, sections = [], []
    for entry in site["nav"]:
        [(title, below)] = entry.items()
        (single if isinstance(below, str) else sections).append((title, below))
    for title, below in [("Start here", [{t: b} for t, b in single]), *sections]:
        lines = [f"- [{t}]({file}): {first_sentence(ROOT / 'docs' / file)}" for t, file in entries(below)]
        parts.append(f"## {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    FILE.write_text(llms_txt(), encoding="utf-8")
    print(f"{FILE.relative_to(ROOT)}: {FILE.read_text(encoding='utf-8').count('- [')} pages")
