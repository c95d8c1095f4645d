r"""Splitting of text before BPE: the patterns of known models, with their names in llama.cpp.

Merges never cross a split, so the pattern determines the possible tokens. Sources: tiktoken's `openai_public`
(GPT-2, cl100k, o200k), the `tokenizer.json` of Llama 3, Qwen 3, DeepSeek-V3 and SmolLM2, nanochat's
`tokenizer.py`.

Two patterns are written differently from the sources but match the same. cl100k's possessive `{1,3}+` is written
`{1,3}`: Oniguruma, which `tokenizers` uses, reads the former as "one or more times", so whole numbers would become
one piece. tiktoken's current cl100k differs in one place from Llama 3's pattern, which was its first form: blanks
at the end of a text stay together even if a line break is among them.

`ggml_pre` is the value of `tokenizer.ggml.pre` with which llama.cpp splits text in the same way; None if there is
no such name. Comparison with llama.cpp (llama-cpp-python 0.3.36) on multilingual text and random strings, with
merges across every split:

- gpt2, smollm, deepseek-v3: equal.
- llama3, qwen2: equal except for `'\u017f` (an apostrophe and a long s), which the original's case-insensitive
  `'s` treats as a contraction and llama.cpp does not.
- o200k: the same exception; also, llama.cpp does not include combining marks in words (marks of Devanagari, Thai
  or Arabic, accents as separate characters), so such scripts differ.
- llama.cpp has no normalisers: with qwen2's NFC, text that is not in NFC gets other ids there. Qwen's own GGUF
  files have the same difference. "llama3" with single digits is the same pattern without NFC.
- Right-aligned groups of digits have no working name: `tiny_aya` (o200k after such groups) does not split at a
  change of case in this version of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from modelstack.errors import UserError

if TYPE_CHECKING:
    from tokenizers import normalizers, pre_tokenizers

PresetName = Literal["gpt2", "gpt4", "llama3", "deepseek-v3", "qwen2", "o200k", "smollm", "nanochat"]
Digits = Literal["1", "2", "3", "right-3", "runs"]
"""Digits per piece: one, up to two or three from the left, three from the right (1 234 567), or any number."""
_Family = Literal["gpt2", "cl100k", "llama3", "o200k", "deepseek"]

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BEFORE_LETTERS = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|DIGITS"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_LLAMA3 = (
    rf"{_CONTRACTIONS}|{_BEFORE_LETTERS}\p{{L}}+|DIGITS| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_O200K = (
    rf"{_BEFORE_LETTERS}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_BEFORE_LETTERS}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS: dict[_Family, tuple[str, ...]] = {
    "gpt2": (_GPT2,),
    "cl100k": (_CL100K,),
    "llama3": (_LLAMA3,),
    "o200k": (_O200K,),
    "deepseek": (_DEEPSEEK_CJK, _DEEPSEEK),
}
_INLINE = "DIGITS"
"""Place for digits inside a pattern. Patterns without it split digits first, which treats blanks before them
differently.
"""
_DIGITS: dict[Digits, str] = {
    "1": r"\p{N}",
    "2": r"\p{N}{1,2}",
    "3": r"\p{N}{1,3}",
    "right-3": r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
    "runs": r"\p{N}+",
}


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """A way to split text, ready to be built."""

    preset: PresetName | None
    """The known preset with this split; None if no known model uses it."""
    stages: tuple[str, ...]
    """Patterns (Oniguruma), applied in sequence; every match and every gap between matches is a piece."""
    ggml_pre: str | None
    """llama.cpp's name of it (`tokenizer.ggml.pre`); None if there is none."""
    nfc: bool = False
    """Whether text is first normalised to NFC."""
    ignore_merges: bool = False
    """Whether a piece that is itself a token is used without merging, as in Llama 3; llama.cpp decides by the
    name.
    """

    def build(self) -> pre_tokenizers.PreTokenizer:
        """Return the stages followed by the byte alphabet, in the form of `tokenizers`."""
        from tokenizers import Regex, pre_tokenizers

        cuts: list[pre_tokenizers.PreTokenizer] = [
            pre_tokenizers.Split(Regex(stage), behavior="isolated") for stage in self.stages
        ]
        return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    def build_normalizer(self) -> normalizers.Normalizer | None:
        """Return the normaliser that runs before the splits; None for unchanged text."""
        from tokenizers import normalizers

        return normalizers.NFC() if self.nfc else None


@dataclass(frozen=True, slots=True)
class _Preset:
    family: _Family
    digits: Digits
    ggml_pre: str | None
    nfc: bool = False
    ignore_merges: bool = False


_PRESETS: dict[PresetName, _Preset] = {
    "gpt2": _Preset("gpt2", "runs", "gpt-2"),
    "gpt4": _Preset("cl100k", "3", None),
    "llama3": _Preset("llama3", "3", "llama-bpe", ignore_merges=True),
    "deepseek-v3": _Preset("deepseek", "3", "deepseek-v3"),
    "qwen2": _Preset("llama3", "1", "qwen2", nfc=True),
    "o200k": _Preset("o200k", "3", "gpt-4o"),
    "smollm": _Preset("gpt2", "1", "smollm"),
    "nanochat": _Preset("llama3", "2", None),
}
_SAME_PATTERN: dict[PresetName, str] = {
    "gpt2": "gpt-2 phi-2 mpt olmo jais trillion modern-bert exaone4",
    "smollm": "smollm starcoder refact command-r codeshell exaone minerva-7b",
    "llama3": "llama-bpe llama3 llama-v3 falcon3 pixtral lfm2 dbrx smaug-bpe glm4 chatglm-bpe",
    "qwen2": "qwen2 stablelm2 deepseek-r1-qwen hunyuan megrez solar-open grok-2",
    "deepseek-v3": "deepseek-v3 hunyuan-dense joyai-llm",
    "o200k": "gpt-4o llama4 kanana2",
}
GGML_NAMES: dict[str, PresetName] = {
    name: preset for preset, names in _SAME_PATTERN.items() for name in names.split()
}
"""Names in llama.cpp with the preset that has the same pattern; from its `llama-vocab.cpp`."""
_GGML_IGNORE_MERGES = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"})


def pretokenizer(preset: PresetName, digits: Digits | None = None) -> PreTokenizer:
    """Return a preset, with its own grouping of digits or another one.

    Raises:
        UserError: The preset or the grouping is unknown.
    """
    if preset not in _PRESETS:
        raise UserError(f"pretokenizer {preset!r} is not known; known: {', '.join(_PRESETS)}")
    wanted = _PRESETS[preset]
    digits = wanted.digits if digits is None else digits
    if digits not in get_args(Digits):
        raise UserError(f"digits {digits!r} is not a grouping; known: {', '.join(get_args(Digits))}")
    known_as: PresetName | None = None
    ggml_pre, ignore_merges = None, False
    for name, known in _PRESETS.items():
        if (known.family, known.digits) == (wanted.family, digits):
            ggml_pre, ignore_merges = known.ggml_pre, known.ignore_merges
            known_as = name if known.nfc == wanted.nfc else known_as
    return PreTokenizer(known_as, _stages(wanted.family, digits), ggml_pre, wanted.nfc, ignore_merges)


def ggml_pretokenizer(name: str) -> PreTokenizer:
    """Return llama.cpp's split for a value of `tokenizer.ggml.pre`, without a normaliser.

    Raises:
        UserError: The name is unknown.
    """
    if name not in GGML_NAMES:
        raise UserError(
            f"tokenizer.ggml.pre is {name!r}, whose pattern is not known; known: {', '.join(GGML_NAMES)}. "
            f"A tokenizer.json of the same model does not need the name."
        )
    preset = _PRESETS[GGML_NAMES[name]]
    return PreTokenizer(
        preset=None if preset.nfc else GGML_NAMES[name],
        stages=_stages(preset.family, preset.digits),
        ggml_pre=name,
        ignore_merges=name in _GGML_IGNORE_MERGES,
    )


def ggml_name(stages: tuple[str, ...], *, ignore_merges: bool) -> str | None:
    """Return llama.cpp's name for patterns read from a `tokenizer.json`, compared as text; None without one."""
    stages = tuple(stage.replace("\r", "\\r").replace("\n", "\\n") for stage in stages)
    for preset in _PRESETS.values():
        if preset.ggml_pre and stages == _stages(preset.family, preset.digits):
            if preset.ignore_merges == ignore_merges:
                return preset.ggml_pre
            return "dbrx" if preset.ignore_merges else None  # Llama 3's pattern without ignore_merges
    return None


def _stages(family: _Family, digits: Digits) -> tuple[str, ...]:
    main, group = _PATTERNS[family], _DIGITS[digits]
    if family == "gpt2" and digits == "runs":
        return main
    if _INLINE not in main[-1]:
        return (group, *main)
    if digits == "right-3":
        # Aligned groups look ahead over the whole number, so they need a separate split, before blanks are
        # matched.
        return (group, *(pattern.replace(f"|{_INLINE}", "") for pattern in main))
    return tuple(pattern.replace(_INLINE, group) for pattern in main)
