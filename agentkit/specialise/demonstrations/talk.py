"""Scripts without a call: knowledge and small talk, and refusals of requests that no tool fits."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from agentkit.specialise.demonstrations.domains import PEOPLE
from agentkit.specialise.demonstrations.script import Maker, Script
from agentkit.specialise.demonstrations.world import World
from modelstack.data.tools.small_talk import small_talk
from modelstack.data.tools.spoken import Scene, listed

_DO = {
    "files": "work with the files in your folder",
    "tables": "look into your database",
    "time": "work with dates, times, sums and units",
}


@cache
def _groups() -> tuple[dict[str, Any], ...]:
    """Return groups of questions with their answers, from knowledge.toml."""
    text = files("agentkit.specialise.demonstrations").joinpath("knowledge.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["group"])


def _known(world: World, now: Scene) -> Script:
    # The last group holds single questions: as many examples as all other groups together.
    group = _groups()[-1] if now.chance(0.5) else now.one(_groups()[:-1])
    pair = now.one(group["pairs"])
    yield now.one(group["ask"]).format(*pair)
    return str(group["answer"]).format(*pair)


def _chat(world: World, now: Scene) -> Script:
    said, answer = now.one(small_talk())
    yield said
    return answer


def _impossible(world: World, now: Scene) -> Script:
    """Asks for something outside the tools' abilities; the answer says so, and names their abilities."""
    who = now.one(PEOPLE)
    wish, cannot = now.one(
        (
            (f"send an e-mail to {who}", "send e-mails"),
            (f"write {who} a message that I'm late", "send messages"),
            ("will I need an umbrella tomorrow?", "see the weather"),
            ("is it snowing in Oslo?", "see the weather"),
            ("play some jazz", "play music"),
            ("put on the new album by the Harbour Band", "play music"),
            (f"call {who} for me", "make calls"),
            ("book a flight to Lisbon", "book flights"),
            ("reserve a table for four at seven", "make reservations"),
            ("turn off the lights in the kitchen", "switch lights"),
            ("set the heating to 20 degrees", "control the heating"),
            ("order a pizza for six", "order anything"),
            (f"post a photo for {who}", "post anything on the internet"),
            ("who won the match last night?", "look up the news"),
            ("what's in the news?", "look up the news"),
            ("print this on the office printer", "print"),
            ("what is the share price of Lumen?", "look up share prices"),
            ("restart the router", "restart devices"),
            ("scan this document", "scan documents"),
            ("take a picture of the door", "take pictures"),
            (f"transfer 40 euros to {who}", "make payments"),
            ("open the web page of the library", "open web pages"),
            ("wake me up at six", "set an alarm"),
            (f"text {who} that the meeting is off", "send messages"),
            (f"invite {who} to the meeting on Friday", "send invitations"),
            (f"forward the offer to {who} and thank them", "send e-mails"),
            ("unlock the front door", "open doors"),
            ("start the dishwasher", "control devices"),
            ("how is the traffic on the way to Lyon?", "see the traffic"),
            ("is the shop round the corner still open?", "look up opening hours"),
            ("how many people follow us online?", "look things up on the internet"),
            ("translate the sign in front of me", "see pictures"),
            ("hire a van for Saturday", "rent anything"),
            ("what is on television tonight?", "look up programmes"),
            ("water the plants on the balcony", "do anything outside this computer"),
        )
    )
    yield wish
    can = listed([_DO[server] for server in world.servers])
    return now.one(
        (
            f"I cannot {cannot}. I can {can}.",
            f"Sorry, I have no tool to {cannot}; I can only {can}.",
            f"I'm afraid I can't {cannot}: none of my tools does that. I can {can}.",
        )
    )


WORDS: Sequence[Maker] = (_known, _known, _known, _chat, _chat)
IMPOSSIBLE: Sequence[Maker] = (_impossible,)
