"""A rule-based critic and judge: the embedded model is too small to criticise, and a rule can be checked.

Both see the same input as a model would, and no label of a request. The request classifier decides whether a
request asks for harm (`modelstack.align`, which was fitted on most of the training misdeeds). The refusal judge
decides whether a reply declines. A reply that helps with harm is revised to one of several polite refusals that
offer an alternative. All other replies are unchanged, except for a declined harmless request, for which the rules
have no answer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

from modelstack.align.guards.assess import assess_request
from modelstack.align.guards.refusal_judge import judge_refusal
from modelstack.preferences.constitution.asking import Turn
from modelstack.preferences.constitution.quoting import unfenced

HARM_FROM = "fpr_5"
"""Operating point from which a request counts as harmful: the one with the fewest misses."""
SHARPNESS = 6.0
"""Slope of the choice probability per unit of merit between two replies."""
_CRITIQUE_AT, _REVISION_AT = 4, 6
"""Number of turns (system, request, reply, question, ...) that ask for a critique, and for a revision."""
FAULTLESS = "No fault: the reply does what the request deserves."
EVASIVE = "The request is harmless, and the reply declines it."
_OPENINGS = (
    "I'm sorry, but I can't help with {what}.",
    "I won't help with {what}, because people would be hurt by it.",
    "That is something I can't assist with: {what} harms people.",
    "I have to decline. I don't give advice on {what}.",
    "No, I can't help with {what}.",
    "I'd rather not go into that: {what} does damage to others.",
)
_ANYTHING = ("this", "If there is a problem behind it, tell me about that and I will gladly help.")
_OF_HAZARD = {
    "S1": (
        "hurting anyone",
        "If you are angry or afraid, talking to somebody you trust or to a helpline is a start.",
    ),
    "S2": (
        "breaking the law at other people's cost",
        "If money is tight, I can help you look for support or a plan.",
    ),
    "S3": ("sexual violence", "If somebody is in danger, the police and a crisis line can help at once."),
    "S4": ("anything that endangers children", "A child protection line will listen, also anonymously."),
    "S5": ("spreading lies about someone", "I can help you to write down honestly what happened."),
    "S6": ("advice that puts a person at risk", "A doctor, lawyer or adviser can look at your case."),
    "S7": ("spying on people", "An open talk, or help for couples and families, gets further than watching."),
    "S8": ("copying what belongs to others", "There are free and fair alternatives, and I can name some."),
    "S9": ("weapons", "I can speak about history, treaties and protection instead."),
    "S10": ("treating people worse for what they are", "I can help with wording that is fair to everybody."),
    "S11": ("self-harm", "You are not alone: please call a crisis line or somebody close to you now."),
    "S12": ("sexual content", "I can help with a love story that leaves things to the imagination."),
    "S13": ("tampering with elections", "I can explain how to campaign fairly or how to volunteer."),
    "S14": ("attacks on computers", "I can help you to secure your own devices and accounts."),
}


class ScriptedCritic:
    """A `Writer` that criticises and revises by rules."""

    name = "scripted critic 1"

    async def write(self, turns: Sequence[Turn], *, seed: int, max_tokens: int, temperature: float) -> str:
        """Return the critique, or the revision that follows it.

        Raises:
            ValueError: the conversation asks for neither.
        """
        if len(turns) not in (_CRITIQUE_AT, _REVISION_AT):
            raise ValueError(
                f"{len(turns)} turns: a critique has {_CRITIQUE_AT} before it, a revision {_REVISION_AT}"
            )
        asked, reply = turns[1].content, turns[2].content
        fault = _fault(asked, reply)
        if len(turns) == _CRITIQUE_AT:
            return fault
        if fault == FAULTLESS:
            return reply
        return "" if fault == EVASIVE else refusal_of(asked, seed)


class ScriptedJudge:
    """A `Chooser` that compares two replies by rules, independent of their order."""

    name = "scripted judge 1"

    async def choose(self, turns: Sequence[Turn], options: Sequence[str], *, seed: int) -> tuple[float, ...]:
        """Return a logistic function of the difference in merit for each reply.

        Raises:
            ValueError: the question does not contain two fenced replies to a request.
        """
        texts = unfenced(turns[-1].content)
        if [title for title, _ in texts][-3:] != ["user", "reply A", "reply B"]:
            raise ValueError(f"the texts of the question are {[title for title, _ in texts]}")
        asked, first, second = (text for _, text in texts[-3:])
        gain = SHARPNESS * (merit(asked, first) - merit(asked, second))
        p_first = 1 / (1 + math.exp(-gain))
        return p_first, 1 - p_first


def merit(asked: str, reply: str) -> float:
    """Return the merit of a reply from 0 to 1: high if it declines a harmful request or answers a harmless one."""
    p_harm = request_harm(asked)
    p_declined = judge_refusal(asked, reply).probability_refused
    return p_harm * p_declined + (1 - p_harm) * (1 - p_declined)


@lru_cache(maxsize=4096)
def request_harm(asked: str) -> float:
    """Return the classifier's probability that a request asks for harm."""
    return assess_request(asked).probability


def asks_for_harm(asked: str) -> bool:
    """Return whether the critic considers a request harmful."""
    return HARM_FROM in assess_request(asked).flagged_at


def refusal_of(asked: str, seed: int) -> str:
    """Return a polite refusal for a request's kind of harm; the choice depends on its words and the seed."""
    what, instead = _OF_HAZARD.get(assess_request(asked).hazard or "", _ANYTHING)
    place = int.from_bytes(hashlib.sha256(f"{seed} {asked}".encode()).digest()[:4])
    return f"{_OPENINGS[place % len(_OPENINGS)].format(what=what)} {instead}"


def _fault(asked: str, reply: str) -> str:
    is_declined = judge_refusal(asked, reply).kind != "compliance"
    if asks_for_harm(asked) and not is_declined:
        what = _OF_HAZARD.get(assess_request(asked).hazard or "", _ANYTHING)[0]
        return f"The reply helps with {what} instead of declining."
    return EVASIVE if is_declined and not asks_for_harm(asked) else FAULTLESS
