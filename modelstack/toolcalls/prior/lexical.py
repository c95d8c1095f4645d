"""How well the words of a request fit each tool, and how much that counts beside what the model says.

A word counter is a strong judge of tools where a small model is a weak one: it finds the right tool in 96 % of
BFCL's `multiple`. So its score is a prior of the decision, with weights fitted on held-back examples
(`modelstack.sft.prior.fit`), as a language model is combined with an acoustic one (shallow fusion,
arXiv 1503.03535).

    score(tool)  = S / (S + 2)                      S = sum of field(word) * rarity(word)
    rarity(word) = 1 - ln(n) / ln(1 + N)            over the request's words that the tool has too

N tools are shown, n of them have the word; `field` is 1 for a word of the name, 0.5 of the description or a
parameter's name, 0.3 of a parameter's description. A word that one tool alone has counts 1 whether there are 2
tools or 40, and one that all have next to nothing; so scores lie in [0, 1) and mean the same for any number of
tools. The saturation is BM25's and the fields are BM25F's (Robertson and Zaragoza 2009); the rarity replaces their
IDF, which grows with N. On 4,367 training examples it judges better than IDF: log-loss 0.227 against 0.240, and
calls are told from abstentions with an area of 0.883 against 0.876 under the ROC curve. The best score is a right
tool's in 92 % of them, in 86 % of 351 validation examples with two tools or more.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from modelstack.errors import UserError
from modelstack.files import read_json_object
from modelstack.toolcalls.convention import ToolSpec

HALF_SCORE = 2.0
"""Of S: two words of its name that no other tool has give a tool one half. 1 and 4 judge about as well."""
OF_NAME, OF_DESCRIPTION, OF_PARAMETER, OF_PARAMETER_DESCRIPTION = 1.0, 0.5, 0.5, 0.3
"""What a word counts by where it stands; around these the figures of the head move by 0.01 at most."""
REQUEST_MESSAGES = 3
"""Messages of the user that are read together: an answer to a question back says little by itself. In dialogues
that ask for what is missing the last message alone finds the right tool in 43 %, with those before it in 73 %."""
LARGEST_WEIGHT = 100.0
"""Of a prior. exp(100) decides anything, and is far from what a number can hold."""
MAX_BYTES = 1 << 16
"""Of a prior's file; a real one has 1,300."""

_LONGEST_TEXT = 1000
"""Characters of a description that are read."""
_DEEPEST = 4
"""Objects inside each other whose properties are read."""
_SHORTEST_STEM = 3
_ENDINGS = ("ings", "ing", "ies", "ied", "es", "ed", "s", "y", "e")
"""Cut off once, the first that fits: Harman's S stemmer (1991) with the endings of verbs."""
_FUNCTION_WORDS = """
a about all also am an and any are as at be been but by can could did do does for from had has have he hello her
here hey hi him how i if in into is it its just let like may me might mine must my need no not of on one or our
over please shall she should so some than thank thanks that the their them then there these they this those to
us want was we were what when where which who whom whose why will with would you your
"""
_STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
_BORDERS = re.compile(
    r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])"
)
"""Inside `getWeather`, `HTTPServer`, `top10`."""
_WORD = re.compile(r"[^\W_]+")


def lexical_scores(request: str, tools: Sequence[ToolSpec]) -> dict[str, float]:
    """Return the score of each tool by name, in [0, 1); see the head of this file."""
    asked = words(request)
    fields = {tool.name: _fields(tool, asked) for tool in tools}
    n_with = Counter(word for field in fields.values() for word in field)
    scale = math.log(1 + len(tools))
    found: dict[str, float] = {}
    for name, field in fields.items():
        # In order, so that rounding does not depend on how a set is hashed.
        strength = sum(field[word] * (1 - math.log(n_with[word]) / scale) for word in sorted(field))
        found[name] = strength / (strength + HALF_SCORE)
    return found


def words(text: str) -> frozenset[str]:
    """Return the stems of a text's words, those of compound names one by one; no numbers, no function words."""
    found = (word.lower() for word in _WORD.findall(_BORDERS.sub(" ", text)))
    return frozenset(_stem(word) for word in found if word not in _STOP_WORDS and not word.isdigit())


def open_request(turns: Sequence[tuple[str, str]]) -> str | None:
    """Return what the user has asked for since a tool was last called, None where the user did not speak last.

    What to do with a tool's result is another decision than which tool a request is for: the words of a request
    that has been answered would call its tool again.

    Args:
        turns: Role and text of each turn of a conversation, a tool's results included.
    """
    said: list[str] = []
    for role, text in reversed(turns):
        if role == "tool" or (role != "user" and not said):
            break
        if role == "user":
            said.append(text)
    return "\n".join(reversed(said[:REQUEST_MESSAGES])) if said else None


class Share(BaseModel):
    """A share of examples with its 95 % interval."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    n: int = Field(ge=1)


class Decisions(BaseModel):
    """How decisions come out; None where there was no example to ask."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    right_tool: Share | None
    """Of the examples with calls: one of their tools was called first."""
    wrong_abstention: Share | None
    """Of the same: none was called."""
    right_abstention: Share | None
    """Of the examples that no tool fits: none was called."""
    log_loss: FiniteFloat
    """Of the right decision, in nats an example."""


class CountDecisions(BaseModel):
    """How it is decided whether another call, or another optional parameter, follows one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    n_goes_on: int = Field(ge=1)
    """Decisions where another one follows."""
    n_ends: int = Field(ge=1)
    """Decisions where none does."""
    right_before: Share
    right_after: Share
    log_loss_before: FiniteFloat
    """In nats a decision."""
    log_loss_after: FiniteFloat


class CopyDecisions(BaseModel):
    """How it is decided at each token of values whether it copies from the request."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    n: int = Field(ge=1)
    """Tokens."""
    n_copies: int = Field(ge=0)
    log_loss_before: FiniteFloat
    """In nats a token, of copying or not."""
    log_loss_after: FiniteFloat


_SHA256 = r"^[0-9a-f]{64}$"


class FittedOn(BaseModel):
    """Where a prior comes from, and what it changed there."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    n_calls: int = Field(ge=0)
    n_abstentions: int = Field(ge=0)
    """Examples of each."""
    examples_sha256: str = Field(pattern=_SHA256)
    model_sha256: str = Field(pattern=_SHA256)
    adapter_sha256: str | None = Field(default=None, pattern=_SHA256)
    wrong_abstention_limit: float = Field(ge=0, le=1)
    before: Decisions
    after: Decisions
    another_call: CountDecisions | None = None
    """None where no example with several calls was asked, and nothing was fitted."""
    copy_text: CopyDecisions | None = None
    copy_number: CopyDecisions | None = None
    """None where no example had such a value."""
    optional_key: CountDecisions | None = None
    """Going on is with one more optional parameter; None where the examples show only one of both."""


CALL_EVIDENCE = ("tool", "number", "words")
"""Of the request for another call; `another_call` says what each is."""
KEY_EVIDENCE = ("name", "description", "choice", "number")
"""Of the request for one more optional parameter; `optional_keys` says what each is."""


class EvidenceWeights(BaseModel):
    """What the evidence of a request adds to the log-odds of going on."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    constant: float = Field(ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)
    weights: dict[str, Annotated[float, Field(ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)]]
    """By name of the evidence."""

    def bias(self, evidence: Sequence[float]) -> float:
        """Return what is added for evidence in the order of the weights."""
        return self.constant + sum(w * x for w, x in zip(self.weights.values(), evidence, strict=True))


class DecisionPrior(BaseModel):
    """What is added to logits while a tool is chosen (`choice.ToolBias` says to which), and behind each call.

    It was fitted to one model and adapter, so its file lies beside them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    lexical_weight: float = Field(ge=0, le=LARGEST_WEIGHT)
    """Times a tool's score."""
    abstain_bias: float = Field(ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)
    """Of abstaining, against a tool that shares no word with the request."""
    another_call: EvidenceWeights | None = None
    """That another call follows one; `another_call.AnotherCallBias` says which tokens decide it."""
    copy_text_bias: float = Field(default=0.0, ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)
    """Of the log-odds that the next token of a text copies words of the request; `copying.CopyBias`."""
    copy_number_bias: float = Field(default=0.0, ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)
    """The same of a number."""
    optional_key: EvidenceWeights | None = None
    """That one more optional parameter is given: `optional_keys.OptionalKeyBias`."""
    fitted: FittedOn | None = None

    @model_validator(mode="after")
    def _weighs_evidence_that_there_is(self) -> Self:
        for name, weights, known in (
            ("another_call", self.another_call, CALL_EVIDENCE),
            ("optional_key", self.optional_key, KEY_EVIDENCE),
        ):
            if weights is not None and tuple(weights.weights) != known:
                raise ValueError(f"{name} weighs {list(weights.weights)}; it must be {list(known)}, in this order")
        return self

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Return the prior in a file, which is not trusted.

        Raises:
            UserError: It cannot be read, is too large, or is no prior.
        """
        path = Path(path)
        try:
            return cls.model_validate(read_json_object(path, MAX_BYTES))
        except OSError as error:
            raise UserError(f"prior {path} cannot be read: {error.strerror or error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise UserError(
                f"prior {path}: {place}: {first['msg']} (given: {repr(first['input'])[:80]}). "
                "`modelstack fit-prior` writes such files"
            ) from error


def _fields(tool: ToolSpec, asked: frozenset[str]) -> Mapping[str, float]:
    """Return the words that a tool shares with a request, with what each counts."""
    parameters = list(_parameters(tool.parameters, _DEEPEST))
    found: dict[str, float] = {}
    for counts, texts in (
        (OF_NAME, [tool.name]),
        (OF_DESCRIPTION, [tool.description]),
        (OF_PARAMETER, [name for name, _ in parameters]),
        (OF_PARAMETER_DESCRIPTION, [description for _, description in parameters]),
    ):
        for text in texts:
            for word in words(text[:_LONGEST_TEXT]) & asked:
                found.setdefault(word, counts)
    return found


def _parameters(schema: Any, deepest: int) -> Iterator[tuple[str, str]]:
    """Give name and description of each property, those of objects inside too."""
    if not isinstance(schema, Mapping) or deepest == 0:
        return
    properties = schema.get("properties")
    for name, of_name in properties.items() if isinstance(properties, Mapping) else ():
        description = of_name.get("description") if isinstance(of_name, Mapping) else None
        yield str(name), description if isinstance(description, str) else ""
        for inside in _inside(of_name):
            yield from _parameters(inside, deepest - 1)


def _inside(schema: Any) -> Iterable[Any]:
    return (schema, schema.get("items")) if isinstance(schema, Mapping) else ()


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        is_ending = word.endswith(ending) and not (ending in ("s", "es") and word.endswith("ss"))
        if is_ending and len(word) - len(ending) >= _SHORTEST_STEM:
            word = word.removesuffix(ending)
            break
    # planned, plan
    return word[:-1] if len(word) > _SHORTEST_STEM and word[-1] == word[-2] else word
