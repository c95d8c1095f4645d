"""Weights of a classifier in one file: safetensors, with one JSON string in its header that describes them.

The description is one string because the order of several metadata keys is not fixed, and equal weights should be
equal bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.files import replacing

MAX_FILE_BYTES = 64 << 20
"""Largest file that is read; shipped ones have at most 2 MB."""


class ClassifierFileError(ValueError):
    """A file of weights is missing, broken, or made for other features."""


def write_weights(
    path: str | os.PathLike[str], key: str, stated: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> Path:
    """Write a file under a temporary name and rename it; `stated` goes under `key` of the header."""
    from safetensors.numpy import save

    metadata = {key: json.dumps(dict(stated), sort_keys=True, allow_nan=False)}
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata=metadata)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


def read_weights(
    path: str | os.PathLike[str], key: str, *, made_by: str
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the description and the arrays of a file that `write_weights` wrote.

    Args:
        path: The file.
        key: Key of the description in the header, "classifier" or "judge".
        made_by: Command that makes the file, for errors.

    Raises:
        ClassifierFileError: the file is missing, too large, or has no such description.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ClassifierFileError(f"{path} is larger than {MAX_FILE_BYTES} bytes. {remedy(made_by)}")
        data = path.read_bytes()
    except OSError as error:
        raise ClassifierFileError(f"{path} cannot be read: {error}. {remedy(made_by)}") from error
    try:
        arrays = load(data)
        # Eight bytes of length, then the header as JSON; `load` does not return its metadata.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return dict(json.loads(header["__metadata__"][key])), arrays
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ClassifierFileError(
            f"{path} is no {key}: {type(error).__name__}: {error}. {remedy(made_by)}"
        ) from error


def remedy(made_by: str) -> str:
    """Return the last sentence of an error about a broken file of weights."""
    return f"Reinstall agentkit, or run `{made_by}` in a checkout."
