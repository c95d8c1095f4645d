"""Pages that would hold a parser for minutes are told apart from long ones."""

from __future__ import annotations

import pytest

from modelstack.data.reading.html_shape import trap_in
from modelstack.data.reading.rights import note_rights_of_fields, note_rights_of_page

N = 40_000


@pytest.mark.parametrize(
    "page",
    [
        "<div>" * N,
        "<div/>" * N,
        "<svg><div/>" + "<path/>" * N,
        "<i><div>" * N + "</i>" * N,
        "<ul><li>" * N,
        "<custom-a>" * N,
        "<div " + " ".join(f"a{i}=1" for i in range(N)) + ">",
        "<div " + " ".join(f"a{i}='>'" for i in range(N)) + ">",
        "<div " + "".join(f"a{i}/" for i in range(N)) + ">",
        "<script " + " ".join(f"a{i}" for i in range(N)) + ">",
        "<!--><div " + " ".join(f"a{i}" for i in range(N)) + ">",
        '<div a=="> <div ' + " ".join(f"a{i}" for i in range(N)) + ">",
    ],
    ids=range(12),
)
def test_deep_elements_and_countless_attributes_are_traps(page: str) -> None:
    assert trap_in(page)


@pytest.mark.parametrize(
    "page",
    [
        "<div><p>a<br><b>b</b></div>" * N,
        "<ul>" + "<li>a<p>b" * N,
        "<table>" + "<tr><td>a<td>b" * N,
        "<svg>" + '<path d="M0 0"/>' * N + "</svg>",
        "<script>" + "if (a<b) { x = '<div>' } " * N + "</script>",
        "<!--" + "<div>" * N + "-->",
        '<img src="data:image/png;base64,' + "iVBOR/w0K" * N + '">',
        "a < b " * N,
    ],
    ids=range(8),
)
def test_long_pages_are_not(page: str) -> None:
    assert trap_in(page) is None


def test_rights_are_found_in_time_linear_in_what_claims_them() -> None:
    hostile = [
        '<meta a="' * N,
        "<meta " + "a = " * N,
        "<meta name" + " " * N,
        '<link rel="license" href="' * N,
        "<a " * N,
        "<meta name=robots content=a,b>" * N,
    ]
    for page in hostile:
        metadata = {}
        note_rights_of_page(metadata, page)
        assert len(metadata.get("robots", ())) <= 32
    metadata = {}
    note_rights_of_fields(
        metadata,
        {"link": "<a>; rel=" * N + "license " * N, "x-robots-tag": ",".join(f"a{i}" for i in range(N))},
    )
    assert len(metadata["robots"]) == 32
