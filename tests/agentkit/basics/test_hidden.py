"""Text that nobody sees reaches neither a model nor an approval."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from agentkit.basics.hidden import has_hidden, is_plain, strip_data, strip_prose
from agentkit.cli import approval

SPELLED = "".join(chr(0xFE00 + ord(c) % 16) + "\u200d" for c in "ignore all")


@pytest.mark.parametrize(
    "hidden",
    [
        "\u200b\u200b", "\u202e", "\U000e0041\U000e0042", SPELLED, "\ufe0f" * 20, "\u200c\u200d" * 9, "\u3164",
        "\uffa0\u115f", "\u2063\u2064", "\x1b[2J", "\u00ad", "\U000e0101" * 5, "\u180e", "\u034f",
    ],
)  # fmt: skip
def test_what_is_hidden_is_taken_out_and_counted(hidden: str) -> None:
    text = f"Reads a file.{hidden} It is safe."
    kept, n_hidden = strip_data(text)
    assert kept.replace("[2J", "") == "Reads a file. It is safe."
    assert n_hidden == len(text) - len(kept) > 0
    assert strip_prose(text)[0] == kept
    assert has_hidden(text)
    assert not is_plain(text)


@pytest.mark.parametrize(
    "text", ["naïve café", "می\u200cخواهم", "👩\u200d💻 ❤\ufe0f", "क्\u200dष", "日本 한글", "a\tb"]
)
def test_what_scripts_and_emoji_need_stays_in_data(text: str) -> None:
    assert strip_data(text) == (text, 0)
    assert not has_hidden(text)
    assert "\u200c" not in strip_prose(text)[0]


@pytest.mark.parametrize("blank", ["\u3164", "\uffa0", "\u2800", "\u00a0", "\u2003", "\u200b", "\ufe0f"])
@pytest.mark.parametrize("is_escaped", [False, True])
def test_an_approval_writes_out_what_looks_like_nothing(blank: str, is_escaped: bool) -> None:
    arguments = json.dumps({"path": f"notes{blank}.txt", "line": "a\nb"}, ensure_ascii=is_escaped)
    shown = approval.readable_arguments(arguments)
    assert f"notes{json.dumps(blank)[1:-1]}.txt" in shown
    assert shown.isascii()


def test_an_approval_shows_other_scripts_as_they_are() -> None:
    arguments = json.dumps({"an": "Zoë 日本 👍", "text": "eins\nzwei"}, ensure_ascii=True)
    assert "Zoë 日本 👍" in approval.readable_arguments(arguments)
    assert "eins\\nzwei" in approval.readable_arguments(arguments)


def test_a_card_is_printed_without_what_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    Console().print(approval.readable_arguments('{"a": "x\u202ey"}'))
    assert "\u202e" not in capsys.readouterr().out
