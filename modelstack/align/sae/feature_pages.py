"""Pages of features for a browser: an index and a page for every fifty, without scripts and without other files.

Text comes from anywhere, so all of it is escaped, and characters that would be invisible or would reorder a line
are shown by their number. The pages forbid scripts and requests themselves.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from modelstack.align.sae.features_of_text import HIGHEST, Example, Feature, FeatureReport
from modelstack.files import replacing_folder

INDEX = "index.html"
PER_PAGE = 50
LEVELS = 9
"""Shades of an activation, from a ninth of the feature's highest value."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .7rem .2rem 0; text-align: left;
vertical-align: top } th { border-bottom: 1px solid #999 }
.n { text-align: right; font-variant-numeric: tabular-nums }
.text { font-family: ui-monospace, monospace; font-size: 13px; white-space: pre-wrap; margin: .3rem 0 }
h2 { border-top: 1px solid #ccc; padding-top: 1rem } h3 { font-size: 1rem; margin: .8rem 0 0 }
nav a { margin-right: 1rem }
svg text { font-size: 11px } rect { fill: #c2571a }
"""


def write_pages(report: FeatureReport, path: Path) -> Path:
    """Write the pages as a folder, in place of an older one; return the index.

    Raises:
        OSError: The folder cannot be written.
    """
    pages = [report.features[at : at + PER_PAGE] for at in range(0, len(report.features), PER_PAGE)]
    names = [f"features-{number:04}.html" for number in range(1, len(pages) + 1)]
    with replacing_folder(path) as temporary:
        (temporary / INDEX).write_text(_index(report, list(zip(names, pages, strict=True))), encoding="utf-8")
        for number, (name, features) in enumerate(zip(names, pages, strict=True)):
            nearby = [names[at] if 0 <= at < len(names) else None for at in (number - 1, number + 1)]
            (temporary / name).write_text(_page(report, features, nearby), encoding="utf-8")
    return path / INDEX


def shown(text: str) -> str:
    """Return text for a page: escaped, with marks for line ends and numbers for characters that show nothing."""
    return html.escape("".join(map(_visible, text)))


def _visible(character: str) -> str:
    if character in "\n\t":
        return "⏎" if character == "\n" else "→"
    if unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"):
        return f"\\u{ord(character):04x}"
    return character


def _document(title: str, body: str) -> str:
    shades = "".join(
        f".a{level} {{ background: rgba(226, 111, 33, {level / LEVELS:.2f}) }}\n" for level in range(1, LEVELS + 1)
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{shown(title)}</title>\n<style>{_STYLE}{shades}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _title(report: FeatureReport) -> str:
    hook = report.origin.hook
    return f"Features of {report.origin.model}, {hook.point} of layer {hook.layer}"


def _index(report: FeatureReport, pages: Sequence[tuple[str, Sequence[Feature]]]) -> str:
    rows = "\n".join(_row(feature, name) for name, features in pages for feature in features)
    figures = "".join(
        f'<tr><td>{shown(name.replace("_", " "))}</td><td class="n">{value:.4f}</td></tr>'
        for name, value in report.origin.figures.items()
    )
    body = f"""<h1>{shown(_title(report))}</h1>
<p>{report.n_alive:,} of {report.n_latents:,} latents fire in {report.n_tokens:,} tokens;
{len(report.features):,} are shown.</p>
<table><tr><th>figure, held-out text</th><th></th></tr>{figures}</table>
<h2>Density</h2>
<p>Latents by the share of the tokens at which they fire.</p>
{_histogram(report.densities)}
<h2>Features</h2>
<table><tr><th>feature</th><th>density</th><th>highest</th><th>promotes</th><th>highest activation</th></tr>
{rows}
</table>"""
    return _document(_title(report), body)


def _row(feature: Feature, page: str) -> str:
    promoted = ", ".join(shown(repr(token)) for token, _ in feature.promoted[:4])
    highest = dict(feature.examples)[HIGHEST]
    example = _marked(highest[0], feature.highest, around=6) if highest else ""
    return (
        f'<tr><td class="n"><a href="{page}#f{feature.number}">{feature.number}</a></td>'
        f'<td class="n">{feature.density:.2%}</td><td class="n">{feature.highest:.2f}</td>'
        f'<td>{promoted}</td><td class="text">{example}</td></tr>'
    )


def _page(report: FeatureReport, features: Sequence[Feature], nearby: Sequence[str | None]) -> str:
    links = [(INDEX, "index"), *((name, word) for name, word in zip(nearby, ("before", "after"), strict=True))]
    navigation = "".join(f'<a href="{name}">{word}</a>' for name, word in links if name is not None)
    sections = "\n".join(_section(feature) for feature in features)
    return _document(_title(report), f"<nav>{navigation}</nav>\n<h1>{shown(_title(report))}</h1>\n{sections}")


def _section(feature: Feature) -> str:
    parts = [f'<h2 id="f{feature.number}">Feature {feature.number}</h2>']
    parts.append(f"<p>Fires at {feature.density:.3%} of the tokens; highest value {feature.highest:.2f}.</p>")
    parts.append(_tokens("promotes", feature.promoted) + _tokens("suppresses", feature.suppressed))
    for name, examples in feature.examples:
        if examples:
            parts.append(f"<h3>{shown(name)}</h3>")
            parts += [f'<div class="text">{_marked(each, feature.highest)}</div>' for each in examples]
    return "\n".join(parts)


def _tokens(word: str, tokens: Sequence[tuple[str, float]]) -> str:
    listed = ", ".join(f"{shown(repr(token))} {value:+.1f}" for token, value in tokens)
    return f'<div class="text">{word}: {listed}</div>'


def _marked(example: Example, highest: float, around: int | None = None) -> str:
    """Return the tokens of an example, shaded by their values; `around` keeps those near the highest one."""
    peak = max(range(len(example.values)), key=example.values.__getitem__)
    first, end = (0, None) if around is None else (max(0, peak - around), peak + around + 1)
    parts: list[str] = []
    for token, value in zip(example.tokens[first:end], example.values[first:end], strict=True):
        text = shown(token)
        level = min(LEVELS, max(1, round(LEVELS * value / highest))) if value > 0 else 0
        parts.append(f'<span class="a{level}" title="{value:.2f}">{text}</span>' if level else text)
    return "".join(parts)


def _histogram(densities: Sequence[tuple[float, int]]) -> str:
    """Return the histogram as SVG."""
    width, height = 24, 120
    most = max((count for _, count in densities), default=0) or 1
    bars: list[str] = []
    for number, (edge, count) in enumerate(densities):
        size = round(height * count / most)
        x = number * width
        bars.append(f'<rect x="{x + 1}" y="{height - size}" width="{width - 2}" height="{size}">')
        bars.append(f"<title>1e{edge:.1f}: {count}</title></rect>")
        if number % 4 == 0:
            bars.append(f'<text x="{x}" y="{height + 14}">1e{edge:.1f}</text>')
    total = width * len(densities)
    return f'<svg viewBox="0 0 {total} {height + 20}" width="{total}" role="img">{"".join(bars)}</svg>'
