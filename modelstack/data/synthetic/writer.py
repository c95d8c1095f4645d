"""Writer of synthetic documents based on an inference engine, with the model's chat format and a grammar."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from modelstack.data.synthetic.run import NotWritten, Request
from modelstack.inference.engine import ContextWindowError, Engine, GenerateRequest, SamplingParams
from modelstack.tokenizer.chat import ChatMessage
from modelstack.tokenizer.chat_template import chat_encoder
from modelstack.toolcalls.convention import ResponseFormat, ResponseParseError
from modelstack.toolcalls.grammar.compiler import GrammarCompiler

_FORM = "Reply with the result as JSON."


class EngineWriter:
    """Generates documents with an engine under a schema, one at a time."""

    def __init__(
        self, engine: Engine, name: str, *, temperature: float = 0.8, top_p: float = 0.95, min_p: float = 0.05
    ) -> None:
        """Wrap a loaded engine.

        Args:
            engine: The engine.
            name: Name of the model in the documents' metadata.
            temperature: Sampling temperature; greedy decoding repeats itself.
            top_p: See `SamplingParams`.
            min_p: See `SamplingParams`.
        """
        self.name = name
        self._engine = engine
        self._sampling = SamplingParams(temperature=temperature, top_p=top_p, min_p=min_p)
        self._compiler = GrammarCompiler(engine.vocabulary)
        self._chat = chat_encoder(engine)

    @property
    def sha256(self) -> str:
        """Hash of weights, adapter and sampling parameters."""
        parts = [self._engine.fingerprint, self._sampling.temperature, self._sampling.top_p, self._sampling.min_p]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __call__(self, request: Request) -> str:
        """Return the generated JSON.

        Raises:
            NotWritten: Prompt and reply do not fit in the context, or the reply is truncated.
            EngineError: The engine failed.
        """
        grammar = self._compiler.compile(ResponseFormat(answer=request.schema))
        # The seed document is untrusted text: encoded as content, never as control tokens.
        asked = ChatMessage("user", f"{request.prompt}\n\n{_FORM}")
        ids = [*self._chat.encode([asked]).ids, *self._chat.opening_ids("assistant", previous="user")]
        if len(ids) + request.max_tokens > self._engine.context_window:
            raise NotWritten("context_full")
        sampling = SamplingParams(
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            min_p=self._sampling.min_p,
            seed=request.seed,
        )
        try:
            generation = self._engine.generate(
                GenerateRequest(ids, request.max_tokens, "synthetic", grammar.start(), sampling)
            )
            value = grammar.parse(self._engine.vocabulary.decode(generation.ids)).answer
        except ContextWindowError as error:
            raise NotWritten("context_full") from error
        except ResponseParseError as error:
            raise NotWritten("cut") from error
        return json.dumps(value)


def name_of(model: Path, adapter: Path | None) -> str:
    """Return the name of the model in the documents' metadata, from the file names."""
    return model.stem if adapter is None else f"{model.stem}+{adapter.stem}"
