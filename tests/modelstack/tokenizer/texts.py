"""Texts in many scripts, code, and random strings that look for the seams of patterns; written for the tests."""

from __future__ import annotations

import random

LINES = (
    "The quick brown fox doesn't jump over 1,234,567 lazy dogs; it's 12:30pm on 25/11/2026.",
    "Bonjour, où est la bibliothèque ? L'été, c'est l'heure d'aller à la plage.",
    "Grüße aus Köln! Straße, Übermut, ÄRGER, Fußgängerübergänge im Jahr 2024.",
    "Привет, мир! Как дела сегодня? ЭТО ТЕСТ. В 1999 году.",
    "你好，世界。今天天气很好，我们去公园散步吧。2023年有365天。",
    "こんにちは世界。カタカナとひらがなと漢字。東京タワーは333メートルです。",
    "안녕하세요 세계. 오늘은 날씨가 좋네요. 123개의 사과.",
    "नमस्ते दुनिया। आज मौसम बहुत अच्छा है। १२३ किताबें।",
    "สวัสดีชาวโลก วันนี้อากาศดีมาก ๑๒๓ เล่ม",
    "مرحبا بالعالم. كيف حالك اليوم؟ ١٢٣ كتابا. السَّلامُ عَلَيْكُم",
    "שלום עולם. מה שלומך היום? בְּרֵאשִׁית בָּרָא",
    "Ελληνικά: Καλημέρα κόσμε, ΤΙ ΚΑΝΕΙΣ; Το 50% των ανθρώπων.",
    "Tiếng Việt: Xin chào thế giới, hôm nay trời đẹp quá.",
    "Türkçe: İstanbul'da IŞIK ve ışık, çok güzel.",
    "def foo_bar(x: int) -> dict[str, Any]:  # comment\n    return {'key': [x**2 for _ in range(10)]}\n\n",
    '\tif (a && b || !c) { return a?.b ?? "x\\n"; } // TODO: fix\r\n\r\n',
    '<html><body class="main">&nbsp;text</body></html>',
    "🦊👩‍👩‍👧 emoji ✓ € £ ¥ ½ ² ³ ™ … — “quoted” ‘single’ «guillemets»",
    "SELECT * FROM users WHERE id IN (1, 22, 333, 4444) AND name LIKE '%O''Brien%';",
    "camelCase XMLHttpRequest snake_case SCREAMING I'LL they'VE o'clock 'tis",
)
"""One line or two a script, and code."""

CHARACTERS = (
    "".join(map(chr, [*range(9, 14), *range(32, 127)])) * 3
    + "éÉßıİЖжάΆ中国日本語かなカナ한국ไทยกำलखि़अشلامעבר½²٣４Ⅷ…—“”’‘«»€$🦊👩\u200d👧"
    + "\u200b\ufeff\u00a0\u3000\u2028\u0085\u0301\u0308ǅʰªº①々〇ㄅ｡ＡａǄ𝐀𐐀٠"
)
FRAGMENTS = (
    "'s", "'S", "'LL", "'re ", " 's", "   ", "\n\n", "\r\n", " \n ", "\t\t", "12345", "1 234", "0.5", "1234567 ",
    "a1", "Hello", " World", "camelCase", "XMLHttp", "/", "//", "\n/", "foo_bar", "<|im_start|>",
)  # fmt: skip


def fuzz(n: int, seed: int = 0) -> list[str]:
    """Return `n` random strings of blanks, contractions, numbers, signs and letters of all cases and scripts."""
    rng = random.Random(seed)

    def piece() -> str:
        return rng.choice(CHARACTERS) if rng.random() < 0.6 else rng.choice(FRAGMENTS)

    return ["".join(piece() for _ in range(rng.randint(1, 14))) for _ in range(n)]
