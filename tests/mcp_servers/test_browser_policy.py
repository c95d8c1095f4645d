"""Origins as they are written and as browsers read them, and outlines as lines: pure rules, many inputs."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_servers.addresses import is_public
from mcp_servers.browser.outline import Node, outline_lines, page_of_lines
from mcp_servers.browser.policy import (
    AllowedOrigins,
    BadUrl,
    Origin,
    canonical_host,
    parse_origin,
    parse_url,
    reachable,
)

LABEL = st.from_regex(r"\A[a-z][a-z0-9]{0,5}\Z")
HOST = st.one_of(
    st.lists(LABEL, min_size=1, max_size=3).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address.compressed}]"),
)
# What parsers disagree about, between letters that make a URL.
PIECES = st.sampled_from(
    [
        *[
            "http",
            "https",
            "ws",
            "file",
            "javascript",
            "data",
            ":",
            "//",
            "/",
            "\\",
            "@",
            "#",
            "?",
            ".",
            "..",
            ";",
        ],
        *["good.example", "evil.example", "127.0.0.1", "0x7f.1", "127.1", "2130706433", "0177.0.0.1", "[::1]"],
        *["%2e", "%00", "%40", "\t", "\n", "\r", "\0", " ", "\u00a0", "\u3002", "\uff0e", "\u200b", "\u2044"],
        *[":80", ":0", ":99999", ":080", ":", "user:pw@", "localhost", "xn--a", "\u00df", "\u0131", "a", "-", "]"],
    ]
)
JUMBLE = st.builds(
    "".join,
    st.tuples(st.sampled_from(["", "http://", "http://good.example"]), st.lists(PIECES, max_size=6).map("".join)),
)

# From the URL standard and from reports of parsers that were fooled: none may be taken for an allowed origin.
TRICKS = [
    "http://good.example@evil.example/",
    "http://good.example:80@evil.example/",
    "http://good.example\\@evil.example/",
    "http://evil.example\\@good.example/",
    "http://evil.example\\.good.example/",
    "http:\\\\evil.example",
    "http:evil.example",
    "http:/evil.example",
    "http:///evil.example",
    "//evil.example",
    "\thttp://good.example",
    "ht\ntp://good.example",
    "http://good.\texample/",
    "http://good.example/\n",
    " http://good.example",
    "http://good.example /",
    "http://good.example%00.evil.example/",
    "http://good.example%2f@evil.example/",
    "http://%67ood.example/",
    "http://good.example./",
    "http://.good.example/",
    "http://good..example/",
    "http://good\u3002example/",
    "http://\uff47ood.example/",
    "http://g\u00f6od.example/",
    "http://good.example\u200b/",
    "http://good.example:/",
    "http://good.example:0/",
    "http://good.example:65536/",
    "http://good.example:80:80/",
    "http://good.example:-1/",
    "http://good.example:\u0668\u0660/",
    "http://0x7f000001/",
    "http://2130706433/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://127.0.0.1./",
    "http://127.0.0.01/",
    "http://1.2.3.4.5/",
    "http://good.example.0x/",
    "http://[::1/",
    "http://[::1]evil/",
    "http://[::1%25eth0]/",
    "http://[127.0.0.1]/",
    "http://::1/",
    "http://",
    "http://:80/",
    "",
    "good.example",
    "ws://good.example/",
    "ftp://good.example/",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "data:text/html,x",
    "blob:http://good.example/x",
    "about:blank",
    "view-source:http://good.example/",
    "chrome://version",
    "http+unix://good.example/",
    "http://" + "a" * 64 + ".example/",
    "http://" + "a." * 127 + "example/",
    "http://good.example/" + "a" * 5_000,
]


@pytest.mark.parametrize("text", TRICKS)
def test_what_a_browser_would_have_to_repair_is_refused(text: str) -> None:
    with pytest.raises(BadUrl):
        parse_url(text)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://good.example", Origin("http", "good.example", 80)),
        ("HTTPS://Good.Example:443/a?b#c", Origin("https", "good.example", 443)),
        ("https://good.example:8443/a@b:c", Origin("https", "good.example", 8443)),
        ("http://good.example?x=http://evil.example", Origin("http", "good.example", 80)),
        ("http://good.example#@evil.example", Origin("http", "good.example", 80)),
        ("http://127.0.0.1:8000/", Origin("http", "127.0.0.1", 8000)),
        ("http://[0:0::1]:8000/", Origin("http", "::1", 8000)),
        ("http://xn--gd-fka.example/\u00e4", Origin("http", "xn--gd-fka.example", 80)),
        ("http://a_b.example/", Origin("http", "a_b.example", 80)),
    ],
)
def test_origins_are_read_in_one_form(text: str, origin: Origin) -> None:
    assert parse_url(text) == origin


def test_an_origin_has_no_path() -> None:
    assert str(parse_origin("http://good.example:80/")) == "http://good.example"
    assert str(parse_origin("https://[::1]:8443")) == "https://[::1]:8443"
    for text in ("http://good.example/a", "http://good.example?", "http://good.example/#", "http://*.example"):
        with pytest.raises(BadUrl):
            parse_origin(text)


@given(scheme=st.sampled_from(["http", "https"]), host=HOST, port=st.integers(1, 65_535))
def test_an_origin_is_read_back_from_how_it_is_written(scheme: str, host: str, port: int) -> None:
    try:
        origin = parse_origin(f"{scheme}://{host}:{port}")
    except BadUrl:
        assert re.fullmatch(r"(.*\.)?0x?[0-9a-f]*", host)  # a name that browsers read as a number
        return
    assert parse_origin(str(origin)) == origin
    assert origin.port == port and origin.host == canonical_host(host.strip("[]"))


@given(JUMBLE)
@example("http://good.example\\@evil.example")
def test_what_is_taken_says_its_host_plainly(text: str) -> None:
    """Between // and the next / ? or # stand the host and the port, letter for letter, and nothing else."""
    try:
        origin = parse_url(text)
    except BadUrl:
        return
    match = re.match(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]+)?(?=[/?#]|$)", text, re.IGNORECASE)
    assert match is not None
    assert canonical_host(match[1].strip("[]")) == origin.host
    split = urlsplit(text)
    assert split.hostname is not None and canonical_host(split.hostname) == origin.host
    assert (split.port or {"http": 80, "https": 443}[split.scheme]) == origin.port


@given(JUMBLE)
@example("http://good.example]")
def test_a_document_is_shown_only_from_an_allowed_origin_or_from_nowhere(url: str) -> None:
    allowed = AllowedOrigins([Origin("http", "good.example", 80)])
    if allowed.may_show(url):
        assert re.match(r"http://([^/?#@]*@)?good\.example(:0*80)?([/?#]|$)", url) or url.startswith(
            ("about:", "blob:", "data:")
        )


def test_scheme_host_and_port_all_count() -> None:
    allowed = AllowedOrigins(map(parse_origin, ["http://good.example:8000", "https://good.example"]))
    assert allowed.schemes_at("good.example", 8000) == {"http"}
    assert allowed.schemes_at("GOOD.example", 443) == {"https"}
    for host, port in [("good.example", 80), ("good.example.", 443), ("a.good.example", 443), ("example", 443)]:
        assert allowed.schemes_at(host, port) == frozenset()
    for url in ("https://good.example:8000/", "http://good.example/", "http://good.example:443/", "file:///"):
        assert not allowed.may_show(url)
    assert allowed.may_show("http://user:pw@good.example:8000/?q=\\")


ADDRESSES = st.lists(st.ip_addresses(), min_size=1, max_size=4)


@given(addresses=ADDRESSES)
def test_a_name_that_was_public_stays_public(addresses: list[ipaddress.IPv4Address]) -> None:
    assert all(map(is_public, reachable("good.example", addresses, was_public=True)))


@given(addresses=ADDRESSES, was_public=st.booleans())
def test_a_name_leads_to_public_addresses_alone_if_it_has_any(
    addresses: list[ipaddress.IPv4Address], was_public: bool
) -> None:
    usable = reachable("good.example", addresses, was_public=was_public)
    assert set(usable) <= set(addresses)
    assert not any(map(is_public, addresses)) or all(map(is_public, usable))
    assert not any(address.is_link_local for address in usable)


@given(st.ip_addresses())
def test_an_allowed_address_is_itself(address: ipaddress.IPv4Address) -> None:
    assert reachable(str(address), [address], was_public=False) == [address]


def numbered(tree: str, max_line_chars: int = 400) -> tuple[list[str], list[Node]]:
    """Return outline lines with references in the order in which they are given."""
    nodes: list[Node] = []

    def number(node: Node) -> str:
        nodes.append(node)
        return f"e{len(nodes)}"

    return outline_lines(tree, number, max_line_chars), nodes


def test_an_outline_keeps_what_can_be_acted_on_and_drops_what_says_nothing() -> None:
    tree = """\
- generic [active] [ref=e1]:
  - generic [ref=e2]:
    - button "Send" [disabled] [ref=e3]
    - 'link "It''s: here" [ref=f1e4] [cursor=pointer]':
      - /url: /x
  - generic [ref=e5]: text
  - generic [ref=e6] [cursor=pointer]: card
  - textbox "Name" [ref=e7]: "a: b"
"""
    lines, nodes = numbered(tree.rstrip())
    assert lines == [
        '- button "Send" [disabled] [e1]',
        '- link "It\'s: here" [e2]:',
        "  - /url: /x",
        "- generic: text",
        "- generic [e3]: card",
        '- textbox "Name" [e4]: "a: b"',
    ]
    assert [node.page_ref for node in nodes] == ["e3", "f1e4", "e6", "e7"]
    assert nodes[1].what == 'link "It\'s: here"'


@pytest.mark.parametrize(
    "line",
    [
        r'- button "x\" [ref=e9]" [ref=e1]',
        r"""- 'button "x'' [ref=e9]: y" [ref=e1]'""",
        '- button [ref=e1]: "[ref=e9] [e9] [f1e9]"',
        "- button [ref=e1]: a [ref=e9]",
        "- button [ref=e1]: '- link [ref=e9]'",
    ],
)
def test_what_the_page_says_never_looks_like_a_reference(line: str) -> None:
    (shown,), (node,) = numbered(line)
    assert node.page_ref == "e1"
    assert re.findall(r"\[[^\]]*e\d+\]", shown) == ["[e1]"]


@given(
    st.lists(
        st.sampled_from(["button", "generic", '"', "'", "''", "\\", " [ref=e5]", "[e5]", ":", " ", "- ", "\n"])
    )
)
def test_any_text_becomes_lines(pieces: list[str]) -> None:
    lines, nodes = numbered("- " + "".join(pieces))
    given_out = [ref for line in lines for ref in re.findall(r"\[(e\d+)\]", line)]
    assert given_out == [f"e{number}" for number in range(1, len(nodes) + 1)]


def test_hidden_characters_are_taken_out() -> None:
    (line,), _ = numbered('- button "pay\u202e\u200b\U000e0041" [ref=e1]: x\u0007')
    assert line == '- button "pay" [e1]: x'


@given(st.lists(st.text(alphabet="ab\u00e9", max_size=30), max_size=20), st.integers(8, 60))
def test_pages_of_an_outline_hold_every_line_once(lines: list[str], max_bytes: int) -> None:
    seen: list[str] = []
    while len(seen) < len(lines):
        page = page_of_lines(lines, len(seen) + 1, max_bytes)
        assert page and (len(page) == 1 or sum(len(line.encode()) + 1 for line in page) <= max_bytes)
        seen += page
    assert seen == lines


@given(st.text(alphabet="abc ", min_size=1, max_size=200))
def test_a_long_line_goes_on_in_the_next(text: str) -> None:
    lines, _ = numbered(f"- text: {text.strip()}x", max_line_chars=20)
    assert "".join(line[2:] for line in lines) == f"text: {text.strip()}x"
    assert all(len(line) <= 22 for line in lines)
