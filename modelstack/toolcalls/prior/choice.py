"""The choice of a tool: its probability, and a prior for it.

While a tool is being chosen, the decode loop keeps the distribution over legal tokens (`ChoicePoint`). Each token
leads to a set of tools: those whose text agrees with the text so far plus that token. Along the reply, the mass of
every token that was not taken goes to its set, and the remaining mass goes to the tool that was called. The masses
therefore sum to 1, and the probability of a tool counts all its spellings, not only the one written.

A set with one name is exact. A larger set stays grouped: the model would have decided inside it later.

A prior (`ToolBias`) adds the bias of the best choice in a token's set to the token's logit. If every token leads
to one choice, p'(choice) is proportional to p(choice) exp(bias(choice)). A token shared by several tools gets the
bias of the best of them, as A* uses the lower bound of a path's cost, because the model's opinion about the others
is known only after it. One that a call shares with an abstention ("[" in many vocabularies) is judged as a call:
the bias of abstaining would else lift calls above an answer in words. Reported probabilities include the prior.
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
from modelstack.toolcalls.conventions import JSON_LIST, Convention
from modelstack.toolcalls.conventions.reading import written_calls
from modelstack.toolcalls.marks import Marks, is_mark
from modelstack.toolcalls.prior.lexical import DecisionPrior, lexical_scores

NO_TOOL = ""
"""Name of a reply without a call: text, structured answer, or abstention. No tool has this name."""
_NEGLIGIBLE = 1e-7
"""Probability below which tokens are not assigned one by one; their sum stays with the undecided set."""

Names = frozenset[str]
NO_TOOL_ALONE: Names = frozenset({NO_TOOL})


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """A decision of a reply. `probability` and the values of `alternatives` sum to 1."""

    name: str
    """The tool called, or `NO_TOOL`."""
    probability: float
    """Mass of this choice among everything that was legal, including replies without a call."""
    p_call: float
    """Mass of calling some tool; 1 for the second call of a reply and later ones. Mass that was still undecided
    between a call and an abstention counts as a call."""
    alternatives: Mapping[tuple[str, ...], float]
    """Mass of the choices not taken, by sorted names; several names if the choice among them stayed undecided."""

    @property
    def probability_given_call(self) -> float:
        """Probability of the tool under the condition that a tool is called."""
        return self.probability / self.p_call if self.name and self.p_call > 0 else self.probability


def tool_choices(
    generation: Generation,
    vocabulary: Vocabulary,
    response_format: ResponseFormat,
    convention: Convention = JSON_LIST,
) -> tuple[ToolChoice, ...]:
    """Return one choice for each call, in order; a single choice named `NO_TOOL` for a reply without calls.

    After words, the first call is judged from its beginning; the decision to write words first is not counted.
    """
    openings = _Openings(response_format, convention, vocabulary)
    walk = _Walk(generation, openings)
    reply = "".join(map(openings.data, generation.ids))
    found = list(written_calls(reply, openings.form))
    if not found:
        return (walk.choice(0, NO_TOOL, first=True),)
    return tuple(walk.choice(call.start, _utf8(call.name), first=k == 0) for k, call in enumerate(found))


class ToolBias:
    """Adds a prior for the choice of a tool to the logits of one request; an `engine.ChoiceBias`.

    The tool with the best score keeps its logit, and the others lose their distance in score. An abstention gains
    its bias minus the best score. Answers, in words or as JSON, are not part of this choice and keep their odds
    against a call.

    It applies to the first call of a reply only. The words of a request do not determine the second call: on 2,254
    later calls the best weight of first calls (16) is worse than no prior (log-loss 1.51 against 1.17), because
    the tool that fits best has usually been called by then.
    """

    def __init__(
        self, prior: DecisionPrior, request: str, response_format: ResponseFormat, vocabulary: Vocabulary
    ) -> None:
        """Score the tools of `response_format` for the user's request."""
        scores = lexical_scores(request, response_format.tools)
        best = max(scores.values(), default=0.0)
        self._openings = _Openings(response_format, JSON_LIST, vocabulary)
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
        """Return the bias; None without a prior, an open request (`open_request`) or tools."""
        if prior is None or request is None or not response_format.tools:
            return None
        return cls(prior, request, response_format, vocabulary)

    def __call__(self, written: Sequence[int], token_ids: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Return the bias of each of `token_ids` after `written`; None if all are 0."""
        data = self._openings.data
        before = "".join(map(data, written))
        if len(self._openings.agreeing(before, first=True)) < 2:
            return None
        added = np.zeros(token_ids.size, dtype=np.float32)
        for at, token in enumerate(token_ids.tolist()):
            # Where a reply may be text, tens of thousands of tokens are legal; calls begin with a bracket.
            if (before or data(token))[:1] == "[":
                names = self._openings.agreeing(before + data(token), first=True)
                added[at] = max((self._added[name] for name in names - NO_TOOL_ALONE or names), default=0.0)
        return added if added.any() else None


class _Openings:
    """The texts that begin each choice.

    Texts are strings with one character per byte, since a token may end inside a character. A mark, which is not
    text, is represented by its stand-in.
    """

    def __init__(self, response_format: ResponseFormat, convention: Convention, vocabulary: Vocabulary) -> None:
        """Build the texts of a format's tools, in a convention and a vocabulary."""
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
        """Return the text of a token."""
        return self._characters.get(token) or self._table[token].decode("latin-1")

    def agreeing(self, written: str, *, first: bool) -> Names:
        """Return the choices that agree with the text of a reply, or of a later call if not `first`."""
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
    """Return text with one character per byte; marks are not changed."""
    return "".join(c if is_mark(c) else c.encode().decode("latin-1") for c in text)


def _utf8(text: str) -> str:
    """Return the text of a bytewise text."""
    return text.encode("latin-1").decode(errors="replace")


class _Walk:
    """The tokens of one reply with their offsets and distributions."""

    def __init__(self, generation: Generation, openings: _Openings) -> None:
        """Index the distributions of the reply by step."""
        self.generation = generation
        self.openings = openings
        self.points = {point.step: point for point in generation.choices}

    def choice(self, start: int, name: str, *, first: bool) -> ToolChoice:
        """Return the choice whose text begins at offset `start`."""
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
        """Add the mass of the tokens not taken to their sets; return the probability of the taken token."""
        point = self.points.get(step)
        if point is None:
            taken = 1.0 if self.generation.forced[step] else math.exp(self.generation.masked_logprobs[step])
            if taken < 1.0:  # after words, all other mass continues the words
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
    """Return the tokens of a distribution that are not negligible, with their probabilities."""
    heavy = point.probabilities > _NEGLIGIBLE
    return zip(point.token_ids[heavy].tolist(), point.probabilities[heavy].tolist(), strict=True)
