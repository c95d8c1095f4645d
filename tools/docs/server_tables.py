"""Writes the tables of the MCP servers' pages from the servers: tools, options, limits, reach of the process.

    python -m tools.docs.server_tables

A page marks a place with `<!-- generated: NAME -->` and `<!-- end -->`, where NAME is tools, resources, prompts,
options, limits or confinement. `tests/docs/test_server_pages.py` fails if a page is not what this program would
write.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import subprocess
import tempfile
import textwrap
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from unittest import mock

import anyio
from mcp import Client
from mcp.shared.uri_template import UriTemplate

from mcp_servers.browser.chromium import Settings
from mcp_servers.browser.server import build_server as browser
from mcp_servers.fetch.server import build_server as fetch
from mcp_servers.filesystem.server import build_server as filesystem
from mcp_servers.git.server import build_server as git
from mcp_servers.memory.server import build_server as memory
from mcp_servers.python.server import build_server as python
from mcp_servers.search.server import build_server as search
from mcp_servers.sqlite.server import build_server as sqlite
from mcp_servers.time.server import build_server as time

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server
    from mcp_types import Prompt, Tool

_Listed = TypeVar("_Listed")
PAGES = Path(__file__).resolve().parents[2] / "docs" / "servers"
_REGION = re.compile(r"(?P<start><!-- generated: (?P<name>\w+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
# The group of options that all servers share; docs/servers/index.md describes it once.
_SHARED_GROUPS = {"transport", "confinement"}
_KIB = 1024
_CODE_OR_MARKUP = re.compile(
    r"""`[^`]+`  # code already
    |(?P<code>
      (?<![\w-])--?[a-z][\w-]*  # an option
      |https?://[\w:./-]*\w
      |(?<!\w)\.\w+(?:/[\w./]+)?  # a file whose name begins with a dot
      |\$\w+
      |'[^' ]*\*[^' ]*'
    )
    |[*_<\[]""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _Program:
    """A server whose page has tables."""

    builds: Mapping[str, Callable[[Path], Server[Any]]]
    """Builds the server in an empty folder; the key is the option that offers more tools than those before."""
    constants: tuple[str, ...] = ()
    """Limits outside the class `Limits`, as `module.NAME` below the server's package."""


def _repository(folder: Path) -> str:
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return str(folder)


def _database(folder: Path) -> str:
    (folder / "shop.db").touch()
    return str(folder / "shop.db")


def _read_only_memory(folder: Path) -> Server[Any]:
    path = str(folder / "memory.db")
    memory(path)  # creates the file
    return memory(path, read_only=True)


PROGRAMS: dict[str, _Program] = {
    "filesystem": _Program(
        {
            "": lambda folder: filesystem(str(folder)),
            "`--write`": lambda folder: filesystem(str(folder), write=True),
        },
        ("server.MAX_LINES", "policy.MAX_DEPTH", "policy.MAX_PATH_BYTES"),
    ),
    "git": _Program(
        {
            "": lambda folder: git(_repository(folder)),
            "`--write`": lambda folder: git(_repository(folder), write=True),
        },
        ("server.MAX_COMMITS", "server.MAX_LINES", "policy.MAX_PATHS", "policy.MAX_MESSAGE_CHARS"),
    ),
    "sqlite": _Program(
        {
            "": lambda folder: sqlite(_database(folder)),
            "`--export`": lambda folder: sqlite(_database(folder), export=str(folder)),
            "`--write`": lambda folder: sqlite(_database(folder), write=True),
        }
    ),
    "memory": _Program(
        {"": _read_only_memory, "no `--read-only`": lambda folder: memory(str(folder / "memory.db"))},
        tuple(
            f"policy.MAX_{name}"
            for name in (
                "NAME_CHARS", "LABEL_CHARS", "TEXT_CHARS", "OBSERVATIONS", "RELATIONS", "ITEMS", "TEXTS",
                "QUERY_CHARS", "QUERY_WORDS",
            )
        ),
    ),
    "search": _Program({"": lambda folder: search(str(folder), index=str(folder / "index.db"))}),
    "fetch": _Program({"": lambda folder: fetch()}, ("policy.MAX_URL_CHARS", "policy.MAX_REDIRECTS")),
    "browser": _Program(
        {"": lambda folder: browser(["http://localhost:1"], Settings("/nonexistent", sandbox=True))},
        ("server.MAX_TEXT_CHARS", "server.MAX_KEYS_CHARS", "server.MAX_WAIT_S", "pages.MAX_WINDOWS"),
    ),
    "python": _Program({"": lambda folder: python()}, ("policy.MAX_CODE_CHARS",)),
    "time": _Program(
        {"": lambda folder: time("UTC")},
        (
            "arithmetic.MAX_CHARS", "arithmetic.MAX_BITS", "arithmetic.MAX_DEPTH", "arithmetic.MAX_FACTORIAL",
            "units.MAX_CHARS", "units.MAX_EXPONENT", "server.UNIT_TIMEOUT_S",
        ),
    ),
}  # fmt: skip
SHARED_CONSTANTS = (
    "answers.MAX_BYTES",
    "answers.MAX_FAILURE_CHARS",
    "strict.MAX_PARALLEL_CALLS",
    "strict.MAX_VALUES",
    "resources.MAX_RESOURCE_BYTES",
    "resources.MAX_LISTED",
    "watching.POLL_S",
    "watching.MAX_WATCHED",
    "prompts.MAX_ARGUMENT_CHARS",
    "child.MEMORY_BYTES",
    "serving.MIN_TOKEN_CHARS",
)
"""Limits of all servers, for the overview page."""


def with_tables(page: Path) -> str:
    """Return the text of a page of `PAGES` with its marked regions as generated now."""

    def region(found: re.Match[str]) -> str:
        return f"{found['start']}\n{generated(page.stem, found['name'])}\n\n{found['end']}"

    return _REGION.sub(region, page.read_text(encoding="utf-8"))


def generated(server: str, region: str) -> str:
    """Return the Markdown of a region; `server` is a key of `PROGRAMS`, or "index" for what all have in common.

    Raises:
        KeyError: The region has no generator.
    """
    if region == "limits":
        return _table(("Limit", "Value"), _limits(server))
    if server == "index":
        return {"transport": lambda: _options("time", {"transport"})}[region]()
    return {
        "tools": lambda: _tools(server),
        "resources": lambda: _resources(server),
        "prompts": lambda: _prompts(server),
        "options": lambda: _options(server, {"positional arguments", "options"}),
        "confinement": lambda: textwrap.fill(
            _in_markdown(_group(option_parser(server), "confinement").description), 118
        ),
    }[region]()


def _tools(server: str) -> str:
    rows: dict[str, tuple[str, ...]] = {}
    for option, build in PROGRAMS[server].builds.items():
        with tempfile.TemporaryDirectory() as folder:
            for tool in anyio.run(_listed, build(Path(folder))):
                cells = (f"`{tool.name}`", _arguments(tool), _in_markdown(tool.description or ""), _hints(tool))
                rows.setdefault(tool.name, (*cells, option))
    titles = ("Tool", "Arguments", "What it does", "Annotations", "Needs")
    n_columns = len(titles) - all(row[-1] == "" for row in rows.values())
    return _table(titles[:n_columns], [row[:n_columns] for row in rows.values()])


def _resources(server: str) -> str:
    """Return the table of single resources, and of templates."""

    async def listed(built: Server[Any]) -> list[tuple[str, str]]:
        async with Client(built) as client:
            templates = (await client.list_resource_templates()).resource_templates
            found = (await client.list_resources()).resources
        matches = [UriTemplate.parse(each.uri_template).match for each in templates]
        single = [each for each in found if all(match(each.uri) is None for match in matches)]
        return [(each.uri, each.description or "") for each in single] + [
            (each.uri_template, each.description or "") for each in templates
        ]

    rows = _of_first(server, listed)
    return _table(("Resource", "What it is"), [(f"`{uri}`", _in_markdown(text)) for uri, text in rows])


def _prompts(server: str) -> str:
    async def listed(built: Server[Any]) -> list[Prompt]:
        async with Client(built) as client:
            return (await client.list_prompts()).prompts

    rows = [
        (f"`{each.name}`", _prompt_arguments(each), _in_markdown(each.description or ""))
        for each in _of_first(server, listed)
    ]
    return _table(("Prompt", "Arguments", "What it asks"), rows)


def _prompt_arguments(prompt: Prompt) -> str:
    """Return the arguments; one that may be left out shows its default, the empty text."""
    optional = '=""'
    return ", ".join(f"`{each.name}{'' if each.required else optional}`" for each in prompt.arguments or ())


def _of_first(server: str, listed: Callable[[Server[Any]], Awaitable[list[_Listed]]]) -> list[_Listed]:
    """Return what the first form of a server lists; more options add tools only."""
    build = next(iter(PROGRAMS[server].builds.values()))
    with tempfile.TemporaryDirectory() as folder:
        return anyio.run(listed, build(Path(folder)))


async def _listed(server: Server[Any]) -> list[Tool]:
    async with Client(server) as client:
        return (await client.list_tools()).tools


def _arguments(tool: Tool) -> str:
    schema = tool.input_schema
    return ", ".join(
        f"`{name}{_keys(value, schema)}{_default(value)}`" for name, value in schema["properties"].items()
    )


def _default(value: Mapping[str, Any]) -> str:
    return f"={json.dumps(value['default'])}" if "default" in value else ""


def _keys(value: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return the keys of the objects in a list, or nothing for other values."""
    reference = value.get("items", {}).get("$ref")
    if reference is None:
        return ""
    properties = schema["$defs"][reference.removeprefix("#/$defs/")]["properties"]
    return f": [{{{', '.join(name + _default(inner) for name, inner in properties.items())}}}]"


def _hints(tool: Tool) -> str:
    hints = tool.annotations
    assert hints is not None
    effect = (
        "read-only" if hints.read_only_hint else "destructive" if hints.destructive_hint else "not destructive"
    )
    return f"{effect}, open-world" if hints.open_world_hint else effect


class _Captured(Exception):
    """Carries the parser out of a server's `main`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def option_parser(server: str) -> argparse.ArgumentParser:
    """Return the parser of a server's command line, which `main` builds, uses and drops."""

    def capture(parser: argparse.ArgumentParser, _: Sequence[str] | None) -> NoReturn:
        raise _Captured(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", autospec=True, side_effect=capture):
        try:
            import_module(f"mcp_servers.{server}.__main__").main([])
        except _Captured as captured:
            return captured.parser
    raise AssertionError(f"the main function of {server} parses no arguments")


def _group(parser: argparse.ArgumentParser, title: str) -> Any:
    return next(group for group in parser._action_groups if group.title == title)


def _options(server: str, titles: set[str]) -> str:
    parser = option_parser(server)
    rows = [
        (_usage(action), _in_markdown((action.help or "") % {**vars(action), "prog": parser.prog}))
        for group in parser._action_groups
        if group.title in titles
        for action in group._group_actions
        if action.dest != "help"
    ]
    return _table(("Option", "Meaning"), rows)


def _usage(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    if not action.option_strings:
        return f"`{value}`"
    takes = "" if action.nargs == 0 else f" {value}{' ...' if action.nargs == '+' else ''}"
    return f"`{action.option_strings[0]}{takes}`"


def _limits(server: str) -> list[tuple[str, str]]:
    if server == "index":
        return _constants("mcp_servers", SHARED_CONSTANTS)
    package = f"mcp_servers.{server}"
    constants = _constants(package, PROGRAMS[server].constants)
    try:
        limits = import_module(f"{package}.policy").Limits
    except (ModuleNotFoundError, AttributeError):
        return constants
    told, defaults = _attribute_docstrings(inspect.getsource(limits)), limits()
    return [
        (_first_clause(told[field.name]), _value(field.name, getattr(defaults, field.name)))
        for field in fields(limits)
    ] + constants


def _constants(package: str, names: Sequence[str]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for module_name, _, name in (path.rpartition(".") for path in names):
        module: ModuleType = import_module(f"{package}.{module_name}")
        text = _attribute_docstrings(inspect.getsource(module))[name]
        rows.append((_first_clause(text), _value(name.lower(), getattr(module, name))))
    return rows


def _attribute_docstrings(source: str) -> dict[str, str]:
    """Return the strings below assignments of a module or of its first class, by name."""
    body = ast.parse(source).body
    if len(body) == 1 and isinstance(body[0], ast.ClassDef):
        body = body[0].body
    found: dict[str, str] = {}
    for statement, below in zip(body, body[1:], strict=False):
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            match statement:
                case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                    found[name] = " ".join(str(below.value.value).split())
                case _:
                    pass
    return found


def _first_clause(text: str) -> str:
    """Return a docstring's first statement, without the reason for the number."""
    return re.split(r"[.;:](?: |$)", text, maxsplit=1)[0]


def _value(name: str, value: float) -> str:
    if name.endswith(("_s", "seconds")):
        return f"{value:g} s"
    if "bytes" not in name:
        return f"{value:,}"
    number, unit = int(value), "bytes"
    step, larger = (_KIB, ("KiB", "MiB", "GiB")) if number % _KIB == 0 else (1000, ("kB", "MB", "GB"))
    for next_unit in larger:
        if number % step:
            break
        number, unit = number // step, next_unit
    return f"{number:,} {unit}"


def _in_markdown(text: str) -> str:
    """Return a plain sentence with options and patterns as code, so that Markdown leaves them as they are."""
    return _CODE_OR_MARKUP.sub(_marked_up, text)


def _marked_up(found: re.Match[str]) -> str:
    if found["code"]:
        return f"`{found['code']}`"
    return found[0] if found[0].startswith("`") else f"\\{found[0]}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write the pages."""
    for page in sorted(PAGES.glob("*.md")):
        text = with_tables(page)
        if text != page.read_text(encoding="utf-8"):
            page.write_text(text, encoding="utf-8")
            print(page)


if __name__ == "__main__":
    main()
