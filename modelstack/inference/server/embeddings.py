"""OpenAI's embeddings: texts, or their tokens, as vectors of length 1.

Each vector is encoded by the thread that computes it, so that streams beside a large request are not held up.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.embedding import EmbeddingEngine, NoEmbeddingsError
from modelstack.inference.server.bodies import Body
from modelstack.inference.server.errors import ApiError
from modelstack.inference.server.served_model import ServedModel
from modelstack.inference.server.turns import ServedEmbeddings, ServedReply

MOST_TEXTS = 2048
"""OpenAI's limit of texts of a request."""
MOST_TOKENS = 300_000
"""OpenAI's limit of tokens of a request."""


class EmbeddingsBody(Body):
    """Body of a request."""

    model: str
    input: str | list[int] | list[str] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    """base64 is that of little-endian float32."""
    dimensions: int | None = None
    user: str | None = None


def embeddings_work(
    body: EmbeddingsBody, model: ServedModel, adapter: str | None
) -> Callable[[object, Callable[[], bool]], ServedEmbeddings]:
    """Return the work of a request; its first argument is not used.

    Raises:
        NoEmbeddingsError: The model's engine computes no embeddings.
        ApiError: There are no texts or too many, one is empty, or vectors of another size are asked for.
    """
    engine = model.engine
    if not isinstance(engine, EmbeddingEngine):
        raise NoEmbeddingsError(f"the model {body.model!r} has no embeddings: its engine computes none")
    if body.dimensions not in (None, engine.embedding_width):
        raise ApiError(
            400,
            f"dimensions={body.dimensions} would cut the vectors of this model, which was not trained for that: "
            f"they have {engine.embedding_width} numbers; leave dimensions out",
            "dimensions",
        )
    given = _given(body)

    def work(_: object, cancelled: Callable[[], bool]) -> ServedEmbeddings:
        texts = _tokens(given, model, engine)
        vectors = engine.embed([ids for _, ids in texts], adapter=adapter, cancelled=cancelled)
        encoded = tuple(_encoded(vector, body.encoding_format) for vector in vectors)
        return ServedEmbeddings("", n_prompt=sum(len(ids) for _, ids in texts), vectors=encoded)

    return work


def whole_embeddings(body: EmbeddingsBody, replies: Sequence[ServedReply]) -> bytes:
    """Return the body of a response."""
    (served,) = replies
    assert isinstance(served, ServedEmbeddings)
    data = ",".join(
        f'{{"object":"embedding","index":{index},"embedding":{vector}}}'
        for index, vector in enumerate(served.vectors)
    )
    usage = {"prompt_tokens": served.n_prompt, "total_tokens": served.n_prompt}
    rest = json.dumps({"model": body.model, "usage": usage})
    return f'{{"object":"list","data":[{data}],{rest[1:]}'.encode()


def _given(body: EmbeddingsBody) -> list[tuple[str, str | list[int]]]:
    """Return the texts, or their tokens, each with its field of the request."""
    given = body.input
    if isinstance(given, str):
        return [("input", _present("input", given))]
    if not given:
        raise ApiError(400, "input is an empty list; give at least one text", "input")
    several = [each for each in given if not isinstance(each, int)]
    if not several:
        return [("input", [each for each in given if isinstance(each, int)])]
    if len(several) > MOST_TEXTS:
        raise ApiError(400, f"input has {len(several):,} texts; give at most {MOST_TEXTS:,}", "input")
    return [(name, _present(name, each)) for name, each in ((f"input.{n}", e) for n, e in enumerate(several))]


def _present(name: str, text: str | list[int]) -> str | list[int]:
    if not text:
        raise ApiError(400, f"{name} is empty, and an empty text has no vector; leave it out", name)
    return text


def _tokens(
    given: Sequence[tuple[str, str | list[int]]], model: ServedModel, engine: EmbeddingEngine
) -> list[tuple[str, list[int]]]:
    """Return the tokens of each text.

    Raises:
        ApiError: A number is no token, a text does not fit the window, or there are too many tokens.
    """
    limit, n_vocab, suffix = model.engine.context_window, len(model.engine.vocabulary), engine.embedding_suffix()
    found: list[tuple[str, list[int]]] = []
    n_tokens = 0
    for name, text in given:
        ids = model.encode(text) + suffix if isinstance(text, str) else text
        unknown = next((token for token in ids if not 0 <= token < n_vocab), None)
        if unknown is not None:
            raise ApiError(400, f"{name} has the token {unknown}; the model's are 0 to {n_vocab - 1}", name)
        if len(ids) > limit:
            message = f"{name} has {len(ids):,} tokens, and the model's window is {limit:,}; cut it"
            raise ApiError(400, message, name, "context_length_exceeded")
        n_tokens += len(ids)
        if n_tokens > MOST_TOKENS:
            raise ApiError(400, f"input has more than {MOST_TOKENS:,} tokens; send several requests", "input")
        found.append((name, ids))
    return found


def _encoded(vector: NDArray[np.float32], encoding_format: Literal["float", "base64"]) -> str:
    """Return a vector as JSON."""
    if encoding_format == "float":
        return json.dumps(vector.tolist(), separators=(",", ":"))
    return f'"{base64.b64encode(vector.astype("<f4").tobytes()).decode()}"'
