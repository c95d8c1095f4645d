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
        "a plain sentence with ghosts and highlights",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text.encode()).decode() == text


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
