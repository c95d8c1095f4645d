"""The hash that identifies a model: content of its files, scale of its adapter, steering; once per machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

from modelstack.files import sha256_of
from modelstack.inference.remembered import RememberedFacts
from modelstack.inference.steering import Steering


class ModelFingerprint:
    """SHA-256 over weights, adapter, scale and steering. Thread-safe; it is computed once."""

    def __init__(
        self,
        files: Sequence[Path],
        lora_scale: float,
        facts: RememberedFacts | None,
        steering: Steering | None = None,
    ) -> None:
        """Set the files; `facts` keep hashes between processes.

        Args:
            files: The file of the weights, then that of the adapter if there is one.
            lora_scale: Scale of the adapter.
            facts: Known hashes; None: files are hashed in every process.
            steering: Vectors that are added to the outputs of layers.
        """
        self._files = files
        self._lora_scale = lora_scale
        self._facts = facts
        self._steering = steering
        self._computing = threading.Lock()
        self._value: str | None = None

    def value(self, *, may_hash: bool = True) -> str | None:
        """Return the fingerprint; None if a file's hash is unknown and `may_hash` is False.

        Raises:
            OSError: a file cannot be read.
        """
        if self._value is None and may_hash:
            with self._computing:
                self._value = self._value or self._compute(may_hash=True)
        elif self._value is None:
            self._value = self._compute(may_hash=False)
        return self._value

    def of_files(self, files: Sequence[Path], *, may_hash: bool) -> list[str] | None:
        """Return the SHA-256 of each file; None if one is unknown and `may_hash` is False.

        Raises:
            OSError: a file cannot be read.
        """
        hashes: list[str] = []
        for file in files:
            known = self._facts.sha256(file) if self._facts is not None else None
            if known is None and may_hash:
                known = sha256_of(file) if self._facts is None else self._facts.learn_sha256(file)
            if known is None:
                return None
            hashes.append(known)
        return hashes

    def _compute(self, *, may_hash: bool) -> str | None:
        hashes = self.of_files(self._files, may_hash=may_hash)
        if hashes is None:
            return None
        digest = hashlib.sha256(b"".join(map(bytes.fromhex, hashes)))
        if len(self._files) > 1:
            digest.update(repr(self._lora_scale).encode())
        if self._steering is not None:
            digest.update(self._steering.fingerprint.encode())
        return digest.hexdigest()
