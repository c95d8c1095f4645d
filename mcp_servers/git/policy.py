"""Rules for requests to git and restrictions of git itself: pure functions without I/O or MCP.

A repository is a program. Its configuration names commands that plain git runs even for read-only commands
(fsmonitor, filters, external diffs, text conversions, signature checkers, pagers, hooks), and argument values
become options when they start with a dash (CVE-2025-68144). So git gets a fixed command line with every such key
overridden, no environment but the server's, revisions only as object names resolved before, and literal paths
after `--`. The keys: git-config(1), gitattributes(5), githooks(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.policy import GIT_FOLDER, PathParts, is_git_folder, parse_path

MAX_REVISION_CHARS = 250
MAX_MESSAGE_CHARS = 20_000
"""Characters of a commit message."""
MAX_PATHS = 200
"""Paths that one call names."""


@dataclass(frozen=True)
class Limits:
    """Limits of one call."""

    timeout_s: float = 15.0
    """Seconds for all work of a call; agentkit waits 30 s for one."""
    page_bytes: int = 24 * 1024
    """Bytes of text on one page: about 6,000 tokens."""
    max_read_bytes: int = 8 * 1024 * 1024
    """Bytes read of git's output, and size of the largest file that is shown."""
    max_entries: int = 300
    """Files, commits or branches in one answer."""
    heap_bytes: int = 1024 * 1024 * 1024
    """Memory of one git process, mapped packs not counted."""
    max_staged: int = 10_000
    """Maximum number of files that one `git_add` stages."""


FIXED_CONFIG: tuple[tuple[str, str], ...] = (
    ("core.fsmonitor", "false"),
    ("core.hooksPath", "/dev/null"),
    # Refuses checkouts of folders that another file system treats as `.git` (CVE-2014-9390), as on a shared disk.
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.pager", "cat"),
    ("core.editor", "false"),
    ("core.askPass", "false"),
    ("core.sshCommand", "false"),
    ("core.gitProxy", "false"),
    ("core.abbrev", "auto"),
    ("core.alternateRefsCommand", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.quotePath", "false"),
    # Larger files are never loaded into memory for comparison.
    ("core.bigFileThreshold", "8m"),
    # The repository must not choose the number of processes or threads: `checkout.workers` starts as many as it
    # says.
    ("checkout.workers", "1"),
    ("commit.gpgSign", "false"),
    ("credential.helper", ""),
    ("diff.external", ""),
    ("fetch.parallel", "1"),
    ("gc.auto", "0"),
    ("gpg.openpgp.program", "false"),
    ("gpg.program", "false"),
    ("gpg.ssh.defaultKeyCommand", "false"),
    ("gpg.ssh.program", "false"),
    ("gpg.x509.program", "false"),
    ("grep.threads", "1"),
    ("i18n.commitEncoding", "UTF-8"),
    ("i18n.logOutputEncoding", "UTF-8"),
    ("index.threads", "1"),
    ("log.showSignature", "false"),
    ("mailmap.blob", ""),
    ("mailmap.file", "/dev/null"),
    ("maintenance.auto", "false"),
    ("pack.threads", "1"),
    # A partial clone fetches missing objects, with commands that its configuration names.
    ("protocol.allow", "never"),
    ("status.submoduleSummary", "false"),
    ("submodule.fetchJobs", "1"),
    ("submodule.recurse", "false"),
)
"""Settings passed with `-c`, which git passes on to its child processes."""

ENVIRONMENT: Mapping[str, str] = {
    # No protocol has this name. The variable overrides `protocol.NAME.allow`, and git versions without
    # GIT_NO_LAZY_FETCH support it.
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_ASKPASS": "false",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_EDITOR": "false",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_SSH_COMMAND": "false",
    "GIT_TERMINAL_PROMPT": "0",
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "SSH_ASKPASS": "false",
    "XDG_CONFIG_HOME": "/nonexistent",
}
"""The environment of git, in addition to PATH and TZ."""

# The name may be empty: `[filter ""]` is the driver of `* filter=`.
_NAMED_PROGRAMS = re.compile(r"^(filter|diff|merge|hook)\.(.*)\.[^.]+$", re.DOTALL)
MAX_OVERRIDE_BYTES = 64 * 1024
"""Maximum size of the overrides; Linux allows 128 KiB for one variable and usually 2 MiB for all together."""
_OFF: Mapping[str, tuple[tuple[str, str], ...]] = {
    "filter": (("clean", ""), ("smudge", ""), ("process", ""), ("required", "false")),
    "diff": (("command", ""), ("textconv", "")),
    "merge": (("driver", "false"),),
    "hook": (("command", "false"), ("enabled", "false")),
}


def named_overrides(keys: Iterable[str]) -> list[tuple[str, str]]:
    """Return settings that disable the programs named by configuration keys.

    Args:
        keys: Keys of the repository's configuration, as `git config --list --name-only` prints them.

    Raises:
        ToolFailure: The keys name too many programs.
    """
    programs = dict.fromkeys((match[1], match[2]) for key in keys if (match := _NAMED_PROGRAMS.match(key)))
    overrides = [(f"{kind}.{name}.{key}", value) for kind, name in programs for key, value in _OFF[kind]]
    n_bytes = sum(len(os.fsencode(key)) for key, _ in overrides)
    if n_bytes > MAX_OVERRIDE_BYTES:
        raise ToolFailure(
            f"The repository's configuration names {len(programs)} filters and drivers; switching them off takes "
            f"{n_bytes} bytes, at most {MAX_OVERRIDE_BYTES} are passed to git. Remove some from "
            f"{GIT_FOLDER}/config."
        )
    return overrides


def numbered_config(settings: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return settings as environment variables: `-c` cannot express names that contain `=` or line ends."""
    numbered = {}
    count = 0
    for count, (key, value) in enumerate(settings, start=1):
        numbered[f"GIT_CONFIG_KEY_{count - 1}"] = key
        numbered[f"GIT_CONFIG_VALUE_{count - 1}"] = value
    return {**numbered, "GIT_CONFIG_COUNT": str(count)}


def check_revision(text: str) -> str:
    """Return a revision that cannot be parsed as an option or as several revisions.

    Raises:
        ToolFailure: It is empty, too long, starts with a dash, or contains control characters or a range.
    """
    if not text or len(text) > MAX_REVISION_CHARS:
        raise ToolFailure(f"A revision has 1 to {MAX_REVISION_CHARS} characters, as HEAD~1, main or 1a2b3c4.")
    if text.startswith("-"):
        raise ToolFailure(f"{text!r} starts with a dash, so it is no revision. Write one as HEAD~1 or 1a2b3c4.")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in text):
        raise ToolFailure(f"The revision {text!r} has a control character. Write it as HEAD~1 or 1a2b3c4.")
    if ".." in text:
        raise ToolFailure(f"{text!r} is a range. Give one revision, or compare two with git_diff.")
    return text


_BAD_IN_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\\ud800-\udfff]|\.\.|@\{|//")


_OBJECT_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def is_object_name(text: str) -> bool:
    """Return whether a text is exactly one complete object name, in SHA-1 or SHA-256.

    The output of `git rev-parse` for one revision can be something else: for `^HEAD`, "not reachable from HEAD".
    """
    return _OBJECT_NAME.fullmatch(text) is not None


def check_arguments(arguments: Iterable[str]) -> None:
    """Refuse texts that cannot be passed to a program.

    Raises:
        ToolFailure: A text contains a NUL character or half of a surrogate pair.
    """
    for text in arguments:
        if "\0" in text or any(0xD800 <= ord(char) < 0xE000 for char in text):
            raise ToolFailure(f"{text[:100]!r} has a NUL or a broken character. Write plain text.")


def check_branch_name(text: str) -> str:
    """Return a name that git accepts for a branch (git-check-ref-format(1)).

    Raises:
        ToolFailure: Git would refuse the name.
    """
    parts = text.split("/")
    if (
        not text
        or len(text) > MAX_REVISION_CHARS
        or text.startswith("-")
        or text in ("HEAD", "@")
        or _BAD_IN_BRANCH.search(text)
        or text.endswith(".")
        or any(not part or part.startswith(".") or part.endswith(".lock") for part in parts)
    ):
        raise ToolFailure(
            f"{text!r} cannot be a branch's name. Use letters, digits, '-', '_' and '/', as fix/typo."
        )
    return text


def check_path(text: str) -> PathParts:
    """Return a path below the repository's root as its parts; the root has none.

    Raises:
        ToolFailure: The path leaves the root, or is inside `.git`.
    """
    parts = parse_path(text)
    # Git itself refuses .GIT and names that file systems fold to it, but only on those file systems.
    if any(map(is_git_folder, parts)):
        raise ToolFailure(
            f"{text!r} is inside a repository's own folder {GIT_FOLDER}, which is not shown or changed."
        )
    return parts


def check_message(text: str) -> str:
    """Return a commit message, stripped.

    Raises:
        ToolFailure: It is empty, too long, or contains control characters.
    """
    message = text.strip()
    if not message or len(message) > MAX_MESSAGE_CHARS:
        raise ToolFailure(f"A commit message has 1 to {MAX_MESSAGE_CHARS} characters. Say what changed and why.")
    if any((ord(char) < 32 and char not in "\n\t") or 0xD800 <= ord(char) < 0xE000 for char in message):
        raise ToolFailure("The commit message has control characters. Write plain text.")
    return message


_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2})?(Z|[+-]\d{2}:?\d{2})?")
_AGO = re.compile(r"\d{1,5} (second|minute|hour|day|week|month|year)s? ago")


def check_time(text: str, *, is_end: bool) -> str:
    """Return a time in a form that git parses without guessing: git accepts any text and reads nonsense as now.

    Args:
        text: A day, a time, or `3 days ago`.
        is_end: Whether a day stands for its end; git would use the current time of day.

    Raises:
        ToolFailure: The text has none of these forms.
    """
    if _DAY.fullmatch(text):
        return f"{text}T{'23:59:59' if is_end else '00:00:00'}"
    if _TIME.fullmatch(text) or _AGO.fullmatch(text):
        return text
    raise ToolFailure(f"{text!r} is no time. Write 2026-03-01, 2026-03-01T14:30 or '3 days ago'.")
