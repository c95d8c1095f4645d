"""OpenAI's completions: texts continued without a conversation's format."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from pydantic import Field

from modelstack.inference.engine import EngineError, require_token_ids
from modelstack.inference.server.bodies import SampledBody
from modelstack.inference.server.chat_completions import MOST_REPLIES, StreamOptions, new_id, stops
from modelstack.inference.server.errors import ApiError
from modelstack.inference.server.replying import Pieces
from modelstack.inference.server.served_model import ServedModel
from modelstack.inference.server.turns import CompletionRequest, FinishReason, ServedReply, TextPiece, TokenLogprob
from modelstack.inference.thinking import with_seed

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default."""


MOST_LOGPROBS = 5
"""OpenAI's limit of alternatives of a token."""


class CompletionBody(SampledBody):
    """Body of a request."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, ge=1)
    stop: str | list[str] | None = None
    n: int = Field(default=1, ge=1, le=MOST_REPLIES)
    best_of: int | None = None
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    """Number of most probable tokens beside each token's log-probability; 0 gives that of the token alone."""
    ignore_eos: bool = False
    """Whether the reply goes on after an end token, for measurements."""
    echo: Literal[False] = False
    suffix: None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: None = None
    repetition_penalty: Literal[1] | None = None
    user: str | None = None


def completion_requests(
    body: CompletionBody, model: ServedModel, adapter: str | None, temperature: float
) -> list[CompletionRequest]:
    """Return what a body asks for: `n` continuations of each prompt.

    Raises:
        ApiError: There are too many, a token id is no token, or `best_of` asks for a choice.
    """
    if body.best_of not in (None, body.n):
        raise ApiError(400, f"best_of={body.best_of} would choose among replies; ask for n of them", "best_of")
    prompts = _prompts(body, model)
    if len(prompts) * body.n > MOST_REPLIES:
        raise ApiError(
            400, f"{len(prompts)} prompts with n={body.n} are more than {MOST_REPLIES} replies", "prompt"
        )
    for prompt in prompts:
        try:
            require_token_ids(prompt, len(model.engine.vocabulary))
        except EngineError as error:
            raise ApiError(400, str(error), "prompt") from error
    return [
        CompletionRequest(
            prompt,
            body.max_tokens,
            stops(body.stop),
            with_seed(body.sampling(temperature), number),
            adapter,
            ignores_end=body.ignore_eos,
            n_top_logprobs=body.logprobs,
        )
        for prompt in prompts
        for number in range(body.n)
    ]


def whole_completion(body: CompletionBody, replies: Sequence[ServedReply]) -> dict[str, Any]:
    """Return the body of a response."""
    choices = [
        _choice(index, reply.text, reply.finish_reason, _logprobs(body, reply.logprobs))
        for index, reply in enumerate(replies)
    ]
    return {**_head(body.model), "choices": choices, "usage": _usage(body, replies)}


async def streamed_completion(body: CompletionBody, pieces: Pieces) -> AsyncIterator[dict[str, Any]]:
    """Yield the chunks of a response."""
    head = _head(body.model)
    counts = body.stream_options is not None and body.stream_options.include_usage
    replies: list[ServedReply] = []
    n_told: dict[int, int] = {}
    """Number of tokens of each reply whose log-probabilities were sent."""
    async for index, piece in pieces:
        if isinstance(piece, TextPiece):
            n_told[index] = n_told.get(index, 0) + len(piece.logprobs)
            yield {**head, "choices": [_choice(index, piece.text, None, _logprobs(body, piece.logprobs))]}
        elif isinstance(piece, ServedReply):
            replies.append(piece)
            logprobs = _logprobs(body, piece.logprobs[n_told.get(index, 0) :])
            yield {**head, "choices": [_choice(index, "", piece.finish_reason, logprobs)]}
    if counts:
        yield {**head, "choices": [], "usage": _usage(body, replies)}


def _prompts(body: CompletionBody, model: ServedModel) -> list[list[int]]:
    prompt = body.prompt
    if isinstance(prompt, str):
        return [model.encode(prompt)]
    several = [each for each in prompt if not isinstance(each, int)]
    if not several:
        return [[each for each in prompt if isinstance(each, int)]]
    return [model.encode(each) if isinstance(each, str) else each for each in several]


def _head(model: str) -> dict[str, Any]:
    return {"id": new_id("cmpl-"), "object": "text_completion", "created": int(time.time()), "model": model}


def _choice(index: int, text: str, finish: FinishReason | None = None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(body: CompletionBody, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if body.logprobs is None:
        return None
    return {
        "tokens": [_text(each.data) for each in tokens],
        "token_logprobs": [each.logprob for each in tokens],
        "top_logprobs": [_best(each) for each in tokens] if body.logprobs else None,
        "text_offset": [each.offset for each in tokens],
    }


def _best(token: TokenLogprob) -> dict[str, float]:
    """Return the most probable tokens by their text, and the token itself; of equal texts the more probable."""
    found: dict[str, float] = {}
    for data, logprob in (*token.top, (token.data, token.logprob)):
        found.setdefault(_text(data), logprob)
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _usage(body: CompletionBody, replies: Sequence[ServedReply]) -> dict[str, Any]:
    """Return the counts; a prompt with several replies counts once."""
    n_prompt = sum(reply.n_prompt for reply in replies) // body.n
    n_written = sum(reply.n_written for reply in replies)
    n_cached = sum(reply.n_cached for reply in replies) // body.n
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_written,
        "total_tokens": n_prompt + n_written,
        "prompt_tokens_details": {"cached_tokens": n_cached},
    }
