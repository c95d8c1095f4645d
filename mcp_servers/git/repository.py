"""A repository: the layout required to serve it, and reading from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from stat import S_ISDIR, S_ISLNK
from typing import Concatenate, ParamSpec, TypeVar

import anyio

from mcp_servers.confinement.confining import is_confined
from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.filesystem.policy import GIT_FOLDER, PathParts, joined
from mcp_servers.git.command import MISSING_OBJECT, Git
from mcp_servers.git.links import LinkCheck
from mcp_servers.git.parsing import (
    LOG_FORMAT,
    REFERENCE_FORMAT,
    parse_blame,
    parse_log,
    parse_numstat,
    parse_references,
    parse_status,
)
from mcp_servers.git.policy import Limits, check_revision, is_object_name
from mcp_servers.git.results import (
    Blame,
    BlamedLine,
    Branch,
    Branches,
    Commit,
    CommitDetails,
    Diff,
    FileAtRevision,
    FileChange,
    FolderAtRevision,
    Log,
    Status,
)
from mcp_servers.hidden import decoded

# Paths below `.git`; a link at one of them would make git read or write somewhere else.
_MUST_NOT_BE_LINKS = (
    "HEAD", "config", "config.worktree", "index", "info", "info/attributes", "info/exclude", "info/grafts", "logs",
    "objects", "objects/info", "objects/pack", "packed-refs", "refs", "refs/heads", "refs/remotes", "refs/tags",
    "worktrees", "modules",
)  # fmt: skip
_POINTS_OUTSIDE = ("commondir", "gitdir", "objects/info/alternates", "objects/info/http-alternates")
DIFF_OPTIONS = (
    "--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short", "--ignore-submodules=all",
    "--find-renames", "--src-prefix=a/", "--dst-prefix=b/", "-O/dev/null",
)  # fmt: skip
# Listed one by one, so that `log.excludeDecoration`, a list that `-c` cannot empty, excludes none.
_DECORATE = (
    "--decorate=short", "--decorate-refs=HEAD", "--decorate-refs=refs/heads/", "--decorate-refs=refs/remotes/",
    "--decorate-refs=refs/tags/",
)  # fmt: skip
_TREE, _LINK, _SUBMODULE = "040000", "120000", "160000"

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def open_repository(path: str, limits: Limits) -> Repository:
    """Return the repository in a folder.

    Raises:
        StartError: There is none, or it cannot be served.
    """
    root = Path(path).resolve()
    try:
        check_layout(root)
        repository = Repository(root, Git(root, limits), limits)
        repository.check()
    except ToolFailure as failure:
        raise StartError(str(failure)) from failure
    return repository


def check_layout(root: Path) -> None:
    """Refuse a repository that makes git read outside of its folder.

    Raises:
        ToolFailure: `.git` is not a folder, contains links, or points to another repository.
    """
    folder = root / GIT_FOLDER
    try:
        mode = folder.lstat().st_mode
    except OSError:
        raise ToolFailure(
            f"{str(root)!r} has no folder {GIT_FOLDER!r}. Name the top folder of a repository; clone a bare one."
        ) from None
    if not S_ISDIR(mode):
        raise ToolFailure(
            f"{GIT_FOLDER!r} of {str(root)!r} is a {'link' if S_ISLNK(mode) else 'file'} that points to another "
            "folder. Name the main working tree, not a linked one or a submodule."
        )
    for name in _MUST_NOT_BE_LINKS:
        if (folder / name).is_symlink():
            raise ToolFailure(
                f"{GIT_FOLDER}/{name} of {str(root)!r} is a link; a repository with links is not served."
            )
    for name in _POINTS_OUTSIDE:
        if (folder / name).exists() or (folder / name).is_symlink():
            raise ToolFailure(
                f"{GIT_FOLDER}/{name} of {str(root)!r} makes git read another repository. For alternates, run "
                "`git repack -a -d` there and remove the file."
            )


def within_limits(
    function: Callable[Concatenate[Repository, _Parameters], Awaitable[_Result]],
) -> Callable[Concatenate[Repository, _Parameters], Awaitable[_Result]]:
    """Decorate a method with one deadline for all its work, after a check of the layout, which can change."""

    async def limited(repository: Repository, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        repository.check()
        try:
            with anyio.fail_after(repository.limits.timeout_s):
                return await function(repository, *args, **kwargs)
        except TimeoutError:
            raise ToolFailure(
                f"git took longer than {repository.limits.timeout_s:g} s and was stopped. Ask for less: one path, "
                "fewer commits."
            ) from None

    return limited


class Repository:
    """Read access to a repository."""

    def __init__(self, root: Path, git: Git, limits: Limits) -> None:
        """Serve the repository in `root`; `open_repository` checks it first."""
        self.root = root
        self.git = git
        self.limits = limits
        self._links = None if is_confined() else LinkCheck(root)

    def check(self) -> None:
        """Refuse a repository that makes git read or write outside of its folder.

        Raises:
            ToolFailure: The repository is such a one now.
        """
        check_layout(self.root)  # some thirty lstat calls, cheaper than a worker thread
        if self._links is not None:
            self._links.refuse_links()

    async def commit_of(self, revision: str) -> str:
        """Return the object name of the commit that a revision resolves to.

        Raises:
            ToolFailure: It resolves to none.
        """
        wanted = check_revision(revision)
        found = await self.git.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{wanted}^{{commit}}")
        name = decoded(found.out).strip()
        if found.code or not is_object_name(name):
            raise ToolFailure(await self._no_revision(revision))
        return name

    async def _no_revision(self, revision: str) -> str:
        if revision in ("HEAD", "@") and not await self.has_commits():
            return "The repository has no commit yet."
        names = (await self.git.run("for-each-ref", "--count=8", "--format=%(refname:short)", "refs/heads")).out
        known = ", ".join(decoded(names).split()) or "none"
        return f"There is no commit {revision!r}. Its branches: {known}. git_log shows commits."

    async def has_commits(self) -> bool:
        """Return whether HEAD resolves to a commit."""
        return (await self.git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}")).code == 0

    @within_limits
    async def status(self) -> Status:
        """Read the state of the index and the working tree."""
        output = await self.git.run(
            "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--ignore-submodules=all",
            "--find-renames",
        )  # fmt: skip
        facts = parse_status(output.checked())
        return Status.of(facts, self.limits.max_entries, is_cut=output.is_cut)

    @within_limits
    async def log(
        self, revision: str, path: PathParts, *, options: Sequence[str] = (), limit: int, page: int
    ) -> Log:
        """Read commits, newest first.

        Args:
            revision: Revision to start from.
            path: Path that the commits must change; the empty path selects all commits.
            options: Further options of git-log; each argument of a caller must follow its option's name and `=`.
            limit: Commits per page.
            page: Page number, from 1.
        """
        # HEAD needs no process of its own to be resolved, unless there is nothing that it resolves to.
        start = revision if revision == "HEAD" else await self.commit_of(revision)
        output = await self.git.run(
            "log", "-z", LOG_FORMAT, "--no-show-signature", "--no-color", "--no-notes", *_DECORATE,
            f"--max-count={limit + 1}", f"--skip={(page - 1) * limit}", *options, start, "--", *_pathspec(path),
        )  # fmt: skip
        if output.code and not output.is_cut:
            await self.commit_of(revision)
        commits = [Commit(**record) for record in parse_log(output.checked())]
        return Log(commits=commits[:limit], page=page, has_more=len(commits) > limit or output.is_cut)

    @within_limits
    async def diff(
        self, before: str, after: str, *, staged: bool, path: PathParts, context: int, page: int
    ) -> Diff:
        """Compare two commits, a commit with the working tree or the index, or the working tree with the index."""
        sides = [await self.commit_of(side) for side in (before, after) if side]
        arguments = [*(["--cached"] if staged else []), *sides, "--", *_pathspec(path)]
        return await self._diff(("diff",), arguments, context, page)

    async def _diff(
        self,
        command: Sequence[str],
        arguments: Sequence[str],
        context: int,
        page: int,
    ) -> Diff:
        counted = await self.git.run(*command, "--numstat", "-z", *DIFF_OPTIONS, *arguments)
        changes = [
            FileChange(path=path, path_before=old, added=added, deleted=deleted, is_binary=is_binary)
            for path, old, added, deleted, is_binary in parse_numstat(counted.checked())
        ]
        patch = await self.git.run(*command, "--patch", f"--unified={context}", *DIFF_OPTIONS, *arguments)
        text, n_pages = paged(patch.checked(), page, self.limits.page_bytes)
        return Diff(
            files=changes[: self.limits.max_entries],
            n_files=len(changes),
            patch=text,
            page=page,
            pages=n_pages,
            is_cut=patch.is_cut or counted.is_cut,
        )

    @within_limits
    async def show(self, revision: str, *, context: int, page: int) -> CommitDetails:
        """Read one commit: author, date, message, and its changes against its first parent."""
        commit = await self.commit_of(revision)
        record = (
            await self.git.run(
                "log", "-z", "--max-count=1", LOG_FORMAT + "%x00%B", "--no-show-signature", "--no-color",
                "--no-notes", *_DECORATE, commit, "--",
            )
        ).checked()  # fmt: skip
        fields = record.split(b"\0")
        facts = next(parse_log(b"\0".join(fields[:7])), None)
        if facts is None:
            raise ToolFailure(f"{revision!r} cannot be read as a commit. {MISSING_OBJECT}")
        message, _ = paged(fields[7] if len(fields) > 7 else b"", 1, self.limits.page_bytes // 2)
        parent = facts["parents"].split()[:1]
        command = ("diff-tree", "-r", *(["--root", "--no-commit-id"] if not parent else []))
        diff = await self._diff(command, [*parent, commit], context, page)
        return CommitDetails(**facts, message=message, **dict(diff))

    @within_limits
    async def show_path(self, revision: str, path: PathParts, page: int) -> FileAtRevision | FolderAtRevision:
        """Read a file or list a folder at a commit."""
        commit = await self.commit_of(revision)
        mode, name, size = await self._entry(commit, revision, path)
        if mode == _TREE:
            return await self._folder(name, path)
        if mode == _SUBMODULE:
            raise ToolFailure(f"{joined(path)!r} is a submodule, at its commit {name}; its files are not here.")
        if size > self.limits.max_read_bytes:
            raise ToolFailure(
                f"{joined(path)!r} has {size} bytes; at most {self.limits.max_read_bytes} are shown."
            )
        content = (await self.git.run("cat-file", "blob", name)).checked()
        is_binary = b"\0" in content[:8_000]  # git's own test
        text, n_pages = ("", 1) if is_binary else paged(content, page, self.limits.page_bytes)
        return FileAtRevision(
            path=joined(path),
            size=size,
            is_binary=is_binary,
            is_link=mode == _LINK,
            text=text,
            page=page,
            pages=n_pages,
        )

    async def _entry(self, commit: str, revision: str, path: PathParts) -> tuple[str, str, int]:
        """Return mode, object name and size of a commit's entry at a path."""
        if not path:
            return _TREE, f"{commit}^{{tree}}", 0
        listed = (await self.git.run("ls-tree", "-z", "-l", commit, "--", "/".join(path))).checked()
        if not listed:
            raise ToolFailure(f"{revision} has no {joined(path)!r}. git_list_files lists a folder.")
        mode, _, name, size = listed.split(b"\t", 1)[0].decode().split()
        if size == "BAD":  # git-ls-tree prints this for a missing object
            raise ToolFailure(f"{revision} has {joined(path)!r}, but not its content. {MISSING_OBJECT}")
        return mode, name, 0 if size == "-" else int(size)

    async def _folder(self, tree: str, path: PathParts) -> FolderAtRevision:
        output = await self.git.run("ls-tree", "-z", tree)
        entries = []
        for record in output.checked().split(b"\0")[:-1]:
            facts, name = record.split(b"\t", 1)
            entries.append(decoded(name) + ("/" if facts.startswith(_TREE.encode()) else ""))
        shown = entries[: self.limits.max_entries]
        return FolderAtRevision(path=joined(path), entries=shown, n_entries=len(entries))

    @within_limits
    async def blame(self, path: PathParts, revision: str, first: int, lines: int) -> Blame:
        """Return, for each line of a file, the commit that last changed it."""
        if not path:
            raise ToolFailure("Name a file, as src/main.py.")
        commit = await self.commit_of(revision)
        mode, _, size = await self._entry(commit, revision, path)
        if mode in (_TREE, _SUBMODULE):
            raise ToolFailure(f"{joined(path)!r} is a folder. Name a file in it.")
        if size > self.limits.max_read_bytes:
            raise ToolFailure(f"{joined(path)!r} has {size} bytes; at most {self.limits.max_read_bytes} are read.")
        output = await self.git.run(
            "blame", "--line-porcelain", "--no-textconv",
            "--no-ignore-revs-file",  # the configuration's list; `-c` cannot empty it, and an error quotes it
            "-L", f"{first},+{lines}", commit, "--", "/".join(path),
        )  # fmt: skip
        blamed = [
            BlamedLine(
                line=int(record["line"]),
                commit=record["commit"],
                author=record.get("author", ""),
                date=_iso(record.get("author-time", "0"), record.get("author-tz", "+0000")),
                summary=record.get("summary", ""),
                text=record["text"][:500],
            )
            for record in parse_blame(output.checked())
        ]
        return Blame(path=joined(path), lines=blamed)

    @within_limits
    async def branches(self, remote: bool) -> Branches:
        """List branches, the one with the newest commit first."""
        prefix = "refs/remotes/" if remote else "refs/heads/"
        output = await self.git.run("for-each-ref", "--sort=-committerdate", REFERENCE_FORMAT, prefix)
        found = [
            Branch(
                name=record["name"].removeprefix(prefix),
                commit=record["commit"],
                upstream=record["upstream"],
                is_current=record["head"] == "*",
                date=record["date"],
                subject=record["subject"],
            )
            for record in parse_references(output.checked())
        ]
        return Branches(branches=found[: self.limits.max_entries], n_branches=len(found))


def _pathspec(path: PathParts) -> list[str]:
    return ["/".join(path)] if path else []


def paged(content: bytes, page: int, page_bytes: int) -> tuple[str, int]:
    """Return one page of a text, preferably cut at line ends, and the number of pages.

    Raises:
        ToolFailure: The page does not exist.
    """
    starts = [0]
    while len(content) - starts[-1] > page_bytes:
        end = content.rfind(b"\n", starts[-1], starts[-1] + page_bytes) + 1
        starts.append(end if end > starts[-1] else starts[-1] + page_bytes)
    if page > len(starts):
        raise ToolFailure(
            f"There is no page {page}; there {'is 1 page' if len(starts) == 1 else f'are {len(starts)}'}."
        )
    ends = [*starts[1:], len(content)]
    return decoded(content[starts[page - 1] : ends[page - 1]]), len(starts)


def _iso(seconds: str, offset: str) -> str:
    sign = -1 if offset.startswith("-") else 1
    digits = offset[1:5]
    minutes = sign * (int(digits[:2]) * 60 + int(digits[2:])) if digits.isdigit() and len(digits) == 4 else 0
    try:
        return datetime.fromtimestamp(int(seconds), timezone(timedelta(minutes=minutes))).isoformat()
    except (ValueError, OverflowError, OSError):  # a commit can contain any timestamp
        return ""
