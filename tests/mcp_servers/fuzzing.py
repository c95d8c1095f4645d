"""Arguments of all kinds, through the real client to real server processes: every call is answered, none kills.

    python -m tests.mcp_servers.fuzzing --seconds 60            # each server
    python -m tests.mcp_servers.fuzzing git memory --seconds 10

Three quarters of the calls fit the tool's published schema, with texts mixed in that a tool takes for its own or
that are known to hurt; the others are any JSON. A failure is: no answer in time, a protocol error other
than "invalid parameters", a traceback on standard error, an answer that its output schema forbids, a server that
is gone or that no longer answers an ordinary call afterwards.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from mcp import Client, StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from tests.mcp_servers.browser_site import CHROMIUM, Site
from tests.mcp_servers.fuzz_words import OWN_WORDS, WORDS
from tests.mcp_servers.git_repository import new_repository
from tests.mcp_servers.raw_site import RandomSite

REPOSITORY = Path(__file__).resolve().parents[2]
FORM = "<form><label>Name <input name=name></label><button>Send</button></form><p style='height:3000px'>End</p>"
N_PAGES = 2_000
"""Random pages that fetch can ask for."""
CALL_TIMEOUT_S = 90.0
"""Above every server's own limits, an export's 60 s too: a call that takes longer hangs."""


@dataclass(frozen=True)
class Served:
    """A server to be fuzzed."""

    options: list[str]
    """Behind `python -m mcp_servers.NAME`."""
    tool: str
    """Of an ordinary call."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By argument, texts that are known when it is served."""


@contextmanager
def world() -> Iterator[dict[str, Served]]:
    """Make what the servers serve, in a folder that is thrown away; with a browser where one is installed."""
    with tempfile.TemporaryDirectory() as name, closing(Site()) as site, closing(RandomSite()) as raw:
        folder = Path(name)
        repository = new_repository(folder / "repository")
        with sqlite3.connect(folder / "shop.db") as database:
            database.execute("create table orders (id integer primary key, total real, note text)")
            database.execute("insert into orders (total, note) values (1.5, 'first')")
        database.close()
        (folder / "files").mkdir()
        (folder / "files/readme.md").write_text("# Title\n\nSome words.\n")
        (folder / "exports").mkdir()
        shop = [str(folder / "shop.db"), "--write", "--export", str(folder / "exports"), "--timeout", "0.5"]
        files = str(folder / "files")
        git = [str(repository), "--write", "--author", "A <a@example.org>"]
        page = site.page("/form", FORM)
        pages = {"url": tuple(f"{raw.origin}/{number}" for number in range(N_PAGES))}
        browser = Served(
            ["--allow", site.origin], "open", {"url": page}, {"url": (page, f"{site.origin}/nothing")}
        )
        yield ({"browser": browser} if CHROMIUM else {}) | {
            "fetch": Served(
                ["--allow", raw.origin, "--ignore-robots"], "fetch", {"url": f"{raw.origin}/sound"}, pages
            ),
            "filesystem": Served([files, "--write"], "list_directory"),
            "git": Served(git, "git_branches"),
            "memory": Served([str(folder / "memory.db")], "read_graph"),
            "python": Served(["--seconds", "0.5"], "run_python", {"code": "1 + 1"}),
            "search": Served([files, "--index", str(folder / "search.db")], "search", {"query": "words"}),
            "sqlite": Served(shop, "list_tables"),
            "time": Served(["--zone", "UTC"], "calculate", {"expression": "1 + 1"}),
        }


def fitting(
    schema: Mapping[str, Any], root: Mapping[str, Any], own: Mapping[str, tuple[str, ...]], name: str = ""
) -> st.SearchStrategy[Any]:
    """Return values that fit a schema of our tools (hypothesis-jsonschema 0.23 fails with hypothesis 6.170).

    Raises:
        ValueError: The schema has a kind that no tool had when this was written.
    """
    if "$ref" in schema:
        return fitting(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root, own, name)
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return st.one_of([fitting(each, root, own, name) for each in schema["anyOf"]])
    match schema.get("type"):
        case "object":
            fields = {name: fitting(each, root, own, name) for name, each in schema.get("properties", {}).items()}
            needed = schema.get("required", [])
            optional = {name: each for name, each in fields.items() if name not in needed}
            return st.fixed_dictionaries({name: fields[name] for name in needed}, optional=optional)
        case "array":
            items = fitting(schema["items"], root, own, name)
            return st.lists(items, min_size=schema.get("minItems", 0), max_size=min(4, schema.get("maxItems", 4)))
        case "string":
            shortest, longest = schema.get("minLength", 0), schema.get("maxLength", 10**6)
            texts = st.text(min_size=shortest, max_size=min(40, longest))
            known = [
                [word for word in words if shortest <= len(word) <= longest]
                for words in (*6 * (own.get(name, ()),), WORDS)
            ]
            return st.one_of([*(st.sampled_from(words) for words in known if words), texts])
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "number":
            return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case None:
            return JSON
    raise ValueError(f"no values for the schema {schema!r}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30) | st.sampled_from([word for word in WORDS if "\0" not in word]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def calls_of(
    tools: list[types.Tool], own: Mapping[str, tuple[str, ...]]
) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """Return calls that fit, calls that nearly do, and calls that do not."""

    def of(tool: types.Tool) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
        names = list(tool.input_schema.get("properties", {}))
        right = fitting(tool.input_schema, tool.input_schema, own)
        odd = st.dictionaries(st.sampled_from(names) if names else st.text(max_size=8), JSON, max_size=5)
        any_json = st.dictionaries(st.text(max_size=8), JSON, max_size=4)
        return st.tuples(st.just(tool.name), st.one_of(right, right, right, odd | any_json))

    return st.one_of([of(tool) for tool in tools])


class TimeIsOver(BaseException):
    """Ends the generation; no ordinary exception, so that hypothesis does not take it for a failure."""


@dataclass
class Tally:
    """What came of the calls."""

    answers: Counter[str] = field(default_factory=Counter)
    """By kind: ok, error (the tool's own), invalid (refused by the protocol)."""
    slowest_s: float = 0.0
    problems: list[str] = field(default_factory=list)


class Fuzzer:
    """Calls one server and judges its answers."""

    def __init__(self, client: Client, portal: BlockingPortal, tools: list[types.Tool]) -> None:
        """Call by `client`, which lives in `portal`."""
        self._client = client
        self._portal = portal
        self._outputs = {tool.name: Draft202012Validator(tool.output_schema or {}) for tool in tools}
        self.tally = Tally()

    def call(self, name: str, arguments: dict[str, Any]) -> None:
        """Make one call and note what comes of it."""
        started = time.monotonic()
        try:
            result = self._portal.call(self._answered, name, arguments)
        except MCPError as error:
            self._refused(name, arguments, error)
        except TimeoutError:
            self.tally.problems.append(f"{name} {arguments!r}: no answer in {CALL_TIMEOUT_S:g} s")
        except (UnicodeEncodeError, ValueError) as error:  # what JSON cannot say never left this process
            self.tally.answers["not sent"] += 1
            if "surrogate" not in str(error) and "JSON" not in str(error):
                raise
        else:
            self._judge(name, arguments, result)
        self.tally.slowest_s = max(self.tally.slowest_s, time.monotonic() - started)

    async def _answered(self, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        with anyio.fail_after(CALL_TIMEOUT_S):
            return await self._client.call_tool(name, arguments)

    def _refused(self, name: str, arguments: dict[str, Any], error: MCPError) -> None:
        if error.code == types.INVALID_PARAMS:
            self.tally.answers["invalid"] += 1
        else:
            self.tally.problems.append(f"{name} {arguments!r}: {error.code} {error}")

    def _judge(self, name: str, arguments: dict[str, Any], result: types.CallToolResult) -> None:
        self.tally.answers["error" if result.is_error else "ok"] += 1
        if not result.content or (not result.is_error and result.structured_content is None):
            self.tally.problems.append(f"{name} {arguments!r}: an answer without content")
        elif not result.is_error:
            for broken in self._outputs[name].iter_errors(result.structured_content):
                self.tally.problems.append(
                    f"{name} {arguments!r}: not as its output schema says: {broken.message}"
                )


@asynccontextmanager
async def connected(name: str, served: Served, errors: Any) -> AsyncGenerator[Client]:
    """Start a server and connect to it."""
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", f"mcp_servers.{name}", *served.options], cwd=str(REPOSITORY)
    )
    async with Client(stdio_client(parameters, errlog=errors)) as client:
        yield client


def fuzz(name: str, served: Served, *, seconds: float, start: int, max_calls: int = 10**6) -> Tally:
    """Call one server until the time is over.

    Args:
        name: Of the server.
        served: What it serves.
        seconds: To go on for.
        start: Seed of the calls.
        max_calls: To end earlier.

    Returns:
        What came of it; its `problems` are empty where the server stood.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(connected(name, served, errors)) as client,
    ):
        tools = portal.call(client.list_tools).tools
        fuzzer = Fuzzer(client, portal, tools)
        deadline = time.monotonic() + seconds

        @seed(start)
        @settings(
            max_examples=max_calls, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        )  # fmt: skip
        @given(calls_of(tools, {**OWN_WORDS[name], **served.words}))
        def go_on(call: tuple[str, dict[str, Any]]) -> None:
            if time.monotonic() > deadline:
                raise TimeIsOver
            fuzzer.call(*call)

        with suppress(TimeIsOver):
            go_on()
        before = len(fuzzer.tally.problems)
        fuzzer.call(served.tool, dict(served.arguments))
        if len(fuzzer.tally.problems) > before:
            fuzzer.tally.problems.append("after all this an ordinary call fails")
        errors.seek(0)
        if "Traceback" in (said := errors.read()):
            fuzzer.tally.problems.append(f"on standard error:\n{said[-4_000:]}")
        return fuzzer.tally


def main() -> int:
    """Fuzz servers one after the other; 1 where one did not stand."""
    with world() as servers:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(servers)}; none: all")
        parser.add_argument("--seconds", type=float, default=60.0, help="for each (%(default)s)")
        parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
        options = parser.parse_args()
        failed = False
        for name in options.names or servers:
            tally = fuzz(name, servers[name], seconds=options.seconds, start=options.seed)
            n_calls = sum(tally.answers.values())
            kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(tally.answers.items()))
            print(
                f"{name}: {n_calls} calls ({kinds}), slowest {tally.slowest_s:.1f} s, seed {options.seed}",
                flush=True,
            )
            for problem in tally.problems:
                print(f"  {problem[:2_000]}", flush=True)
            failed = failed or bool(tally.problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
