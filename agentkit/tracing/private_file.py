"""Atomically written files that only their owner can read, like traces."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from agentkit.basics.durable import sync_folder
from agentkit.errors import UserError


@contextmanager
def private_file(path: Path) -> Generator[BinaryIO]:
    """Yield a file to write; at the end it is synced and replaces `path`, on an error it is removed.

    Raises:
        UserError: `path` cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    temporary = Path(name)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
