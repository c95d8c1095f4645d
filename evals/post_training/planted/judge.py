"""The planted judge: its preference is defined only here, so a policy's true quality can be computed exactly.

A reply gains by distinct statements about the requested animal in few words. No single token achieves this: the
name must be copied from the question, topics must differ, and each further sentence costs words. The judge labels
pairs and computes the final figures; no method trains against it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from evals.post_training.planted.language import NAMES, TOPICS, Prompt

A_TOPIC = 1.0
A_REPETITION = -1.0
"""Score of each repeated topic."""
THE_NAME = 1.5
"""Score if the first sentence names the requested animal."""
ANOTHER_NAME = -1.5
"""Score if another animal is named anywhere."""
NONSENSE = -1.0
"""Score of each sentence outside the language."""
MOST_WORDS = 20
A_WORD_MORE = -0.25
NO_END = -2.0
"""Score of a truncated reply."""

_NAMES = "|".join(NAMES)
_SENTENCE = {
    topic: re.compile(rf"({_NAMES}|It) {verb} ({'|'.join(ends)})") for topic, (verb, ends) in TOPICS.items()
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Score of a reply and its components."""

    score: float
    n_topics: int
    n_repetitions: int
    n_nonsense: int
    n_words: int
    has_name: bool


def judge(prompt: Prompt, reply: str, *, is_truncated: bool = False) -> Verdict:
    """Return the verdict on a reply to a prompt."""
    sentences = [part.strip() for part in reply.split(".")]
    if sentences[-1] == "":
        sentences.pop()
    topics = [_topic(sentence) for sentence in sentences]
    known = [topic for topic in topics if topic is not None]
    words = reply.split()
    named = set(re.findall(rf"\b(?:{_NAMES})\b", reply))
    has_name = bool(sentences) and prompt.name in sentences[0].split()
    n_topics, n_nonsense = len(set(known)), topics.count(None)
    score = (
        A_TOPIC * n_topics
        + A_REPETITION * (len(known) - n_topics)
        + NONSENSE * n_nonsense
        + THE_NAME * has_name
        + ANOTHER_NAME * bool(named - {prompt.name})
        + A_WORD_MORE * max(0, len(words) - MOST_WORDS)
        + NO_END * is_truncated
    )
    return Verdict(score, n_topics, len(known) - n_topics, n_nonsense, len(words), has_name)


def _topic(sentence: str) -> str | None:
    return next((topic for topic, form in _SENTENCE.items() if form.fullmatch(sentence)), None)
