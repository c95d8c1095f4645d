"""Progress: bars on a terminal; elsewhere at most a line every ten seconds, with the newest state."""

from __future__ import annotations

import io

from rich.console import Console

from modelstack.terminal.progress_bars import INTERVAL_S, activity, progress_bars
from tests.golden import on_screen


class Clock:
    """Seconds that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def console(*, term: str = "") -> Console:
    """Return a pipe, or a terminal of this kind."""
    environment = {"TERM": term, "NO_COLOR": "1"}
    return Console(file=io.StringIO(), force_terminal=bool(term), width=80, _environ=environment)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_short_work_prints_nothing_in_a_pipe() -> None:
    pipe, clock = console(), Clock()
    with progress_bars(pipe, clock=clock) as told:
        for done in range(10):
            told("cases", done, 10)
            clock.now += 0.9
    assert printed(pipe) == ""


def test_long_work_prints_its_newest_state_every_ten_seconds() -> None:
    pipe, clock = console(), Clock()
    with progress_bars(pipe, clock=clock) as told:
        for done in range(1, 1001):
            clock.now += 0.0625
            told("steps", done, 1000, f"loss {done / 1000:.3f}")
    assert INTERVAL_S == 10
    lines = ["steps  160 of 1,000  loss 0.160", "steps  320 of 1,000  loss 0.320"]
    assert printed(pipe).splitlines()[:2] == lines and len(printed(pipe).splitlines()) == 6


def test_amounts_have_their_unit_and_an_unknown_total_is_left_out() -> None:
    pipe, clock = console(), Clock()
    with progress_bars(pipe, count=lambda n: f"{n / 1e6:.0f} MB", clock=clock) as told:
        clock.now += 10
        told("model.gguf", 50e6, 491e6)
        clock.now += 10
        told("model.gguf", 60e6)
    assert printed(pipe).splitlines() == ["model.gguf  50 MB of 491 MB", "model.gguf  60 MB"]


def test_an_activity_says_at_once_what_it_does() -> None:
    pipe, clock = console(), Clock()
    with activity(pipe, "preparing", clock=clock) as told:
        told("reading the data")
        told("counting it")
        clock.now += 10
        told("writing it")
    assert printed(pipe).splitlines() == ["reading the data", "writing it"]


def test_a_terminal_that_cannot_move_its_cursor_gets_lines_as_a_pipe() -> None:
    dumb, clock = console(term="dumb"), Clock()
    with progress_bars(dumb, clock=clock) as told:
        clock.now += 10
        told("steps", 3, 8)
    with activity(dumb, "preparing", clock=clock) as tell:
        tell("reading the data")
    assert printed(dumb).splitlines() == ["steps  3 of 8", "reading the data"]


def test_a_terminal_has_a_bar_for_each_part() -> None:
    terminal = console(term="xterm")
    with progress_bars(terminal, keep=True) as told:
        told("[reading]", 1, 2)
        told("writing", 2, 2, "done [x]")
    reading, writing = on_screen(printed(terminal)).splitlines()
    assert reading.startswith("[reading]") and "1 of 2" in reading
    assert writing.startswith("writing") and writing.rstrip().endswith("done [x]")


def test_the_bar_of_an_unknown_amount_ends_full() -> None:
    terminal = console(term="xterm")
    with progress_bars(terminal, keep=True) as told:
        told("merging")
    assert on_screen(printed(terminal)).split() == ["merging", "━" * 12, "0:00:00"]


def test_bars_that_are_not_kept_leave_no_line_behind() -> None:
    terminal = console(term="xterm")
    with progress_bars(terminal) as told:
        told("steps", 1, 2)
        terminal.print("step 1: loss 3.664")
        told("steps", 2, 2)
    with activity(terminal, "writing"):
        terminal.print("written")
    assert "steps" in printed(terminal) and "writing" in printed(terminal)
    assert on_screen(printed(terminal)).splitlines() == ["step 1: loss 3.664", "written"]
