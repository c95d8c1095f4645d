"""A folder and a database, and the servers that offer them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from agentkit.mcp.toolset import MCPToolset

FILES = ("notes/todo.md", "notes/ideas.md", "reports/q1.csv", "reports/q2.csv", "readme.md", "plan.txt")


def write_world(folder: Path) -> Path:
    for name in FILES:
        (folder / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "files" / name).write_text(f"the text of {name}\nand more\n")
    with sqlite3.connect(folder / "shop.db") as database:
        database.executescript(
            "create table customers(id integer primary key, name text, city text);"
            "create table orders(id integer primary key, customer_id integer, total real);"
            "insert into customers(name, city) values ('Ann', 'Oslo'), ('Bo', 'Lyon');"
        )
    return folder


def files_server(world: Path, *options: str) -> MCPToolset:
    return MCPToolset.stdio("python", "-m", "mcp_servers.filesystem", str(world / "files"), *options, id="files")


def database_server(world: Path, *options: str) -> MCPToolset:
    return MCPToolset.stdio("python", "-m", "mcp_servers.sqlite", str(world / "shop.db"), *options, id="shop")
