"""Access tokens at a server: signatures, claims, changing keys, refusals. PyJWT and cryptography sign them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from mcp_servers.oauth import issuer_requests, keys, verifying
from mcp_servers.oauth.guard import RequireOAuth
from mcp_servers.oauth.issuer_requests import IssuerUnavailable, fetch_object, issuer_metadata
from mcp_servers.oauth.keys import MAX_AGE_S, MIN_REFRESH_S, IssuerKeys
from mcp_servers.oauth.protected_resource import ProtectedResource
from mcp_servers.oauth.verifying import IntrospectionVerifier, JWTVerifier, TokenRefused
from tests.agentkit.mcp.conftest import serving

pytestmark = pytest.mark.anyio

ISSUER, RESOURCE = "https://login.example", "https://mcp.example/mcp"
PRIVATE: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65_537, key_size=2_048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
ALGORITHM_OF = {
    "RS256": RSAAlgorithm,
    "ES256": ECAlgorithm,
    "EdDSA": OKPAlgorithm,
}


def public(algorithm: str, **changes: Any) -> dict[str, Any]:
    """Return a public key as JWK."""
    key = json.loads(ALGORITHM_OF[algorithm].to_jwk(PRIVATE[algorithm].public_key()))
    return {**key, "kid": algorithm, "use": "sig", "alg": algorithm, **changes}


class Issuer:
    """Published data of an authorization server, and how often it was asked."""

    def __init__(self, *published: dict[str, Any]) -> None:
        self.keys = list(published) or [public(algorithm) for algorithm in PRIVATE]
        self.n_requests = 0
        self.is_down = False

    async def fetch(self, url: str, **_: Any) -> dict[str, Any]:
        """Answer a request for the keys."""
        self.n_requests += 1
        if self.is_down:
            raise IssuerUnavailable("down")
        return {"keys": self.keys}


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Issuer:
    made = Issuer()
    monkeypatch.setattr(keys, "fetch_object", made.fetch)
    return made


@pytest.fixture
def verifier(issuer: Issuer) -> JWTVerifier:
    return JWTVerifier(ProtectedResource(RESOURCE, ISSUER, jwks_uri=f"{ISSUER}/keys"))


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    usual = {
        "iss": ISSUER,
        "aud": RESOURCE,
        "sub": "alice",
        "client_id": "c",
        "iat": now,
        "exp": now + 600,
        "scope": "a b",
    }
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


def signed(algorithm: str = "ES256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
    return jwt.encode(
        claims(**changes), PRIVATE[algorithm], algorithm, headers={"kid": algorithm, **(headers or {})}
    )


def by_hand(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


@pytest.mark.parametrize("algorithm", list(PRIVATE))
async def test_tokens_of_the_issuer_are_accepted(verifier: JWTVerifier, algorithm: str) -> None:
    token = await verifier.verify(signed(algorithm, {"typ": "at+jwt"}))
    assert (token.subject, token.client_id, token.scopes) == ("alice", "c", ("a", "b"))


@pytest.mark.parametrize(
    "changes",
    [{"aud": [RESOURCE, "https://other.example"]}, {"aud": f"{RESOURCE}/"}, {"scope": None, "scp": ["a", "b"]},
     {"client_id": None, "azp": "c"}, {"nbf": int(time.time()) + 5}],
)  # fmt: skip
async def test_other_forms_of_good_claims_are_accepted(verifier: JWTVerifier, changes: dict[str, Any]) -> None:
    assert (await verifier.verify(signed(**changes))).scopes == ("a", "b")


async def test_an_audience_of_its_own_replaces_the_url(issuer: Issuer) -> None:
    resource = ProtectedResource(RESOURCE, ISSUER, audience="api://notes", jwks_uri=f"{ISSUER}/keys")
    assert (await JWTVerifier(resource).verify(signed(aud="api://notes"))).subject == "alice"
    for audience in (RESOURCE, "api://notes/", ""):
        with pytest.raises(TokenRefused, match="another resource"):
            await JWTVerifier(resource).verify(signed(aud=audience))


NOW = int(time.time())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aud": "https://mcp.example/other"}, "another resource"),
        ({"aud": "https://mcp.example"}, "another resource"),
        ({"aud": f"{RESOURCE}.evil.example"}, "another resource"),
        ({"aud": None}, "another resource"),
        ({"aud": [1, None, {}]}, "another resource"),
        ({"iss": "https://login.example.evil"}, "another issuer"),
        ({"iss": f"{ISSUER}/"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"exp": NOW - 120}, "has expired"),
        ({"exp": None}, "has no expiry"),
        ({"exp": "9" * 12}, "exp is not a time"),
        ({"exp": True}, "exp is not a time"),
        ({"exp": 1e300}, "exp is not a time"),
        ({"nbf": NOW + 86_400}, "not valid yet"),
        ({"iat": NOW + 86_400}, "not valid yet"),
        ({"sub": None, "client_id": None}, "neither a user nor a client"),
        ({"sub": ["alice"]}, "neither a user nor a client"),
    ],
)
async def test_wrong_claims_are_refused(verifier: JWTVerifier, changes: dict[str, Any], reason: str) -> None:
    payload = claims(**changes)
    token = jwt.api_jws.encode(json.dumps(payload).encode(), PRIVATE["ES256"], "ES256", headers={"kid": "ES256"})
    with pytest.raises(TokenRefused, match=reason):
        await verifier.verify(token)


async def test_forged_signatures_are_refused(verifier: JWTVerifier) -> None:
    good = signed()
    head, body, signature = good.split(".")
    pem = PRIVATE["RS256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    import hashlib
    import hmac

    confused = by_hand({"alg": "HS256", "kid": "RS256"}, claims())
    confused = confused.rpartition(".")[0]
    mac = hmac.new(pem, confused.encode(), hashlib.sha256).digest()
    own = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(ECAlgorithm.to_jwk(own.public_key()))
    other_body = by_hand({}, claims(sub="root")).split(".")[1]
    forged = {
        "none": by_hand({"alg": "none"}, claims()),
        "None": by_hand({"alg": "None", "kid": "ES256"}, claims()),
        "key confusion": f"{confused}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}",
        "changed body": f"{head}.{other_body}.{signature}",
        "no signature": f"{head}.{body}.",
        "changed signature": f"{head}.{body}.{signature[:-6]}AAAAAA",
        "own key": jwt.encode(claims(), own, "ES256", headers={"kid": "ES256"}),
        "key in the header": jwt.encode(claims(), own, "ES256", headers={"jwk": jwk, "kid": "mine"}),
        "key's URL in the header": jwt.encode(
            claims(), own, "ES256", headers={"jku": "https://evil.example", "kid": "x"}
        ),
        "algorithm of another key": jwt.encode(claims(), PRIVATE["ES256"], "ES256", headers={"kid": "RS256"}),
        "logout token": signed(headers={"typ": "logout+jwt"}),
        "critical header": signed(headers={"crit": ["x"], "x": 1}),
        "no token": "x",
        "huge": "a" * 20_000,
        "deep": by_hand({"alg": "ES256", "kid": "ES256"}, {"x": json.loads("[" * 500 + "]" * 500)}),
    }
    for kind, token in forged.items():
        with pytest.raises(TokenRefused):
            await verifier.verify(token)
            pytest.fail(kind)
    assert (await verifier.verify(good)).subject == "alice"


async def test_keys_that_are_no_signature_keys_are_not_used(issuer: Issuer, verifier: JWTVerifier) -> None:
    weak = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)
    weak_jwk = {**json.loads(RSAAlgorithm.to_jwk(weak.public_key())), "kid": "weak"}
    symmetric = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "oct", "alg": "HS256"}
    issuer.keys = [
        weak_jwk,
        symmetric,
        public("ES256", use="enc"),
        {"kid": "RS256", "kty": "RSA", "n": 7},
        5,
        public("EdDSA"),
    ]  # type: ignore[list-item]
    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
        weakly = jwt.encode(claims(), weak, "RS256", headers={"kid": "weak"})
    for token in (weakly, signed("ES256"), signed("RS256")):
        with pytest.raises(TokenRefused, match="does not publish"):
            await verifier.verify(token)
    assert (await verifier.verify(signed("EdDSA"))).subject == "alice"


async def test_a_new_key_is_fetched_once_and_invented_key_ids_cause_few_requests(issuer: Issuer) -> None:
    now = [0.0]
    known = IssuerKeys(ISSUER, f"{ISSUER}/keys", clock=lambda: now[0])
    issuer.keys = [public("ES256")]
    assert await known.find("ES256", "ES256") is not None
    for n in range(50):
        assert await known.find(f"invented-{n}", "ES256") is None
    assert issuer.n_requests == 1
    issuer.keys.append(public("RS256"))
    now[0] += MIN_REFRESH_S
    found = list[Any]()

    async def find() -> None:
        found.append(await known.find("RS256", "RS256"))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(find)
    assert len(found) == 20 and None not in found and issuer.n_requests == 2
    issuer.keys = []  # withdrawn
    now[0] += MAX_AGE_S + 1
    assert await known.find("RS256", "RS256") is None


async def test_keys_are_used_on_while_the_issuer_is_down(issuer: Issuer) -> None:
    now = [0.0]
    known = IssuerKeys(ISSUER, f"{ISSUER}/keys", clock=lambda: now[0])
    issuer.is_down = True
    with pytest.raises(IssuerUnavailable):
        await known.find("ES256", "ES256")
    with pytest.raises(IssuerUnavailable):  # not asked again so soon
        await known.find("ES256", "ES256")
    assert issuer.n_requests == 1
    issuer.is_down, now[0] = False, MIN_REFRESH_S
    assert await known.find("ES256", "ES256") is not None
    issuer.is_down, now[0] = True, MIN_REFRESH_S + MAX_AGE_S + 1
    assert await known.find("ES256", "ES256") is not None


async def test_introspection_checks_the_answer_and_keeps_it_for_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now, answers, asked = [time.time()], list[dict[str, Any]](), list[tuple[str, Any]]()

    async def fetch(url: str, *, form: dict[str, str], basic: tuple[str, str]) -> dict[str, Any]:
        asked.append((form["token"], basic))
        return answers[0]

    monkeypatch.setattr(verifying, "fetch_object", fetch)
    resource = ProtectedResource(
        RESOURCE, ISSUER, introspection_endpoint=f"{ISSUER}/ask", client_id="rs", client_secret="secret-of-rs"
    )
    assert "secret-of-rs" not in repr(resource)
    verifier = IntrospectionVerifier(resource, now=lambda: now[0])
    answers[:] = [{"active": True, **claims(iss=None)}]
    assert (await verifier.verify("opaque")).subject == "alice"
    answers[:] = [{"active": False}]
    assert (await verifier.verify("opaque")).subject == "alice" and len(asked) == 1
    now[0] += verifying.KEPT_ANSWER_S
    with pytest.raises(TokenRefused, match="not active"):
        await verifier.verify("opaque")
    for wrong in ({"aud": "https://x.example"}, {"iss": "https://x.example"}, {"active": "true"}, {"exp": 1}):
        answers[:] = [{"active": True, **claims(), **wrong}]
        with pytest.raises(TokenRefused):
            await verifier.verify(f"other-{wrong}")
    assert asked[0] == ("opaque", ("rs", "secret-of-rs"))


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the name of the user."""
    user = scope["user"].access_token
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps([user.client_id, user.scopes]).encode()})


@pytest.fixture
def client(verifier: JWTVerifier) -> Callable[..., httpx.AsyncClient]:
    def make(*scopes: str) -> httpx.AsyncClient:
        resource = ProtectedResource(RESOURCE, ISSUER, scopes=scopes, name="notes")
        app: Any = RequireOAuth(application, resource, verifier)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://mcp.example")

    return make


async def test_a_request_without_a_token_is_told_where_to_log_in(client: Callable[..., httpx.AsyncClient]) -> None:
    async with client("a") as http:
        refused = await http.post("/mcp")
        where = "https://mcp.example/.well-known/oauth-protected-resource/mcp"
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == f'Bearer scope="a", resource_metadata="{where}"'
        for path in (where, "/.well-known/oauth-protected-resource"):
            assert (await http.get(path)).json() == {
                "resource": RESOURCE,
                "authorization_servers": [ISSUER],
                "bearer_methods_supported": ["header"],
                "scopes_supported": ["a"],
                "resource_name": "notes",
            }
        token = signed()
        for headers in (
            [("authorization", "Basic eDp5")],
            [("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")],
            [("authorization", "Bearer \xe4".encode("latin-1"))],
        ):
            assert (await http.post("/mcp", headers=headers)).status_code == 401  # type: ignore[arg-type]
        assert (await http.post(f"/mcp?access_token={token}")).status_code == 401


async def test_a_token_is_admitted_with_its_scopes_and_names_the_user(
    client: Callable[..., httpx.AsyncClient],
) -> None:
    headers = {"authorization": f"bearer {signed()}"}
    async with client("a", "b") as http:
        assert (await http.post("/mcp", headers=headers)).json() == ['["alice", "c"]', ["a", "b"]]
    async with client("a", "admin") as http:
        refused = await http.post("/mcp", headers=headers)
        assert refused.status_code == 403
        assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
        assert 'scope="a admin"' in refused.headers["www-authenticate"]


async def test_nothing_is_admitted_while_tokens_cannot_be_verified(
    issuer: Issuer, client: Callable[..., httpx.AsyncClient]
) -> None:
    issuer.is_down = True
    async with client() as http:
        assert (await http.post("/mcp", headers={"authorization": f"Bearer {signed()}"})).status_code == 503


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"url": "http://mcp.example/mcp"}, "must be https"),
        ({"issuer": "login.example"}, "needs a host"),
        ({"issuer": "https://u:p@login.example"}, "no user name"),
        ({"url": 'https://mcp.example/"'}, "printable ASCII"),
        ({"algorithms": ("HS256",)}, "choose from"),
        ({"algorithms": ("none",)}, "choose from"),
        ({"algorithms": ()}, "choose from"),
        ({"scopes": ('a"',)}, "printable ASCII"),
        ({"introspection_endpoint": f"{ISSUER}/ask"}, "belong together"),
        ({"client_id": "rs", "introspection_endpoint": f"{ISSUER}/ask"}, "belong together"),
    ],
)
def test_a_resource_with_unsafe_values_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ProtectedResource(**{"url": RESOURCE, "issuer": ISSUER, **changes})


async def test_documents_of_the_issuer_are_bounded_and_must_be_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, tuple[int, bytes]] = {
        "/large": (200, b'"' + b"a" * 300_000 + b'"'),
        "/list": (200, b"[]"),
        "/text": (200, b"<html>"),
        "/moved": (302, b""),
        "/.well-known/openid-configuration": (200, b'{"issuer": "https://other.example"}'),
    }

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            status, body = answers.get(scope["path"], (404, b""))
            await send({"type": "http.response.start", "status": status, "headers": [(b"location", b"/list")]})
            await send({"type": "http.response.body", "body": body})

    with serving(app) as url:
        origin = url.removesuffix("/mcp")
        for path, reason in (("/large", "256 KiB"), ("/list", "object"), ("/text", "not JSON"), ("/moved", "302")):
            with pytest.raises(IssuerUnavailable, match=reason):
                await fetch_object(f"{origin}{path}")
        with pytest.raises(IssuerUnavailable, match=r"other\.example"):
            await issuer_metadata(origin)
    monkeypatch.setattr(issuer_requests, "TIMEOUT_S", 0.5)
    with pytest.raises(IssuerUnavailable, match="cannot be reached"):
        await fetch_object(f"{origin}/gone")
