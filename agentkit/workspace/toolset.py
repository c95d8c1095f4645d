"""`Workspace`: a folder as a toolset, with tools for files, shell commands and Python.

Files are read and changed by the functions of the filesystem server (`mcp_servers.filesystem`), so one policy
holds for both: paths stay in the folder, links are not followed, writes are atomic. Commands run in the sandbox
(`agentkit.workspace.sandbox`), where the folder is `/workspace`, there is no network, and nothing else of the
machine can be changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.tools.definition import ToolAnnotations
from agentkit.tools.function import function_tool
from agentkit.tools.tool import Tool
from agentkit.tools.toolset import Toolset

if TYPE_CHECKING:
    from agentkit.workspace.files import Files
    from agentkit.workspace.sandbox import SandboxLimits

SEEN_AS = "/workspace"
"""Folder as commands see it: equal on every machine, so that paths in outputs are equal, too."""
Trust = Literal["untrusted", "trusted"]

_READS = ToolAnnotations(read_only=True, destructive=False, idempotent=True, open_world=False)
_CHANGES = ToolAnnotations(read_only=False, destructive=True, idempotent=False, open_world=False)
_FILES = "You have a folder with files. Paths are relative to it, like 'notes/todo.md'; '.' is the folder itself."
_COMMANDS = (
    f" {{tools}} run in it, as {SEEN_AS}, isolated: there is no network, only the folder and /tmp can be changed, "
    "/tmp is empty again for each command, and processes end with it."
)


class Workspace(Toolset):
    """Folder in which an agent works: `Agent("local", toolsets=[Workspace("work/")])`.

    The tools are `read_file`, `list_files` and `search_files` (read-only), `write_file` and `edit_file`,
    `run_shell` and `run_python`. Require approval for all changes by
    `workspace.requiring_approval(when=lambda tool: not tool.annotations.read_only)`.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        shell: bool = True,
        python: bool = True,
        writable: bool = True,
        readable: Sequence[str | Path] = (),
        environment: Mapping[str, str] | None = None,
        limits: SandboxLimits | None = None,
        trust: Trust = "untrusted",
        max_output_chars: int = 16_000,
    ) -> None:
        """Open a folder; nothing is run yet.

        Args:
            folder: The folder; it must exist. Git's own folders and this process's Python in it stay read-only.
            shell: Offers `run_shell`.
            python: Offers `run_python`.
            writable: Whether tools and commands may change the folder; False leaves out `write_file` and
                `edit_file`.
            readable: Further files and folders that commands may read, at their own paths.
            environment: Variables for commands; none of this process's are passed.
            limits: Limits of each command.
            trust: "untrusted" taints a run that has read a file or an output, as those of an MCP server do.
                "trusted" is for a folder whose content nobody else wrote.
            max_output_chars: Characters of each of a command's outputs that the model reads; the middle of a
                longer one is cut.

        Raises:
            UserError: the folder cannot be opened, or an argument is invalid.
        """
        from mcp_servers.failures import StartError
        from mcp_servers.filesystem.root import Root

        if trust not in get_args(Trust):
            raise UserError(f'Workspace(trust={trust!r}) must be "untrusted" or "trusted".')
        if max_output_chars < 1:
            raise UserError(f"Workspace(max_output_chars={max_output_chars!r}) must be above zero.")
        self._folder = Path(folder).resolve()
        try:
            self._root = Root(str(self._folder))
        except StartError as error:
            raise UserError(f"Workspace({str(folder)!r}): {error} Create the folder first.") from error
        self._shell, self._python, self._writable = shell, python, writable
        self._readable = tuple(Path(each).resolve() for each in readable)
        self._environment = dict(environment or {})
        self._limits = limits
        self._is_trusted = trust == "trusted"
        self._max_output_chars = max_output_chars
        self._tools: tuple[Tool, ...] | None = None
        self._files: Files | None = None
        self._n_entered = 0

    @property
    def id(self) -> str:
        """Name for errors and traces."""
        return "workspace"

    @property
    def folder(self) -> Path:
        """The folder."""
        return self._folder

    async def list_tools(self, context: RunContext[Any]) -> Sequence[Tool]:
        """Return the tools; they are made at the first request."""
        if self._tools is None:
            self._tools = (*self._file_tools(), *self._command_tools())
        return self._tools

    async def instructions(self, context: RunContext[Any]) -> str | None:
        """Return how paths are written and where commands run."""
        names = [
            name for name, is_offered in (("run_shell", self._shell), ("run_python", self._python)) if is_offered
        ]
        return _FILES + (_COMMANDS.format(tools=" and ".join(names)) if names else "")

    async def __aenter__(self) -> Self:
        """Note another run."""
        self._n_entered += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process of regular expressions after the last run."""
        self._n_entered -= 1
        if self._files is not None and not self._n_entered:
            import anyio
            import anyio.to_thread

            with anyio.CancelScope(shield=True):  # some milliseconds
                await anyio.to_thread.run_sync(self._files.close)

    def _file_tools(self) -> list[Tool]:
        from agentkit.workspace.files import Files
        from modelstack.sandbox.commands import kept_read_only

        self._files = files = Files(self._root, kept_read_only(str(self._folder)))
        untrusted = not self._is_trusted
        reading = (files.read_file, files.list_files, files.search_files)
        changing = (files.write_file, files.edit_file) if self._writable else ()
        return [
            *(function_tool(each, annotations=_READS, untrusted_output=untrusted) for each in reading),
            *(
                function_tool(each, annotations=_CHANGES, untrusted_output=untrusted, sequential=True)
                for each in changing
            ),
        ]

    def _command_tools(self) -> list[Tool]:
        from agentkit.workspace.commands import Commands
        from agentkit.workspace.sandbox import SandboxLimits

        commands = Commands(
            self._folder,
            seen_as=SEEN_AS,
            writable=self._writable,
            readable=self._readable,
            environment=self._environment,
            limits=self._limits or SandboxLimits(),
            max_output_chars=self._max_output_chars,
        )
        offered = [
            *([commands.run_shell] if self._shell else ()),
            *([commands.run_python] if self._python else ()),
        ]
        return [
            function_tool(
                each,
                annotations=_CHANGES,
                untrusted_output=not self._is_trusted,
                sequential=True,
                timeout_s=float("inf"),  # a command has a time limit of its own, and is ended by it
                allows_repeats=True,  # tests run again after a change
            )
            for each in offered
        ]
