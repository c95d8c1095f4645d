"""Detection of pages whose structure would occupy an HTML parser for minutes, in time linear in the page.

The time of parser and extractor is quadratic in the depth of elements and in the attributes of a tag: 100 kB of
`<div>` take 8 s in resiliparse 2.0, 1 MB about 15 minutes. Browsers limit nesting to 512 (Blink's
kMaximumHTMLParserDOMTreeDepth), so genuine pages have less. Tags are recognised as by the HTML standard's
tokenizer (section 13.2.5), except scripts within comments within scripts.
"""

from __future__ import annotations

import re

MAX_DEPTH = 512
MAX_ATTRIBUTES = 5000
"""Maximum attributes of a tag; parsing this many takes 50 ms."""
LARGE_CHARACTERS = 1 << 16
"""Length of a page below which attributes cannot be a problem, in characters."""

_ATTRIBUTE = r"""
    (?: [ \t\n\f\r/]++
    | (?: =[^ \t\n\f\r/>=]*+ | [^ \t\n\f\r/>=]++ )
      (?: [ \t\n\f\r]*+ = [ \t\n\f\r]*+
          (?: "[^"]*+(?:"|\Z) | '[^']*+(?:'|\Z) | [^ \t\n\f\r>"'][^ \t\n\f\r>]*+ )?+ )?+
    )"""
_MARKUP = re.compile(
    rf"""
      <!-- (?: -?> | .*? (?: --!?> | \Z ) )
    | <[!?][^>]*+
    | <(?P<raw>script|style|textarea|title|xmp|iframe|noembed|noframes)(?=[ \t\n\f\r/>])
      (?P<raw_attributes> {_ATTRIBUTE}*+ ) >? .*? (?: </(?P=raw)(?=[ \t\n\f\r/>]) | \Z )
    | <(?P<close>/?)(?P<name>[a-z][^ \t\n\f\r/>]*+) (?P<attributes> {_ATTRIBUTE}*+ )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_ONE_ATTRIBUTE = re.compile(_ATTRIBUTE, re.VERBOSE)
# These elements have no content, or end where the next one of their kind begins.
_FLAT = frozenset((
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr", "p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "optgroup",
    "colgroup", "rb", "rt", "rp", "html", "head", "body",
))  # fmt: skip
# In SVG and MathML `/>` closes an element. These elements return to HTML, where it does not (section 13.2.6.5).
_BACK_TO_HTML = frozenset((
    "b", "big", "blockquote", "body", "br", "center", "code", "dd", "desc", "div", "dl", "dt", "em", "embed",
    "font", "foreignobject", "h1", "h2", "h3", "h4", "h5", "h6", "head", "hr", "i", "img", "li", "menu",
    "meta", "nobr", "ol", "p", "pre", "ruby", "s", "small", "span", "strong", "strike", "sub", "sup", "table",
    "title", "tt", "u", "ul", "var",
))  # fmt: skip


def trap_in(html: str) -> str | None:
    """Return a description of the structure that would take the parser too long, or None."""
    n_opened = html.count("<") - html.count("</")
    if n_opened <= MAX_DEPTH and len(html) < LARGE_CHARACTERS:
        return None
    depth, is_foreign = 0, False
    for raw, raw_attributes, close, name, attributes in _MARKUP.findall(html):
        name, attributes = (raw or name).lower(), raw_attributes or attributes
        if len(attributes) > MAX_ATTRIBUTES and len(_ONE_ATTRIBUTE.findall(attributes)) > 2 * MAX_ATTRIBUTES:
            return f"a tag {name[:20]!r} of {len(attributes):,} characters of attributes"
        if name in ("svg", "math"):
            is_foreign = not close
        elif name in _BACK_TO_HTML:
            is_foreign = False
        if not name or raw or name in _FLAT or (is_foreign and attributes.endswith("/")):
            continue
        depth = max(depth - 1, 0) if close else depth + 1
        if depth > MAX_DEPTH:
            return f"elements more than {MAX_DEPTH} deep"
    return None
