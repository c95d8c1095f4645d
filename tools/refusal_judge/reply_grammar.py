"""Replies made by rule: refusals, partial refusals and compliance in many voices, labelled by construction.

A real prompt is restated ("how to pick a lock" -> "picking a lock"). A voice arranges phrases of
`reply_phrases.json` around it, and bodies of real answers give the content. A partial refusal is a refusal joined
to at least two sentences of content. The same bodies after a mere hedge are compliance, so the classifier must
learn the refusal and not its surroundings.

The phrases were written for this repository. No reply of a benchmark or of a human-labelled set is among them; a
test compares them with the labelled rows. In a phrase, `{act}` is the request as an action ("write a poem about
rain"), `{doing}` (`{Doing}`) its gerund, `{topic}` its object.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from modelstack.align.guards.refusal_judge import Kind

PHRASES_FILE = Path(__file__).parent / "reply_phrases.json"


@cache
def phrase_banks() -> Mapping[str, tuple[str, ...]]:
    """Return the phrases of `reply_phrases.json` by bank."""
    banks = json.loads(PHRASES_FILE.read_text("utf-8"))
    return {name: tuple(phrases) for name, phrases in banks.items()}


@dataclass(frozen=True, slots=True)
class LabelledReply:
    """A reply to a prompt, with its kind."""

    prompt: str
    reply: str
    kind: Kind
    source: str
    """Origin, which sets the weight: "grammar/moralising", "hh", ..."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A real prompt and a real answer to it."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Restated:
    """A request in the words of a reply."""

    act: str
    doing: str
    topic: str


_SWAPS = {
    "i": "you",
    "my": "your",
    "me": "you",
    "mine": "yours",
    "myself": "yourself",
    "we": "you",
    "our": "your",
    "am": "are",
}
_HOW = re.compile(
    r"(?:(?:how|what) (?:can|do|to|would|should|could|might) "
    r"(?:(?:i|you|we|one|someone|somebody|a person|people) )?"
    r"|(?:what|which) (?:is|are) (?:the |some |a )?(?:best |good |most effective |easiest )?"
    r"(?:ways?|methods?|steps?) "
    r"(?:to|of|for) (?:me to )?)(.+)",
    re.IGNORECASE,
)
_ACTS_TEXT = """
write create develop design provide give make explain describe teach tell show instruct generate list
produce build draft devise outline offer share suggest compose plan publish post spread encourage
educate guide
"""
_ACTS = frozenset(_ACTS_TEXT.split())


def restate(prompt: str) -> Restated:
    """Return a request as action, gerund and topic; general words if its form is unknown."""
    line = re.sub(r"\s+", " ", prompt).strip().rstrip("?.! ")
    found = _HOW.match(line)
    act = found.group(1) if found else ""
    first = line.split(" ", 1)[0].lower() if line else ""
    if not act and first in _ACTS and " " in line:
        act = line[0].lower() + line[1:]
    words = act.split()
    if not 1 < len(words) <= 28:
        return Restated("do that", "doing that", "this topic")
    words = [_SWAPS.get(word.lower(), word) for word in words]
    verb = words[0].lower()
    if not verb.isalpha():
        return Restated("do that", "doing that", "this topic")
    return Restated(
        " ".join([verb, *words[1:]]), " ".join([_gerund(verb), *words[1:]]), " ".join(words[1:]) or "this topic"
    )


def _gerund(verb: str) -> str:
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")) and len(verb) > 2:
        return verb[:-1] + "ing"
    if re.fullmatch(r"[^aeiou]*[aeiou][bdgmnprt]", verb) and len(verb) <= 4:
        return verb + verb[-1] + "ing"
    return verb + "ing"


class ReplyGrammar:
    """Draws labelled replies from prompts and bodies; the same seed gives the same replies."""

    def __init__(
        self,
        harmful: Sequence[str],
        benign: Sequence[Exchange],
        further_bodies: Sequence[str] = (),
        *,
        seed: int = 0,
    ) -> None:
        """Take the parts of replies.

        Args:
            harmful: Requests that are mostly refused.
            benign: Requests with real answers.
            further_bodies: Texts that serve as content beside the answers.
            seed: Seed of all draws.
        """
        self.bank = phrase_banks()
        self._harmful, self._benign = harmful, benign
        self._bodies = [
            exchange.answer for exchange in benign if len(exchange.answer) > 120 and " = " not in exchange.answer
        ] + list(further_bodies)
        self._draw = random.Random(seed)

    def replies(self, n: int) -> Iterator[LabelledReply]:
        """Yield `n` replies, voices in turn in proportion to their weights."""
        voices = [voice for voice in _VOICES for _ in range(voice.weight)]
        for i in range(n):
            voice = voices[i % len(voices)]
            exchange = self._draw.choice(self._benign)
            prompt = exchange.prompt
            if voice.kind != "compliance" and self._draw.random() < 0.75 or voice.harmful:
                prompt = self._draw.choice(self._harmful)
            reply = voice.make(self, prompt, exchange)
            if isinstance(reply, LabelledReply):
                yield reply
                continue
            yield LabelledReply(prompt, self._roughen(reply), voice.kind, f"grammar/{voice.name}")

    # -- phrases ---------------------------------------------------------------------------------------------

    def pick(self, phrases: Sequence[str]) -> str:
        """Return one of the phrases."""
        return self._draw.choice(phrases)

    def phrase(self, name: str) -> str:
        """Return a phrase of a bank, as it is."""
        return self._draw.choice(self.bank[name])

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return self._draw.random() < probability

    def number(self, low: int, high: int) -> int:
        """Return a number within bounds, both included."""
        return self._draw.randint(low, high)

    def fill(self, phrase: str, restated: Restated) -> str:
        """Put the restated request, or general words, into a phrase."""
        if self.chance(0.35):
            restated = Restated("do that", "doing that", "that topic")
        return self.exactly(phrase, restated)

    def exactly(self, phrase: str, restated: Restated) -> str:
        """Put the restated request into a phrase."""
        doing = restated.doing
        return (
            phrase.replace("{act}", restated.act)
            .replace("{doing}", doing)
            .replace("{Doing}", doing[:1].upper() + doing[1:])
            .replace("{topic}", restated.topic)
            .replace("{Topic}", restated.topic[:1].upper() + restated.topic[1:])
            .replace("{that}", self.phrase("that"))
        )

    def core(self, prompt: str) -> str:
        """Return one sentence that refuses."""
        restated = restate(prompt)
        draw = self._draw.random()
        if draw < 0.12:
            verb = self.phrase("uneasy")
            said = f"{verb} {restated.doing if self.chance(0.5) else 'helping with ' + self.phrase('that')}"
        elif draw < 0.27:
            said = f"{self.phrase('unable_otherwise')} {self.fill(self.phrase('helping'), restated)}"
        else:
            said = f"{self.phrase('unable')} {self.fill(self.phrase('helping'), restated)}"
        opening = self.phrase("apologies") if self.chance(0.55) else ""
        if self.chance(0.25):
            opening = opening + self.phrase("machine") if self.chance(0.3) else self.phrase("machine")
        if opening.rstrip()[-1:] in (".", "!", "") and said[:1].islower() and not said.startswith("i "):
            said = said[0].upper() + said[1:]
        reason = self.phrase("reasons") if self.chance(0.6) else ""
        return f"{opening}{said}{reason}."

    def some(self, prompt: str, low: int, high: int, *banks: str) -> list[str]:
        """Return `low` to `high` different phrases of the named banks, filled in."""
        restated = restate(prompt)
        phrases = [phrase for name in banks for phrase in self.bank[name]]
        n = min(self._draw.randint(low, high), len(phrases))
        return [self.fill(phrase, restated) for phrase in self._draw.sample(phrases, n)]

    def body(self, exchange: Exchange | None = None, *, at_least: int = 150, at_most: int = 1200) -> str:
        """Return content: the exchange's answer if it is long enough, else another text or a made list."""
        if exchange is not None and len(exchange.answer) >= at_least:
            return _cut(exchange.answer, at_most)
        for _ in range(20):
            text = self.pick(self._bodies)
            if len(text) >= at_least:
                return _cut(text, at_most)
        return self.steps("do that")

    def steps(self, prompt: str) -> str:
        """Return numbered steps that hold the prompt's words and no content."""
        topic = restate(prompt).topic
        verbs = (
            "Gather what you need for",
            "Plan",
            "Choose a place for",
            "Prepare",
            "Check",
            "Start with",
            "Test",
            "Repeat",
        )
        picked = self._draw.sample(verbs, self._draw.randint(3, 6))
        mark = self._draw.choice(("{}. ", "{}) ", "Step {}: ", "- "))
        return "\n".join(f"{mark.format(i)}{verb} {topic}." for i, verb in enumerate(picked, 1))

    def offers(self) -> str:
        """Return a list of safe alternatives."""
        items = self._draw.sample(list(self.bank["safe_items"]), self._draw.randint(2, 5))
        mark = self._draw.choice(("- ", "* ", "1. ", "• "))
        return self.phrase("safe_leads") + "\n" + "\n".join(mark + item for item in items)

    def _roughen(self, reply: str) -> str:
        draw = self._draw.random()
        if draw < 0.08:
            reply = reply.replace("'", "’")
        elif draw < 0.12:
            reply = reply.lower()
        elif draw < 0.16:
            reply = " " + reply
        elif draw < 0.20:
            reply = _cut(reply, self._draw.randint(300, 900))
        return reply


def _cut(text: str, at_most: int) -> str:
    return text if len(text) <= at_most else text[:at_most].rsplit(" ", 1)[0]


# -- voices --------------------------------------------------------------------------------------------------


def _brief(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    return " ".join([g.core(prompt), *(g.some(prompt, 0, 1, "offers"))])


def _one_liner(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    said = g.phrase("short_refusals")
    return said if g.chance(0.7) else f"{said} {g.phrase('offers')}"


def _moralising(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    parts = [g.core(prompt), *g.some(prompt, 1, 3, "morals"), *g.some(prompt, 0, 1, "dissuades")]
    break_at = "\n\n" if g.chance(0.5) else " "
    return parts[0] + break_at + " ".join([*parts[1:], *g.some(prompt, 0, 2, "offers")])


def _long_moralising(g: ReplyGrammar, prompt: str, exchange: Exchange) -> str:
    """Return a refusal of a page; one or two sentences of fact among the reasons do not make it partial."""
    opening = g.pick((*g.bank["long_openings"], "", "", "", ""))
    opening = opening.replace("{act}", "with your question")
    if opening.rstrip()[-1:] in ("!", ".") and not opening.rstrip().endswith("However,"):
        opening += g.pick(("However, ", "However, I must inform you that ", "However, I must point out that "))
    parts = [opening + g.core(prompt), *g.some(prompt, 2, 5, "morals")]
    if g.chance(0.5):
        fact = g.body(exchange, at_least=60).split(". ")[0].replace("\n", " ")
        parts.insert(g.number(1, 2), _cut(fact, 220).rstrip(".") + ".")
    if g.chance(0.35):
        parts.insert(g.number(1, len(parts)), g.core(prompt))
    closing = g.some(prompt, 0, 2, "suggests", "dissuades") + g.some(prompt, 0, 2, "offers")
    half = len(parts) // 2 + 1
    return " ".join(parts[:half]) + "\n\n" + " ".join(parts[half:] + closing)


def _moral_only(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    parts = [*g.some(prompt, 1, 3, "morals"), *g.some(prompt, 0, 2, "dissuades")]
    if g.chance(0.3):
        parts.insert(0, g.phrase("machine") + "I care about your safety.")
    return " ".join([*parts, *g.some(prompt, 0, 1, "offers", "resources")])


def _moral_short(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    """Return one or two plain sentences in the manner of small models."""
    return " ".join(g.exactly(phrase, restate(prompt)) for phrase in g.some(prompt, 1, 2, "morals"))


def _reason_then_declines(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    reason = g.some(prompt, 1, 1, "morals")[0].rstrip(".")
    parts = [f"{reason}, {g.phrase('declines_after_reason')}."]
    return " ".join([*parts, *g.some(prompt, 0, 2, "suggests", "offers")])


def _late_core(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    parts = [*g.some(prompt, 1, 2, "morals"), g.core(prompt), *g.some(prompt, 0, 1, "offers")]
    return " ".join(parts)


def _dissuading(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    return " ".join(g.some(prompt, 1, 3, "dissuades") + g.some(prompt, 0, 1, "offers", "resources"))


def _crisis(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    opening = g.pick(
        ("I'm sorry you're feeling this way. ", "I'm really sorry that you are in so much pain. ", "")
    )
    return opening + " ".join(g.some(prompt, 1, 3, "resources") + g.some(prompt, 0, 1, "morals"))


def _offering(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    tail = (
        ""
        if g.chance(0.5)
        else "\n\n" + g.pick(("If you want, I can start with one of them.", "Tell me which one you'd like."))
    )
    tag = g.pick(("", "", "", "", "ZED: ", "[normal mode] ", "Assistant: ", "Answer: "))
    return f"{tag}{g.core(prompt)}\n\n{g.offers()}{tail}"


def _limit(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    opening = g.pick(("", "", "I'm sorry, but ", "I apologize, but ", "As an AI, "))
    return " ".join([opening + g.phrase("hard_limits"), *g.some(prompt, 0, 1, "offers")])


def _premise(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    parts = (
        g.pick(
            (
                "I must point out that the question contains harmful assumptions. ",
                "That question is based on a stereotype. ",
                "The premise of this request is offensive. ",
                "I understand the wish for humor, but jokes about groups of people can hurt. ",
            )
        ),
        g.core(prompt),
        " " + " ".join(g.some(prompt, 1, 2, "morals")),
    )
    return "".join(parts)


def _foreign(g: ReplyGrammar, _: str, __: Exchange) -> str:
    return g.phrase("foreign_refusals")


def _no_words(g: ReplyGrammar, _: str, __: Exchange) -> str:
    return g.pick(("", " ", "...", "…", "\n", "-", "N/A", "[ ]", "I", "?"))


def _partial_turn(g: ReplyGrammar, prompt: str, exchange: Exchange) -> str:
    middle = " " + " ".join(g.some(prompt, 1, 2, "morals")) if g.chance(0.3) else ""
    return f"{g.core(prompt)}{middle} {g.phrase('turns')}{g.body(exchange)}"


def _partial_late(g: ReplyGrammar, prompt: str, exchange: Exchange) -> str:
    turn = g.pick(("However, ", "That said, ", "But ", "", "Beyond that, "))
    return f"{g.body(exchange, at_most=700)}\n\n{turn}{g.core(prompt)}"


def _partial_limit(g: ReplyGrammar, prompt: str, exchange: Exchange) -> str:
    return f"{g.phrase('hard_limits')} {g.core(prompt)} {g.phrase('turns')}{g.body(exchange)}"


def _partial_leaves_out(g: ReplyGrammar, prompt: str, exchange: Exchange) -> str:
    """Return an answer that says, before or after, what it omits."""
    limit, body = g.phrase("partial_limits"), g.body(exchange)
    return f"{body} {limit}" if g.chance(0.6) else f"{limit} {body}"


def _partial_breaks_off(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    return f"{g.phrase('affirms')}\n{g.steps(prompt)}\n{g.pick(('Actually, ', 'Wait. ', ''))}{g.core(prompt)}"


def _answer(g: ReplyGrammar, prompt: str, exchange: Exchange) -> LabelledReply:
    act = restate(exchange.prompt).act
    opening = g.phrase("affirms").replace("{act}", act) if g.chance(0.5) else ""
    closing = " " + g.phrase("cautions") if g.chance(0.25) else ""
    return LabelledReply(exchange.prompt, opening + exchange.answer + closing, "compliance", "grammar/answer")


def _hedged(g: ReplyGrammar, prompt: str, exchange: Exchange) -> LabelledReply:
    opening = g.phrase("hedges")
    if g.chance(0.3):
        opening = g.phrase("affirms").replace("{act}", "with this") + opening
    closing = " " + g.phrase("cautions") if g.chance(0.4) else ""
    reply = opening + g.body(exchange, at_least=40) + closing
    return LabelledReply(exchange.prompt, reply, "compliance", "grammar/hedged")


def _harmful_steps(g: ReplyGrammar, prompt: str, _: Exchange) -> str:
    opening = g.phrase("affirms").replace("{act}", restate(prompt).act)
    if g.chance(0.3):
        opening = g.phrase("hedges") + opening
    closing = "\n" + " ".join(g.some(prompt, 0, 2, "cautions"))
    return f"{opening}{g.steps(prompt)}{closing}"


def _moral_then_answer(g: ReplyGrammar, prompt: str, exchange: Exchange) -> LabelledReply:
    warning = " ".join(g.some(prompt, 0, 1, "cautions") + g.some(prompt, 1, 1, "warnings"))
    return LabelledReply(exchange.prompt, warning + g.body(exchange, at_least=200), "compliance", "grammar/warned")


def _judgement(g: ReplyGrammar, prompt: str, exchange: Exchange) -> LabelledReply:
    restated = restate(prompt)
    asked = g.exactly(g.phrase("judged_questions"), restated)
    reply = g.exactly(g.phrase("judgements"), restated)
    if g.chance(0.6):
        reply += "\n\n" + g.body(None, at_most=600)
    return LabelledReply(asked, reply, "compliance", "grammar/judgement")


def _said(bank_name: str) -> Callable[[ReplyGrammar, str, Exchange], str]:
    def make(g: ReplyGrammar, prompt: str, exchange: Exchange) -> str:
        said = g.phrase(bank_name)
        return said if g.chance(0.6) else f"{said}\n\n{g.body(exchange, at_least=60, at_most=500)}"

    return make


@dataclass(frozen=True, slots=True)
class _Voice:
    name: str
    kind: Kind
    make: Callable[[ReplyGrammar, str, Exchange], str | LabelledReply]
    weight: int
    harmful: bool = False


_VOICES = (
    _Voice("brief", "refusal", _brief, 10),
    _Voice("one-liner", "refusal", _one_liner, 4),
    _Voice("moralising", "refusal", _moralising, 10),
    _Voice("long-moralising", "refusal", _long_moralising, 12),
    _Voice("moral-only", "refusal", _moral_only, 6, harmful=True),
    _Voice("moral-short", "refusal", _moral_short, 6, harmful=True),
    _Voice("reason-then-declines", "refusal", _reason_then_declines, 4),
    _Voice("late-core", "refusal", _late_core, 3),
    _Voice("dissuading", "refusal", _dissuading, 3, harmful=True),
    _Voice("crisis", "refusal", _crisis, 2, harmful=True),
    _Voice("offering", "refusal", _offering, 5),
    _Voice("limit", "refusal", _limit, 3),
    _Voice("premise", "refusal", _premise, 3),
    _Voice("foreign", "refusal", _foreign, 1),
    _Voice("no-words", "refusal", _no_words, 1),
    _Voice("partial-turn", "partial", _partial_turn, 14),
    _Voice("partial-late", "partial", _partial_late, 3),
    _Voice("partial-limit", "partial", _partial_limit, 4),
    _Voice("partial-leaves-out", "partial", _partial_leaves_out, 3),
    _Voice("partial-breaks-off", "partial", _partial_breaks_off, 1, harmful=True),
    _Voice("answer", "compliance", _answer, 12),
    _Voice("hedged", "compliance", _hedged, 20),
    _Voice("warned", "compliance", _moral_then_answer, 3),
    _Voice("judgement", "compliance", _judgement, 4, harmful=True),
    _Voice("harmful-steps", "compliance", _harmful_steps, 6, harmful=True),
    _Voice("about-itself", "compliance", _said("about_itself"), 2),
    _Voice("facts", "compliance", _said("facts_with_no"), 3),
    _Voice("clarifies", "compliance", _said("clarifies"), 2),
    _Voice("fiction", "compliance", _said("fiction_with_no"), 3),
    _Voice("foreign-answer", "compliance", _said("foreign_answers"), 1),
)
