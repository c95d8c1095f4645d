"""Wishes for a tool: from its description, from its name, and the nouns for its parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentkit.specialise.live import LiveTool
from modelstack.data.tools.apis import VERBS, Api, label_of, wish_of

SOURCE, LICENSE = "live", "own data"
"""Source and licence of the examples."""
_NOUN = re.compile(
    r"\b(?:path|name|id|identifier|key|number|text|title)s? (?:of|to|for) (?:an?|the|this) ([a-z]+)",
    re.IGNORECASE,
)
_FIRST_SENTENCE = re.compile(r"(?<=[a-z0-9)])[.:;](?:\s|$)|\n")
_MOST_WORDS = 12


@dataclass(frozen=True, slots=True)
class Wording:
    """A wish for a tool, as `ask_api` phrases it."""

    api: Api
    nouns: Mapping[str, str]
    """Noun for a parameter's object in the wish, by parameter."""


def wordings_of(tool: LiveTool) -> list[Wording]:
    """Return the wishes for a tool, at least one; the last of three or more is held out for the test."""
    wishes = list(dict.fromkeys(w for w in (_from_description(tool), _from_name(tool), _plain(tool)) if w))
    return [_wording(tool, wish) for wish in wishes]


def _wording(tool: LiveTool, wish: str) -> Wording:
    schema = {"type": "object", "properties": dict(tool.properties), "required": tool.required}
    told = tool.shown.model_copy(update={"parameters": schema})
    api = Api(SOURCE, LICENSE, tool.server, told, wish, wish.split()[0])
    return Wording(api, {name: noun for name in tool.properties if (noun := _noun(tool, name, wish))})


def _from_description(tool: LiveTool) -> str | None:
    return wish_of(tool.shown.description)


def _from_name(tool: LiveTool) -> str | None:
    """Return `git_create_branch` as "create a branch", `file_info` as "show the file info"."""
    words = label_of(tool.name.rpartition(".")[2]).split()
    common = label_of(tool.server).split()[:1]
    if len(words) > 1 and words[0] not in VERBS and (words[0] in common or words[1] in VERBS):
        words = words[1:]
    if not words:
        return None
    if words[0] not in VERBS:
        return f"show the {' '.join(words)}"
    if len(words) == 1:
        return None
    article = "" if words[-1].endswith("s") else "the "
    return f"{words[0]} {article}{' '.join(words[1:])}"


def _plain(tool: LiveTool) -> str | None:
    """Return the description's first sentence in the imperative; "use NAME" if it is too short."""
    sentence = _FIRST_SENTENCE.split(tool.shown.description.strip(), maxsplit=1)[0]
    words = re.sub(r"\([^)]*\)", "", sentence).split()
    if len(words) > _MOST_WORDS:  # cut at a comma, not within a clause
        words = " ".join(words[:_MOST_WORDS]).rpartition(",")[0].split()
    if len(words) < 2:
        return f"use {' '.join(label_of(tool.name).split())}"
    return " ".join([_imperative(words[0].lower()), *words[1:]]).rstrip(".,")


def _imperative(word: str) -> str:
    """Return "switch" for "switches" and "read" for "reads": descriptions use the third person."""
    if word in VERBS or not word.endswith("s") or word.endswith("ss"):
        return word
    return word[:-2] if word.endswith(("ches", "shes", "sses", "xes")) else word[:-1]


def _noun(tool: LiveTool, parameter: str, wish: str) -> str:
    """Return the wish's noun for the object that a parameter identifies: "text file" for `path`."""
    about = str(tool.properties[parameter].get("description", "")) if parameter in tool.properties else ""
    told = _NOUN.search(about)
    if told is None:
        return ""
    found = re.search(rf"\b(?:an?|the|this) ((?:[a-z]+ )?{re.escape(told.group(1))})\b", wish)
    return found.group(1) if found else ""


def without_values(wording: Wording, missing: Sequence[str]) -> Api:
    """Return the wish of a tool without some parameters, so that requests do not mention them."""
    properties = {n: s for n, s in wording.api.tool.parameters["properties"].items() if n not in missing}
    required = [name for name in wording.api.tool.parameters["required"] if name not in missing]
    schema = {"type": "object", "properties": properties, "required": required}
    api = wording.api
    tool = api.tool.model_copy(update={"parameters": schema})
    return Api(api.source, api.license, api.origin, tool, api.wish, api.verb)
