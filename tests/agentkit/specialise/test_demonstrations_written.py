"""Conversations written one by one: each is played on the servers, and what does not hold is found."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal

from agentkit.specialise.demonstrations.play import House, play_written
from agentkit.specialise.demonstrations.written import (
    Conversation,
    End,
    Kit,
    Turn,
    require_end,
    require_known_numbers,
    written_kits,
)
from modelstack.data.tools.decontamination import Cleaner, read_evaluations
from modelstack.data.tools.spoken import scene
from modelstack.errors import UserError

EVALUATIONS = Path(__file__).resolve().parents[3] / "evals" / "tool_use"


@pytest.mark.slow
def test_every_written_conversation_is_as_its_kit_says_and_repeats_no_evaluation(
    house: House, portal: BlockingPortal
) -> None:
    cleaner = Cleaner(read_evaluations([EVALUATIONS / each for each in ("natural", "first_hour", "long_results")]))
    kits = written_kits()
    assert len(kits) >= 30
    n_recovered = 0
    for kit in kits:
        for number in range(len(kit.conversations)):
            example = portal.call(play_written, house, kit, number, scene(kit.name, 0, number))
            assert cleaner.is_clean(example, names_are_kept=True), (kit.name, number)
            called = {call.name for message in example.messages for call in message.calls}
            assert called <= {tool.name for tool in example.tools}
            n_recovered += any(message.calls and not message.train for message in example.messages)
    assert n_recovered > 20


def _kit(*turns: Turn, end: End | None = None) -> Kit:
    conversation = Conversation(servers=("files", "tables"), turns=turns, end=end or End())
    return Kit(
        "shelf",
        (conversation,),
        files={"list.txt": "two jars\n"},
        sql="CREATE TABLE jars (id INTEGER PRIMARY KEY, label TEXT); INSERT INTO jars VALUES (1, 'plum');",
    )


READ = (("read_text_file", {"path": "list.txt"}),)
RENAME = (("execute", {"sql": "UPDATE jars SET label = 'fig' WHERE id = 1"}),)


@pytest.mark.parametrize(
    ("kit", "fault"),
    [
        (_kit(Turn(ask="how many?", steps=(READ,), answer="There are 3 jars.")), "states 3, which nothing before"),
        (
            _kit(Turn(ask="read it", steps=((("read_text_file", {"path": "lost.txt"}),),), answer="Done.")),
            "lost.txt",
        ),
        (_kit(Turn(ask="read it", steps=((("open", {"path": "list.txt"}),),), answer="Done.")), "no tool open"),
        (
            _kit(
                Turn(ask="fig now", steps=(RENAME,), answer="Done."),
                end=End(rows={"SELECT label FROM jars": [["x"]]}),
            ),
            "gives [['fig']]",
        ),
        (_kit(Turn(ask="clear", answer="Done."), end=End(files={"list.txt": None})), "and is 'two jars"),
    ],
    ids=["number", "call that fails", "unknown tool", "row", "file"],
)
def test_what_does_not_hold_is_an_error_that_names_the_conversation(
    house: House, portal: BlockingPortal, kit: Kit, fault: str
) -> None:
    with pytest.raises(UserError, match="conversation 0 of the kit shelf") as raised:
        portal.call(play_written, house, kit, 0, scene("x", 0))
    assert fault in str(raised.value)
    # The house serves the next as if nothing had been.
    good = _kit(Turn(ask="fig now", steps=(RENAME,), answer="It is fig."))
    example = portal.call(play_written, house, good, 0, scene("x", 0))
    assert example.reply == "It is fig." and example.messages[-1].content.startswith("done: 1 row")


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        ("It costs 4.50.", "price 4.5"),
        ("1,200 kg in all", "sum 1200"),
        ("at 9:30", "9:30:15"),
        ("2400 m on 20", "3,2400,20,180"),
        ("none", ""),
    ],
)
def test_numbers_are_known_in_another_spelling(answer: str, seen: str) -> None:
    require_known_numbers(Turn(ask="?", answer=answer), seen)


def test_a_counted_number_is_listed() -> None:
    require_known_numbers(Turn(ask="?", answer="There are 3.", counted=("3",)), "")
    with pytest.raises(UserError, match="let a tool compute it"):
        require_known_numbers(Turn(ask="?", answer="There are 3.", counted=("4",)), "13 or 30")


def test_a_world_that_ends_as_stated_passes(tmp_path: Path) -> None:
    kit = _kit(Turn(ask="?", answer="."))
    kit.write(tmp_path / "files", tmp_path / "data.db")
    end = End(rows={"SELECT label FROM jars": [["plum"]]}, files={"list.txt": "two jars\n", "gone.txt": None})
    require_end(end, tmp_path / "files", tmp_path / "data.db")
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
        connection.execute("DELETE FROM jars")
    with pytest.raises(UserError, match="gives \\[\\]"):
        require_end(end, tmp_path / "files", tmp_path / "data.db")
