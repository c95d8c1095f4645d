"""File system of a sandbox: an empty root in memory, in which chosen files and folders of the host appear.

Everything but the writable folder is read-only, without set-user-ID programs and without devices. A file of the
host appears through a detached copy of its mount, which is changed before it is attached (open_tree(2),
mount_setattr(2)), so it is never visible with other attributes. Mount points are reached through handles, one name
at a time and without links: a link that an earlier command left in the writable folder leads nowhere.

A bare interpreter (`-I -S`) imports this file for each command: standard library only, and of it little. `typing`
and `collections`, for named tuples, would take a third of the time of a start.
"""

from __future__ import annotations

import errno
import os
import stat

from modelstack.sandbox.kernel_calls import (
    ATTR_IDMAP,
    ATTR_NODEV,
    ATTR_NOEXEC,
    ATTR_NOSUID,
    ATTR_RDONLY,
    MNT_DETACH,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    IsolationError,
    attach,
    call,
    copied_tree,
    mount,
    set_attributes,
)

SCRATCH = "/tmp"
"""Folder in memory that a sandboxed process may write."""
LIBRARY_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
"""Folders of libraries that extension modules of the standard library link to."""
PROCESSES = "/proc"
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_LINKS_OF_DEVICES = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/shm", SCRATCH),
)
_ROOT_BYTES, _ROOT_FILES, _SCRATCH_FILES = 1 << 20, 4096, 16_384
_FOLDER_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """Folder of the host in which a sandboxed process may work."""

    def __init__(
        self, path: str, device: int, inode: int, seen_as: str, writable: bool, protected: tuple[str, ...] = ()
    ) -> None:
        """Describe a folder that the caller has opened.

        Args:
            path: Its path on the host.
            device: Device number, which with `inode` identifies it; another folder at the path is rejected.
            inode: Number on the device.
            seen_as: Path at which it is shown.
            writable: Whether it may be changed.
            protected: Paths in it, relative, that stay read-only; one that is missing is ignored.
        """
        self.path, self.device, self.inode = path, device, inode
        self.seen_as, self.writable, self.protected = seen_as, writable, protected


class View:
    """Files that a sandboxed process sees; everything else does not exist for it."""

    def __init__(
        self,
        read_only: tuple[str, ...],
        scratch_bytes: int,
        *,
        folder: Folder | None = None,
        readable: tuple[str, ...] = (),
        texts: tuple[tuple[str, str], ...] = (),
        has_devices: bool = False,
    ) -> None:
        """Describe a view.

        Args:
            read_only: Absolute paths of the host, each at its own place; a link appears as the same link.
            scratch_bytes: Size of the scratch folder.
            folder: Folder to work in.
            readable: Further paths as `read_only`, whose owners are mapped as those of the folder where their file
                system allows it.
            texts: Small files that do not exist on the host: path and content.
            has_devices: Whether /dev has the devices of `DEVICES`.
        """
        self.read_only, self.readable, self.texts = read_only, readable, texts
        self.scratch_bytes, self.folder, self.has_devices = scratch_bytes, folder, has_devices


def library_folders() -> tuple[str, ...]:
    """Return library folders and the standard library's own, without folders inside others."""
    folders: list[str] = []
    for folder in (*LIBRARY_FOLDERS, os.path.dirname(os.path.realpath(os.__file__))):
        inside = any(folder.startswith(f"{other}/") for other in folders if not os.path.islink(other))
        if os.path.isdir(folder) and not inside:
            folders.append(folder)
    return tuple(folders)


def build_view(root: str, view: View, owners: int | None = None) -> int | None:
    """Build the view at an empty folder of the host; requires a mount namespace of this process's own.

    Args:
        root: The empty folder.
        view: The files to show.
        owners: Handle of a user namespace that maps the owners of the folder's files; None changes no owner.

    Returns:
        A handle of the view's folder, by which its size is measured; None without one.

    Raises:
        IsolationError: The kernel rejected a step, or the folder is not the one that was opened.
    """
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, f"size={_ROOT_BYTES},nr_inodes={_ROOT_FILES},mode=755")
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    made = _Root(base)
    os.close(made.at(SCRATCH))
    os.close(made.at(PROCESSES))
    size = f"size={view.scratch_bytes},nr_inodes={_SCRATCH_FILES},mode=1777"
    mount("tmpfs", root + SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV, size)
    places = {*view.read_only, *view.readable, *([view.folder.seen_as] if view.folder else [])}
    for path in sorted(places):  # a folder before what is shown in it
        if view.folder and path == view.folder.seen_as:
            made.show_folder(view.folder, owners)
        else:
            made.show(path, owners=owners if path in view.readable else None)
    for path, text in view.texts:
        made.write(path, text)
    if view.has_devices:
        for path in DEVICES:
            made.show(path, ATTR_RDONLY | ATTR_NOSUID | ATTR_NOEXEC)
        for path, target in _LINKS_OF_DEVICES:
            made.link(path, target)
    os.close(base)
    return (
        os.open(root + view.folder.seen_as, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if view.folder else None
    )


def enter_view(root: str, *, start: str = SCRATCH, has_processes: bool = False) -> None:
    """Make a view the root of the mount namespace, read-only; called by the first process of a new namespace.

    Args:
        root: Folder at which the view was built.
        start: Working directory in it.
        has_processes: Whether /proc shows the processes of the namespace. A kernel that forbids this (a container
            that hides parts of /proc) leaves it empty.

    Raises:
        IsolationError: The kernel rejected a step.
    """
    if has_processes:
        try:
            # The kernel allows it while the host's own is still mounted.
            mount("proc", root + PROCESSES, "proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "subset=pid")
        except IsolationError as error:
            if error.code != errno.EPERM:
                raise
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    set_attributes(base, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, recursive=False)
    os.close(base)
    os.chdir(root)
    # Stacks the old root on the new one and unmounts it, so no folder for it is needed.
    call("pivot_root", b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir(start)


class _Root:
    """The new root while it is built."""

    def __init__(self, base: int) -> None:
        self._base = base

    def at(self, path: str, *, is_folder: bool = True) -> int:
        """Return a handle of a path below the root, whose missing folders are made; links are not followed."""
        *folders, name = path.strip("/").split("/")
        here = os.dup(self._base)
        for part in (*folders, name) if is_folder else folders:
            try:
                os.mkdir(part, 0o755, dir_fd=here)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.EROFS):
                    raise IsolationError(f"mkdir {path}: {error.strerror}") from error
            here = self._entered(here, part, _FOLDER_FLAGS, path)
        if is_folder:
            return here
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=here))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EROFS):
                raise IsolationError(f"create {path}: {error.strerror}") from error
        return self._entered(here, name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, path)

    def show(
        self, path: str, attributes: int = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, *, owners: int | None = None
    ) -> None:
        """Show a path of the host at its own place."""
        if os.path.islink(path):
            self.link(path, os.readlink(path))
            return
        tree = copied_tree(path)
        set_attributes(tree, attributes)
        if owners is not None:
            try:  # noqa: SIM105 - contextlib would take 2 ms of each start
                set_attributes(tree, ATTR_IDMAP, user_namespace=owners)
            except IsolationError:
                pass  # what others may read is then what can be read
        target = self.at(path, is_folder=os.path.isdir(path))
        attach(tree, target)
        os.close(tree)
        os.close(target)

    def show_folder(self, folder: Folder, owners: int | None) -> None:
        """Show the folder, and on top of it, read-only, what is protected in it."""
        opened = os.open(folder.path, _FOLDER_FLAGS)
        status = os.fstat(opened)
        if (status.st_dev, status.st_ino) != (folder.device, folder.inode):
            raise IsolationError(f"{folder.path}: replaced by another folder since it was opened")
        tree = copied_tree("", below=opened)
        set_attributes(tree, ATTR_NOSUID | ATTR_NODEV | (0 if folder.writable else ATTR_RDONLY))
        if owners is not None:
            set_attributes(tree, ATTR_IDMAP, user_namespace=owners)
        target = self.at(folder.seen_as)
        attach(tree, target)
        for handle in (tree, target, opened):
            os.close(handle)
        here = self.at(folder.seen_as)
        for path in folder.protected:
            _protect(here, path)
        os.close(here)

    def write(self, path: str, text: str) -> None:
        """Create a small file, in place of one of the host if there is one."""
        folder, _, name = path.rpartition("/")
        here = self.at(folder)
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=here)
        os.write(handle, text.encode())
        os.close(handle)
        os.close(here)

    def link(self, path: str, target: str) -> None:
        """Create a link."""
        folder, _, name = path.rpartition("/")
        here = self.at(folder) if folder else os.dup(self._base)
        os.symlink(target, name, dir_fd=here)
        os.close(here)

    def _entered(self, here: int, name: str, flags: int, path: str) -> int:
        try:
            return os.open(name, flags, dir_fd=here)
        except OSError as error:
            raise IsolationError(f"{path}: {error.strerror} (links are not followed)") from error
        finally:
            os.close(here)


def _protect(folder: int, path: str) -> None:
    """Cover a path in the open folder with a read-only copy of itself."""
    here = os.dup(folder)
    try:
        for name in path.split("/"):
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            child = os.open(name, flags, dir_fd=here)
            os.close(here)
            here = child
    except OSError as error:
        os.close(here)
        if error.errno in (errno.ENOENT, errno.ENOTDIR):  # missing, or its folder has been replaced by a link
            return
        raise IsolationError(f"{path}: {error.strerror}") from error
    if not stat.S_ISLNK(os.fstat(here).st_mode):
        tree = copied_tree("", below=here)
        set_attributes(tree, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)
        attach(tree, here)
        os.close(tree)
    os.close(here)
