"""llama.cpp's C functions, imported at first use, with its log captured.

The binding is the C API of llama-cpp-python (`llama_cpp.llama_cpp`), not its `Llama` class, which supports one
sequence only. llama.cpp prints to stderr unless a callback takes its log. The callback here keeps the last error
lines, so that an exception can quote them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

from mcp_servers.distribution import install_command
from modelstack.inference.engine import EngineError

OPENMP_DEFAULTS = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "1000"}
"""Settings for how OpenMP's threads wait for each other, some hundred times per token: they spin for some
microseconds, then sleep. Milliseconds per token with 2 threads on 2 idle cores: endless spinning 7.4, no spinning
35, these settings 7.5. Beside another busy process: 16 to 400, 40, 25. "ACTIVE" matters if the engine is called
from other threads than the one that loaded it: libgomp then sees more threads than cores, and under "PASSIVE" it
would not spin at all (40 ms). Read when libgomp is loaded; settings of the user have priority."""
REINSTALL = "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python==0.3.36"
"""Command that compiles the library again, for this machine."""
GGML_LOG_LEVEL_ERROR = 4
"""`enum ggml_log_level` of ggml.h as compiled into llama-cpp-python; 3 is a warning, 4 an error."""

_last_errors: deque[str] = deque(maxlen=8)
_log_callback: Any = None
"""The callback, kept for the life of the process: C holds a bare pointer to it."""


@functools.cache
def library() -> ModuleType:
    """Return llama.cpp's C API, with its backends initialised and its log captured.

    Raises:
        EngineError: llama-cpp-python is not installed, or its shared library does not load.
    """
    global _log_callback
    for name, value in OPENMP_DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        import llama_cpp.llama_cpp as lib
    except ImportError as error:
        raise EngineError(f"the local engine needs llama-cpp-python: {install_command('local')}") from error
    except (OSError, RuntimeError) as error:
        raise EngineError(
            f"llama-cpp-python is installed but its library does not load ({error}); "
            f"reinstall it for this machine: {REINSTALL}"
        ) from error
    _log_callback = lib.llama_log_callback(_on_log)
    lib.llama_log_set(_log_callback, ctypes.c_void_p(0))
    lib.llama_backend_init()
    return lib


def is_built_with(switch: str) -> bool:
    """Return whether a part of llama.cpp's build is in use on this processor, for example "AMX_INT8"."""
    return f"{switch} = 1" in library().llama_print_system_info().decode()


@functools.cache
def ggml(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of ggml, which llama.cpp computes with, as a plain C function.

    Raises:
        EngineError: this llama-cpp-python has no such function.
    """
    base = next((path for path in library_files() if "ggml-base" in path.name), None)
    try:
        if base is None:
            raise AttributeError("libggml-base is missing")
        function = getattr(ctypes.CDLL(str(base)), name)
    except (OSError, AttributeError) as error:
        raise EngineError(f"this llama-cpp-python has no {name} ({error}); reinstall it: {REINSTALL}") from error
    function.argtypes, function.restype = arguments, result
    return function


def library_files() -> list[Path]:
    """Return the shared libraries that compute, llama.cpp's and ggml's, in a fixed order."""
    loaded: Any = library()
    folder = Path(loaded._lib._name).resolve().parent
    return sorted({path.resolve() for path in folder.iterdir() if re.search(r"llama|ggml", path.name)})


def _on_log(level: int, text: bytes, _user_data: object) -> None:
    if level == GGML_LOG_LEVEL_ERROR:
        _last_errors.append(text.decode("utf-8", errors="replace").strip())


def take_errors() -> str:
    """Return the errors that llama.cpp logged since the last call, on one line, and clear them."""
    lines = [line for line in _last_errors if line]
    _last_errors.clear()
    return "; ".join(lines)
