"""Writes the reference of recipes, `docs/reference/recipes/COMMAND.md`: every key with type, default and meaning.

python -m tools.docs.recipe_pages
"""

from __future__ import annotations

import re
from pathlib import Path

from modelstack.commands.recipe_arguments import MODELS, recipe_model
from modelstack.recipe_keys import recipe_keys

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "recipes"


def file_of(command: str) -> Path:
    """Return the page of a command's recipe."""
    return FOLDER / f"{command.replace(' ', '-')}.md"


def page(command: str) -> str:
    """Return the keys of a command's recipe in Markdown, a table for each section."""
    sections: dict[str, list[tuple[str, ...]]] = {}
    for row in recipe_keys(recipe_model(command)):
        section = row.key.partition(".")[0] if "." in row.key else ""
        sections.setdefault(section, []).append((f"`{row.key}`", row.type, row.default, row.meaning))
    parts = [
        "<!-- Written by `python -m tools.docs.recipe_pages`. -->",
        f"# modelstack {command}",
        f"Keys of a recipe of [`modelstack {command}`](../cli/modelstack.md#modelstack-{file_of(command).stem}). "
        f"`modelstack {command} --keys` prints the same.",
    ]
    for section, rows in sections.items():
        lines = [("key", "type", "default", "meaning"), ("---",) * 4, *rows]
        parts += [f"## {section}"] if section else []
        parts.append("\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    text = " ".join(text.split())
    return text.replace("|", ",") if text.startswith("`") else re.sub(r"(?<!\\)[|<]", r"\\\g<0>", text)


def index() -> str:
    """Return the page that lists the recipes' commands."""
    rows = [f"| [`modelstack {command}`]({file_of(command).name}) | {_summary(command)} |" for command in MODELS]
    head = (
        "<!-- Written by `python -m tools.docs.recipe_pages`. -->\n\n# Recipe keys\n\n"
        "A recipe is a TOML file, or the name of one in the package (`modelstack recipes` lists them). Keys are\n"
        "overridden on the command line: `modelstack sft tools optimizer.lr=1e-4`. An unknown key is an error\n"
        "that names the nearest one.\n\n| recipe of | what it declares |\n| --- | --- |\n"
    )
    return head + "\n".join(rows) + "\n"


def _summary(command: str) -> str:
    return (recipe_model(command).__doc__ or "").strip().partition("\n")[0]


def pages() -> dict[Path, str]:
    """Return the text of each page by its file."""
    return {FOLDER / "index.md": index(), **{file_of(command): page(command) for command in MODELS}}


def main() -> None:
    """Write all pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
    print(f"docs/reference/recipes: {len(MODELS)} recipes")


if __name__ == "__main__":
    main()
