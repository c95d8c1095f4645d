"""The MCP servers' pages: tables are the servers' own, and each configuration names a server and its options."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentkit.mcp.config import load_mcp_config
from tests.docs.blocks import Block, blocks_of
from tools.docs.server_tables import PAGES, PROGRAMS, option_parser, with_tables

PROGRAM = "agentkit-mcp"


@pytest.mark.parametrize("name", ["index", *PROGRAMS])
def test_tables_are_as_generated(name: str) -> None:
    page = PAGES / f"{name}.md"
    assert with_tables(page) == page.read_text(encoding="utf-8"), "run `python -m tools.docs.server_tables`"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_page_has_a_configuration_for_each_kind_of_client_and_all_tables(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    for region in ("tools", "options", "limits", "confinement"):
        assert text.count(f"<!-- generated: {region} -->") == 1, region
    keys = {key for _, document in _documents(name) for key in document}
    assert keys == {"mcpServers", "servers"}


@pytest.mark.parametrize("name", ["index", *PROGRAMS])
def test_configurations_name_servers_with_their_options(name: str, tmp_path: Path) -> None:
    for block, document in _documents(name):
        for entries in document.values():
            for entry in entries.values():
                if entry.get("command") == PROGRAM:
                    _check_arguments(entry["args"], str(block))
        if "mcpServers" in document:
            (tmp_path / "mcp.json").write_text(block.code, encoding="utf-8")
            assert load_mcp_config(tmp_path / "mcp.json")


@pytest.mark.parametrize("name", ["index", *PROGRAMS])
def test_commands_name_servers_with_their_options(name: str) -> None:
    for block in blocks_of(PAGES / f"{name}.md"):
        for line in block.code.splitlines() if block.language == "sh" else ():
            words = shlex.split(line, comments=True)
            if words[:1] == [PROGRAM]:
                _check_arguments(words[1:], f"{block}: {line}")


def _documents(name: str) -> Iterator[tuple[Block, dict[str, Any]]]:
    for block in blocks_of(PAGES / f"{name}.md"):
        if block.language == "json":
            yield block, json.loads(block.code)


def _check_arguments(words: list[str], place: str) -> None:
    assert words[0] in PROGRAMS, f"{place}: there is no server {words[0]!r}"
    try:
        option_parser(words[0]).parse_args(words[1:])
    except SystemExit:
        pytest.fail(f"{place}: {words[1:]}")
