"""`agentkit chat`: a conversation in the terminal.

The line is read in the main thread, where Ctrl-C raises and the line editor works; turns run on an event loop in
another thread, where the tool servers stay connected between them. Ctrl-C stops the turn that is running and
keeps what was said until then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentkit.cli.options import (
    AgentOptions,
    AllowEnvOption,
    Ask,
    AskOption,
    CostLimitOption,
    HeaderOption,
    InstructionsOption,
    JournalOption,
    MaxStepsOption,
    McpOption,
    ModelOption,
    NoJournalOption,
    NoTraceOption,
    SeedOption,
    TemperatureOption,
    ThinkingOption,
    TraceDirOption,
    journal_file,
    trace_directory,
)
from agentkit.errors import AgentKitError, UserError
from agentkit.files import read_file
from agentkit.messages import BinaryContent

if TYPE_CHECKING:
    from anyio import CancelScope
    from anyio.from_thread import BlockingPortal
    from rich.console import Console

    from agentkit.agent import Agent
    from agentkit.approvals.pending import Decision
    from agentkit.cli.cards import EventPrinter
    from agentkit.cli.chat_storage import ChatStorage
    from agentkit.events import AgentEvent
    from agentkit.files import Prompt
    from agentkit.messages import ModelMessage
    from agentkit.run.state import RunState
    from agentkit.tools.toolset import Toolset
    from agentkit.usage import RunUsage

    _GoingOn = tuple[RunState, list[Decision]]
    """State of a turn that waits, and the decisions about its calls."""

PROMPT = "you> "
_BANNER_MARGIN = 11
"""Characters of the banner's left column."""
NO_REPLY = "(no answer)"
"""Placeholder for a reply if its turn ended before any text was written."""

_HELP = """/tools      what the model can call
/file PATH  an image, sound or PDF document for the next message
/usage      requests, tool calls and tokens of this chat
/reset      start a new conversation
/quit       leave, like Ctrl-D
Ctrl-C      stops the turn that is running"""


def chat(
    model: ModelOption = "local",
    mcp: McpOption = None,
    header: HeaderOption = None,
    allow_env: AllowEnvOption = None,
    max_steps: MaxStepsOption = None,
    cost_limit: CostLimitOption = None,
    instructions: InstructionsOption = None,
    temperature: TemperatureOption = None,
    thinking: ThinkingOption = None,
    seed: SeedOption = None,
    trace_dir: TraceDirOption = None,
    no_trace: NoTraceOption = False,
    ask: AskOption = Ask.changes,
    journal: JournalOption = None,
    no_journal: NoJournalOption = False,
    go_on: Annotated[
        bool, typer.Option("--continue", "-c", help="Continue the last chat of the current folder.")
    ] = False,
) -> None:
    """Chat with the model. Ctrl-C stops a turn, Ctrl-D quits.

    The conversation is stored after each turn, in the journal.
    """
    from anyio.from_thread import start_blocking_portal

    from agentkit.cli.cards import EventPrinter
    from agentkit.cli.chat_storage import ChatStorage
    from agentkit.cli.console import notes_console, output_console
    from agentkit.cli.downloads import prepare_model

    notes, output = notes_console(), output_console()
    prepare_model(model, notes)
    trace = trace_directory(trace_dir, no_trace=no_trace)
    options = AgentOptions(
        model, mcp or (), max_steps, instructions, temperature, seed, trace, ask, thinking=thinking
    ).with_access(header, allow_env)
    options = options.with_cost_limit(cost_limit)
    if go_on and no_journal:
        raise UserError("--continue needs the journal; leave --no-journal out.")
    printer = EventPrinter(notes, output, asks=True)
    storage = None if no_journal else ChatStorage.begin(journal_file(journal))
    conversation = Conversation(printer, storage=storage)
    toolsets = options.toolsets()
    agent = options.agent(conversation.hear, toolsets)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(agent):
        if storage is not None and go_on:
            conversation.messages = portal.call(storage.resume)
        talk = _Chat(agent, toolsets, portal, conversation, notes)
        talk.show_banner(options)
        talk.talk()


@dataclass
class Conversation:
    """Messages and usage of the chat so far."""

    printer: EventPrinter
    messages: tuple[ModelMessage, ...] = ()
    usage: RunUsage | None = None
    storage: ChatStorage | None = None
    partial_reply: list[str] = field(default_factory=list[str])
    """Text of the reply that is being written."""

    def hear(self, event: AgentEvent) -> None:
        """Print an event, and keep the text of an unfinished reply."""
        from agentkit.events import ModelResponseEvent, TextDeltaEvent

        if isinstance(event, TextDeltaEvent):
            self.partial_reply.append(event.text)
        elif isinstance(event, ModelResponseEvent):
            self.partial_reply.clear()
        self.printer(event)

    def keep(self, state: RunState) -> None:
        """Store messages and usage of a turn that ended or was stopped; every call in `state` has its result."""
        from agentkit.messages import ModelRequest, ModelResponse, TextPart

        self.messages = state.messages
        if self.messages and isinstance(self.messages[-1], ModelRequest):
            reply = "".join(self.partial_reply) or NO_REPLY
            self.messages = (*self.messages, ModelResponse((TextPart(reply),)))
        self.partial_reply.clear()
        self.usage = state.usage if self.usage is None else self.usage.plus(state.usage)

    async def store(self) -> None:
        """Store the messages, if the chat has a storage.

        Raises:
            CheckpointError: They cannot be stored.
        """
        if self.storage is not None:
            await self.storage.store(self.messages)


@dataclass(frozen=True)
class _Chat:
    """The prompt loop: runs turns and slash commands."""

    agent: Agent[None, str]
    toolsets: list[Toolset]
    portal: BlockingPortal
    conversation: Conversation
    notes: Console
    files: list[BinaryContent] = field(default_factory=list[BinaryContent])
    """Files of the next message."""

    def talk(self) -> None:
        """Read lines until the user leaves."""
        while (line := self._read()) is not None:
            if line.startswith("/"):
                if not self._command(line):
                    return
            elif line:
                self._turn(line)

    def show_banner(self, options: AgentOptions) -> None:
        """Show the model, the tools, and the files that this chat writes."""
        from agentkit.cli.console import count_of, one_line, print_wrapped
        from agentkit.models.resolve import resolve_model

        model, conversation = resolve_model(options.model), self.conversation
        tools = [one_line(name, 60) for name, _ in self.portal.call(self._tools)]
        storage = conversation.storage
        lines = {
            "model": options.model + (f" ({model.name} + {model.adapter})" if model.adapter else ""),
            "tools": ", ".join(tools) or "none; start with --mcp SERVER",
            "traces": str(options.trace) if options.trace is not None else "none are written",
            "chat": "is not stored" if storage is None else f"stored in {storage.database.path}",
        }
        if conversation.messages:
            lines["continues"] = f"the last chat of this folder, {count_of(len(conversation.messages), 'message')}"
        for name, text in lines.items():
            print_wrapped(self.notes, f"{name:<{_BANNER_MARGIN}}{text}", "dim", indent=" " * _BANNER_MARGIN)
        self.notes.print("/help lists the commands.", style="dim")

    def _read(self) -> str | None:
        try:
            return _read_line().strip()
        except EOFError:
            self.notes.print()
            return None
        except KeyboardInterrupt:
            self.notes.print("\nCtrl-D or /quit leaves.", style="dim")
            return ""

    def _command(self, line: str) -> bool:
        """Perform a command; return whether the chat continues."""
        commands: dict[str, Callable[[], None]] = {
            "/help": lambda: self.notes.print(_HELP),
            "/tools": self._show_tools,
            "/usage": self._show_usage,
            "/reset": self._reset,
        }
        if line in ("/quit", "/exit"):
            return False
        name, _, path = line.partition(" ")
        if name == "/file" and path:
            self._attach(path)
        elif line in commands:
            commands[line]()
        else:
            from agentkit.cli.console import plain

            self.notes.print(plain(f"{line.split()[0]} is not a command; /help lists them.", "yellow"))
        return True

    def _attach(self, path: str) -> None:
        """Add a file to the next message."""
        from agentkit.cli.console import plain

        try:
            self.files.append(read_file(Path(path.strip()).expanduser()))
        except UserError as error:
            self._show_error(error)
        else:
            self.notes.print(plain(f"{self.files[-1].note} goes with the next message", "dim"))

    def _turn(self, words: str) -> None:
        """Run one turn; Ctrl-C, also when pressed repeatedly, stops the turn and not the chat."""
        import anyio

        prompt: Prompt = [words, *self.files] if self.files else words
        self.files.clear()
        going_on: _GoingOn | None = None
        while True:
            scope = self.portal.call(anyio.CancelScope)
            future = self.portal.start_task_soon(self._run, prompt, going_on, scope)
            stopped, ended, waiting = False, False, None
            while not ended:  # read at least once: a turn may fail before this line
                try:
                    if stopped:
                        self.portal.call(scope.cancel)
                    waiting = future.result()
                    ended = True
                except KeyboardInterrupt:
                    stopped = True
                except AgentKitError as error:
                    self._show_error(error)
                    ended = True
            if stopped:
                self.notes.print("stopped", style="yellow")
            if waiting is None:
                return
            going_on = waiting, self._decide(waiting)

    async def _run(self, prompt: Prompt, going_on: _GoingOn | None, scope: CancelScope) -> RunState | None:
        """Run or resume a turn; return its state if calls wait for a decision."""
        from anyio import CancelScope

        from agentkit.cli.cards import NOTICES

        with scope:
            begun = (
                self.agent.iter(prompt, message_history=self.conversation.messages)
                if going_on is None
                else self.agent.iter_resumed(*going_on)
            )
            async with begun as run:
                try:
                    status = (await run.finish()).status
                    if status == "needs_approval":
                        return run.state
                finally:
                    if not run.state.pending:
                        self.conversation.keep(run.state)
                        with CancelScope(shield=True):  # also after Ctrl-C
                            await self.conversation.store()
                    self.conversation.printer.end_line()
                if status in NOTICES:
                    self.notes.print(NOTICES[status], style="yellow")
        return None

    def _decide(self, state: RunState) -> list[Decision]:
        """Ask about the waiting calls; without an answer all of them are denied."""
        from agentkit.cli.approval import decide

        try:
            return decide(state.pending, self.notes)
        except (EOFError, KeyboardInterrupt):
            self.notes.print("\nnothing is allowed", style="yellow")
            return [call.deny("The user did not allow it.") for call in state.pending]

    def _show_error(self, error: AgentKitError) -> None:
        from agentkit.cli.console import print_wrapped
        from agentkit.cli.error_output import MAX_ERROR_CHARS, error_lines

        print_wrapped(self.notes, f"error: {error_lines(str(error), MAX_ERROR_CHARS)}", "red")

    def _show_tools(self) -> None:
        from agentkit.cli.console import one_line, print_wrapped

        for name, description in self.portal.call(self._tools):
            print_wrapped(self.notes, f"{one_line(name)}  {one_line(description)}", indent="    ")
        if not self.toolsets:
            self.notes.print("none; start with --mcp SERVER", style="dim")

    async def _tools(self) -> list[tuple[str, str]]:
        from agentkit.context import RunContext

        context = RunContext(deps=None)
        listed = [await toolset.list_tools(context) for toolset in self.toolsets]
        return [(tool.name, tool.definition.description) for tools in listed for tool in tools]

    def _show_usage(self) -> None:
        from agentkit.cli.cards import usage_line
        from agentkit.cli.console import print_wrapped
        from agentkit.usage import RunUsage

        print_wrapped(self.notes, usage_line(self.conversation.usage or RunUsage(), None))

    def _reset(self) -> None:
        self.conversation.messages = ()
        if self.conversation.storage is not None:
            self.conversation.storage.reset()
        self.notes.print("A new conversation begins.", style="dim")


def _read_line() -> str:
    if sys.stdin.isatty():
        import contextlib

        if os.environ.get("TERM") != "dumb":  # a dumb terminal cannot edit lines
            with contextlib.suppress(ImportError):  # not on Windows; without it lines cannot be edited
                import readline  # noqa: F401 - gives `input` its line editor  # pyright: ignore[reportUnusedImport]
        return input(PROMPT)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line
