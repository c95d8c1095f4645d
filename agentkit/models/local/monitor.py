"""Monitor of a local model's replies: probes on its hidden states, which cost a few percent of a token.

The request is judged at the end of the prompt, before the first token, and the reply token by token. A stop ends
the reply as filtered, with an event, and the run with the status "filtered". A monitor belongs to one model with
one adapter: that of the profile it is named after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agentkit.errors import UserError
from agentkit.messages import ModelResponse
from agentkit.models.base import FilterDelta, ModelDelta
from agentkit.models.local.profiles import PROFILES
from agentkit.models.local.shipped import ADAPTER_FILE, shipped_folder
from agentkit.usage import RequestUsage

if TYPE_CHECKING:
    from modelstack.align.monitor.probe import Probe
    from modelstack.align.monitor.watch import Watch
    from modelstack.inference.engine import Engine
    from modelstack.inference.llama.engine import LlamaCppEngine

MonitorPoint = Literal["fpr_0.1", "fpr_0.5", "fpr_1", "fpr_5"]


@dataclass(frozen=True, slots=True)
class Monitor:
    """A monitor and its operating points, named after the share of ordinary traffic that they stop."""

    probe: str | Path = "small"
    """Profile whose monitor is in the package, or the path of a file."""
    requests: MonitorPoint | None = "fpr_0.5"
    """Operating point for requests; None disables the check."""
    replies: MonitorPoint | None = "fpr_0.1"
    """Operating point for replies; None disables the check."""

    def read(self) -> Probe:
        """Return the probes.

        Raises:
            UserError: there is no such monitor, it is broken, or it has no such operating point.
        """
        from modelstack import errors
        from modelstack.align.monitor.probe import REPLY, REQUEST, Probe
        from modelstack.align.monitor.shipped import named_probe

        try:
            probe = Probe.load(self.probe) if isinstance(self.probe, Path) else named_probe(self.probe)
            for what, point in ((REQUEST, self.requests), (REPLY, self.replies)):
                if point is not None:
                    probe.threshold(what, point)
        except errors.UserError as error:
            raise UserError(str(error)) from error
        return probe

    def engine(self, *, threads: int | None = None) -> LlamaCppEngine:
        """Load the monitor's model, for `StreamModeration` of text that others write; the caller closes it.

        Raises:
            UserError: the monitor is a file, which names no model, or the model or its runtime is missing.
        """
        from agentkit.models.catalog.entries import local_path
        from modelstack import errors
        from modelstack.inference.engine import EngineError
        from modelstack.inference.llama.engine import LlamaCppEngine

        if isinstance(self.probe, Path):
            raise UserError(f"monitor {self.probe} does not name its model: load the engine with its state_layers")
        model_id = PROFILES.get(self.probe, self.probe)
        folder = shipped_folder(model_id)
        try:
            return LlamaCppEngine(
                local_path(model_id),
                lora_path=None if folder is None else folder / ADAPTER_FILE,
                state_layers=self.read().layers,
                n_threads=threads,
                n_threads_prefill=threads,
            )
        except (EngineError, errors.UserError) as error:
            raise UserError(str(error)) from error

    def watch(self, probe: Probe, *, judges_request: bool) -> Watch:
        """Return the watch of one reply.

        Args:
            probe: What `read` returned.
            judges_request: Whether the prompt ends with words of the user; after a tool result it does not.
        """
        from modelstack.align.monitor.watch import watch_at

        return watch_at(probe, self.requests if judges_request else None, self.replies)


def filtered(
    watch: Watch, model_name: str, n_prompt: int, tell: Callable[[ModelDelta], None] | None
) -> ModelResponse:
    """Return the response of a reply that was stopped, without its text, and report the reason as a delta."""
    stop = watch.stop
    assert stop is not None
    after = "" if stop.what == "request" else f" after {stop.n_tokens} tokens"
    if tell is not None:
        tell(FilterDelta(stop.what, f"unsafe {stop.what}{after}: probability {stop.probability:.2f}"))
    return ModelResponse((), RequestUsage(n_prompt, 0, stop.n_tokens), model_name, "content_filter")


def require_fitting(probe: Probe, engine: Engine) -> None:
    """Check that a monitor belongs to an engine.

    Raises:
        UserError: it was fitted on another model or adapter, or the engine does not show its layers.
    """
    from modelstack import errors

    try:
        probe.require_fitted_to(engine.fingerprint, getattr(engine, "state_layers", ()))
    except errors.UserError as error:
        raise UserError(str(error)) from error
