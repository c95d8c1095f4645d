"""Scripts of a skill: run in the sandbox of `agentkit.workspace`, from a copy of the bytes that were hashed.

A script is found by its path among the files that were read, so `..` and links lead nowhere. Its interpreter is
that of its suffix or of its `#!` line; the executable flag is not needed. It sees the skill's files read-only, has
no network, and may write to the workspace folder alone (without one, to an empty folder that is removed).
"""

from __future__ import annotations

import posixpath
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agentkit.basics.hidden import strip_data
from agentkit.basics.near_names import near_names
from agentkit.errors import ModelRetry, UserError
from agentkit.skills.files import SkillFile, SkillFiles
from agentkit.tools.tool import ToolOutput
from modelstack.tokenizer.template_marks import without_marks

if TYPE_CHECKING:
    from agentkit.workspace.sandbox import SandboxLimits, SandboxResult

MAX_ARGUMENTS, MAX_ARGUMENT_CHARS = 64, 8_000
MAX_OUTPUT_CHARS = 20_000
"""Characters of each output stream that the model reads: about 5,000 tokens."""
FOLDER_IN_SANDBOX = "/workspace"
"""Folder that a script starts in, as it sees it."""
SKILL_VARIABLE = "SKILL_DIR"
"""Environment variable of a script with the folder of its skill."""
_PYTHON = "python3"
_SUFFIXES = {
    ".py": _PYTHON,
    ".sh": "sh",
    ".bash": "bash",
    ".js": "node",
    ".mjs": "node",
    ".cjs": "node",
    ".rb": "ruby",
    ".pl": "perl",
}
_SCRIPT_FOLDER = "scripts/"
_MAX_SHEBANG_BYTES = 200


@dataclass(frozen=True, slots=True)
class SkillScripts:
    """Rules for the scripts of skills.

    Example:
        ```python
        Skills("skills", trusted=True, scripts=SkillScripts(requires_approval=False, workspace="work"))
        ```
    """

    requires_approval: bool = True
    """Whether each script requires approval. False applies to trusted skills alone: others always do."""
    workspace: str | Path | None = None
    """Folder that scripts start in and may write to; None gives each an empty folder that is removed."""
    interpreters: Mapping[str, Sequence[str]] = field(default_factory=dict[str, "Sequence[str]"])
    """Commands by suffix, such as `{".ts": ["/usr/bin/deno", "run"]}`; they precede the known ones."""
    readable: Sequence[str | Path] = ()
    """Further files and folders that scripts may read, such as those of an interpreter."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Environment variables of scripts; nothing is inherited."""
    limits: SandboxLimits | None = None
    """Time, memory, files and output of a script; None takes the sandbox's defaults."""

    @property
    def wall_s(self) -> float:
        """Seconds before a script is stopped."""
        from agentkit.workspace.sandbox import SandboxLimits

        return (self.limits or SandboxLimits()).wall_s


def has_scripts(paths: Iterable[str]) -> bool:
    """Return whether one of a skill's files is in the folder of scripts."""
    return any(each.startswith(_SCRIPT_FOLDER) for each in paths)


def script_paths(files: SkillFiles, scripts: SkillScripts) -> list[str]:
    """Return the paths of scripts to list. Other files can be run, too, if the skill says so."""
    return [
        each.path
        for each in files.files
        if each.path.startswith(_SCRIPT_FOLDER) and _program(each, scripts) is not None
    ]


def file_of(files: SkillFiles, path: str) -> SkillFile:
    """Return the file that a model names.

    Raises:
        ModelRetry: the skill has no such file.
    """
    named = posixpath.normpath(path)
    file = files.by_path.get(named)
    if file is None:
        near = near_names(named, files.by_path)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ModelRetry(f"the skill has no file {path[:200]!r}{hint} load_skill lists its files.")
    return file


async def run_script(
    files: SkillFiles, file: SkillFile, arguments: Sequence[str], scripts: SkillScripts, *, name: str
) -> ToolOutput:
    """Run a script and return its exit status and output.

    Raises:
        ModelRetry: the arguments are beyond a limit.
        UserError: the workspace is not a folder, or the system has no sandbox.
    """
    import anyio
    from anyio.to_thread import run_sync

    from agentkit.workspace.sandbox import SandboxLimits, run_in_sandbox

    if len(arguments) > MAX_ARGUMENTS or any(len(a) > MAX_ARGUMENT_CHARS or "\0" in a for a in arguments):
        raise ModelRetry(
            f"a script takes at most {MAX_ARGUMENTS} arguments of {MAX_ARGUMENT_CHARS:,} characters without NUL; "
            f"write larger data to a file."
        )
    command = await run_sync(_interpreter, file, scripts)
    if isinstance(command, str):
        return ToolOutput(command, is_error=True)
    workspace = None if scripts.workspace is None else await run_sync(_workspace, scripts.workspace)
    # Removal in a thread, too: a skill may have thousands of files.
    copy, scratch = await run_sync(_copied, files, name)
    try:
        result = await run_in_sandbox(
            [*command, str(copy / file.path), *arguments],
            folder=scratch if workspace is None else workspace,
            seen_as=FOLDER_IN_SANDBOX,
            readable=[copy, *await run_sync(_readable, command, scripts)],
            environment={**scripts.environment, SKILL_VARIABLE: str(copy)},
            limits=scripts.limits or SandboxLimits(),
        )
    finally:
        with anyio.CancelScope(shield=True):
            await run_sync(lambda: shutil.rmtree(copy.parent, ignore_errors=True))
    return _output(result, str(copy), name)


def _copied(files: SkillFiles, name: str) -> tuple[Path, Path]:
    """Return a private folder with the files of a skill, and an empty one beside it."""
    temporary = Path(tempfile.mkdtemp(prefix="agentkit-skill-")).resolve()
    copy, scratch = temporary / name, temporary / "_empty"  # no name of a skill
    try:
        scratch.mkdir()
        files.write_to(copy)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return copy, scratch


def _output(result: SandboxResult, copy: str, name: str) -> ToolOutput:
    """Return the result for the model; the path of the copy becomes the skill's name."""
    shown = {
        key: _shown(data, is_cut, copy, name)
        for key, data, is_cut in (
            ("stdout", result.stdout, result.stdout_truncated),
            ("stderr", result.stderr, result.stderr_truncated),
        )
    }
    if result.stopped_by is not None:
        ended = f"stopped by the {result.stopped_by}"
    elif result.signal is not None:
        ended = f"ended by signal {result.signal}"
    else:
        ended = f"exit status {result.exit_status}"
    text = "\n".join([ended, *(f"{key}:\n{value}" for key, value in shown.items() if value)])
    data = {"exit_status": result.exit_status, **shown}
    return ToolOutput(text, data, is_error=ended != "exit status 0", timed_out=result.timed_out)


def _shown(data: bytes, is_cut: bool, copy: str, name: str) -> str:
    text = data.decode("utf-8", "replace").replace(copy, name)
    text = without_marks(strip_data(text)[0])[0].strip("\n")
    if len(text) > MAX_OUTPUT_CHARS:
        half = MAX_OUTPUT_CHARS // 2
        left_out = len(text) - MAX_OUTPUT_CHARS
        text, is_cut = f"{text[:half]}\n[... {left_out:,} characters left out ...]\n{text[-half:]}", False
    return f"{text}\n[... cut at the limit of output]" if is_cut else text


# -- interpreters -----------------------------------------------------------------------------------------------


def _interpreter(file: SkillFile, scripts: SkillScripts) -> list[str] | str:
    """Return the command that a script is given to, or the reason why there is none."""
    program = _program(file, scripts)
    if program is None:
        known = ", ".join(sorted({*_SUFFIXES, *scripts.interpreters}))
        return (
            f"{file.path!r} has no interpreter: it has none of the suffixes {known}, and no '#!' line that names "
            f"one. The application can give one with SkillScripts(interpreters=...)."
        )
    if program == _PYTHON:
        return [sys.executable, "-B", "-s"]
    name, *options = [program] if isinstance(program, str) else program
    path = shutil.which(name)
    return (
        f"{file.path!r} needs {name!r}, which is not installed on this machine."
        if path is None
        else [path, *options]
    )


def _program(file: SkillFile, scripts: SkillScripts) -> str | Sequence[str] | None:
    """Return the application's command for a script, the name of a known interpreter, or None."""
    suffix = posixpath.splitext(file.path)[1].lower()
    return scripts.interpreters.get(suffix) or _named_in(file.data) or _SUFFIXES.get(suffix)


def _named_in(data: bytes) -> str | None:
    """Return the known interpreter that a `#!` line names, without its options."""
    if not data.startswith(b"#!"):
        return None
    words = data[2:_MAX_SHEBANG_BYTES].partition(b"\n")[0].decode("utf-8", "replace").split()
    names = [posixpath.basename(word) for word in words]
    name = names[1] if names[:1] == ["env"] and len(names) > 1 else "".join(names[:1])
    name = _PYTHON if name.startswith("python") else name
    return name if name in _SUFFIXES.values() else None


def _readable(command: Sequence[str], scripts: SkillScripts) -> list[Path]:
    """Return what an interpreter needs to read beside the system's own folders."""
    own = [Path(sys.prefix), Path(sys.base_prefix)] if command[0] == sys.executable else [Path(command[0])]
    return [*own, *(Path(each).expanduser().resolve() for each in scripts.readable)]


def _workspace(folder: str | Path) -> Path:
    """Return the folder that scripts write to.

    Raises:
        UserError: it is not a folder.
    """
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise UserError(f"the workspace {str(folder)!r} of skill scripts is not a folder; create it.")
    return path
