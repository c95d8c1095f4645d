"""Probes of plain replies: text, streams, counts, system prompt, Unicode, limits, sampling."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from agentkit.models.endpoint_check.findings import Finding, Sample, counted
from agentkit.models.endpoint_check.probe import (
    Known,
    Probe,
    ProbeRequest,
    Replies,
    chat,
    first,
    system,
    user,
)
from agentkit.models.endpoint_check.replies import (
    ChatReply,
    ServerReply,
    chat_reply,
    count_at,
    list_at,
    sample_without_reply,
    shown,
    text_at,
)

_COUNT = "Count from 1 to 30 in digits, separated by commas. Write only the numbers."
_MAX_CHARS_PER_TOKEN = 12
"""Characters of a token at most, for servers that count none; English has about 4."""
_LIMIT_TOKENS = 8
_LUMP_SHARE = 0.05
"""Share of the whole time within which the text of a stream that was held back arrives."""
_LUMP_MIN_S = 1.0
"""Seconds of a reply below which its pacing is not judged."""
_WORDS = ("plimsoll", "quindle", "tamarack")
"""Code words that no model says unless it was told them."""
_TEXTS = ("Grüße aus Köln", "日本語のテスト", "naïve café 🦜🚀")
_MOJIBAKE = re.compile("\ufffd|Ã.|â€|ðŸ")
"""Signs of UTF-8 that was cut, or read as Latin-1."""


# -- limits: first, because every later request has one -------------------------------------------------------


def _limit_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    body = {"model": known.model, "messages": [user(_COUNT)]}
    names = ("max_tokens", "max_completion_tokens")
    return {name: [ProbeRequest("chat/completions", {**body, name: _LIMIT_TOKENS})] for name in names}


def _judge_limits(known: Known, replies: Replies) -> list[Finding]:
    return [_limit(name, replies) for name in ("max_tokens", "max_completion_tokens")]


def _limit(name: str, replies: Replies) -> Finding:
    reply = first(replies, name)
    chat = chat_reply(reply)
    if chat is None:
        sample = sample_without_reply(reply)
        return Finding(name, name, sample.verdict, sample.detail)
    n_tokens = chat.completion_tokens
    n_chars = len(chat.text) + len(chat.thinking)
    if n_chars > _LIMIT_TOKENS * _MAX_CHARS_PER_TOKEN:
        return Finding(name, name, "ignored", f"{n_chars} characters under a limit of {_LIMIT_TOKENS} tokens")
    if n_tokens is not None and n_tokens > _LIMIT_TOKENS + 1:
        return Finding(name, name, "fails", f"{n_tokens} tokens under a limit of {_LIMIT_TOKENS}")
    if chat.finish_reason == "stop" and (n_tokens is None or n_tokens < _LIMIT_TOKENS):
        return Finding(name, name, "unknown", "the model ended before the limit by itself")
    if chat.finish_reason != "length":
        detail = f"cut at the limit, but finish_reason is {chat.finish_reason!r}, not 'length'"
        return Finding(name, name, "fails", detail)
    return Finding(name, name, "holds", f"cut at {_LIMIT_TOKENS} tokens, finish_reason 'length'")


LIMITS = Probe("token limits", _limit_requests, _judge_limits)


# -- text, stream, counts -------------------------------------------------------------------------------------


def _text_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    return {"text": [chat(known, "What colour is a ripe banana? Answer in one short sentence.", n_tokens=512)]}


def _judge_text(known: Known, replies: Replies) -> list[Finding]:
    reply = first(replies, "text")
    chat = chat_reply(reply)
    if chat is None:
        sample = sample_without_reply(reply)
        return [Finding("text", "text", sample.verdict, sample.detail)]
    thinks = bool(chat.thinking) or "</think>" in chat.text
    figures = {"thinks": thinks}
    if not chat.text.strip():
        detail = "only a thought, no answer" if thinks else "an empty answer"
        return [Finding("text", "text", "fails", detail, figures=figures)]
    said = f"{shown(chat.text, 60)!r} after {reply.elapsed_s:.1f} s"
    if chat.finish_reason not in ("stop", "length"):
        detail = f"finish_reason is {chat.finish_reason!r}; {said}"
        return [Finding("text", "text", "fails", detail, figures=figures)]
    thought = "; thinks first" if chat.thinking else "; its thought stands in the text (<think>)" if thinks else ""
    return [Finding("text", "text", "holds", said + thought, figures=figures)]


TEXT = Probe("text", _text_requests, _judge_text, is_vital=True)


def _stream_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    counted = {"stream": True, "stream_options": {"include_usage": True}}
    return {
        "counted": [chat(known, _COUNT, n_tokens=96, **counted)],
        "plain": [chat(known, _COUNT, n_tokens=96, stream=True)],
    }


def _judge_stream(known: Known, replies: Replies) -> list[Finding]:
    counted, plain = first(replies, "counted"), first(replies, "plain")
    reply = counted if counted.is_ok else plain
    chat = chat_reply(reply)
    if chat is None:
        sample = sample_without_reply(reply)
        return [Finding("stream", "stream", sample.verdict, sample.detail)]
    if not reply.is_stream:
        return [Finding("stream", "stream", "ignored", f"the whole reply at once, as {reply.content_type}")]
    return [_pacing(reply, chat), _stream_end(reply, chat), _stream_usage(counted)]


def _pacing(reply: ServerReply, chat: ChatReply) -> Finding:
    """Judge whether the pieces of a stream arrive while they are written."""
    pieces = [event for event in reply.events if _has_text(event.data)]
    n_reads = len({event.n_read for event in pieces})
    span_s = pieces[-1].at_s - pieces[0].at_s if pieces else 0.0
    n_chars = len(chat.text) + len(chat.thinking)
    if not pieces or (len(pieces) == 1 and n_chars < 20):
        return Finding("stream", "stream", "unknown", f"the reply has {n_chars} characters; too short to tell")
    if len(pieces) == 1:
        return Finding("stream", "stream", "fails", f"all {n_chars} characters in one piece")
    if n_reads == 1 or (reply.elapsed_s > _LUMP_MIN_S and span_s < _LUMP_SHARE * reply.elapsed_s):
        detail = f"{len(pieces)} pieces at once after {pieces[0].at_s:.1f} s; something holds them back"
        return Finding("stream", "stream", "fails", detail)
    detail = f"{len(pieces)} pieces over {span_s:.1f} s, the first after {pieces[0].at_s:.1f} s"
    return Finding("stream", "stream", "holds", detail)


def _has_text(chunk: object) -> bool:
    delta = ("choices", 0, "delta")
    return any(text_at(chunk, *delta, name) for name in ("content", "reasoning_content", "reasoning"))


def _stream_end(reply: ServerReply, chat: ChatReply) -> Finding:
    if not chat.finish_reason:
        return Finding("end of stream", "end of stream", "fails", "no finish_reason: a cut stream looks complete")
    if not reply.has_done:
        return Finding("end of stream", "end of stream", "fails", "finish_reason, but no [DONE]")
    return Finding("end of stream", "end of stream", "holds", "finish_reason and [DONE]")


def _stream_usage(reply: ServerReply) -> Finding:
    id = title = "usage in stream"
    chat = chat_reply(reply)
    if chat is None:
        sample = sample_without_reply(reply)
        return Finding(id, title, sample.verdict, sample.detail)
    if chat.usage is None:
        return Finding(id, title, "ignored", "stream_options.include_usage brings no usage")
    if not chat.prompt_tokens or not chat.completion_tokens:
        return Finding(
            id, title, "fails", f"{chat.prompt_tokens} prompt and {chat.completion_tokens} reply tokens"
        )
    return Finding(id, title, "holds", f"{chat.prompt_tokens} prompt and {chat.completion_tokens} reply tokens")


STREAM = Probe("stream", _stream_requests, _judge_stream)


def _usage_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    filler = "The harbour is calm today, and the boats are tied up at the pier. " * 20
    return {
        "short": [chat(known, "Say hello.", n_tokens=16)],
        "long": [chat(known, f"{filler}\nSay hello.", n_tokens=16)],
    }


def _judge_usage(known: Known, replies: Replies) -> list[Finding]:
    id = title = "usage"
    short, long = chat_reply(first(replies, "short")), chat_reply(first(replies, "long"))
    if short is None or long is None:
        sample = sample_without_reply(first(replies, "short" if short is None else "long"))
        return [Finding(id, title, sample.verdict, sample.detail)]
    few, many, n_reply = short.prompt_tokens, long.prompt_tokens, short.completion_tokens
    if few is None or many is None or n_reply is None:
        return [Finding(id, title, "fails", "prompt_tokens or completion_tokens are missing")]
    if not few or not many or not n_reply:
        return [Finding(id, title, "fails", f"zero is claimed: {few} and {many} prompt, {n_reply} reply tokens")]
    if many < few + 100:  # the filler has over 300 tokens in any tokenizer with words
        return [Finding(id, title, "fails", f"{few} prompt tokens for 10 characters, {many} for 1,300")]
    total = count_at(short.usage, "total_tokens")
    if total is not None and total < few + n_reply:
        return [Finding(id, title, "fails", f"total_tokens {total} is less than {few} + {n_reply}")]
    detail = f"{few} prompt tokens for 10 characters, {many} for 1,300"
    return [Finding(id, title, "holds", detail, figures={"tokens_per_char": (many - few) / 1300})]


USAGE = Probe("usage", _usage_requests, _judge_usage)


# -- what is said ---------------------------------------------------------------------------------------------


def _system_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    question = user("What is the code word of today? Answer with that word.")
    rules = [system(f"You answer questions of visitors. The code word of today is {word!r}.") for word in _WORDS]
    return {
        "with": [chat(known, [rule, question], n_tokens=32) for rule in rules],
        "without": [chat(known, [question], n_tokens=8)],
    }


def _judge_system(known: Known, replies: Replies) -> list[Finding]:
    id = title = "system prompt"

    judged = [
        sample_without_reply(reply) if (chat := chat_reply(reply)) is None else _told(chat.text, word)
        for reply, word in zip(replies["with"], _WORDS, strict=False)
    ]
    found = counted(id, title, judged, detail="the reply uses it")
    given, bare = chat_reply(first(replies, "with")), chat_reply(first(replies, "without"))
    if found.n_held == 0 and given and bare and given.prompt_tokens and given.prompt_tokens == bare.prompt_tokens:
        return [Finding(id, title, "ignored", "it adds no prompt tokens, and is not used", 0, found.n_asked)]
    return [found]


def _told(text: str, word: str) -> Sample:
    return Sample("holds" if word in text.lower() else "fails", f"asked for {word!r}: {shown(text, 40)!r}")


SYSTEM = Probe("system prompt", _system_requests, _judge_system)


def _unicode_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    asked = [f"Repeat this text exactly, and write nothing else: {text}" for text in _TEXTS]
    return {"repeated": [chat(known, prompt, stream=True, temperature=0) for prompt in asked]}


def _judge_unicode(known: Known, replies: Replies) -> list[Finding]:
    judged = [
        sample_without_reply(reply) if (chat := chat_reply(reply)) is None else _repeated(chat.text, text)
        for reply, text in zip(replies["repeated"], _TEXTS, strict=False)
    ]
    return [counted("Unicode", "Unicode", judged, detail="repeated in a stream")]


def _repeated(text: str, wanted: str) -> Sample:
    if wanted in text:
        return Sample("holds")
    if broken := _MOJIBAKE.search(text):
        return Sample("fails", f"broken characters {broken[0]!r} in {shown(text, 40)!r}")
    return Sample("unknown", f"the model wrote {shown(text, 40)!r}; no character is broken")


UNICODE = Probe("Unicode", _unicode_requests, _judge_unicode)


# -- sampling -------------------------------------------------------------------------------------------------


def _stop_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    return {
        "free": [chat(known, _COUNT, temperature=0)],
        "stopped": [chat(known, _COUNT, temperature=0, stop=["7"])],
    }


def _judge_stop(known: Known, replies: Replies) -> list[Finding]:
    free, reply = chat_reply(first(replies, "free")), first(replies, "stopped")
    stopped = chat_reply(reply)
    if stopped is None:
        sample = sample_without_reply(reply)
        return [Finding("stop", "stop", sample.verdict, sample.detail)]
    if free is None or "7" not in free.text:
        return [Finding("stop", "stop", "unknown", "the model does not write the stop text by itself")]
    if "7" in stopped.text.rstrip()[:-1]:
        return [Finding("stop", "stop", "ignored", "the reply goes on behind the stop text")]
    if "7" in stopped.text:
        return [Finding("stop", "stop", "fails", "the reply ends there, but with the stop text in it")]
    if stopped.finish_reason != "stop":
        detail = f"it ends there, but finish_reason is {stopped.finish_reason!r}"
        return [Finding("stop", "stop", "fails", detail)]
    return [Finding("stop", "stop", "holds", "the reply ends before the stop text")]


STOP = Probe("stop sequences", _stop_requests, _judge_stop)


def _sampling_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    prompt = "Invent a name for a boat, and say in one sentence why it fits."
    return {
        "greedy": [chat(known, prompt, temperature=0) for _ in range(3)],
        "seeded": [chat(known, prompt, temperature=1, seed=11) for _ in range(2)],
        "other": [chat(known, prompt, temperature=1, seed=12)],
    }


def _judge_sampling(known: Known, replies: Replies) -> list[Finding]:
    return [_greedy(replies["greedy"]), _seeded(replies["seeded"], first(replies, "other"))]


def _greedy(replies: Sequence[ServerReply]) -> Finding:
    id = title = "temperature 0"
    texts = [chat.text for reply in replies if (chat := chat_reply(reply))]
    if len(texts) < len(replies) or len(texts) < 2:
        sample = next((sample_without_reply(r) for r in replies if chat_reply(r) is None), Sample("unknown"))
        return Finding(id, title, sample.verdict, sample.detail)
    n_same = max(map(texts.count, texts))
    held = n_same == len(texts)
    detail = f"{n_same} of {len(texts)} replies are equal"
    return Finding(id, title, "holds" if held else "fails", detail, n_same, len(texts))


def _seeded(replies: Sequence[ServerReply], other: ServerReply) -> Finding:
    texts = [chat.text for reply in replies if (chat := chat_reply(reply))]
    if len(texts) < 2:
        sample = next((sample_without_reply(r) for r in replies if chat_reply(r) is None), Sample("unknown"))
        return Finding("seed", "seed", sample.verdict, sample.detail)
    if texts[0] != texts[1]:
        return Finding("seed", "seed", "ignored", "equal seeds, different replies at temperature 1")
    differs = (chat := chat_reply(other)) is not None and chat.text != texts[0]
    if differs:
        return Finding("seed", "seed", "holds", "equal seeds, equal replies; another seed, another reply")
    return Finding("seed", "seed", "unknown", "another seed gives the same reply, too")


SAMPLING = Probe("temperature and seed", _sampling_requests, _judge_sampling)


def _logprob_requests(known: Known) -> Mapping[str, Sequence[ProbeRequest]]:
    return {"text": [chat(known, "Say hello.", n_tokens=16, logprobs=True)]}


def _judge_logprobs(known: Known, replies: Replies) -> list[Finding]:
    reply = first(replies, "text")
    chat = chat_reply(reply)
    if chat is None:
        sample = sample_without_reply(reply)
        return [Finding("logprobs", "logprobs", sample.verdict, sample.detail)]
    if not chat.logprobs:
        other = list_at(reply.body, "choices", 0, "logprobs", "token_logprobs")
        detail = "in the form of old completions" if other else "none came"
        return [Finding("logprobs", "logprobs", "fails" if other else "ignored", detail)]
    values = [value for _, value in chat.logprobs]
    if any(value > 0 for value in values) or len(set(values)) == 1 < len(values):
        return [Finding("logprobs", "logprobs", "fails", f"implausible values: {values[:3]}")]
    return [Finding("logprobs", "logprobs", "holds", f"of {len(values)} tokens")]


LOGPROBS = Probe("logprobs", _logprob_requests, _judge_logprobs)
