"""The simulators of the wheel run in this process, each case in a world of its own."""

from __future__ import annotations

import decimal
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import UserError
from evals.tool_use.bfcl.multi_turn_calls import Call
from evals.tool_use.bfcl.multi_turn_checker import check_turns, keeps_still
from evals.tool_use.bfcl.multi_turn_environment import SOURCE_FOLDER, Environment, check_simulators
from evals.tool_use.bfcl.wheel import cached_wheel_folder

FILES = {
    "GorillaFileSystem": {
        "root": {
            "alex": {
                "type": "directory",
                "contents": {
                    "notes.txt": {"type": "file", "content": "b\na"},
                    "drafts": {"type": "directory", "contents": {}},
                },
            }
        }
    }
}


@pytest.fixture(scope="module")
def simulators() -> Path:
    wheel = cached_wheel_folder()
    if wheel is None:
        pytest.skip("needs the bfcl-eval wheel in the cache; any run of the suite fetches it")
    return wheel / SOURCE_FOLDER


def files(simulators: Path, **options: Any) -> Environment:
    return Environment(simulators, ["GorillaFileSystem"], FILES, **options)


def test_a_call_returns_what_the_simulator_says_as_json_text(simulators: Path) -> None:
    world = files(simulators)

    assert world.call(Call("sort", {"file_name": "notes.txt"})).text == '{"sorted_content": "a\\nb"}'
    assert world.call(Call("touch", {}, ("new.txt",))).text == "None"
    assert "new.txt" in world.state()["GorillaFileSystem"]["root"]["contents"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (Call("format_disk"), "Error during execution: name 'format_disk' is not defined"),
        (Call("_load_scenario", {"scenario": {}}), "Error during execution: name '_load_scenario' is not defined"),
        (
            Call("cat"),
            "Error during execution: GorillaFileSystem.cat() missing 1 required positional argument: 'file_name'",
        ),
        (
            Call("cat", {"file_name": ["x"]}),
            "Error during execution: unhashable type: 'list'",
        ),
    ],
)
def test_a_wrong_call_becomes_text(simulators: Path, call: Call, text: str) -> None:
    result = files(simulators).call(call)

    assert (result.text, result.is_error) == (text, True)


def test_an_error_that_the_simulator_reports_is_a_result(simulators: Path) -> None:
    result = files(simulators).call(Call("cd", {"folder": "nowhere"}))

    assert "No such file or directory" in result.text
    assert not result.is_error


def test_worlds_share_nothing(simulators: Path) -> None:
    first, second = (Environment(simulators, ["TravelAPI"], {}, long_context=True) for _ in range(2))
    cards = first._instances["TravelAPI"].credit_card_list
    cards[next(iter(cards))]["balance"] = -1.0  # a dict of the module's own in the original

    assert first.state() != second.state()


def test_an_object_does_not_share_a_list_with_the_record_of_the_call(simulators: Path) -> None:
    world = Environment(simulators, ["TwitterAPI"], {"TwitterAPI": {"authenticated": True}})
    tags = ["#one"]
    world.call(Call("post_tweet", {"content": "x", "tags": tags}))
    tags.append("#two")

    tweets = world.state()["TwitterAPI"]["tweets"]
    assert next(iter(tweets.values()))["tags"] == ["#one"]


def test_a_directory_copied_into_itself_still_has_a_state(simulators: Path) -> None:
    world = files(simulators)
    world.call(Call("cp", {"source": "drafts", "destination": "drafts"}))

    assert world.state() != files(simulators).state()


def test_nothing_of_the_wheel_becomes_importable(simulators: Path) -> None:
    files(simulators)

    assert not [name for name in sys.modules if name.startswith(("bfcl_eval", "bfcl_simulator"))]


def test_the_precision_a_simulator_sets_stays_in_its_call(simulators: Path) -> None:
    pytest.importorskip("mpmath", reason="BFCL's arithmetic needs mpmath")
    before = decimal.getcontext().prec
    result = Environment(simulators, ["MathAPI"], {}).call(Call("square_root", {"number": 2, "precision": 5}))

    assert result.text == "{'result': Decimal('1.4142')}"
    assert decimal.getcontext().prec == before


def test_a_costly_call_is_refused_however_its_arguments_are_given(simulators: Path) -> None:
    pytest.importorskip("mpmath", reason="BFCL's arithmetic needs mpmath")
    world = Environment(simulators, ["MathAPI"], {})

    for call in (Call("power", {}, (7, 10**9)), Call("power", {"exponent": 10**9}, (7,))):
        assert world.call(call).text == "Error during execution: the result is too large"


def test_a_class_that_is_not_simulated_is_refused(simulators: Path) -> None:
    with pytest.raises(UserError, match="'Bank' is not known"):
        Environment(simulators, ["Bank"], {})


def test_a_changed_simulator_is_not_run(simulators: Path, tmp_path: Path) -> None:
    shutil.copy(simulators / "ticket_api.py", tmp_path)
    check_simulators(tmp_path, ["TicketAPI"])
    (tmp_path / "message_api.py").write_text("raise SystemExit('ran')\n", encoding="utf-8")

    with pytest.raises(UserError, match=r"message_api.py is not the file of bfcl-eval==.* is not run"):
        check_simulators(tmp_path, ["MessageAPI"])


def test_a_missing_simulator_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ticket_api.py .*pip download --no-deps bfcl-eval=="):
        check_simulators(tmp_path, ["TicketAPI"])


LS, SORT, PWD = Call("ls"), Call("sort", {"file_name": "notes.txt"}), Call("pwd")
RM = Call("rm", {"file_name": "notes.txt"})


@pytest.mark.parametrize(
    ("turns", "reference", "faults"),
    [
        ([[LS, SORT]], [[LS, SORT]], [None]),
        ([[SORT, LS]], [[LS, SORT]], [None]),
        ([[PWD, LS, PWD]], [[LS]], [None]),
        ([[LS, SORT], [PWD]], [[LS], [SORT]], [None, None]),
        ([[LS]], [[LS, LS]], ["results"]),
        ([[PWD]], [[LS]], ["results"]),
        ([[LS, RM]], [[LS]], ["state"]),
        ([[LS], [LS]], [[LS, RM], [LS]], ["state", "state"]),
        ([[], [LS]], [[LS], [LS]], ["no_call", None]),
        ([[PWD], [LS]], [[], [LS]], [None, None]),
        ([[RM], [LS]], [[], [LS]], [None, "state"]),
        ([[LS]], [[LS], [PWD]], [None, "no_call"]),
    ],
)
def test_a_turn_is_right_when_state_and_results_are(
    simulators: Path, turns: list[list[Call]], reference: list[list[Call]], faults: list[str | None]
) -> None:
    verdicts = check_turns(turns, reference, files(simulators), files(simulators))

    assert [verdict.fault for verdict in verdicts] == faults


def test_keeping_still_is_judged_where_the_key_is_empty() -> None:
    assert keeps_still([[LS], []], [[LS], []]) is True
    assert keeps_still([[LS], [PWD]], [[LS], []]) is False
    assert keeps_still([[LS]], [[LS], []]) is True
    assert keeps_still([[LS]], [[LS]]) is None
