"""Judges on replies that are data: what no server of ours would send, and times that no test should wait for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from agentkit.models.endpoint_check import connection_probes, content_probes, text_probes, tool_probes
from agentkit.models.endpoint_check.findings import Finding, Sample, counted
from agentkit.models.endpoint_check.probe import Known, Probe, ProbeRequest
from agentkit.models.endpoint_check.replies import Call, ServerReply, StreamEvent, chat_reply

KNOWN = Known("m")


def whole(
    message: Any = None, *, finish_reason: str | None = "stop", status: int = 200, **fields: Any
) -> ServerReply:
    body = {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}], **fields}
    return ServerReply(status, body, json.dumps(body), "application/json")


def said(text: str, **fields: Any) -> ServerReply:
    return whole({"role": "assistant", "content": text}, **fields)


def streamed(*pieces: tuple[float, int, str], total_s: float, done: bool = True) -> ServerReply:
    """A stream of pieces (seconds, number of the read, text)."""
    events = [StreamEvent(at_s, n, {"choices": [{"delta": {"content": text}}]}) for at_s, n, text in pieces]
    events.append(StreamEvent(total_s, 99, {"choices": [{"delta": {}, "finish_reason": "stop"}]}))
    return ServerReply(
        200,
        content_type="text/event-stream",
        events=tuple(events),
        is_stream=True,
        has_done=done,
        elapsed_s=total_s,
    )


def judged(probe: Probe, known: Known = KNOWN, /, **groups: Sequence[ServerReply]) -> dict[str, Finding]:
    return {finding.id: finding for finding in probe.judge(known, groups)}


LONG = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"


@pytest.mark.parametrize(
    ("pieces", "total_s", "verdict"),
    [
        ([(0.1 * n, n, "1, 2, 3, ") for n in range(1, 10)], 1.0, "holds"),
        ([(3.0 + 0.001 * n, n, "1, 2, 3, ") for n in range(1, 10)], 3.1, "fails"),  # held back by something
        ([(0.02, 1, "1, 2, 3, ") for _ in range(9)], 0.1, "fails"),  # all in one read
        ([(0.02 + 0.001 * n, n, "1, 2, 3, ") for n in range(9)], 0.1, "holds"),  # a fast server
        ([(0.5, 1, LONG)], 0.6, "fails"),
        ([(0.5, 1, "1, 2")], 0.6, "unknown"),
        ([], 0.6, "unknown"),
    ],
)
def test_a_stream_is_judged_by_the_times_of_its_pieces(pieces: Any, total_s: float, verdict: str) -> None:
    reply = streamed(*pieces, total_s=total_s)
    assert judged(text_probes.STREAM, counted=[reply], plain=[reply])["stream"].verdict == verdict


def test_a_stream_without_a_finish_reason_looks_complete_when_it_is_cut() -> None:
    reply = streamed((0.1, 1, LONG), total_s=0.2)
    cut = ServerReply(200, events=reply.events[:-1], is_stream=True, has_done=True)
    assert "cut" in judged(text_probes.STREAM, counted=[cut], plain=[cut])["end of stream"].detail
    no_done = streamed((0.1, 1, LONG), total_s=0.2, done=False)
    found = judged(text_probes.STREAM, counted=[no_done], plain=[no_done])["end of stream"]
    assert (found.verdict, found.detail) == ("fails", "finish_reason, but no [DONE]")


HOSTILE: Mapping[str, ServerReply] = {
    "no response": ServerReply(error="ConnectError: refused"),
    "no JSON": ServerReply(200, None, "<html>hello</html>", "text/html"),
    "a list": ServerReply(200, [], "[]"),
    "a number": ServerReply(200, 7, "7"),
    "deep": ServerReply(200, json.loads("[" * 900 + "]" * 900), ""),
    "choices of numbers": ServerReply(200, {"choices": [1, None, "x", []]}, ""),
    "choices are text": ServerReply(200, {"choices": "abc"}, ""),
    "a message of numbers": whole(7),
    "content is a number": whole({"content": 7, "tool_calls": 7}),
    "calls of nonsense": whole(
        {"content": None, "tool_calls": [None, 7, {"function": 7}, {"function": {"name": 7}}]}
    ),
    "usage of nonsense": said(
        "hello", usage={"prompt_tokens": "many", "completion_tokens": -1, "total_tokens": True}
    ),
    "usage is a list": said("hello", usage=[1]),
    "logprobs of nonsense": whole({"content": "x"}, logprobs=7),
    "a half of a character": said("\ud83d"),
    "an error of nonsense": ServerReply(400, {"error": {"message": {"a": [1]}, "code": 7}}, "{}"),
    "an error in a success": ServerReply(200, {"error": "no"}, "{}"),
    "a redirect": ServerReply(302, None, "", location="https://elsewhere.example/v1"),
    "no status that exists": ServerReply(799, None, "?"),
    "a stream of nonsense": ServerReply(
        200,
        is_stream=True,
        events=(
            StreamEvent(0, 1, None),
            StreamEvent(0, 1, 7),
            StreamEvent(0, 1, {"choices": [{"delta": {"tool_calls": [{"index": "x", "function": []}]}}]}),
        ),
    ),
}
NOTHING_MADE = "tool calls"
PROBES = (
    connection_probes.CONNECTION,
    connection_probes.PROTOCOLS,
    connection_probes.ERRORS,
    *(value for module in (text_probes, tool_probes, content_probes) for value in vars(module).values()),
)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_reply_makes_a_judge_fail(name: str) -> None:
    reply = HOSTILE[name]
    known = Known("m", findings={NOTHING_MADE: Finding(NOTHING_MADE, "", "holds", "", 3, 3)})
    n_judged = 0
    for probe in PROBES:
        if isinstance(probe, Probe):
            groups = {group: [reply] * len(asked) for group, asked in probe.requests(known).items()}
            findings = probe.judge(known, groups)
            n_judged += len(findings)
            for finding in findings:
                assert isinstance(json.dumps(finding.detail).encode(), bytes) and len(finding.detail) < 400
                finding.detail.encode()  # no lone surrogates
    assert n_judged > 30


def test_what_was_not_asked_is_not_judged_as_held() -> None:
    for probe in PROBES:
        if isinstance(probe, Probe) and probe is not content_probes.OVERFLOW:
            known = Known("m", findings={NOTHING_MADE: Finding(NOTHING_MADE, "", "holds", "", 3, 3)})
            lost = {g: [ServerReply(error="lost")] for g in probe.requests(known)}
            assert not any(finding.holds for finding in probe.judge(known, lost)), probe.title


@pytest.mark.parametrize(
    ("samples", "verdict", "detail"),
    [
        (["holds"] * 3, "holds", "held 3 of 3"),
        (["holds", "holds", "fails"], "fails", "held 2 of 3: why fails"),
        (["holds", "ignored", "ignored"], "fails", "held 1 of 3: why ignored"),
        (["ignored"] * 3, "ignored", "held 0 of 3: why ignored"),
        (["refused"], "refused", "why refused"),
        (["holds", "holds", "unknown"], "unknown", "held 2 of 3: why unknown"),
        (["unknown", "unknown", "ignored"], "ignored", "held 0 of 3: why ignored"),
        ([], "unknown", "no reply could be judged"),
    ],
)
def test_several_samples_hold_only_together(samples: Any, verdict: str, detail: str) -> None:
    found = counted("x", "x", [Sample(each, "" if each == "holds" else f"why {each}") for each in samples])
    assert (found.verdict, found.detail) == (verdict, detail)


def call(**function: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": function}


def test_equal_ids_in_one_reply_are_no_ids() -> None:
    good = call(name="get_weather", arguments='{"city": "Paris", "unit": "celsius"}')
    twice = whole({"content": None, "tool_calls": [good, good]}, finish_reason="tool_calls")
    assert judged(tool_probes.CALLS, auto=[twice])["call ids"].verdict == "fails"
    missing = whole({"content": None, "tool_calls": [{"function": good["function"]}]}, finish_reason="tool_calls")
    assert judged(tool_probes.CALLS, auto=[missing])["call ids"].verdict == "fails"


@pytest.mark.parametrize(
    ("name", "arguments", "fault"),
    [
        ("get_weather", '{"city": "Paris", "unit": "celsius"}', ""),
        ("get_weather", '{"city": "Paris", "unit": "kelvin"}', "unit"),
        ("get_weather", '{"city": "Paris"}', "unit"),
        ("get_weather", '{"city": "Paris", "unit": "celsius"', "not a JSON object"),
        ("get_weather", "[]", "not a JSON object"),
        ("get_weather", '{"city": ' * 3000, "not a JSON object"),
        ("get_wether", "{}", "'get_wether' was not offered"),
    ],
)
def test_a_call_is_valid_only_under_the_schema_of_its_tool(name: str, arguments: str, fault: str) -> None:
    found = tool_probes.fault_of(Call(name, arguments))
    assert fault in found and bool(found) == bool(fault)


def test_arguments_as_an_object_are_read() -> None:
    reply = chat_reply(whole({"tool_calls": [call(name="get_time", arguments={"city": "Oslo"})]}))
    assert reply is not None and reply.calls[0].parsed == {"city": "Oslo"}


def test_a_thought_is_no_answer() -> None:
    found = judged(text_probes.TEXT, text=[whole({"content": "", "reasoning_content": "Hm."})])["text"]
    assert (found.verdict, found.detail, found.figures) == ("fails", "only a thought, no answer", {"thinks": True})
    both = judged(text_probes.TEXT, text=[whole({"content": "Yellow.", "reasoning": "Hm."})])["text"]
    assert both.holds and "thinks first" in both.detail


@pytest.mark.parametrize(
    ("text", "finish_reason", "n_tokens", "verdict"),
    [
        ("1, 2, 3", "length", 8, "holds"),
        ("1, 2, 3", "length", None, "holds"),
        ("1, 2, 3", "stop", 8, "fails"),
        ("1, 2", "stop", 4, "unknown"),
        ("1, 2, 3", "length", 40, "fails"),
        ("1, 2, 3, " * 30, "stop", 8, "ignored"),
        ("1, 2, 3, " * 30, "stop", None, "ignored"),
    ],
)
def test_a_token_limit_is_judged_by_text_count_and_reason(
    text: str, finish_reason: str, n_tokens: int | None, verdict: str
) -> None:
    usage = {} if n_tokens is None else {"usage": {"completion_tokens": n_tokens}}
    reply = said(text, finish_reason=finish_reason, **usage)
    assert judged(text_probes.LIMITS, max_tokens=[reply])["max_tokens"].verdict == verdict


def models(**fields: Any) -> ServerReply:
    body = {"object": "list", "data": [{"id": "m", **fields}]}
    return ServerReply(200, body, json.dumps(body), "application/json", connection="plain HTTP")


@pytest.mark.parametrize(
    ("listed", "props", "window"),
    [
        (models(max_model_len=2048), ServerReply(404), 2048),
        (models(context_length=8192), ServerReply(404), 8192),
        (
            models(meta={"n_ctx_train": 32768}),
            ServerReply(200, {"default_generation_settings": {"n_ctx": 4096}}),
            4096,
        ),
        (models(meta={"n_ctx_train": 32768}), ServerReply(404), None),
        (models(max_model_len="large"), ServerReply(404), None),
        (models(max_model_len=True), ServerReply(404), None),
    ],
)
def test_the_window_is_read_where_servers_tell_it(
    listed: ServerReply, props: ServerReply, window: int | None
) -> None:
    found = judged(connection_probes.CONNECTION, models=[listed], props=[props])["context window"]
    assert found.figures.get("context_window") == window and found.holds == (window is not None)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (ServerReply(404, {"error": {"message": "The model 'm' does not exist"}}, "{}"), "refused"),
        (ServerReply(404, {"detail": "Not Found"}, "{}"), "fails"),
        (ServerReply(405, None, ""), "fails"),
        (ServerReply(401, {"error": {"message": "no key"}}, "{}"), "unknown"),
        (ServerReply(200, {"object": "text_completion"}, "{}"), "fails"),
        (said("hello"), "holds"),
    ],
)
def test_a_missing_path_differs_from_a_missing_model(reply: ServerReply, verdict: str) -> None:
    found = judged(connection_probes.PROTOCOLS, **{"chat completions": [reply]})
    assert found["protocol: chat completions"].verdict == verdict


def test_a_prompt_that_would_be_expensive_is_not_sent() -> None:
    window = Finding("context window", "", "holds", "", figures={"context_window": 131_072})
    known = Known("m", findings={"context window": window})
    assert content_probes.OVERFLOW.requests(known) == {}
    assert "not asked" in judged(content_probes.OVERFLOW, known)["context overflow"].detail


def test_requests_leave_room_for_a_thought_once_the_model_thinks() -> None:
    def limit(known: Known) -> Any:
        request: ProbeRequest = text_probes.SYSTEM.requests(known)["with"][0]
        assert request.body is not None
        return request.body["max_tokens"]

    thinks = Known("m", findings={"text": Finding("text", "", "holds", "", figures={"thinks": True})})
    assert limit(thinks) == limit(KNOWN) + 1024


def test_a_picture_is_a_png_of_one_colour() -> None:
    import io

    from matplotlib.image import imread

    pixels = imread(io.BytesIO(content_probes.png_of_colour((255, 0, 51))), format="png")
    assert pixels.shape == (96, 96, 3)
    assert {tuple(pixel) for pixel in (pixels * 255).round().astype(int).reshape(-1, 3)} == {(255, 0, 51)}
