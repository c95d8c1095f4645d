"""How sure the model was of a tool: the probability of each choice among the tools that were legal.

While a tool is being chosen the decode loop keeps the distribution over legal tokens (`ChoicePoint`). Each
token there leads to some set of tools: those whose text agrees with what is written so far plus that token.
Walking along the reply, the mass of every token that was not taken goes to its set, and what remains goes to
the tool that was called. So the masses sum to 1, and a tool's probability counts all its spellings, not only
the one written.

A set with one name is exact. Larger sets stay grouped: the model would have decided between them later.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from modelstack.inference.engine import ChoicePoint, Generation
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import CALL_PREFIX, ResponseFormat

NO_TOOL = ""
"""Stands for a reply without a call: text, structured answer, or abstention. No tool has this name."""
_NEGLIGIBLE = 1e-7
"""Tokens below this are not looked at one by one; their sum stays where the choice was undecided."""

Names = frozenset[str]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """One decision of a reply. `probability` and the values of `alternatives` sum to 1."""

    name: str
    """The tool called, or `NO_TOOL`."""
    probability: float
    """Mass of this choice among everything that was legal, calling nothing included."""
    p_call: float
    """Mass of calling some tool; 1 for the second call of a reply and later ones. Mass that was still
    undecided between a call and an abstention counts as a call."""
    alternatives: Mapping[tuple[str, ...], float]
    """Mass of what was not chosen, by names in sorted order; more than one name where it stayed undecided."""

    @property
    def probability_given_call(self) -> float:
        """Probability of the tool once it is settled that one is called."""
        return self.probability / self.p_call if self.name and self.p_call > 0 else self.probability


def tool_choices(
    generation: Generation, vocabulary: Vocabulary, response_format: ResponseFormat
) -> tuple[ToolChoice, ...]:
    """Return one choice for each call, in order; a single one named `NO_TOOL` for a reply without calls."""
    reply = b"".join(vocabulary.token_bytes[i] for i in generation.ids)
    found = list(_calls(reply))
    walk = _Walk(generation, vocabulary, response_format)
    if not found:
        return (walk.choice(0, NO_TOOL, first=True),)
    return tuple(walk.choice(0 if k == 0 else start, name, first=k == 0) for k, (start, name) in enumerate(found))


class _Walk:
    """The tokens of one reply with their byte offsets and distributions."""

    def __init__(self, generation: Generation, vocabulary: Vocabulary, response_format: ResponseFormat) -> None:
        """Index the reply."""
        self.generation = generation
        self.table = vocabulary.token_bytes
        self.abstain = response_format.abstain
        self.openings = {tool.name: f'{CALL_PREFIX}{tool.name}"'.encode() for tool in response_format.tools}
        self.points = {point.step: point for point in generation.choices}

    def choice(self, start: int, name: str, *, first: bool) -> ToolChoice:
        """Follow the decision whose text begins at byte `start`."""
        masses: dict[Names, float] = defaultdict(float)
        left = 1.0
        offset = 0
        written = b""
        for step, token in enumerate(self.generation.ids):
            data = self.table[token]
            offset += len(data)
            if offset <= start:
                continue
            undecided = self._names(written, first)
            if undecided == {name} or not undecided:
                break
            taken = self._share(step, token, written, undecided, first, left, masses)
            left *= taken
            written += data[max(0, len(data) - (offset - start)) :]
        masses[frozenset({name})] += left
        probability = masses.pop(frozenset({name}))
        none = probability if name == NO_TOOL else masses.get(frozenset({NO_TOOL}), 0.0)
        return ToolChoice(
            name,
            min(1.0, probability),
            max(0.0, 1.0 - none) if first else 1.0,
            {
                tuple(sorted(names)): mass
                for names, mass in sorted(masses.items(), key=lambda item: -item[1])
                if mass > 0
            },
        )

    def _share(
        self, step: int, token: int, written: bytes, undecided: Names, first: bool, left: float,
        masses: dict[Names, float],
    ) -> float:  # fmt: skip
        """Give the mass of tokens not taken to where they lead; return the probability of the one taken."""
        point = self.points.get(step)
        if point is None:
            taken = 1.0 if self.generation.forced[step] else math.exp(self.generation.masked_logprobs[step])
            if taken < 1.0:
                masses[undecided] += left * (1.0 - taken)
            return taken
        taken, seen = 0.0, 0.0
        for other, probability in _pairs(point):
            seen += probability
            if other == token:
                taken = probability
            else:
                masses[self._names(written + self.table[other], first) or undecided] += left * probability
        if 1.0 - seen > _NEGLIGIBLE:
            masses[undecided] += left * (1.0 - seen)
        return taken

    def _names(self, written: bytes, first: bool) -> Names:
        """Return the choices that agree with what is written."""
        if not first:
            return frozenset(
                n for n, text in self.openings.items() if text.startswith(written) or written.startswith(text)
            )
        if written and not written.startswith(b"["):
            return frozenset({NO_TOOL})
        inside = written[1:]
        names = {n for n, text in self.openings.items() if text.startswith(inside) or inside.startswith(text)}
        if not written or (self.abstain and not inside) or inside.startswith(b"]"):
            names.add(NO_TOOL)
        return frozenset(names)


def _pairs(point: ChoicePoint) -> Iterable[tuple[int, float]]:
    """Return the tokens of a distribution that carry mass, with their probabilities."""
    heavy = point.probabilities > _NEGLIGIBLE
    return zip(point.token_ids[heavy].tolist(), point.probabilities[heavy].tolist(), strict=True)


def _calls(reply: bytes) -> Iterator[tuple[int, str]]:
    """Yield byte offset and name of each call whose name is written out, complete or not."""
    text = reply.decode("utf-8", errors="surrogateescape")
    decoder = json.JSONDecoder()
    at = 1
    if not text.startswith("["):
        return
    while text.startswith(CALL_PREFIX, at):
        closing = text.find('"', at + len(CALL_PREFIX))
        if closing < 0:
            return
        yield len(text[:at].encode("utf-8", errors="surrogateescape")), text[at + len(CALL_PREFIX) : closing]
        try:
            _, end = decoder.raw_decode(text, at)
        except ValueError:
            return
        if text[end : end + 1] != ",":
            return
        at = end + 1
