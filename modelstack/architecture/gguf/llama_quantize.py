"""K-quants by llama.cpp, in a separate process, because llama.cpp aborts its process on an invalid file.

Run as `python -m modelstack.architecture.gguf.llama_quantize IN OUT FILE_TYPE NAMES_IN_FULL`, the names as JSON.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mcp_servers.distribution import install_command
from modelstack.errors import UserError

_F32 = 0


def quantize_in_child(source: Path, target: Path, file_type: int, in_full: Sequence[str]) -> None:
    """Quantise an F32 file to another file.

    Args:
        source: A GGUF file in F32.
        target: The file to write.
        file_type: Value of `enum llama_ftype`.
        in_full: Tensors to leave in F32, in addition to those that llama.cpp leaves in F32 anyway.

    Raises:
        UserError: llama-cpp-python is missing or rejects the file; the message contains its output.
    """
    arguments = [str(source), str(target), str(file_type), json.dumps(list(in_full))]
    command = [sys.executable, "-m", __name__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        output = " ".join(done.stderr.split()[-60:]) or "nothing"
        raise UserError(
            f"llama.cpp could not quantise (exit {done.returncode}); its output: {output}. K-quants need "
            f"llama-cpp-python: {install_command('local')}, or use another number type"
        )


def main(source: str, target: str, file_type: str, in_full: str) -> int:
    """Quantise a file; return llama.cpp's exit code."""
    import llama_cpp.llama_cpp as lib

    # llama.cpp passes the names to C++'s `regex_search`: escape special characters and match the whole name.
    patterns = [f"^{re.escape(name)}$".replace(r"\-", "-").encode() for name in json.loads(in_full)]
    overrides = (lib.llama_model_tensor_override * (len(patterns) + 1))()
    for override, pattern in zip(overrides, patterns, strict=False):
        override.pattern, override.type = pattern, _F32
    parameters = lib.llama_model_quantize_default_params()
    parameters.ftype = int(file_type)
    parameters.tt_overrides = ctypes.cast(overrides, ctypes.POINTER(lib.llama_model_tensor_override))
    lib.llama_backend_init()
    return lib.llama_model_quantize(source.encode(), target.encode(), ctypes.pointer(parameters))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
