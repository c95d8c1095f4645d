"""Code mode: the model writes short Python that calls the tools, instead of one JSON call after another.

The code runs in Monty (`pydantic-monty`, extra `code`), an interpreter for untrusted code, in a separate process:
no files, no network, no environment, no clock, bounded time and memory. It can only compute and call tools. Each
of these calls is handled like a call of the model: guardrails, approvals, limits, timeouts, journal and trace
apply (`agentkit.run.nested_calls`).

A call that waits for a decision stops the code. After the decision the code runs again from its beginning, with
the stored results of its earlier calls. It reaches the same point: it has no clock, and its random numbers are
seeded with the id of the call. (Code instead of JSON as the form of actions: CodeAct, arXiv 2402.01030.)
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from agentkit.basics.hidden import strip_data
from agentkit.context import RunContext
from agentkit.errors import ModelRetry, UserError
from agentkit.files import files_of
from agentkit.messages import BinaryContent, RetryPromptPart
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.tool import ApprovalRule, Tool, ToolOutput
from mcp_servers.distribution import install_command

if TYPE_CHECKING:
    from pydantic_monty import MontySession

INSTRUCTIONS = (
    "Run Python that calls the functions below. Print what you want to read; the value of the last expression is "
    "shown as well. Functions are plain ones, not coroutines; call them in loops and comprehensions, not inside "
    "map or sorted. A failed call raises RuntimeError, wrong arguments raise ValueError. There are no files, no "
    "network and no clock, and nothing is kept from one call to the next."
)
_NO_NAME = re.compile(r"\W")
_MAX_VALUE_CHARS = 4_000_000
"""Characters of a value that leaves the sandbox, as JSON. Inside, shared lists can represent 2**40 items in little
memory."""


@dataclass(frozen=True, slots=True)
class CodeMode:
    """Options of code mode, for `Agent(code_mode=...)`."""

    tool_name: str = "run_python"
    max_seconds: float = 5.0
    """Seconds of computing, without the time of the tools."""
    max_memory_bytes: int = 64_000_000
    max_calls: int = 200
    """Maximum number of tool calls of one piece of code."""
    max_output_chars: int = 16_000
    """Characters of the printed text, and of the value, that the model reads."""
    requires_approval: ApprovalRule = False
    """Approval rule for the code itself; see `Tool.requires_approval`."""

    def __post_init__(self) -> None:
        """Reject limits that no code could satisfy.

        Raises:
            UserError: a limit is not above zero.
        """
        for name in ("max_seconds", "max_memory_bytes", "max_calls", "max_output_chars"):
            if not getattr(self, name) > 0:
                raise UserError(f"CodeMode({name}={getattr(self, name)!r}) must be above zero.")

    def tool(self, tools: Sequence[Tool]) -> Tool:
        """Return the tool that runs code which calls `tools`; found ones are defined where they were found.

        Raises:
            UserError: Monty is not installed, or two tools would have the same name in code.
        """
        from agentkit.tools.json_schema import compile_schema
        from modelstack.toolcalls.convention import ToolSpec
        from modelstack.toolcalls.signatures import render_tool

        _monty()
        functions = _functions(tools)
        signatures = [
            render_tool(ToolSpec(name, tool.definition.description, tool.definition.parameters_json_schema))
            for name, tool in functions.items()
            if not tool.defer_loading
        ]
        schema = {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The Python code."}},
            "required": ["code"],
            "additionalProperties": False,
        }
        return Tool(
            definition=ToolDefinition(self.tool_name, "\n".join((INSTRUCTIONS, *signatures)), schema),
            call=partial(self._call, functions),
            validate=compile_schema(schema, name=f"tool {self.tool_name!r}").arguments,
            timeout_s=float("inf"),  # the code has its own time limit, and so has each of its calls
            sequential=True,
            on_error="raise",  # a failure of a nested call is its result; what passes the code is the run's own
            requires_approval=self.requires_approval,
            is_repeatable=True,  # a rerun does not repeat its nested calls
        )

    async def _call(
        self, functions: Mapping[str, Tool], arguments: dict[str, Any], context: RunContext[Any]
    ) -> ToolOutput:
        monty, printed = _monty(), _Printed(self.max_output_chars)
        code = _Code(functions, self.max_calls, context)
        try:
            async with self._session(context) as session:
                value = await code.run(session, arguments["code"], printed)
        except monty.MontySyntaxError as error:
            raise ModelRetry(error.display()) from error
        except monty.MontyRuntimeError as error:
            return ToolOutput(printed.with_end(error.display()), is_error=True)
        except monty.MontyError as error:
            return ToolOutput(printed.with_end(f"The interpreter failed: {error}"), is_error=True)
        output = _output(value, printed)
        return replace(output, content=(output.content, *code.files)) if code.files else output

    @asynccontextmanager
    async def _session(self, context: RunContext[Any]) -> AsyncGenerator[MontySession]:
        """Start and stop a sandbox in worker threads: a process takes a second to start on a busy machine."""
        import anyio.to_thread

        opened = ExitStack()

        def start() -> MontySession:
            pool = opened.enter_context(_monty().Monty(max_processes=1))
            return opened.enter_context(pool.checkout(limits=self._limits(), os_policy=_policy(context)))

        try:
            yield await anyio.to_thread.run_sync(start)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(opened.close)

    def _limits(self) -> dict[str, Any]:
        return {
            "max_feed_duration_secs": self.max_seconds,
            "max_memory": self.max_memory_bytes,
            "max_suspensions": 4 * self.max_calls,  # name look-ups and rejected calls count too
        }


def _policy(context: RunContext[Any]) -> dict[str, Any]:
    """Return the settings that make a rerun of the code deterministic."""
    random_start = {"seed": context.tool_call_id or ""}
    return {"datetime": "call_host", "sleep": "zero", "random_start": random_start}


class _Code:
    """A piece of code and its calls."""

    def __init__(self, functions: Mapping[str, Tool], max_calls: int, context: RunContext[Any]) -> None:
        self._functions = functions
        self._calls_left = max_calls
        self._max_calls = max_calls
        self._context = context
        self.files: list[BinaryContent] = []
        """Files of the results of its calls, which the model sees with the code's own result."""

    async def run(self, session: MontySession, code: str, printed: _Printed) -> Any:
        """Return the value of the last expression.

        Raises:
            MontyError: the code failed.
            NestedCallWaits: one of its calls waits for a decision.
        """
        import anyio.to_thread

        monty = _monty()
        step = partial(session.feed_start, code, print_callback=printed.add)
        while True:
            at = await anyio.to_thread.run_sync(step)
            match at:
                case monty.MontyComplete():
                    return at.output
                case monty.NameLookupSnapshot():
                    known = at.object_id is None and at.variable_name in self._functions
                    step = partial(at.resume, value=_stand_in(at.variable_name)) if known else at.resume
                case monty.FunctionSnapshot(is_os_function=True):
                    step = at.resume_not_handled
                case monty.FunctionSnapshot():
                    step = partial(at.resume, await self._answer(str(at.function_name), at.args, at.kwargs))
                case _:  # there are no coroutines here, so nothing can be awaited
                    raise ModelRetry("The functions are plain ones: call them without `await`.")

    async def _answer(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tool = self._functions.get(name)
        if tool is None:
            return {"exception": NameError(f"name {name!r} is not defined")}
        try:
            arguments = _arguments(tool, args, kwargs)
        except (TypeError, ValueError, RecursionError) as error:
            return {"exception": TypeError(f"{name}: {error}")}
        if not self._calls_left:
            return {"exception": RuntimeError(f"not run: this code has made its {self._max_calls} calls")}
        self._calls_left -= 1
        context = self._context
        assert context.call_tool is not None and context.tool_call_id is not None  # set in every run in code mode
        answer = await context.call_tool(context.tool_call_id, tool.name, arguments)
        if isinstance(answer, RetryPromptPart):
            return {"exception": ValueError(answer.content)}
        if answer.is_error:
            return {"exception": RuntimeError(answer.text)}
        self.files += files_of(answer.content)
        return {"return_value": answer.text if answer.data is None else answer.data}


class _Printed:
    """Text printed by the code, up to a length."""

    def __init__(self, max_chars: int) -> None:
        self._left = max_chars
        self._max_chars = max_chars
        self._pieces: list[str] = []
        self._is_cut = False

    def add(self, stream: str, text: str) -> None:
        """Append printed text."""
        self._pieces.append(text[: self._left])
        self._is_cut = self._is_cut or len(text) > self._left
        self._left -= len(self._pieces[-1])

    def with_end(self, end: str) -> str:
        """Return the printed text with `end` below it, without hidden characters, which code may have read."""
        text = "".join(self._pieces).rstrip("\n")
        if self._is_cut:
            text += f"\n(what was printed after {self._max_chars:,} characters is left out)"
        if len(end) > self._max_chars:
            end = f"{end[: self._max_chars]}\n(cut after {self._max_chars:,} of {len(end):,} characters)"
        shown, n_hidden = strip_data("\n".join(part for part in (text, end) if part))
        return f"{shown}\n[{n_hidden:,} hidden characters removed]" if n_hidden else shown


def _output(value: Any, printed: _Printed) -> ToolOutput:
    if value is None:
        return ToolOutput(printed.with_end("") or "(nothing was printed, and the last line has no value)")
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    if _is_larger(value, _MAX_VALUE_CHARS):
        text = f"(written out, the value has more than {_MAX_VALUE_CHARS:,} characters; look at a part of it)"
        return ToolOutput(printed.with_end(text), text)
    try:
        data = to_jsonable_python(value, fallback=repr)
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    except (PydanticSerializationError, ValueError, RecursionError):  # for example a value that contains itself
        data = text = repr(value)
    return ToolOutput(printed.with_end(text), data)


def _arguments(tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return a call's arguments as JSON; positional ones are named after the schema's properties, in order."""
    names = list(tool.definition.parameters_json_schema.get("properties", {}))
    if len(args) > len(names):
        raise TypeError(f"takes {len(names)} arguments, {len(args)} were given")
    by_place = dict(zip(names, args, strict=False))
    if twice := by_place.keys() & kwargs.keys():
        raise TypeError(f"argument {min(twice)!r} was given twice")
    given = {**by_place, **kwargs}
    if _is_larger(given, _MAX_VALUE_CHARS):
        raise ValueError(f"the arguments have more than {_MAX_VALUE_CHARS:,} characters")
    return json.dumps(given, allow_nan=False)


def _is_larger(value: Any, max_chars: int) -> bool:
    """Return whether a value has more than about `max_chars` characters when serialised."""
    monty = _monty()
    waiting = [value]
    while waiting and max_chars >= 0:
        inner = waiting.pop()
        has_length = isinstance(inner, str | bytes | list | tuple | set | frozenset | dict)
        max_chars -= len(cast("Collection[Any]", inner)) if has_length else 1
        if max_chars < 0:
            break
        if isinstance(inner, dict):
            waiting += chain.from_iterable(cast("dict[Any, Any]", inner).items())
        elif isinstance(inner, list | tuple | set | frozenset):
            waiting += cast("Collection[Any]", inner)
        elif isinstance(inner, monty.MontyClassProxy):
            waiting.append(inner.attributes)
    return max_chars < 0


def _functions(tools: Sequence[Tool]) -> dict[str, Tool]:
    """Return the tools by their names in code."""
    functions: dict[str, Tool] = {}
    for tool in tools:
        name = _NO_NAME.sub("_", tool.name)
        if keyword.iskeyword(name) or not name.isidentifier():
            name = f"_{name}" if name[:1].isdigit() else f"{name}_"
        if name in functions:
            raise UserError(
                f"tools {functions[name].name!r} and {tool.name!r} would both be {name!r} in code; rename one."
            )
        functions[name] = tool
    return functions


def _stand_in(name: str) -> Callable[[], None]:
    """Return a placeholder for a tool that code names without calling it: only its name is used."""

    def tool() -> None: ...

    tool.__name__ = name
    return tool


def _monty() -> Any:
    try:
        import pydantic_monty
    except ImportError as error:
        raise UserError(f"code mode needs pydantic-monty: {install_command('code')}") from error
    return pydantic_monty
