"""Tables of the English word splitter: affix characters, and words with a fixed split.

They follow the conventions of spaCy 3's English tokenizer (https://spacy.io/usage/linguistic-features, "How
tokenizer rules work"), because FineWeb's rules count words with it. Code points are given as hexadecimal ranges.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from itertools import product


def characters(ranges: str) -> frozenset[str]:
    """Return the characters in ranges of code points such as `"41-5A 61"`."""
    members: set[str] = set()
    for part in ranges.split():
        first, _, last = part.partition("-")
        members.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return frozenset(members)


PUNCTUATION = frozenset("…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪")
QUOTES = frozenset("'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉\u2329\u232a⟦⟧")
CURRENCIES = frozenset("$£€¥฿﷼") | characters("20A0-20BF")
LETTER_CURRENCIES = ("US$", "C$", "A$")
SYMBOLS = characters(
    "A6 A9 AE B0 482 58D-58E 60E-60F 6DE 6E9 6FD-6FE 7F6 9FA B70 BF3-BF8 BFA C7F D4F D79 F01-F03 F13 F15-F17 "
    "F1A-F1F F34 F36 F38 FBE-FC5 FC7-FCC FCE-FCF FD5-FD8 109E-109F 1390-1399 1940 19DE-19FF 1B61-1B6A 1B74-1B7C "
    "2100-2101 2103-2106 2108-2109 2114 2116-2117 211E-2123 2125 2127 2129 212E 213A-213B 214A 214C-214D 214F "
    "218A-218B 2195-2199 219C-219F 21A1-21A2 21A4-21A5 21A7-21AD 21AF-21CD 21D0-21D1 21D3 21D5-21F3 2300-2307 "
    "230C-231F 2322-2328 232B-237B 237D-239A 23B4-23DB 23E2-2426 2440-244A 249C-24E9 2500-25B6 25B8-25C0 "
    "25C2-25F7 2600-266E 2670-2767 2794-27BF 2800-28FF 2B00-2B2F 2B45-2B46 2B4D-2B73 2B76-2B95 2B98-2BC8 "
    "2BCA-2BFE 2CE5-2CEA 2E80-2E99 2E9B-2EF3 2F00-2FD5 2FF0-2FFB 3004 3012-3013 3020 3036-3037 303E-303F "
    "3190-3191 3196-319F 31C0-31E3 3200-321E 322A-3247 3250 3260-327F 328A-32B0 32C0-32FE 3300-33FF 4DC0-4DFF "
    "A490-A4C6 A828-A82B A836-A837 A839 AA77-AA79 FDFD FFE4 FFE8 FFED-FFEE FFFC-FFFD 10137-1013F 10179-10189 "
    "1018C-1018E 10190-1019B 101A0 101D0-101FC 10877-10878 10AC8 1173F 16B3C-16B3F 16B45 1BC9C 1D000-1D0F5 "
    "1D100-1D126 1D129-1D164 1D16A-1D16C 1D183-1D184 1D18C-1D1A9 1D1AE-1D1E8 1D200-1D241 1D245 1D300-1D356 "
    "1D800-1D9FF 1DA37-1DA3A 1DA6D-1DA74 1DA76-1DA83 1DA85-1DA86 1ECAC 1F000-1F02B 1F030-1F093 1F0A0-1F0AE "
    "1F0B1-1F0BF 1F0C1-1F0CF 1F0D1-1F0F5 1F110-1F16B 1F170-1F1AC 1F1E6-1F202 1F210-1F23B 1F240-1F248 "
    "1F250-1F251 1F260-1F265 1F300-1F3FA 1F400-1F6D4 1F6E0-1F6EC 1F6F0-1F6F9 1F700-1F773 1F780-1F7D8 "
    "1F800-1F80B 1F810-1F847 1F850-1F859 1F860-1F887 1F890-1F8AD 1F900-1F90B 1F910-1F93E 1F940-1F970 "
    "1F973-1F976 1F97A 1F97C-1F9A2 1F9B0-1F9B9 1F9C0-1F9C2 1F9D0-1F9FF 1FA60-1FA6D "
)
"""Dingbats, boxes, arrows, emoji: Unicode 11's category So, without some arrows that stand for words."""

PREFIXES = frozenset("§%=—–") | PUNCTUATION | QUOTES | CURRENCIES | SYMBOLS
"""Characters that are split off the beginning of a word."""
SUFFIXES = frozenset("—–") | PUNCTUATION | QUOTES | SYMBOLS
"""Characters that are split off the end of a word."""

_UNITS = """
    km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph
    hPa Pa mbar mb MB kb KB gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг
    м/с км/ч кПа Па мбар Кб КБ кб Мб МБ мб Гб ГБ гб Тб ТБ тбكم كم² كم³ م م² م³ سم سم² سم³ مم مم² مم³ كم غرام
    جرام جم كغ ملغ كوب اكواب
"""
"""Units of measure. "тбكم" is two units joined by mistake in spaCy; kept so that the words stay the same."""
UNITS = frozenset(_UNITS.split())
"""Units that are split off a number."""
LONGEST_UNIT = max(map(len, UNITS))
UNIT_ENDS = frozenset(unit[-1] for unit in UNITS)

_CASED = characters(
    "41-5A 61-7A C0-D6 D8-F6 F8-1BF 1C4-2AF 386 388-38A 38C 38E-38F 391-3A9 3AC-3AF 3B1-3C9 3CC-3CE 400-401 "
    "403-40A 40C-40D 410-451 453-45A 45C-45D 490-491 496-497 4A2-4A3 4AE-4AF 4BA-4BB 4D8-4D9 4E8-4E9 1D00-1D25 "
    "1D6B-1D77 1D79-1D9A 1E00-1EFF 2C60-2C7B 2C7E-2C7F A722-A76F A771-A787 A78B-A78E A790-A7B9 A7FA AB30-AB5A "
    "AB60-AB64 FF21-FF3A FF41-FF5A"
)
_UNCASED = characters(
    "591-5F4 620-64A 66E-6D5 6E5-6FF 750-77F 8A0-8BD 900-9FF B80-CFF D80-DFF 1100-137F 2E80-2FDF 2FF0-30FF "
    "31C0-31EF 3200-4DBF 4E00-9FFF AC00-D7AF F900-FAFF FB1D-FBB1 FBD3-FD3D FD50-FDC7 FDF0-FDFB FE30-FE4F "
    "FE70-FEFC 1EE00-1EEBB 1F200-1F2FF 20000-2A6DF 2A700-2EBEF 2F800-2FA1F"
)
LETTERS = _CASED | _UNCASED
LOWER = _UNCASED | {"\u0294"} | {c for c in _CASED if unicodedata.category(c) == "Ll"}
UPPER = _UNCASED | {"\u03a2"} | {c for c in _CASED if unicodedata.category(c) == "Lu"}
BEFORE_FULL_STOP = frozenset("0123456789%²-+|") | LOWER | PUNCTUATION | QUOTES
"""Characters after which a full stop ends a sentence; after a single capital it belongs to an abbreviation."""

SENTENCE_ENDS = characters(
    "21 2E 3F 589 61F 6D4 700-702 7F9 964-965 104A-104B 1362 1367-1368 166E 1735-1736 1803 1809 1944-1945 "
    "1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E 2E3C 3002 A4FF A60E-A60F A6F3 "
    "A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F FF61 "
    "10A56-10A57 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C "
    "112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11A42-11A43 11A9B-11A9C 11C41-11C42 "
    "16A6E-16A6F 16AF5 16B37-16B38 16B44 1BC9F 1DA88"
)
"""Words that end a sentence: Unicode 11's property Sentence_Terminal."""


def words_with_pieces() -> dict[str, tuple[str, ...]]:
    """Return the words with a fixed split into pieces: contractions, abbreviations, emoticons, times."""
    table = {
        word: tuple(pieces.split()) for word, pieces in _contractions() if word not in _WORDS_OF_THEIR_OWN.split()
    }
    table |= {word: (word,) for word in (_EMOTICONS + _SHORTENED + _WITH_APOSTROPHES).split()}
    typeset = {word.replace("'", "’"): tuple(piece.replace("'", "’") for piece in table[word]) for word in table}
    return typeset | table


def _contractions() -> Iterator[tuple[str, str]]:
    """Yield words with their pieces, separated by blanks.

    Most also occur without apostrophe: "dont" is "do nt".
    """
    pronouns, questions = "i you he she it we they", "who what when where why how there"
    stems_and_tails = (
        (f"{pronouns} {questions} that this these those", ("'ll", "'ll 've", "'d", "'d 've")),
        ("i", ("'m", "'m a")),
        (f"i you we they {questions} these those could might must should would", ("'ve",)),
        (f"you we they {questions} these those", ("'re",)),
        (f"he she it {questions} that this", ("'s",)),
        ("ca could do does did had may might must need ought sha should wo would", ("n't", "n't 've")),
        ("ai are is was were have has dare", ("n't",)),
        ("not", ("'ve",)),
    )
    for stems, tails in stems_and_tails:
        for stem, tail in product(stems.split(), tails):
            for pieces in (f"{stem} {tail}", f"{stem.title()} {tail}"):
                yield pieces.replace(" ", ""), pieces
                without = pieces.replace("'", "")
                yield without.replace(" ", ""), without
    for pieces in ("how 'd 'y", "can not", "gon na", "got ta", "let 's", "c'm on"):
        yield pieces.replace(" ", ""), pieces
        yield pieces.replace(" ", "").capitalize(), pieces.capitalize()
    for pieces in ("y' all", "y all"):
        yield pieces.replace(" ", ""), pieces
    for hour, half in product(range(1, 13), ("am", "a.m.", "pm", "p.m.")):
        yield f"{hour}{half}", f"{hour} {half}"
    for scale in "cfkCFK":
        yield f"°{scale}.", f"° {scale} ."


_WORDS_OF_THEIR_OWN = "ill its hell shell shed were well whore Ill Its Hell Shell Shed Were Well Whore"
"""Words excluded because a contraction without its apostrophe looks the same."""

_EMOTICONS = r"""
    (*_*) (-8 (-: (-; (-_-) (._.) (: (; (= (>_<) (^_^) (o: (¬_¬) (ಠ_ಠ) (╯°□°）╯︵┻━┻ )-: ): -_- -__- ._. 0.0 0.o
    0_0 0_o 8) 8-) 8-D 8D :'( :') :'-( :'-) :( :(( :((( :() :) :)) :))) :* :-( :-(( :-((( :-) :-)) :-))) :-* :-/
    :-0 :-3 :-> :-D :-O :-P :-X :-] :-o :-p :-x :-| :-} :/ :0 :1 :3 :> :D :O :P :X :] :o :o) :p :x :| :} ;) ;-)
    ;-D ;D ;_; <.< </3 <3 <33 <333 =( =) =/ =3 =D =[ =] =| >.< >.> >:( >:o ><(((*> @_@ O.O O.o O_O O_o V.V V_V
    XD XDD [-: [: [= ]= ^_^ ^__^ ^___^ o.0 o.O o.o o_0 o_O o_o v.v v_v xD xDD ¯\(ツ)/¯ ಠ_ಠ ಠ︵ಠ
"""
_SHORTENED = r"""
    Adm. Ak. Ala. Apr. Ariz. Ark. Aug. Bros. Calif. Co. Colo. Conn. Corp. D.C. Dec. Del. Dr. E.G. E.g. Feb. Fla.
    Ga. Gen. Gov. I.E. I.e. Ia. Id. Ill. Inc. Ind. Jan. Jr. Jul. Jun. Kan. Kans. Ky. La. Ltd. Mar. Mass. Md.
    Messrs. Mich. Minn. Miss. Mo. Mont. Mr. Mrs. Ms. Mt. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct.
    Okla. Ore. Pa. Ph.D. Prof. Rep. Rev. S.C. Sen. Sep. Sept. St. Tenn. Va. Wash. Wis. a.m. co. e.g. i.e. p.m.
    v.s. vs. a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z. ä. ö. ü.
"""
"""Titles, months, places and other abbreviations with a full stop."""
_WITH_APOSTROPHES = r"""
    ' '' 'Cause 'Cos 'Coz 'Cuz 'S 'bout 'cause 'cos 'coz 'cuz 'd 'em 'll 'nuff 're 's ‘S ‘s em ll nuff Ma'am
    ma'am O'clock o'clock Doin Doin' Goin Goin' Havin Havin' Lovin Lovin' Nothin Nothin' Nuthin Nuthin' Ol Ol'
    Somethin Somethin' doin doin' goin goin' havin havin' lovin lovin' nothin nothin' nuthin nuthin' ol ol'
    somethin somethin' and/or w/o C++ <space> — \") \n \t
"""
"""Words with an apostrophe, or written without one; some marks."""
