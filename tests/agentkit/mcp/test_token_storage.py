"""Stored logins: private files, damage, locks between processes, the system's keyring."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import keyring
import keyring.backend
import keyring.errors
import pytest

from agentkit.context import RunContext
from agentkit.errors import MCPAuthorizationRequired, UserError
from agentkit.mcp import MCPToolset
from agentkit.mcp.oauth import FileStorage, MemoryStorage, OAuth, TokenStorage
from agentkit.mcp.oauth import storage as token_storage
from agentkit.mcp.oauth.storage import KeyringStorage, LoginBusy, default_storage, locked, login_name
from tests.agentkit.mcp.test_attacks_oauth import World, use, world

__all__ = ["world"]


class InMemoryKeyring(keyring.backend.KeyringBackend):
    """A keyring of the package's own base class; it takes `max_chars` characters."""

    priority = 5.0  # type: ignore[assignment]

    def __init__(self, max_chars: int = 10_000) -> None:
        super().__init__()
        self.max_chars = max_chars
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if len(password) > self.max_chars:
            raise keyring.errors.PasswordSetError("too long")
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.kept.pop((service, username), None) is None:
            raise keyring.errors.PasswordDeleteError("not there")


@pytest.fixture(params=["file", "memory", "keyring"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> TokenStorage:
    files = FileStorage(tmp_path / "logins")
    return {"file": files, "memory": MemoryStorage(), "keyring": KeyringStorage(InMemoryKeyring(), files)}[
        request.param
    ]


def test_a_text_is_stored_replaced_and_removed(storage: TokenStorage) -> None:
    assert storage.read("a") is None
    storage.delete("a")
    storage.write("a", "first-secret")
    storage.write("a", "second-secret")
    storage.write("b", "other-secret")
    assert (storage.read("a"), storage.read("b")) == ("second-secret", "other-secret")
    assert "secret" not in repr(storage)
    storage.delete("a")
    assert (storage.read("a"), storage.read("b")) == (None, "other-secret")
    storage.set_aside("b")
    assert storage.read("b") is None


@pytest.mark.anyio
async def test_one_holder_of_a_lock_at_a_time(storage: TokenStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_storage, "LOCK_WAIT_S", 0.2)
    order = list[str]()

    async def hold(name: str) -> None:
        async with locked(storage, "a"):
            order.append(f"{name} begins")
            await anyio.lowlevel.checkpoint()
            order.append(f"{name} ends")

    async with anyio.create_task_group() as tasks:
        for name in "xyz":
            tasks.start_soon(hold, name)
    assert [line.split()[0] for line in order[::2]] == [line.split()[0] for line in order[1::2]]
    async with locked(storage, "a"), locked(storage, "b"):
        with pytest.raises(LoginBusy):
            async with locked(storage, "a"):
                pass


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    program = "import sys; from agentkit.mcp.oauth import FileStorage\n"
    program += (
        "held = FileStorage(sys.argv[1]).try_lock('a'); print(held is not None, flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == "True\n"
    assert storage.try_lock("a") is None
    child.kill()
    child.communicate()
    unlock = storage.try_lock("a")
    assert unlock is not None
    unlock()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_files_are_for_their_user_alone(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "logins")
    storage.write("a", "secret")
    file = tmp_path / "logins/a.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["a.json"]  # nothing temporary is left
    file.chmod(0o666)
    with pytest.raises(UserError, match="cannot be used"):
        storage.read("a")
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("planted")
    with pytest.raises(UserError, match="cannot be used"):
        storage.read("a")


@pytest.mark.anyio
@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe", b"{}" * 200_000, b'{"version": 2, "url": "x"}'])
async def test_a_damaged_file_is_set_aside_and_the_person_logs_in_again(
    world: World, tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    storage = FileStorage(tmp_path)
    name = login_name(f"{world.origin}/mcp", "")
    storage.write(name, "")
    (tmp_path / f"{name}.json").write_bytes(damage)
    with pytest.raises(MCPAuthorizationRequired):
        await use(world, storage=storage, on_authorize=None)
    assert (tmp_path / f"{name}.damaged").read_bytes() == damage and "set aside" in caplog.text
    assert await use(world, storage=storage) == {"result": 3}
    assert await use(world, storage=storage, on_authorize=None) == {"result": 3}


@pytest.mark.anyio
async def test_a_folder_that_cannot_be_written_is_an_error_with_the_fix(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    toolset = MCPToolset.http(
        f"{world.origin}/mcp", auth=OAuth(storage=FileStorage(tmp_path / "file/x")), pins=None
    )
    with pytest.raises(UserError, match="AGENTKIT_TOKENS_DIR"):
        async with toolset:
            await toolset.list_tools(RunContext(deps=None))


def test_what_the_keyring_does_not_take_is_stored_in_a_file(tmp_path: Path) -> None:
    backend, files = InMemoryKeyring(max_chars=10), FileStorage(tmp_path)
    storage = KeyringStorage(backend, files)
    storage.write("a", "short")
    assert files.read("a") is None and storage.read("a") == "short"
    storage.write("a", "longer than ten characters")
    assert storage.read("a") == files.read("a") == "longer than ten characters" and not backend.kept
    storage.write("a", "short")
    assert files.read("a") is None and storage.read("a") == "short"


def test_the_keyring_is_used_only_if_the_system_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_backend(backend: Any) -> TokenStorage:
        monkeypatch.setattr(keyring, "get_keyring", lambda: backend)
        return default_storage()

    from keyring.backends import fail, null

    assert isinstance(with_backend(InMemoryKeyring()), KeyringStorage)
    assert isinstance(with_backend(fail.Keyring()), FileStorage)
    assert isinstance(with_backend(null.Keyring()), FileStorage)
    monkeypatch.setenv("AGENTKIT_KEYRING", "off")
    assert isinstance(with_backend(InMemoryKeyring()), FileStorage)
    monkeypatch.delenv("AGENTKIT_KEYRING")
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert isinstance(default_storage(), FileStorage)
