"""Guardrail with a guard model: a small language model judges requests and answers by a policy.

`SafetyClassifier` knows words, a guard model what is asked: killing a process is not killing a person. Requests
are judged by both together where the guard has thresholds for it (`OperatingPoints.with_classifier`). With
`mode="parallel"` it runs beside the first request to the model, which costs no waiting unless it blocks. The
policy is text in the guard's prompt: categories can be left out or added.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.guardrails.classifiers import OperatingPoint
from agentkit.guardrails.guardrail import Guardrail, Mode
from agentkit.guardrails.verdicts import Allow, Block, Verdict
from mcp_servers.distribution import install_command

if TYPE_CHECKING:
    from modelstack.align.guard_model.guard import GuardModel
    from modelstack.align.guard_model.policy import Policy
    from modelstack.align.guard_model.shipped import OperatingPoints

DEFAULT_GUARD = "qwen2.5-coder-0.5b"
"""Base model of the default guard: that of the profile `small`."""
GuardPoint = Literal["fpr_0.1", "fpr_1", "fpr_5"]
_N_CELLS = 2048
"""Tokens that the guard's cache holds: its policy and a piece of a conversation."""


class SafetyGuard:
    """Judges messages of the user and answers with a guard model in this process."""

    def __init__(
        self,
        model: str | Path = DEFAULT_GUARD,
        *,
        requests: GuardPoint | None = "fpr_1",
        answers: GuardPoint | None = "fpr_1",
        policy: Policy | None = None,
        folder: str | Path | None = None,
        screen: OperatingPoint | None = None,
        mode: Mode = "blocking",
        threads: int | None = None,
    ) -> None:
        """Describe a guard; its weights are loaded for the first verdict.

        Args:
            model: A model of the catalog that the package has a guard for, or the GGUF file of `folder`'s guard.
            requests: Operating point for messages of the user, named after the share of ordinary messages that it
                flags; None disables the check.
            answers: Operating point for answers of the model; None disables the check.
            policy: Categories of unsafe content; None: those of MLCommons.
            folder: Folder with `adapter.gguf` and `points.json`, for a guard of one's own.
            screen: Operating point of the linear classifier in front: only requests that it flags are judged. It
                saves the guard's time on most traffic, and misses what the classifier misses.
            mode: "parallel" judges a request beside the first call of the model.
            threads: Number of threads; None measures.

        Raises:
            UserError: both checks are disabled.
        """
        if requests is None and answers is None:
            raise UserError("SafetyGuard(requests=None, answers=None) checks nothing: give an operating point")
        self._model, self._folder = model, None if folder is None else Path(folder)
        self._points: dict[str, GuardPoint | None] = {"user": requests, "assistant": answers}
        self._policy, self._threads, self._screen = policy, threads, screen
        self._mode: Mode = mode
        self._lock = threading.Lock()
        self._loaded: tuple[GuardModel, OperatingPoints] | None = None

    def guardrails(self) -> Sequence[Guardrail]:
        """Return the checks of messages and answers; each runs in a worker thread."""
        from anyio.to_thread import run_sync

        async def check_input(text: str, context: RunContext[Any]) -> Verdict:
            return await run_sync(self.check_request, text)

        async def check_output(text: str, context: RunContext[Any]) -> Verdict:
            return await run_sync(partial(self.check_answer, text, request=_request(context)))

        checks: list[Guardrail] = []
        if self._points["user"] is not None:
            checks.append(Guardrail("input", "SafetyGuard", check_input, self._mode))
        if self._points["assistant"] is not None:
            checks.append(Guardrail("output", "SafetyGuard", check_output))
        return checks

    def check_request(self, text: str) -> Verdict:
        """Return the verdict on a message of the user.

        Raises:
            UserError: the weights or their runtime are missing.
        """
        return self._verdict([("user", text)])

    def check_answer(self, text: str, *, request: str | None = None) -> Verdict:
        """Return the verdict on an answer, judged together with the request if it is given.

        Raises:
            UserError: the weights or their runtime are missing.
        """
        asked: list[tuple[Literal["user", "assistant"], str]] = [] if request is None else [("user", request)]
        return self._verdict([*asked, ("assistant", text)])

    def load(self) -> GuardModel:
        """Load the weights unless they are loaded, fetching the base model first if needed.

        Raises:
            UserError: the model or its runtime is missing; the message says how to get it.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded[0]

    def close(self) -> None:
        """Free the weights; the next verdict loads them again."""
        with self._lock:
            if self._loaded is not None:
                self._loaded[0].close()
            self._loaded = None

    def _load(self) -> tuple[GuardModel, OperatingPoints]:
        try:
            from agentkit.models.catalog.entries import CATALOG, local_path
            from agentkit.models.catalog.store import file_sha256
            from agentkit.models.local.prompt_cache import prompt_cache
            from modelstack import errors
            from modelstack.align.guard_model.guard import GuardModel
            from modelstack.align.guard_model.policy import MLCOMMONS
            from modelstack.align.guard_model.shipped import ADAPTER_FILE, read_points, shipped_guard
            from modelstack.inference.engine import EngineError
            from modelstack.inference.llama.engine import LlamaCppEngine
        except ImportError as error:
            raise UserError(f"SafetyGuard needs {error.name}: {install_command('local')}.") from error
        try:
            folder = self._folder or shipped_guard(str(self._model))
            points, base = read_points(folder), local_path(str(self._model))
            entry = CATALOG.get(str(self._model))  # its file was verified when it was fetched
            if (file_sha256(base) if entry is None else entry.sha256) != points.base_sha256:
                raise UserError(f"the guard in {folder} was trained on another base than {base}: name that model")
            engine = LlamaCppEngine(
                base,
                lora_path=folder / ADAPTER_FILE,
                n_cells=_N_CELLS,
                max_conversations=2,
                n_threads=self._threads,
                n_threads_prefill=self._threads,
                states=prompt_cache(),
            )
            return GuardModel(engine, self._policy or MLCOMMONS), points
        except (EngineError, errors.UserError) as error:
            raise UserError(str(error)) from error

    def _verdict(self, said: Sequence[tuple[Literal["user", "assistant"], str]]) -> Verdict:
        from modelstack.align.guard_model.prompt import GuardTurn
        from modelstack.align.guards.assess import assess_request
        from modelstack.inference.engine import EngineError

        role, text = said[-1]
        point = self._points[role]
        if point is None or not text.strip():
            return Allow()
        classified = assess_request(text) if role == "user" else None
        if classified is not None and self._screen is not None and self._screen not in classified.flagged_at:
            return Allow()
        guard = self.load()
        assert self._loaded is not None
        try:
            verdict = guard.judge([GuardTurn(who, what) for who, what in said])
        except EngineError as error:
            raise UserError(f"the guard model failed: {error}") from error
        assert verdict is not None  # it is not cancelled
        score = None if classified is None else classified.probability
        if point not in self._loaded[1].flagged_at(verdict.probability, score):
            return Allow()
        hazard = verdict.categories[0] if verdict.categories else None
        what = "request" if role == "user" else "answer"
        return Block(
            f"unsafe {what}: probability {verdict.probability:.2f}, flagged at {point}",
            hazard=hazard,
            probability=verdict.probability,
        )


def _request(context: RunContext[Any]) -> str | None:
    """Return the messages of the user in a run, with the notes of its plan between them."""
    from agentkit.messages import ModelResponse, UserPromptPart

    said, n_responses = list[str](), context.step
    for message in reversed(context.messages):
        if isinstance(message, ModelResponse):
            if not n_responses:  # the message is of an earlier run
                break
            n_responses -= 1
        said += [part.text for part in message.parts if isinstance(part, UserPromptPart)]
    return "\n".join(reversed(said)) or None
