"""Stores of logins: the system's keyring, files that only their user can read, and memory.

A login is a text under a name. A store also locks a name, across processes: refresh tokens are used once, so two
processes that refresh at the same time would revoke each other's login.

A damaged file is set aside and the person logs in again. On Windows, files have no lock and no mode; there the
user's profile folder is protected.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from agentkit.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "AGENTKIT_TOKENS_DIR"
KEYRING_VARIABLE = "AGENTKIT_KEYRING"
"""Set to "off", the keyring is not used."""
KEYRING_SERVICE = "agentkit-mcp"
LOCK_POLL_S = 0.05
LOCK_WAIT_S = 60.0
"""Seconds to wait for another process: its refresh ends earlier, by its own time limit."""
MAX_LOGIN_BYTES = 256 << 10


class TokenStorage(Protocol):
    """A store of logins by name; used from several threads and event loops."""

    def read(self, name: str) -> str | None:
        """Return the stored text; None if there is none."""
        ...

    def write(self, name: str, text: str) -> None:
        """Store a text, replacing another one."""
        ...

    def delete(self, name: str) -> None:
        """Remove a text; nothing happens if there is none."""
        ...

    def set_aside(self, name: str) -> None:
        """Put a damaged text where `read` does not find it."""
        ...

    def try_lock(self, name: str) -> Callable[[], None] | None:
        """Lock a name and return the function that unlocks it; None if it is locked. Does not wait."""
        ...


class LoginBusy(Exception):
    """Raised because another process holds the lock of a login."""


@asynccontextmanager
async def locked(storage: TokenStorage, name: str) -> AsyncGenerator[None]:
    """Hold the lock of a name.

    Raises:
        LoginBusy: another holder kept it for `LOCK_WAIT_S` seconds.
    """
    import anyio

    deadline = anyio.current_time() + LOCK_WAIT_S
    while (unlock := storage.try_lock(name)) is None:
        if anyio.current_time() > deadline:
            raise LoginBusy
        await anyio.sleep(LOCK_POLL_S)
    try:
        yield
    finally:
        unlock()


def login_name(url: str, account: str) -> str:
    """Return the name of a login in a store; a URL with secrets in its query does not show in it."""
    return hashlib.sha256(json.dumps([url, account]).encode()).hexdigest()[:32]


class MemoryStorage:
    """Logins that end with the process."""

    def __init__(self) -> None:
        """Start empty."""
        self._texts: dict[str, str] = {}
        self._locks: dict[str, threading.Lock] = {}

    def __repr__(self) -> str:
        """Name the class; tokens stay out of logs."""
        return f"{type(self).__name__}()"

    def read(self, name: str) -> str | None:
        """Return the stored text; None if there is none."""
        return self._texts.get(name)

    def write(self, name: str, text: str) -> None:
        """Store a text."""
        self._texts[name] = text

    def delete(self, name: str) -> None:
        """Remove a text."""
        self._texts.pop(name, None)

    def set_aside(self, name: str) -> None:
        """Remove a damaged text."""
        self.delete(name)

    def try_lock(self, name: str) -> Callable[[], None] | None:
        """Lock a name within this process."""
        lock = self._locks.setdefault(name, threading.Lock())
        return lock.release if lock.acquire(blocking=False) else None


class FileStorage:
    """A folder of files, one for each login, which only this user can read."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """Use `folder`; None takes AGENTKIT_TOKENS_DIR, or the user's data directory."""
        self._folder = Path(folder).expanduser() if folder is not None else None

    def __repr__(self) -> str:
        """Name the folder."""
        return f"FileStorage({str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """Folder of the files."""
        return self._folder or _default_folder()

    def read(self, name: str) -> str | None:
        """Return the stored text; None if there is none. A file of another user is not read.

        Raises:
            UserError: the file cannot be read, or another user could have written it.
        """
        from modelstack.inference.private_files import open_private

        path = self._path(name)
        try:
            with open_private(path) as file:
                data = file.read(MAX_LOGIN_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"the stored login {path} cannot be used: {error.strerror}. Remove it.") from error
        try:
            if len(data) <= MAX_LOGIN_BYTES:
                return data.decode("utf-8")
        except UnicodeDecodeError:
            pass
        self.set_aside(name)
        return None

    def write(self, name: str, text: str) -> None:
        """Store a text atomically, with mode 0600.

        Raises:
            UserError: the folder or the file cannot be written.
        """
        from agentkit.tracing.private_file import private_file

        self._make_folder()
        with private_file(self._path(name)) as file:
            file.write(text.encode())

    def delete(self, name: str) -> None:
        """Remove a file; its lock stays, because another process may hold it."""
        with suppress(FileNotFoundError):
            self._path(name).unlink()

    def set_aside(self, name: str) -> None:
        """Rename a damaged file, so that it does not stop the next login."""
        path = self._path(name)
        with suppress(OSError):
            path.replace(path.with_suffix(".damaged"))
            logger.warning("the stored login %s is damaged and was set aside; log in again.", path)

    def try_lock(self, name: str) -> Callable[[], None] | None:
        """Lock a name for all processes; the kernel unlocks it when its holder ends.

        Raises:
            UserError: the folder cannot be written.
        """
        self._make_folder()
        try:
            lock = os.open(
                self.folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600
            )
        except OSError as error:
            raise UserError(f"logins cannot be locked in {self.folder}: {error.strerror}.") from error
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return None
        return lambda: os.close(lock)

    def _make_folder(self) -> None:
        from modelstack.inference.private_files import make_private_folder

        try:
            make_private_folder(self.folder)
        except OSError as error:
            raise UserError(
                f"logins cannot be kept in {self.folder}: {error.strerror}. Set {FOLDER_VARIABLE} to a folder "
                f"that only you can write, or pass OAuth(storage=...)."
            ) from error

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


class KeyringStorage:
    """The system's keyring; logins that it does not take, and all locks, are in files."""

    def __init__(self, backend: Any, files: FileStorage | None = None) -> None:
        """Use a backend of the package `keyring`."""
        self._backend = backend
        self._files = files or FileStorage()

    def __repr__(self) -> str:
        """Name the backend."""
        return f"KeyringStorage({type(self._backend).__name__})"

    def read(self, name: str) -> str | None:
        """Return the stored text; None if there is none."""
        from keyring.errors import KeyringError

        try:
            text = self._backend.get_password(KEYRING_SERVICE, name)
        except KeyringError as error:
            logger.warning("the keyring cannot be read (%s); files are used.", type(error).__name__)
            text = None
        return text if text is not None else self._files.read(name)

    def write(self, name: str, text: str) -> None:
        """Store a text; Windows' keyring, for example, takes no more than 2,560 bytes."""
        from keyring.errors import KeyringError

        try:
            self._backend.set_password(KEYRING_SERVICE, name, text)
        except (KeyringError, OSError, ValueError) as error:
            logger.warning("the keyring does not take a login (%s); it is stored in a file.", type(error).__name__)
            self._remove_from_keyring(name)  # an older login must not hide the new one
            self._files.write(name, text)
        else:
            self._files.delete(name)

    def delete(self, name: str) -> None:
        """Remove a text."""
        self._remove_from_keyring(name)
        self._files.delete(name)

    def set_aside(self, name: str) -> None:
        """Remove a damaged text from the keyring, and set a damaged file aside."""
        self._remove_from_keyring(name)
        self._files.set_aside(name)

    def try_lock(self, name: str) -> Callable[[], None] | None:
        """Lock a name for all processes."""
        return self._files.try_lock(name)

    def _remove_from_keyring(self, name: str) -> None:
        from keyring.errors import KeyringError

        with suppress(KeyringError):
            self._backend.delete_password(KEYRING_SERVICE, name)


def default_storage() -> TokenStorage:
    """Return the keyring if the package `keyring` has a backend for this system, else files."""
    if os.environ.get(KEYRING_VARIABLE, "").lower() == "off":
        return FileStorage()
    try:
        import keyring
    except ImportError:
        return FileStorage()
    backend: Any = keyring.get_keyring()
    # `fail` and `null` have priority 0 and -1; a chain of several has its best one's.
    return KeyringStorage(backend) if float(backend.priority) >= 1 else FileStorage()


def _default_folder() -> Path:
    import platformdirs

    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else Path(platformdirs.user_data_dir("agentkit")) / "mcp-logins"
