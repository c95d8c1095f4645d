"""Signature of a release folder, in the format that `model-signing` 1.1 writes and verifies.

A Sigstore bundle (v0.3) holds a DSSE envelope. Its payload is an in-toto statement with the SHA-256 of every
file, signed with ECDSA over P-256 and SHA-256. A key says who signed only if its public half came another way than
the folder.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelstack.align.release.listing import SIGNATURE
from modelstack.errors import UserError
from modelstack.files import read_json_object, replacing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
IGNORED = (".git", ".gitattributes", ".github", ".gitignore", SIGNATURE)
PASSWORD_VARIABLE = "MODELSTACK_KEY_PASSWORD"
"""Environment variable with the password of an encrypted private key."""
MAX_BUNDLE_BYTES, MAX_KEY_BYTES = 16 << 20, 1 << 16


def new_key(path: Path) -> Path:
    """Write a new private key, readable by its owner alone, and its public half as PATH.pub; return the latter.

    Raises:
        UserError: One of the files exists: a lost key cannot be made again.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = path.with_name(f"{path.name}.pub")
    if existing := [file for file in (path, public) if file.exists()]:
        raise UserError(f"{existing[0]} exists, and a key is never overwritten: give another name")
    key = ec.generate_private_key(ec.SECP256R1())
    password = os.environ.get(PASSWORD_VARIABLE, "")
    protection = (
        serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    with replacing(public) as temporary:
        temporary.write_bytes(_pem(key.public_key()))
    return public


def read_private_key(path: Path) -> EllipticCurvePrivateKey:
    """Return a private key.

    Raises:
        UserError: The file is missing, encrypted with another password, or no P-256 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    password = os.environ.get(PASSWORD_VARIABLE)
    try:
        key = load_pem_private_key(_key_bytes(path), password.encode() if password else None)
    except TypeError as error:
        raise UserError(
            f"key {path}: {error}; its password is the environment variable {PASSWORD_VARIABLE}"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"key {path} is no private key in PEM, or its password is another: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UserError(f"key {path} is not on the curve P-256; `modelstack release key FILE` writes one that is")
    return key


def read_public_key(path: Path) -> EllipticCurvePublicKey:
    """Return a public key.

    Raises:
        UserError: The file is missing, or no P-256 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_key_bytes(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"key {path} is no public key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UserError(f"key {path} is not on the curve P-256, on which releases are signed")
    return key


def sign(hashes: Mapping[str, str], name: str, key: EllipticCurvePrivateKey) -> str:
    """Return the signature of files as the text of a bundle.

    Args:
        hashes: SHA-256 of each file by name, all but the signature's.
        name: Name of the folder.
        key: Private key.
    """
    from cryptography.hazmat.primitives import hashes as algorithms
    from cryptography.hazmat.primitives.asymmetric import ec

    payload = json.dumps(_statement(hashes, name), sort_keys=True).encode()
    signed = key.sign(_encoding(payload), ec.ECDSA(algorithms.SHA256()))
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_hint(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle) + "\n"


def verified_hashes(file: Path, key: EllipticCurvePublicKey) -> dict[str, str]:
    """Return the SHA-256 of each file as a signature states it, after verifying the signature.

    Raises:
        UserError: The file is missing or no signature, or was made with another key or for other content.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes as algorithms
    from cryptography.hazmat.primitives.asymmetric import ec

    if file.is_symlink() or not file.is_file():
        raise UserError(f"{file} is missing: the release is not signed")
    bundle = read_json_object(file, MAX_BUNDLE_BYTES)
    try:
        envelope = bundle["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        (signature,) = (base64.b64decode(each["sig"], validate=True) for each in envelope["signatures"])
        hint = bundle["verificationMaterial"]["publicKey"]["hint"]
        if bundle["mediaType"] != MEDIA_TYPE or envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError(f"its type is {bundle['mediaType']!r} with {envelope['payloadType']!r}")
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise UserError(f"{file} is no signature of `modelstack release` or `model-signing`: {error!r}") from error
    try:
        key.verify(signature, _encoding(payload), ec.ECDSA(algorithms.SHA256()))
    except InvalidSignature:
        ours = key_hint(key)
        reason = (
            f"it is of another key, {str(hint)[:12]}, not {ours[:12]}"
            if hint != ours
            else "its content was changed after it was signed"
        )
        raise UserError(f"{file} does not verify: {reason}. Get the release again, or the public key") from None
    return _stated(json.loads(payload), file)


def key_hint(key: EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of a public key's PEM, by which bundles name it."""
    return hashlib.sha256(_pem(key)).hexdigest()


def _statement(hashes: Mapping[str, str], name: str) -> dict[str, Any]:
    ordered = sorted(hashes.items())
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _root(each for _, each in ordered)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(IGNORED),
            },
            "resources": [{"name": each, "algorithm": "sha256", "digest": sha256} for each, sha256 in ordered],
        },
    }


def _root(digests: Any) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(each) for each in digests)).hexdigest()


def _stated(statement: Any, file: Path) -> dict[str, str]:
    """Return the hashes of a statement whose signature is verified."""
    try:
        if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] != PREDICATE_TYPE:
            raise ValueError(f"its statement is {statement['predicateType']!r}")
        resources = statement["predicate"]["resources"]
        if wrong := {each["algorithm"] for each in resources} - {"sha256"}:
            raise ValueError(f"its hashes are {min(wrong)!r}, not sha256")
        (subject,) = statement["subject"]
        if subject["digest"]["sha256"] != _root(each["digest"] for each in resources):
            raise ValueError("its root hash is not that of its files")
        return {str(each["name"]): str(each["digest"]) for each in resources}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} signs no list of files: {error!r}") from error


def _encoding(payload: bytes) -> bytes:
    """Return the bytes that DSSE signs."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _pem(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _key_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"key {path} does not exist; `modelstack release key FILE` writes a pair of keys")
    if path.stat().st_size > MAX_KEY_BYTES:
        raise UserError(f"key {path} has {path.stat().st_size:,} bytes: it is no key")
    return path.read_bytes()
