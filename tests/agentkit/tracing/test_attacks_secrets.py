"""Attacks on what traces leave out: secrets in other forms, ordinary text that looks like one, texts that cost time."""

from __future__ import annotations

import json

import pytest

from agentkit.tracing.redaction import redact
from tests.mcp_servers.attack_bounds import cpu_at_most

PEM = "-----BEGIN {0}-----\n{1}MIIEowIBAAKC/+=\nabc=\n-----END {0}-----"
HEX = "0123456789abcdef"

SECRETS: dict[str, tuple[str, str]] = {
    "an encrypted key": (PEM.format("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0123\n\n"), "MIIEow"),
    "a key of PGP": (PEM.format("PGP PRIVATE KEY BLOCK", "Version: GnuPG v1\n\n"), "MIIEow"),
    "a key of OpenSSH": (PEM.format("OPENSSH PRIVATE KEY", ""), "MIIEow"),
    "a password of Redis": ("redis://:hunter22@h:6379/0", "hunter22"),
    "a token in an address": (f"https://{HEX}0123@github.com/x", HEX),
    "basic authorization": ("Authorization: Basic Ym9iOmh1bnRlcjI=", "Ym9iOmh1"),
    "authorization in capitals": ("AUTHORIZATION: BEARER  abcd1234efgh", "abcd1234efgh"),
    "authorization in JSON": (json.dumps({"Authorization": "token 0123456789abcdef"}), HEX),
    "a password with spaces": ('password = "correct horse battery staple"', "battery"),
    "a password with marks": ('password: "a b c;d,e"', "c;d"),
    "a password on a command line": ("mysql --password hunter22 -h x", "hunter22"),
    "a password after an equals sign": ("mysql --password=hunter22 -h x", "hunter22"),
    "a password in XML": ("<Password>hunter22</Password>", "hunter22"),
    "a line of netrc": ("machine h login bob password hunter22", "hunter22"),
    "a password of production": ("DB_PASSWORD_PROD=hunter22", "hunter22"),
    "a token of npm's settings": ("//registry.npmjs.org/:_authToken=0123-4567-89ab", "0123-4567"),
    "an access token": ("access_token=abcdef123456&x=1", "abcdef123456"),
    "a refresh token": (json.dumps({"refresh_token": "abcdef123456"}), "abcdef123456"),
    "a session token": ("AWS_SESSION_TOKEN=abcdef123456", "abcdef123456"),
    "a private key as a value": ("private_key: 'abcdef123456'", "abcdef123456"),
    "a signing secret": ("SLACK_SIGNING_SECRET=abcdef123456", "abcdef123456"),
    "an encryption key": ("encryption_key=abcdef123456", "abcdef123456"),
    "a passphrase": ("ssh passphrase: 'open sesame please'", "sesame"),
    "an application of Slack": ("xapp-1-A0B1-" + "a1" * 12, "a1a1a1"),
    "a hook of Slack": ("https://hooks.slack.com/services/T000/B000/" + "aB1" * 8, "aB1aB1"),
    "a runner of GitLab": ("glrt-" + "x1Y2" * 5, "x1Y2x1"),
    "a client of Google": ("GOCSPX-" + "a1B2" * 7, "a1B2a1"),
    "a hook of Stripe": ("whsec_" + "a1B2" * 8, "a1B2a1"),
    "a test key of Stripe": ("sk_" + "test_" + "a1B2" * 8, "a1B2a1"),
    "Groq": ("gsk_" + "a1B2" * 13, "a1B2a1"),
    "Vault": ("hvs." + "a1B2" * 8, "a1B2a1"),
    "Docker": ("dckr_pat_" + "a1B2" * 7, "a1B2a1"),
    "Grafana": ("glsa_" + "a1B2" * 8 + "_0123abcd", "a1B2a1"),
    "Shopify": ("shpat_" + HEX * 2, HEX),
    "Databricks": ("dapi" + HEX * 2, HEX),
    "Linear": ("lin_api_" + "a1B2" * 10, "a1B2a1"),
    "Atlassian": ("ATATT3" + "a1B2" * 20, "a1B2a1"),
    "age": ("AGE-SECRET-KEY-1" + "QZ4X" * 14, "QZ4XQZ4X"),
    "Azure's storage": ("https://x.blob.core.windows.net/c?sv=1&sig=abc%2Bdef0123456789012345678", "def0123"),
    "an encrypted web token": (
        "eyJhbGciOiJSU0EtT0FFUCJ9.OKOawDo13gRp2ojaHV7LFpZcgV.48V1_ALb6US04U3b.5eym8TW_c8SuK0ltJ3rpYIzOeDQ.XFBoMYUZodet",
        "OKOawDo13g",
    ),
    "two in a line": ("password=hunter22 api_key=abcdef123456", "hunter22"),
}  # fmt: skip


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_another_form_is_taken_out_of_json_within_json(name: str, depth: int) -> None:
    text, secret = SECRETS[name]
    before = ascii(text)
    for _ in range(depth):
        text = json.dumps({"content": text})
    left = redact(text.encode()).decode()
    assert secret not in left and "[secret]" in left, (before, left)
    assert "abcdef123456" not in left
    if depth:
        json.loads(left)


ORDINARY = [
    "max_tokens=1024 tokenizer=llama token: str, tokens = 12", "sk-learn-is-a-nice-library-of-python",
    "password = getpass('Password: ')", "api_key = os.environ['API_KEY']", "password: str | None = None", "--password FILE",
    "the api key is kept in the vault", "a private key and a public key are a pair", "session_token_count = 12",
    "Authorization: required", "Basic authorization is old", "see the token table at https://example.org/tokens",
    "git@github.com:owner/name.git", "mailto:ann@example.org", "https://ann@example.org/x", "secret santa: 12 people",
    "-----BEGIN PUBLIC KEY-----\nMIIE\n-----END PUBLIC KEY-----", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI ann@example.org",
    "eyJhbGciOiJIUzI1NiJ9 is the head of a token", "npm_config_cache=/tmp", "hf_hub_download(repo)", "xoxo, yours", "PWD=/work",
    "0123456789abcdef0123456789abcdef01234567 is a commit", "dapi is no word", "glances-at-the-sea-and-the-islands",
    "login: ann", "password reset mail sent", "<password></password>", "token_urlsafe(32)", "if password == other:",
    "password: ''", "client_secret=<your secret>", "api_key: ${API_KEY}", "def signing_key(self):",
]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact(text.encode()).decode() == text
    assert redact(json.dumps(text).encode()).decode() == json.dumps(text)


@pytest.mark.parametrize(
    "piece",
    [
        "-----BEGIN PRIVATE KEY-----\nA: b", "-----BEGIN PRIVATE KEY-----\nAB: c\n", "login a password ", "login ",
        "--password ", "<password>", "authorization: basic ", "sk-a", "xapp-", "dapi", "eyJaaaaaaaaaaa.aaaaaaaaaaa.", "sig=",
        "?sig=", "://a", "://:", 'password="', 'password="a', "password_1", "access_token", "hooks.slack.com/services/",
        "token=", "-token", "signing_key:", "a_" * 20 + "password", "\\\\\\\\\"", "password: '", "PRIVATE KEY", "sk_test_",
        "api-key-api-key", "<a_password", "-----BEGIN PRIVATE KEY-----\\n", "Bearer Bearer ", "authorization", "gl-", "password=(",
    ],
)  # fmt: skip
def test_no_text_takes_long(piece: str) -> None:
    text = (piece * (600_000 // len(piece))).encode()
    with cpu_at_most(2.0):
        redact(text)
