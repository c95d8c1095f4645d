"""Secrets do not get into traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkit import Agent
from agentkit.testing import ScriptedModel, call
from agentkit.tracing.redaction import redact

SECRETS = [
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "a1_B2" * 6,
    "glpat-" + "x1-Y2" * 4,
    "sk-proj-" + "a1B2c3" * 5,
    "sk_" + "live_" + "a1B2c3D4" * 3,
    "xoxb-123456789012-abcdefABCDEF",
    "AIza" + "a1B2_" * 7,
    "hf_" + "aBcDe" * 7,
    "npm_" + "a1B2c3" * 6,
    "pypi-" + "AgEIcHlwaS5vcmc" * 4,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "SG." + "a1B2c3D4e5F6g7H8i9J0k1" + "." + "a1B2c3" * 7,
    "dop_v1_" + "0123abcd" * 8,
    "ya29.a0" + "AfH6SM-_x" * 4,
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret[:8])
def test_a_secret_of_a_known_form_is_taken_out(secret: str) -> None:
    text = f'{{"content": "the key is {secret}, keep it"}}'.replace("\n", "\\n")
    assert redact(text.encode()) == b'{"content": "the key is [secret], keep it"}'


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Authorization: Bearer abcDEF0123456789.xyz==", "Authorization: Bearer [secret]"),
        ('{"a": "-----BEGIN PRIVATE KEY-----\\nMIIE", "b": 1}', '{"a": "[secret]", "b": 1}'),
        ("postgres://bob:hunter2@db.test/x", "postgres://[secret]@db.test/x"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = [secret]"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bP", "AWS_SECRET_ACCESS_KEY=[secret]"),
        ("x;AccountName=a;AccountKey=Zm9vYmFy+/==;y=1", "x;AccountName=a;AccountKey=[secret];y=1"),
        ("Server=db;Uid=bob;Pwd=hunter22;", "Server=db;Uid=bob;Pwd=[secret];"),
        ("curl -d 'user=bob&password=hunter22&x=1'", "curl -d 'user=bob&password=[secret]&x=1'"),
        ('{"db_password": "hunter22", "port": 1}', '{"db_password": "[secret]", "port": 1}'),
        ('{"text": "{\\"client_secret\\": \\"s3cr3t-x\\"}"}', '{"text": "{\\"client_secret\\": \\"[secret]\\"}"}'),
        ("api_key: 'abcdef0123'", "api_key: '[secret]'"),
        ("password=ghp_" + "a1B2" * 9, "password=[secret]"),
    ],
)
def test_only_the_secret_is_taken_out(text: str, redacted: str) -> None:
    assert redact(text.encode()).decode() == redacted


@pytest.mark.parametrize(
    "text",
    [
        "see https://example.org/a:b@c and http://[::1]:80/x",
        "ask-me-anything-about-the-weather-of-today",
        "the bearer of good news is here",
        "-----BEGIN CERTIFICATE-----",
        "sk-8",
        "the password is kept elsewhere",
        "def login(password: str, api_key=None) -> None: ...",
        "compass word=keyboards",
        "a plain sentence with ghosts and highlights",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text.encode()).decode() == text


@pytest.mark.parametrize(
    "piece",
    [
        "-eyJ",
        "eyJ",
        "eyJaaaaaaaaaa.",
        "password",
        "password=",
        "secret_key ",
        "api-key-",
        "AccountKey",
        "SG.",
        "://a:",
    ]
    + ["-----BEGIN ", "-----BEGIN PRIVATE KEY-----\\", "Bearer ", "sk-", "\\", " ", "ya29."],
)
def test_hostile_text_takes_no_longer_than_other_text(piece: str) -> None:
    # In quadratic time each of these would take minutes.
    text = (piece * (1_000_000 // len(piece))).encode()
    assert redact(text).count(b"[secret]") <= text.count(piece.encode())


def test_a_trace_holds_no_secret_that_a_tool_returned(tmp_path: Path) -> None:
    def config() -> dict[str, str]:
        """Read the configuration."""
        return dict(enumerate(SECRETS))  # pyright: ignore[reportReturnType]

    prompt = f"use {SECRETS[0]}"
    Agent(ScriptedModel([call("config"), "done"]), tools=[config], trace=tmp_path).run_sync(prompt)
    (trace,) = tmp_path.iterdir()
    text = trace.read_text()
    assert not [secret for secret in SECRETS if secret.replace("\n", "\\n") in text or secret[-12:] in text]
    assert "use [secret]" in text
