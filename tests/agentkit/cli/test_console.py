"""Untrusted text on a terminal."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agentkit.cli.cards import EventPrinter, probabilities
from agentkit.cli.console import clean, one_line, plain
from agentkit.events import (
    AgentEvent,
    LimitReachedEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RunStartedEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallEvent,
    ToolProgressEvent,
    ToolResultEvent,
)
from agentkit.messages import ModelRequest, ModelResponse, TextPart, ThinkingPart, ToolCallPart, UserPromptPart

HOSTILE = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m[red]x[/red][link=http://e]y\u202e\r\b\x00 :smile:\ud800"


def terminal() -> Console:
    """A console that believes it is a colour terminal."""
    options = {"force_terminal": True, "color_system": "truecolor", "width": 80}
    return Console(file=io.StringIO(), highlight=False, markup=False, emoji=False, soft_wrap=True, **options)  # pyright: ignore


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@given(st.text(st.characters(codec=None)))
def test_cleaned_text_has_no_character_that_a_terminal_acts_on(text: str) -> None:
    cleaned = clean(text)
    assert all(c in "\n\t" or ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0 for c in cleaned)
    cleaned.encode("utf-8")
    assert clean(cleaned) == cleaned


def test_line_ends_of_all_kinds_become_one_kind() -> None:
    assert clean("a\r\nb\rc\u2028d") == "a\nb\nc\nd"


def test_one_line_is_one_line_and_bounded() -> None:
    assert one_line("a\n\n  b\tc") == "a b c"
    assert len(one_line("x" * 10_000, 50)) == 50


@given(st.text(st.characters(codec=None)))
def test_text_is_never_markup(text: str) -> None:
    console = terminal()
    console.print(plain(text), end="")
    assert "\x1b" not in printed(console)


EVENTS: list[AgentEvent] = [
    RunStartedEvent(HOSTILE, None, HOSTILE, (HOSTILE,)),
    ModelRequestEvent(1, (ModelRequest((UserPromptPart(HOSTILE),)),), (HOSTILE,)),
    ModelRequestEvent(1, (), (), instructions=HOSTILE),
    TextDeltaEvent(HOSTILE),
    ThinkingDeltaEvent(HOSTILE),
    ModelResponseEvent(1, ModelResponse((TextPart(HOSTILE),), model_name=HOSTILE), 0.1),
    ModelResponseEvent(1, ModelResponse((ToolCallPart(HOSTILE, HOSTILE, "1", 0.5, ((HOSTILE, 0.5),)),)), 0.1),
    ToolCallEvent(HOSTILE, "1", HOSTILE, 0.5),
    ToolProgressEvent(HOSTILE, "1", 1, 2, HOSTILE),
    ToolResultEvent(HOSTILE, "1", HOSTILE, "success", 0.1),
    ToolResultEvent(HOSTILE, "1", "told", "failed", 0.1, None, HOSTILE),
    LimitReachedEvent(HOSTILE),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event_kind)
def test_no_event_can_write_an_escape_sequence(event: AgentEvent) -> None:
    console = Console(file=io.StringIO(), highlight=False, markup=False, soft_wrap=True)  # no colours of our own
    printer = EventPrinter(console, console, show_messages=True)
    printer(event)
    printer.end_line()
    shown = printed(console)
    assert not any(c in shown for c in "\x1b\x9b\x07\b\r\u202e\x00")
    if not (isinstance(event, ModelResponseEvent) and event.response.tool_calls):  # shown as calls later
        assert "[red]x[/red]" in shown  # as it is, not taken as markup


def test_a_long_result_is_cut_and_says_so() -> None:
    console = terminal()
    EventPrinter(console, None)(ToolResultEvent("t", "1", "\n".join(map(str, range(100))), "success", 0.1))
    assert "… 94 more lines" in printed(console)


def test_the_terminal_shows_an_exception_whole_that_the_model_reads_cleaned() -> None:
    console = terminal()
    event = ToolResultEvent(
        "t", "1", "The tool failed: OSError: [path]", "failed", 0.1, None, "OSError: /srv/a.db"
    )
    EventPrinter(console, None)(event)
    assert "OSError: /srv/a.db" in printed(console)


def test_text_that_was_streamed_is_not_printed_again() -> None:
    notes, answers = terminal(), terminal()
    printer = EventPrinter(notes, answers)
    for event in (TextDeltaEvent("Hel"), TextDeltaEvent("lo")):
        printer(event)
    printer(ModelResponseEvent(1, ModelResponse((TextPart("Hello"),)), 0.1))
    printer(ModelResponseEvent(2, ModelResponse((TextPart("Bye"),)), 0.1))
    assert printed(answers) == "Hello\nBye\n"


def test_a_thought_goes_to_the_notes_once_and_on_lines_of_its_own() -> None:
    notes, answers = terminal(), terminal()
    printer = EventPrinter(notes, answers)
    response = ModelResponse((ThinkingPart("Two and two."), TextPart("Four")))
    for event in (ThinkingDeltaEvent("Two and"), ThinkingDeltaEvent(" two."), TextDeltaEvent("Four")):
        printer(event)
    printer(ModelResponseEvent(1, response, 0.1))
    assert printed(answers) == "Four\n"
    assert printed(notes).count("two.") == 1 and "two.\x1b[0m\n" in printed(notes)
    printer(ModelResponseEvent(2, response, 0.1))  # from a file: there are no deltas
    assert printed(answers) == "Four\nFour\n" and printed(notes).count("Two and two.") == 1


def test_a_probability_is_shown_with_the_likeliest_alternatives() -> None:
    assert probabilities(None, ()) == ""
    assert probabilities(0.5, (("a", 0.1), ("b", 0.4))) == "  p 0.50 (else b 0.40, a 0.10)"
