"""Changes to a repository through git's plumbing: no hooks, editors, signing programs or maintenance run.

The porcelain commands enter submodules, which have configurations of their own, and run programs named there (`git
add` and `git commit` start `git status` inside them). Plumbing changes one file or reference at a time, and a
reference is only moved from the value that was read before.
"""

from __future__ import annotations

from collections.abc import Sequence

from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.policy import PathParts, joined
from mcp_servers.git.parsing import parse_numstat, parse_status
from mcp_servers.git.policy import GIT_FOLDER, MAX_PATHS, check_branch_name, check_message, check_path
from mcp_servers.git.repository import DIFF_OPTIONS, Repository, within_limits
from mcp_servers.git.results import Committed, FileChange, Moved, Staged, Status
from mcp_servers.hidden import decoded

_NO_COMMIT = "0" * 40
_IN_PROGRESS = {
    "MERGE_HEAD": "merge", "CHERRY_PICK_HEAD": "cherry-pick", "REVERT_HEAD": "revert", "rebase-merge": "rebase",
    "rebase-apply": "rebase", "BISECT_LOG": "bisect",
}  # fmt: skip
_NO_FILTER = ("unspecified", "unset", "set")


@within_limits
async def add(repository: Repository, paths: Sequence[str]) -> Staged:
    """Stage the current content of files; a folder stands for the changed files in it."""
    wanted = _checked_paths(paths)
    git = repository.git
    listed = await git.run("ls-files", "-z", "--stage", "--", *wanted)
    submodules = {
        record.split(b"\t", 1)[1] for record in listed.checked().split(b"\0") if record.startswith(b"160000")
    }
    changed = await git.run(
        "ls-files", "-z", "--others", "--modified", "--deleted", "--exclude-standard", "--", *wanted
    )
    if changed.is_cut:
        raise ToolFailure("There are too many files at once. Stage one folder after the other.")
    files = dict.fromkeys(each for each in changed.checked().split(b"\0") if each)
    skipped = [each for each in files if each in submodules or each.endswith(b"/")]
    taken = [each for each in files if each not in skipped]
    if len(taken) > repository.limits.max_staged:
        most = repository.limits.max_staged
        raise ToolFailure(f"{len(taken)} files would be staged, at most {most} are at once. Name a folder.")
    await _refuse_missing_or_ignored(repository, wanted, taken, listed.out)
    await _refuse_filtered(repository, taken, "staged")
    if taken:
        (
            await git.run("update-index", "--add", "--remove", "-z", "--stdin", given=b"\0".join(taken) + b"\0")
        ).checked()
    return await _staged(repository, taken, skipped)


async def _refuse_missing_or_ignored(
    repository: Repository, wanted: Sequence[str], taken: Sequence[bytes], tracked: bytes
) -> None:
    """Report a path that matches nothing; git-ls-files gives no error for it."""
    known = [*taken, *(record.split(b"\t", 1)[-1] for record in tracked.split(b"\0") if record)]
    for path in wanted:
        name = path.encode()
        if path == "." or any(each == name or each.startswith(name + b"/") for each in known):
            continue
        ignored = await repository.git.run(
            "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory", "--", path
        )
        if ignored.checked():
            raise ToolFailure(f"{path!r} is ignored by .gitignore. It is not staged here.")
        if not (repository.root / path).is_dir():
            raise ToolFailure(f"There is no file {path!r}. git_status lists what can be staged.")


async def _refuse_filtered(repository: Repository, files: Sequence[bytes], what: str, *options: str) -> None:
    """Refuse files that a filter program converts: without the program, wrong content would be written."""
    if not files:
        return
    asked = await repository.git.run(
        "check-attr", "-z", "--stdin", *options, "filter", given=b"\0".join(files) + b"\0"
    )
    fields = asked.checked().split(b"\0")
    for path, value in zip(fields[::3], fields[2::3], strict=False):
        name = decoded(value)
        if name not in _NO_FILTER:
            raise ToolFailure(
                f"{decoded(path)!r} passes through the filter {name!r} (as Git LFS does), a program that is not "
                f"run here. It can be {what} in a terminal."
            )


@within_limits
async def unstage(repository: Repository, paths: Sequence[str]) -> Staged:
    """Remove changes from the index; the files stay as they are."""
    wanted = _checked_paths(paths)
    before = await repository.git.run("diff", "--cached", "--name-only", "-z", *DIFF_OPTIONS, "--", *wanted)
    names = [each for each in before.checked().split(b"\0") if each]
    if names:
        (await repository.git.run("reset", "--quiet", "--no-refresh", "--", *wanted)).checked()
    return await _staged(repository, names, [])


async def _staged(repository: Repository, changed: Sequence[bytes], skipped: Sequence[bytes]) -> Staged:
    output = await repository.git.run(
        "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=normal", "--ignore-submodules=all"
    )
    limit = repository.limits.max_entries
    status = Status.of(parse_status(output.checked()), limit, is_cut=output.is_cut)
    names = [decoded(each) for each in changed]
    return Staged(changed=names[:limit], skipped=[decoded(each) for each in skipped][:limit], status=status)


@within_limits
async def commit(repository: Repository, message: str, author: str) -> Committed:
    """Create a commit from the index.

    Args:
        repository: Repository to commit to.
        message: Commit message.
        author: Author as `Name <mail>`; empty: user.name and user.email of the repository's configuration.
    """
    text = check_message(message)
    _refuse_in_progress(repository)
    git = repository.git
    parent = await repository.commit_of("HEAD") if await repository.has_commits() else ""
    tree = decoded((await git.run("write-tree")).checked()).strip()
    against = parent or decoded((await git.run("hash-object", "-t", "tree", "--stdin")).checked()).strip()
    if (
        parent
        and tree == decoded((await git.run("rev-parse", f"{parent}^{{tree}}")).checked()).strip()
        or (not parent and tree == against)
    ):
        raise ToolFailure("Nothing is staged, so there is nothing to commit. Stage files with git_add first.")
    made = await git.run(
        "commit-tree", "--no-gpg-sign", *(["-p", parent] if parent else []), "-F", "-", tree,
        given=text.encode() + b"\n", more=await _identity(repository, author),
    )  # fmt: skip
    name = decoded(made.checked()).strip()
    subject = text.split("\n", 1)[0]
    (await git.run("update-ref", "-m", f"commit: {subject}", "HEAD", name, parent or _NO_COMMIT)).checked()
    counted = await git.run("diff-tree", "-r", "--numstat", "-z", *DIFF_OPTIONS, *([parent] if parent else []),
                            *([name] if parent else ["--root", name]))  # fmt: skip
    files = [
        FileChange(path=path, path_before=old, added=added, deleted=deleted, is_binary=is_binary)
        for path, old, added, deleted, is_binary in parse_numstat(counted.checked())
    ]
    return Committed(commit=name, branch=await _branch(repository), files=files[: repository.limits.max_entries])


def _refuse_in_progress(repository: Repository) -> None:
    for name, what in _IN_PROGRESS.items():
        if (repository.root / GIT_FOLDER / name).exists():
            raise ToolFailure(f"A {what} is in progress. Finish or abort it in a terminal first.")


async def _identity(repository: Repository, author: str) -> dict[str, str]:
    """Return the environment variables that identify author and committer."""
    name, _, mail = author.rstrip(">").partition(" <")
    if not author:
        said = [await repository.git.run("config", "--get", key) for key in ("user.name", "user.email")]
        name, mail = (decoded(each.out).strip() for each in said)
    if not name or not mail:
        raise ToolFailure(
            "Who commits is not known. The server needs --author 'Name <mail>', or the repository user.name and "
            "user.email in its own configuration."
        )
    return {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", name), ("EMAIL", mail))
    }


async def _branch(repository: Repository) -> str:
    named = await repository.git.run("symbolic-ref", "--quiet", "--short", "HEAD")
    return decoded(named.out).strip()


@within_limits
async def create_branch(repository: Repository, name: str, start: str) -> Moved:
    """Create a branch at a commit; HEAD switches to it only if `start` is empty, so no file changes.

    Args:
        repository: Repository to change.
        name: Name of the new branch, which must not exist.
        start: Revision of the new branch; empty: HEAD, and the new branch becomes the current one.
    """
    branch = check_branch_name(name)
    git = repository.git
    if start or await repository.has_commits():
        at = await repository.commit_of(start or "HEAD")
        made = await git.run("update-ref", "-m", f"branch: {branch}", f"refs/heads/{branch}", at, _NO_COMMIT)
        if made.code:
            exists = (await git.run("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}")).code == 0
            raise ToolFailure(
                f"There is a branch {branch!r} already. git_switch goes to it." if exists else f"git: {made.error}"
            )
    else:
        at = ""
    if not start:
        (await git.run("symbolic-ref", "-m", f"branch: {branch}", "HEAD", f"refs/heads/{branch}")).checked()
    return Moved(branch=await _branch(repository), commit=at)


@within_limits
async def switch(repository: Repository, name: str) -> Moved:
    """Check out another branch; refused if that would lose changes."""
    branch = check_branch_name(name)
    _refuse_in_progress(repository)
    git = repository.git
    target = await git.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"refs/heads/{branch}")
    if target.code:
        known = decoded(
            (await git.run("for-each-ref", "--count=20", "--format=%(refname:short)", "refs/heads")).out
        )
        raise ToolFailure(f"There is no branch {branch!r}. Its branches: {', '.join(known.split()) or 'none'}.")
    commit = decoded(target.out).strip()
    if await repository.has_commits():
        changes = await git.run("diff-tree", "-r", "--name-only", "-z", "--no-renames", "HEAD", commit)
        files = [each for each in changes.checked().split(b"\0") if each]
        await _refuse_filtered(repository, files, "switched to")
        await _refuse_filtered(repository, files, "switched to", f"--source={commit}")
    (
        await git.run(
            "switch",
            "--quiet",
            "--no-guess",
            "--no-recurse-submodules",
            "--no-progress",
            "--end-of-options",
            branch,
        )
    ).checked()
    return Moved(branch=await _branch(repository), commit=commit)


def _checked_paths(paths: Sequence[str]) -> list[str]:
    if not paths or len(paths) > MAX_PATHS:
        raise ToolFailure(f"Name 1 to {MAX_PATHS} files or folders; '.' is everything.")
    parts: list[PathParts] = [check_path(path) for path in paths]
    return [joined(each) if each else "." for each in parts]
