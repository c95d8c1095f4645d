"""The catalog: names, entries, and sources that are tried in order."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_files import MODEL, SHA256

from agentkit.errors import UserError
from agentkit.models.catalog import local_path, verify

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("smollm2-135", "nearest: 'smollm2-135m'"),
        ("./nowhere.gguf", "does not exist"),
        ("https://example.com/model.gguf", "needs the file's hash"),
        ("https://example.com/model.gguf#sha256=12", "64 hexadecimal digits"),
        ("https://example.com/model.gguf#md5=12", "64 hexadecimal digits"),
        (f"http://example.com/model.gguf#sha256={SHA256}", "must be https"),
        (f"https://user:secret@example.com/model.gguf#sha256={SHA256}", "must not hold a user name"),
        (f"https://example.com/%2e%2e%2fmodel.bin#sha256={SHA256}", "plain file name"),
        (f"https://example.com/..%2f..gguf#sha256={SHA256}", "plain file name"),
        (f"https://[::1/model.gguf#sha256={SHA256}", "is no URL"),
        (f"https://example.com/m-00001-of-00002.gguf#sha256={SHA256}", "one part of a split model"),
        ("hf:owner/model.gguf", "no file of the Hugging Face hub"),
        ("hf:owner/../model.gguf", "no file of the Hugging Face hub"),
        ("hf:owner/repo/../../x.gguf", "no file of the Hugging Face hub"),
        ("hf:owner/repo@a/b@/x.gguf", "no file of the Hugging Face hub"),
        ("hf:owner/repo/model.safetensors", "no file of the Hugging Face hub"),
        ("hf:owner/repo/m-00001-of-00002.gguf", "one part of a split model"),
    ],
)
def test_a_name_that_cannot_be_used_says_why(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        local_path(spec)
    assert "secret" not in str(raised.value)


def test_a_file_of_the_users_own_is_taken_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(MODEL)
    assert local_path(own) == local_path(str(own)) == own and verify(str(own)) == "ok"
    own.write_bytes(b"something")
    with pytest.raises(UserError, match="not a GGUF file"):
        local_path(str(own))
