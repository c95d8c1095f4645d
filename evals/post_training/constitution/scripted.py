"""A critic and a judge by rules: the embedded model is too small to criticise, and a rule can be checked.

Both see what a model would see and nothing else: no label of a request reaches them. Whether a request asks for
harm is what the request classifier says (`modelstack.align`, which knows most of the training misdeeds from its
own fit), whether a reply declines is what the refusal judge says. A reply that helps with harm is revised to one
of some polite refusals with something to go on with; anything else is left as it is, but for a harmless request
that was declined, for which rules have no answer.
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
"""The operating point from which a request counts as harmful: the one that misses least."""
SHARPNESS = 6.0
"""Of a choice: how surely the judge prefers a reply that is better by one whole verdict."""
_CRITIQUE_AT, _REVISION_AT = 4, 6
"""Turns of a conversation that asks for a critique, and for a revision: system, request, reply, question, ..."""
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
    """A `Writer` that criticises and revises by rule."""

    name = "scripted critic 1"

    async def write(self, turns: Sequence[Turn], *, seed: int, max_tokens: int, temperature: float) -> str:
        """Return the critique, or the revision behind it.

        Raises:
            ValueError: The conversation is neither.
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
    """A `Chooser` that compares two replies by rule; the order in which they stand changes nothing."""

    name = "scripted judge 1"

    async def choose(self, turns: Sequence[Turn], options: Sequence[str], *, seed: int) -> tuple[float, ...]:
        """Return a logistic function of how much better each reply is.

        Raises:
            ValueError: The question has no two fenced replies to a request.
        """
        texts = unfenced(turns[-1].content)
        if [title for title, _ in texts][-3:] != ["user", "reply A", "reply B"]:
            raise ValueError(f"the texts of the question are {[title for title, _ in texts]}")
        asked, first, second = (text for _, text in texts[-3:])
        gain = SHARPNESS * (merit(asked, first) - merit(asked, second))
        p_first = 1 / (1 + math.exp(-gain))
        return p_first, 1 - p_first


def merit(asked: str, reply: str) -> float:
    """Return from 0 to 1 how good a reply is: declined where harm was asked for, else given."""
    p_harm = request_harm(asked)
    p_declined = judge_refusal(asked, reply).probability_refused
    return p_harm * p_declined + (1 - p_harm) * (1 - p_declined)


@lru_cache(maxsize=4096)
def request_harm(asked: str) -> float:
    """Return the probability that a request asks for harm, by the classifier."""
    return assess_request(asked).probability


def asks_for_harm(asked: str) -> bool:
    """Whether the critic takes a request for harmful."""
    return HARM_FROM in assess_request(asked).flagged_at


def refusal_of(asked: str, seed: int) -> str:
    """Return a polite refusal for a request's kind of harm; which one follows from its words and the seed."""
    what, instead = _OF_HAZARD.get(assess_request(asked).hazard or "", _ANYTHING)
    place = int.from_bytes(hashlib.sha256(f"{seed} {asked}".encode()).digest()[:4])
    return f"{_OPENINGS[place % len(_OPENINGS)].format(what=what)} {instead}"


def _fault(asked: str, reply: str) -> str:
    is_declined = judge_refusal(asked, reply).kind != "compliance"
    if asks_for_harm(asked) and not is_declined:
        what = _OF_HAZARD.get(assess_request(asked).hazard or "", _ANYTHING)[0]
        return f"The reply helps with {what} instead of declining."
    return EVASIVE if is_declined and not asks_for_harm(asked) else FAULTLESS
