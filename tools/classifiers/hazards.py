"""MLCommons hazard categories (AILuminate, numbered as in Llama Guard 3), and the categories of public sets.

S4 (child sexual exploitation) has no training rows on purpose: such prompts are not kept. A1 and A2 are our own:
instructions inside data, and attempts to unlock a model.
"""

from __future__ import annotations

import re

HAZARDS: dict[str, str] = {
    "S1": "violent crimes",
    "S2": "non-violent crimes",
    "S3": "sex-related crimes",
    "S4": "child sexual exploitation",
    "S5": "defamation",
    "S6": "specialised advice",
    "S7": "privacy",
    "S8": "intellectual property",
    "S9": "indiscriminate weapons",
    "S10": "hate",
    "S11": "suicide and self-harm",
    "S12": "sexual content",
    "S13": "elections",
    "S14": "code interpreter abuse and cyber crime",
    "A1": "prompt injection",
    "A2": "jailbreak",
}
FITTED_HAZARDS: tuple[str, ...] = (
    "S1",
    "S2",
    "S3",
    "S5",
    "S6",
    "S7",
    "S8",
    "S9",
    "S10",
    "S11",
    "S12",
    "S13",
    "S14",
)

CATQA_HAZARDS: dict[str, str] = {
    "Illegal Activity": "S2",
    "Illegal Activity/Cybercrime": "S14",
    "Hate/Harass/Violence": "S10",
    "Hate/Harass/Violence/Gender-based violence": "S1",
    "Hate/Harass/Violence/Terrorism and extremism": "S1",
    "Malware Viruses": "S14",
    "Physical Harm/Self-harm": "S11",
    "Physical Harm/Assault and battery": "S1",
    "Physical Harm/Hazardous material handling": "S6",
    "Physical Harm/Unsafe practices": "S6",
    "Physical Harm/Weapon making": "S9",
    "Economic Harm": "S2",
    "Economic Harm/Intellectual property theft": "S8",
    "Fraud/Deception": "S2",
    "Adult Content": "S12",
    "Political Campaigning": "S13",
    "Privacy Violation Activity": "S7",
    "Tailored Financial Advice": "S6",
}
"""Hazard by CatQA's category, or by the part before the last slash."""

MILD_CATQA = ("Tailored Financial Advice", "Political Campaigning")
"""Categories with many questions that most people would answer."""

# For AdvBench, which has no categories; the first matching rule decides.
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (hazard, re.compile(rf"\b(?:{words})", re.IGNORECASE))
    for hazard, words in (
        ("S11", r"suicid|self-harm|anorexi|eating disorder|kill (?:them|your)sel"),
        ("S9", r"bombs?\b|explosive|chemical weapon|biological|nuclear|dirty bomb|weapons? of mass"),
        ("S3", r"sexual(?:ly)? (?:assault|harass)|rape|date rape|prostitut"),
        ("S12", r"porn|explicit|erotic"),
        ("S14", r"hack|malware|virus|ransomware|keylog|ddos|phish.*script|script|program|exploit|firewall"
                r"|botnet|worm"),
        ("S7", r"stalk|dox|spy|personal information|without (?:their|his|her) (?:consent|knowledge)|surveil"),
        ("S13", r"election|voter|ballot"),
        ("S10", r"racis|hate|discriminat|sexis|xenophob|homophob|anti-semit|ethnic|neo-nazi|bully|harass|religio"),
        ("S8", r"pirat|copyright|plagiar|software licen|intellectual property|counterfeit"),
        ("S5", r"defam|libel|false accus|rumou?r|fake news|conspiracy|misinformation"),
        ("S1", r"kill|murder|assassin|terroris|tortur|kidnap|mass shooting|violen|assault|attack|abuse"
               r"|stab|shoot"),
        ("S6", r"medical|cure|vaccin|diet|drink and driv|drunk"),
        ("S2", r"steal|rob|theft|fraud|launder|drug|smuggl|scam|identity|forg|evad|bribe|blackmail|extort|embezzl"
               r"|insider|money|shoplift|burgl|illegal|fake|traffick|poach|gambl|tax"),
    )
)  # fmt: skip


def catqa_hazard(category: str) -> str:
    """Return the hazard of a CatQA category "main/sub"."""
    return CATQA_HAZARDS.get(category) or CATQA_HAZARDS[category.rpartition("/")[0]]


def hazard_by_rule(text: str) -> str | None:
    """Return the hazard that a request names, or None."""
    return next((hazard for hazard, pattern in _RULES if pattern.search(text)), None)
