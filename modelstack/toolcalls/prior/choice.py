"""Choosing a tool: how sure the model was, and what is known before it is asked.

While a tool is being chosen the decode loop keeps the distribution over legal tokens (`ChoicePoint`). Each
token there leads to some set of tools: those whose text agrees with what is written so far plus that token.
Walking along the reply, the mass of every token that was not taken goes to its set, and what remains goes to
the tool that was called. So the masses sum to 1, and a tool's probability counts all its spellings, not only
the one written.

A set with one name is exact. Larger sets stay grouped: the model would have decided between them later.

A prior (`ToolBias`) adds to the logit of each of those tokens what the best choice of its set has. Where every
token leads to one choice, p'(choice) is proportional to p(choice) exp(bias(choice)). A token that several names
begin with is judged by the best of them, as A* judges a path by the least that it can cost: what the model thinks
of the others is known only behind it. The probabilities reported are those after the prior.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import ChoicePoint, Generation
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import ResponseFormat
from modelstack.toolcalls.conventions import OURS, Convention
from modelstack.toolcalls.conventions.reading import written_calls
from modelstack.toolcalls.marks import Marks, is_mark
from modelstack.toolcalls.prior.lexical import DecisionPrior, lexical_scores

NO_TOOL = ""
"""Stands for a reply without a call: text, structured answer, or abstention. No tool has this name."""
_NEGLIGIBLE = 1e-7
"""Tokens below this are not looked at one by one; their sum stays where the choice was undecided."""

Names = frozenset[str]
NO_TOOL_ALONE: Names = frozenset({NO_TOOL})


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
    generation: Generation,
    vocabulary: Vocabulary,
    response_format: ResponseFormat,
    convention: Convention = OURS,
) -> tuple[ToolChoice, ...]:
    """Return one choice for each call, in order; a single one named `NO_TOOL` for a reply without calls.

    Behind words the first call is judged from where it begins: that no call came earlier is not counted.
    """
    openings = _Openings(response_format, convention, vocabulary)
    walk = _Walk(generation, openings)
    reply = "".join(map(openings.data, generation.ids))
    found = list(written_calls(reply, openings.form))
    if not found:
        return (walk.choice(0, NO_TOOL, first=True),)
    return tuple(walk.choice(call.start, _utf8(call.name), first=k == 0) for k, call in enumerate(found))


class ToolBias:
    """Fulfils `modelstack.inference.engine.ChoiceBias`: what a prior adds to logits in one request.

    The tool with the best score stands where it stood, the others fall behind it by their distance in score, and
    an abstention gains what that best score leaves of its bias. Answers, in words or as JSON, are no choice of
    this kind: they stay where they stand against a call.

    It is for the first call of a reply. Which call comes second, or whether one does, the words of the request do
    not say: on 2,254 later calls the weight that fits first ones best (16) is worse than no prior at all
    (log-loss 1.51 against 1.17), because the tool that fits best has mostly been called by then.
    """

    def __init__(
        self, prior: DecisionPrior, request: str, response_format: ResponseFormat, vocabulary: Vocabulary
    ) -> None:
        """Score the tools of `response_format` for what the user asked."""
        scores = lexical_scores(request, response_format.tools)
        best = max(scores.values(), default=0.0)
        self._openings = _Openings(response_format, OURS, vocabulary)
        self._added = {name: prior.lexical_weight * (score - best) for name, score in scores.items()}
        self._added[NO_TOOL] = prior.abstain_bias - prior.lexical_weight * best

    @classmethod
    def of(
        cls,
        prior: DecisionPrior | None,
        request: str | None,
        response_format: ResponseFormat,
        vocabulary: Vocabulary,
    ) -> ToolBias | None:
        """Return the bias, None where there is no prior, no open request (`open_request`) or no tool."""
        if prior is None or request is None or not response_format.tools:
            return None
        return cls(prior, request, response_format, vocabulary)

    def __call__(self, written: Sequence[int], token_ids: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Return what to add to the logit of each of `token_ids` behind `written`; None for nothing."""
        data = self._openings.data
        before = "".join(map(data, written))
        if len(self._openings.agreeing(before, first=True)) < 2:
            return None
        added = np.zeros(token_ids.size, dtype=np.float32)
        for at, token in enumerate(token_ids.tolist()):
            if (before or data(token))[:1] == "[":  # before a reply tens of thousands are legal
                names = self._openings.agreeing(before + data(token), first=True)
                added[at] = max((self._added[name] for name in names), default=0.0)
        return added if added.any() else None


class _Openings:
    """How each choice is written.

    Texts are strings with one character a byte, since a token may end inside a character; a mark, which is no
    text, is its stand-in.
    """

    def __init__(self, response_format: ResponseFormat, convention: Convention, vocabulary: Vocabulary) -> None:
        """Take the tools of a format, and the form of a convention in a vocabulary."""
        marks = Marks(vocabulary, convention.marks)
        self._characters = marks.characters
        self._table = vocabulary.token_bytes
        self.form = form = convention.form.bound(marks).mapped(_bytewise)
        self._later = {
            tool.name: form.name_prefix + _bytewise(tool.name) + form.name_suffix[0]
            for tool in response_format.tools
        }
        self._first = {name: form.opening + text for name, text in self._later.items()}
        self._others = [
            text
            for text, is_legal in (
                (form.abstention, response_format.abstain),
                (form.result_prefix, response_format.answer_schema is not None),
            )
            if text and is_legal
        ]
        plain_trigger = form.trigger if form.trigger and not form.trigger_name else ""
        self._beginnings_of_words = {plain_trigger[:n] for n in range(len(plain_trigger))} | {""}

    def data(self, token: int) -> str:
        """Return what a token writes."""
        return self._characters.get(token) or self._table[token].decode("latin-1")

    def agreeing(self, written: str, *, first: bool) -> Names:
        """Return the choices that agree with what is written of a reply, or of a later call (`first` false)."""
        texts = self._first if first else self._later
        calls = frozenset(
            name for name, text in texts.items() if text.startswith(written) or written.startswith(text)
        )
        if not first:
            return calls
        may_be_none = written in self._beginnings_of_words or any(
            text.startswith(written) or written.startswith(text) for text in self._others
        )
        return calls | {NO_TOOL} if may_be_none or not calls else calls


def _bytewise(text: str) -> str:
    """Return text with one character a byte, marks as they are."""
    return "".join(c if is_mark(c) else c.encode().decode("latin-1") for c in text)


def _utf8(text: str) -> str:
    """Return the text that bytewise text stands for."""
    return text.encode("latin-1").decode(errors="replace")


class _Walk:
    """The tokens of one reply with their offsets and distributions."""

    def __init__(self, generation: Generation, openings: _Openings) -> None:
        """Index the reply."""
        self.generation = generation
        self.openings = openings
        self.points = {point.step: point for point in generation.choices}

    def choice(self, start: int, name: str, *, first: bool) -> ToolChoice:
        """Follow the decision whose text begins at offset `start`."""
        masses: dict[Names, float] = defaultdict(float)
        left = 1.0
        offset = 0
        written = ""
        for step, token in enumerate(self.generation.ids):
            data = self.openings.data(token)
            offset += len(data)
            if offset <= start:
                continue
            undecided = self.openings.agreeing(written, first=first)
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
        self, step: int, token: int, written: str, undecided: Names, first: bool, left: float,
        masses: dict[Names, float],
    ) -> float:  # fmt: skip
        """Give the mass of tokens not taken to where they lead; return the probability of the one taken."""
        point = self.points.get(step)
        if point is None:
            taken = 1.0 if self.generation.forced[step] else math.exp(self.generation.masked_logprobs[step])
            if taken < 1.0:  # behind words, what is no call goes on with them
                masses[undecided if written or NO_TOOL not in undecided else NO_TOOL_ALONE] += left * (1.0 - taken)
            return taken
        taken, seen = 0.0, 0.0
        for other, probability in _pairs(point):
            seen += probability
            if other == token:
                taken = probability
            else:
                names = self.openings.agreeing(written + self.openings.data(other), first=first)
                masses[names or undecided] += left * probability
        if 1.0 - seen > _NEGLIGIBLE:
            masses[undecided] += left * (1.0 - seen)
        return taken


def _pairs(point: ChoicePoint) -> Iterable[tuple[int, float]]:
    """Return the tokens of a distribution that carry mass, with their probabilities."""
    heavy = point.probabilities > _NEGLIGIBLE
    return zip(point.token_ids[heavy].tolist(), point.probabilities[heavy].tolist(), strict=True)
