"""Record what datatrove 0.10.1 answers, for tests that run without it: texts, their words, their signatures.

python -m venv ENV && ENV/bin/pip install 'datatrove[processing]==0.10.1' spacy 'xxhash<4'
ENV/bin/python tests/modelstack/data/dedup/record_datatrove_signatures.py
"""

# pyright: reportMissingImports=false
# datatrove lives in an environment of its own.
import json
from pathlib import Path

from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import simplify_text

OUT = Path(__file__).with_name("datatrove-0.10.1-signatures.json")

TEXTS = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps beside the river until noon.",
    "Prices rose by 3.5% to 1,234.56 dollars on Monday; the year before it was 1|2|3 and 4.5.6 of 7٫8.",
    "Crème brûlée, naïve façade, Ångström… Zoë’s “quoted” words – and a dash—here; ΑΒΓ ὁμοῦ.\n\nÀ bientôt!",
    "今日は、良い天気です。明日も晴れるでしょう！ 東京（とうきょう）１２３ 円 : 値段は ４５％ です 。",
    "हिन्दी में कुछ शब्द यहाँ लिखे गए हैं और १२३ अंक भी हैं। यह एक परीक्षा है।",
    "Don't say it cannot work: they'll, we've, I'm, it's 10km from here, e.g. Mr. Smith's U.S. office\tat 5pm.",
    "line one\nline two\r\nline three\x0b\x0cform feed\x1f unit \x85 next \xa0 no-break \u2003 em \u3000 wide end",
    "four words only here",
    "",
    "   \n\t ",
    "a b c d e",
    "Hello 👋🏽 world ❤️ of emoji 🇩🇪 flags and ZWJ 👨‍👩‍👧 families, all in one line of text.",
    "x" * 300 + " " + "y" * 5 + " repeat repeat repeat repeat repeat repeat repeat " * 9,
    " ".join(f"word{i % 97} and value {i * 7919 % 1013}.{i % 10}" for i in range(80)),
)


def main() -> None:
    """Write the file."""
    step = MinhashDedupSignature(
        "/tmp/unused", MinhashConfig(hash_config=HashConfig(precision=64, hash_fc="sha1"))
    )
    documents = []
    for text in TEXTS:
        simplified = simplify_text(text)
        shingles = step.get_shingles(text)
        documents.append(
            {
                "text": text,
                "simplified": simplified,
                "words": step.word_tokenizer.word_tokenize(simplified),
                "signature": sum(step.get_signature(shingles), []) if len(shingles) else None,
            }
        )
    spaces = [point for point in range(0xD800) if simplify_text(f"a{chr(point)}b") == "a b"]
    lines = ",\n".join(map(json.dumps, documents))
    OUT.write_text(f'{{"spaces": {json.dumps(spaces)},\n"documents": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
