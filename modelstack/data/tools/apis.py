"""Real tool schemas turned into requests: a description becomes the wording of a wish, or the tool is excluded.

Descriptions of servers and APIs address programmers ("Retrieves the details of a given order by its ID."). The
wish is a single imperative sentence that starts with a verb, without the parts that the values will express.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from modelstack.data.examples import Tool

MAX_WORDS, MIN_WORDS, MAX_PARAMETERS, MAX_REQUIRED = 13, 2, 9, 4
_GROUPS = {
    "look": "get retrieve fetch return show view read obtain display lookup look access",
    "list": "list enumerate browse",
    "make": "create add make insert register",
    "drop": "delete remove",
    "change": "update edit modify change set",
    "seek": "search find query discover",
    "work_out": "calculate compute determine estimate",
    "do": (
        "send post publish start stop run execute check verify validate analyze analyse convert generate "
        "translate compare schedule book cancel upload download export import open close move copy rename "
        "merge deploy restart track measure monitor play pause resume enable disable count summarize "
        "summarise extract identify recommend explore assign apply detect evaluate simulate predict submit "
        "reserve order rate review plan record reset save scan take turn write subscribe unsubscribe "
        "archive restore approve reject invite join leave lock unlock mute build clone commit encode decode "
        "encrypt decrypt format render resize crop rotate draw optimize improve assess test trigger "
        "transfer pay refund ping navigate click scroll select sort filter group rank classify solve "
        "diagnose investigate learn explain describe define pronounce conduct manage request reply forward "
        "mark star fork follow unfollow like share pin tag attach detach link connect disconnect mint swap "
        "stake"
    ),
}
VERBS: Mapping[str, str] = {verb: group for group, verbs in _GROUPS.items() for verb in verbs.split()}
_BY_VALUES = re.compile(
    r"\s+(?:by|using|with|from|given|via|for) (?:its|their|the|an?|a given|a specific|specific)? ?"
    r"(?:unique )?(?:\w+ )?(?:IDs?|ids?|names?|identifiers?|keys?|uuid|UUID|parameters?|criteria|filters?|"
    r"numbers?)\b.*$"
)
_CUT = re.compile(
    r"\s+(?:based on|according to|so that|in order to|which|that (?:match|meet)|e\.g\.|such as|including|if |"
    r"when |where )\b.*$"
)
_LEAD = re.compile(
    r"^\s*(?:\[[^\]]*\]|\([^)]*\)|This (?:tool|endpoint|function|method) (?:will |can |allows you to )?|"
    r"Use this (?:tool )?to |Tool to |Allows (?:you|users) to |Used to |API to )\s*"
)
_NOISE = re.compile(r"[`*_{}<>\[\]|#\"]|https?:|\\n|[^\x00-\x7f]")
_ADDRESSED = re.compile(r"\b(?:the )?(?:user|authenticated user|current user|your)(?:'s|’s)?\b")


@dataclass(frozen=True, slots=True)
class Api:
    """A real tool whose description can be phrased as a request."""

    source: str
    license: str
    origin: str
    """Server or API of the tool; tools of one origin are siblings."""
    tool: Tool
    wish: str
    """Wish in the imperative, without initial capital and full stop."""
    verb: str

    @property
    def group(self) -> str:
        """Group of the wish's verb; `do` for an unknown one."""
        return VERBS.get(self.verb, "do")


def speakable(records: Iterable[Mapping[str, Any]]) -> Iterator[Api]:
    """Yield the tools among schema records that can be phrased as requests, without duplicates."""
    seen: set[tuple[str, str]] = set()
    for record in records:
        schema = record["parameters"]
        found = wish_of(str(record["description"]))
        key = (str(record["name"]).lower(), str(record["description"])[:60])
        if found is None or key in seen or not _is_simple(schema):
            continue
        seen.add(key)
        tool = Tool(name=record["name"], description=_short(record["description"]), parameters=_plain(schema))
        yield Api(record["source"], record["license"], record["origin"], tool, found, found.split()[0])


def wish_of(description: str) -> str | None:
    """Return the first sentence of a description as an imperative, or None if it is not one."""
    text = _LEAD.sub("", description.strip())
    text = re.split(r"(?<=[a-z0-9)])[.:;](?:\s|$)|\s-\s|\n| Args| Returns", text, maxsplit=1)[0]
    text = re.sub(r"\([^)]*\)", "", text)
    words = text.split()
    if not words:
        return None
    verb = _verb(words[0])
    if verb is None or _NOISE.search(text):
        return None
    text = " ".join([verb, *words[1:]])
    text = _CUT.sub("", _BY_VALUES.sub("", text))
    text = re.sub(r"\b(?:specified|provided|particular|given|specific|certain|existing|various)\s", "", text)
    text = re.sub(r"\b(the|your) (?:authenticated |current )?user's\b|\byour\b|\ba user's\b", "my", text)
    text = re.sub(r"\b([aA])n (?=[b-df-gj-np-tv-z])", r"\1 ", re.sub(r"\s+", " ", text).strip(" ,"))
    n_words = len(text.split())
    ends_open = text.split()[-1] in (
        "and",
        "or",
        "the",
        "a",
        "an",
        "of",
        "to",
        "in",
        "for",
        "with",
        "by",
        "on",
        "from",
        "my",
    )
    return (
        None
        if ends_open or not MIN_WORDS <= n_words <= MAX_WORDS or re.search(r"\b(or|&|via|API|endpoint)\b", text)
        else text
    )


def _verb(word: str) -> str | None:
    low = word.lower().rstrip(",")
    for candidate in (low, low.removesuffix("s"), low.removesuffix("es")):
        if candidate in VERBS:
            return candidate
    return None


def _is_simple(schema: Mapping[str, Any]) -> bool:
    """Whether the parameters are few, have plain names, and have simple types."""
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    names_are_plain = all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", name) for name in properties)
    return (
        len(properties) <= MAX_PARAMETERS
        and len(required) <= MAX_REQUIRED
        and names_are_plain
        and all(isinstance(p, dict) and isinstance(p.get("type"), str) for p in properties.values())
    )


def _short(description: str) -> str:
    """Return the description, shortened to 160 characters."""
    text = " ".join(re.split(r" Args:| Returns:|\n\n", description, maxsplit=1)[0].split())
    return text if len(text) <= 160 else text[:159].rstrip() + "…"


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema reduced to what one-line signatures show."""
    kept = (
        "type",
        "description",
        "enum",
        "default",
        "items",
        "properties",
        "required",
        "format",
        "minimum",
        "maximum",
    )
    properties = {name: {k: p[k] for k in kept if k in p} for name, p in schema.get("properties", {}).items()}
    return {"type": "object", "properties": properties, "required": list(schema.get("required", []))}


@lru_cache(maxsize=65536)
def label_of(name: str) -> str:
    """Return the name of a parameter as words: `projectId` -> `project id`."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)
    return " ".join(part.lower() for part in parts)
