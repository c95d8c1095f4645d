"""First load of an unknown GGUF file in a child process: a file that ends llama.cpp ends the process around it.

`file_check` refuses the headers that are known to do so; a load finds the others. The child loads the model and
its adapter and evaluates two tokens, which reads every tensor. A file that survived is remembered, for its state
on the disk and the build of llama.cpp, so that each file costs one child per machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from modelstack.inference.engine import EngineError
from modelstack.inference.remembered import RememberedFacts, files_key

TIMEOUT_S = 900.0
"""Seconds for one load; a large file may come from a slow disk."""
CHILD = f"import sys; from {__name__} import load; load(sys.argv[1:])"
_survived = set[str]()
"""Keys of files that survived in this process, for engines without remembered facts."""


def try_in_child(files: Sequence[Path], facts: RememberedFacts | None) -> None:
    """Load files in a child process unless they survived a load before.

    An ordinary error is left to the load that follows, which reports it.

    Args:
        files: The model, then its adapter if there is one.
        facts: Facts about files of this machine; None remembers within this process only.

    Raises:
        EngineError: The files end llama.cpp, or it does not come back in `TIMEOUT_S`.
    """
    key = files_key(files, f"llama-cpp-python {version('llama-cpp-python')}")
    if key is not None and (key in _survived or (facts is not None and facts.survives(key))):
        return
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    command = [sys.executable, "-c", CHILD, *map(str, files)]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"llama.cpp did not load {files[0]} within {TIMEOUT_S:g} s when it was tried in a child process. The "
            f"file is damaged, or this machine is too slow for it."
        ) from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise EngineError(
            f"{' with '.join(map(str, files))} ended the child process ({name}) in which llama.cpp tried it, so "
            f"it was not loaded here. The file is damaged, or made to do this, or memory is short; fetch it again "
            f"from a source that you trust."
        )
    if done.returncode == 0 and key is not None:
        _survived.add(key)
        if facts is not None:
            facts.learn_survives(key)


def load(files: Sequence[str]) -> None:
    """Load a model with its adapter and evaluate two tokens; exit with status 1 if llama.cpp reports an error."""
    from modelstack.inference.llama.model import LlamaContext, LlamaWeights

    with suppress(ImportError):  # Windows has neither limits nor dumps
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    model, adapter = Path(files[0]), Path(files[1]) if len(files) > 1 else None
    try:
        weights = LlamaWeights(model, adapter)
        context = LlamaContext(weights, n_cells=256, n_sequences=1, n_batch=32)
        context.evaluate([0, min(1, weights.n_vocab - 1)], position=0, sequence=0, want_logits=1)
    except EngineError:
        sys.exit(1)
