"""Explanations of the steps: five lines each, the paper, and every part with the file that implements it.

The texts are data (`explain.toml`), and a test holds that each file defines what it is said to define.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import wrap

from modelstack.files import parse_toml
from modelstack.pipeline.steps import BY_NAME, STEPS

_FILE = Path(__file__).with_name("explain.toml")
WIDTH = 79


@dataclass(frozen=True, slots=True)
class Part:
    """A technique and its place in the package."""

    name: str
    file: str
    """File below `modelstack/`."""
    symbol: str
    """Function or class that the file defines."""
    source: str
    """arXiv numbers, or the name of a report or program; empty: this project."""


@dataclass(frozen=True, slots=True)
class Explained:
    """Explanation of a step."""

    paper: str
    lines: tuple[str, ...]
    parts: tuple[Part, ...]
    absent: tuple[tuple[str, str], ...] = ()
    """Techniques that are not here, with what stands in their place."""


@cache
def explanations() -> dict[str, Explained]:
    """Return the explanation of each step by name, in the order of the steps."""
    content = parse_toml(_FILE.read_text(encoding="utf-8"), _FILE.name)
    return {
        step.name: Explained(
            content[step.name]["paper"],
            tuple(content[step.name]["lines"]),
            tuple(Part(*each) for each in content[step.name]["systems"]),
            tuple((name, why) for name, why in content[step.name].get("absent", ())),
        )
        for step in STEPS
    }


def explanation(step: str | None) -> str:
    """Return the explanation of a step as text; None: of all steps."""
    names = [step] if step is not None else list(explanations())
    return "\n".join(_text(name) for name in names)


def _text(name: str) -> str:
    found, step = explanations()[name], BY_NAME[name]
    lines = [f"{step.number} {name}: {step.about}", ""]
    lines += [
        line for each in found.lines for line in wrap(each, WIDTH, initial_indent="  ", subsequent_indent="    ")
    ]
    lines += ["", *wrap(found.paper, WIDTH, initial_indent="  paper: ", subsequent_indent="    "), ""]
    for part in found.parts:
        source = f" [{part.source}]" if part.source else ""
        lines += [f"  {part.name}{source}", f"    modelstack/{part.file}: {part.symbol}"]
    for absent, why in found.absent:
        lines += wrap(f"not here: {absent}; {why}", WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines) + "\n"
