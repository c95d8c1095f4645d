"""Sources by allow-list: which documents stay, and the reason of each that does not."""

from __future__ import annotations

import pytest

from modelstack.data.allowed_sources import AllowedSources
from modelstack.data.documents import Document
from modelstack.errors import UserError

RULES = AllowedSources(
    licenses={"tales": ("MIT", "CC-BY (text:*"), "poems": ("CC0-1.0",)},
    left_out_sources={"manual": "asks for its whole agreement"},
    left_out_urls={"a-a-milne": "protected outside the United States"},
)


@pytest.mark.parametrize(
    ("source", "license", "url", "reason"),
    [
        ("tales", "MIT", "u", None),
        ("tales", "CC-BY (text: Ann; pictures: Bob)", "u", None),
        ("tales", "CC0-1.0", "u", "license_not_allowed"),  # of another source
        ("tales", "MIT (not for sale)", "u", "license_not_allowed"),
        ("tales", "mit", "u", "license_not_allowed"),
        ("poems", "", "u", "license_not_allowed"),
        ("songs", "MIT", "u", "source_not_listed"),
        ("", "MIT", "u", "source_not_listed"),
        ("manual", "MIT", "u", "left_out_manual"),
        ("tales", "MIT", "github:books/a-a-milne_pooh#3", "left_out_a-a-milne"),
        ("tales", "MIT", "github:books/A-A-Milne_pooh#3", None),
    ],
)
def test_a_document_stays_only_under_a_licence_of_its_source(
    source: str, license: str, url: str, reason: str | None
) -> None:
    assert RULES.build()(Document("id", "text", source=source, license=license, url=url)) == reason


def test_why_something_is_left_out_goes_with_it() -> None:
    document = Document("id", "text", source="manual", license="MIT")
    RULES.build()(document)
    assert document.metadata == {"left_out": "asks for its whole agreement"}


def test_lists_that_contradict_each_other_are_refused() -> None:
    both = AllowedSources(licenses={"tales": ("MIT",)}, left_out_sources={"tales": "dull"})
    with pytest.raises(UserError, match="'tales' is in both `licenses` and `left_out_sources`"):
        both.build()
    with pytest.raises(UserError, match="matches every URL"):
        AllowedSources(licenses={"tales": ("MIT",)}, left_out_urls={"": "all"}).build()
