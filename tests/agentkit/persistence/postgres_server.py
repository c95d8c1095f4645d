"""A PostgreSQL server for tests: on a Unix socket in a folder of its own, which nothing outlives."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agentkit.persistence import PostgresCheckpointer
from agentkit.persistence.postgres_database import PostgresDatabase

ACCOUNT = "postgres"
"""System account that runs the server for root, whom PostgreSQL refuses."""
PASSWORD = "hunter2"
"""Password in the DSN; the server trusts its socket and asks for none."""
schemas = (f"journal_{n}" for n in itertools.count())
"""Names of schemas that no test has used."""


class NoServer(Exception):
    """PostgreSQL is not on this machine; the message has the reason. A server that fails is an error."""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server."""

    programs: Path
    folder: Path

    @property
    def dsn(self) -> str:
        return f"postgresql://tester:{PASSWORD}@/postgres?host={self.folder}"

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off -c max_connections=200"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-l", log, "-o", options, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def create(self) -> None:
        options = ("-A", "trust", "-U", "tester", "-E", "UTF8", "--locale=C", "--no-sync")
        self._run("initdb", "-D", str(self.folder / "data"), *options)

    def _run(self, program: str, *arguments: str) -> None:
        as_account = ("runuser", "-u", ACCOUNT, "--") if os.geteuid() == 0 else ()
        # pg_ctl's server would keep a pipe open.
        with (self.folder / "output").open("w+", encoding="utf-8") as output:
            command = [*as_account, str(self.programs / program), *arguments]
            done = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd="/")
            if done.returncode:
                output.seek(0)
                raise RuntimeError(f"{program} failed: {output.read().strip()[-500:]}")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    try:
        with postgres_server() as running:
            yield running
    except NoServer as reason:
        pytest.skip(str(reason))


class Databases:
    """Databases of one test, each with connections of its own, as processes have; they share a schema."""

    def __init__(self, server: PostgresServer, schema: str) -> None:
        self.server, self.schema = server, schema
        self._opened: list[PostgresDatabase] = []

    def database(self, schema: str | None = None, **options: Any) -> PostgresDatabase:
        made = PostgresDatabase(self.server.dsn, schema=schema or self.schema, **options)
        self._opened.append(made)
        return made

    def keeper(self, schema: str | None = None, **options: Any) -> PostgresCheckpointer:
        return PostgresCheckpointer(self.database(schema, **options))

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Execute a statement as another program."""
        with psycopg.connect(self.server.dsn, autocommit=True) as connection:
            connection.execute(f'SET search_path TO "{self.schema}"'.encode())
            done = connection.execute(statement.encode(), parameters)
            return done.fetchall() if done.description else []

    def expire(self) -> None:
        """Let all leases run out."""
        self.sql("UPDATE runs SET lease_until = 0")

    def close(self) -> None:
        for each in self._opened:
            each.close()


@pytest.fixture
def databases(server: PostgresServer) -> Iterator[Databases]:
    made = Databases(server, next(schemas))
    yield made
    made.close()


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server, and stop it at the end.

    Raises:
        NoServer: PostgreSQL, or its account, is not on this machine.
    """
    # The path of a socket has at most 107 bytes, and pytest's own folders cannot be entered by another account.
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:
        if os.geteuid() == 0:
            try:
                shutil.chown(folder, ACCOUNT)
            except LookupError:
                raise NoServer(f"PostgreSQL refuses root, and there is no account {ACCOUNT!r}") from None
        server = PostgresServer(_programs(), Path(folder))
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _programs() -> Path:
    """Return the folder of the newest installed server's programs."""
    if os.name != "posix":
        raise NoServer("needs Unix sockets")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if installed:
        return installed[-1].parent
    found = shutil.which("initdb")
    if found is None:
        raise NoServer("PostgreSQL is not installed")
    return Path(found).resolve().parent
