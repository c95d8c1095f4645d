"""A small world to talk about: animals with names, and replies of a few plain sentences.

The replies that a base model is trained on are deliberately careless: only half of them name the requested animal,
they repeat topics, and they end early or late. Every pair therefore differs in quality, and the base can produce
every reply of a good policy.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["training", "development", "final"]

NAMES = (
    *("Ada", "Ben", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "June", "Kip", "Lena", "Milo", "Nora"),
    *("Otto", "Pia", "Quin", "Rosa", "Sven", "Tess"),
)
ANIMALS = ("fox", "hen", "dog", "cat", "owl", "goat", "duck", "bear", "frog", "wolf", "horse", "mouse")
OPENINGS = (
    "Tell me about {name} the {animal}.",
    "What is {name} the {animal} like?",
    "Describe {name} the {animal}, please.",
    "Who is {name} the {animal}?",
    "I want to know {name} the {animal}.",
    "Say something about {name} the {animal}.",
)
TOPICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "food": ("likes to eat", ("bread", "apples", "fish", "grass", "honey", "corn")),
    "place": ("lives in", ("the forest", "the barn", "the garden", "the hills", "the town", "the valley")),
    "colour": ("has a coat of", ("brown", "grey", "white", "black", "red", "gold")),
    "friend": ("plays with", ("the farmer", "the children", "the birds", "the neighbours", "the sheep", "nobody")),
    "time": ("wakes up", ("at dawn", "at noon", "at night", "very late", "before the sun", "after the rain")),
}
"""Verb and possible objects of each topic of a sentence."""
P_RIGHT_NAME, P_OTHER_NAME = 0.5, 0.2
"""Probabilities that a careless reply begins with the right name, and with another; otherwise it begins with
"It"."""
MOST_SENTENCES = 7


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question about one animal."""

    name: str
    text: str

    @property
    def id(self) -> str:
        """Return its identifier in files."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def prompts(split: Split) -> list[Prompt]:
    """Return the questions of a split; splits share no animal (name and kind)."""
    return [
        Prompt(name, opening.format(name=name, animal=animal))
        for name in NAMES
        for animal in ANIMALS
        if _split(name, animal) == split
        for opening in OPENINGS
    ]


def careless_reply(prompt: Prompt, draw: random.Random) -> str:
    """Return a random careless reply, as in the base model's training data."""
    dice = draw.random()
    others = [name for name in NAMES if name != prompt.name]
    first = (
        prompt.name if dice < P_RIGHT_NAME else draw.choice(others) if dice < P_RIGHT_NAME + P_OTHER_NAME else "It"
    )
    sentences: list[str] = []
    for n in range(draw.randint(1, MOST_SENTENCES)):
        verb, ends = TOPICS[draw.choice(list(TOPICS))]
        sentences.append(f"{'It' if n else first} {verb} {draw.choice(ends)}.")
    return " ".join(sentences)


def corpus(n: int, seed: int) -> Iterator[tuple[Prompt, str]]:
    """Yield `n` training prompts, each with a careless reply."""
    draw = random.Random(seed)
    several = prompts("training")
    for _ in range(n):
        prompt = draw.choice(several)
        yield prompt, careless_reply(prompt, draw)


def _split(name: str, animal: str) -> Split:
    place = hashlib.sha256(f"{name} {animal}".encode()).digest()[0]
    return "training" if place < 154 else "development" if place < 205 else "final"  # 60 %, 20 %, 20 %
