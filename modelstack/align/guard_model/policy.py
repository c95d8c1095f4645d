"""Safety policies: categories of unsafe content that a guard model reads in its prompt.

The default is the MLCommons taxonomy of AILuminate, numbered S1 to S14 as in Llama Guard 3. A category that a
policy leaves out is allowed. A category may be added with a code and a description of its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from modelstack.errors import UserError

CODE = re.compile(r"[A-Z][0-9]{1,2}")
"""Form of a category's code."""
MAX_CHARACTERS = 300
"""Maximum length of a category's description; the policy is part of every prompt."""


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of unsafe content."""

    code: str
    description: str

    def __post_init__(self) -> None:
        """Check the form.

        Raises:
            UserError: The code has another form, or the description is empty, too long or has several lines.
        """
        if not CODE.fullmatch(self.code):
            raise UserError(f"category code {self.code!r} must be a capital letter and a number, for example S15")
        is_line = self.description.strip() and "\n" not in self.description and "<" not in self.description
        if not is_line or len(self.description) > MAX_CHARACTERS:
            raise UserError(
                f"the description of category {self.code} must be one line of at most {MAX_CHARACTERS} characters "
                f"without '<', not {self.description[:60]!r}"
            )


@dataclass(frozen=True, slots=True)
class Policy:
    """Categories of unsafe content, in the order of the prompt."""

    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        """Check the categories.

        Raises:
            UserError: There are none, or two have the same code.
        """
        codes = self.codes
        if not codes:
            raise UserError("a policy without categories flags nothing; leave at least one category in it")
        if twice := sorted({code for code in codes if codes.count(code) > 1}):
            raise UserError(f"category {twice[0]} is in the policy twice; codes must be unique")

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the categories, in order."""
        return tuple(category.code for category in self.categories)

    def without(self, *codes: str) -> Policy:
        """Return the policy without some categories: their content is allowed.

        Raises:
            UserError: A code is not in the policy, or no category is left.
        """
        if unknown := [code for code in codes if code not in self.codes]:
            raise UserError(f"category {unknown[0]!r} is not in the policy; it has {', '.join(self.codes)}")
        return self.of([code for code in self.codes if code not in codes])

    def extended(self, code: str, description: str) -> Policy:
        """Return the policy with one more category.

        Raises:
            UserError: The code or the description has a wrong form, or the code is taken.
        """
        return Policy((*self.categories, Category(code, description)))

    def of(self, codes: Sequence[str]) -> Policy:
        """Return the policy of some of the categories, in the given order."""
        by_code = {category.code: category for category in self.categories}
        return Policy(tuple(by_code[code] for code in codes))

    def violated(self, codes: Collection[str]) -> tuple[str, ...]:
        """Return those of some codes that the policy contains, in its order."""
        return tuple(code for code in self.codes if code in codes)


MLCOMMONS = Policy(
    tuple(
        Category(f"S{number}", name)
        for number, name in enumerate(
            (
                "Violent Crimes", "Non-Violent Crimes", "Sex-Related Crimes", "Child Sexual Exploitation",
                "Defamation", "Specialized Advice", "Privacy", "Intellectual Property", "Indiscriminate Weapons",
                "Hate", "Suicide & Self-Harm", "Sexual Content", "Elections", "Code Interpreter Abuse",
            ),
            1,
        )
    )
)  # fmt: skip
"""The 13 hazards of MLCommons and Llama Guard's S14, with Llama Guard 3's names."""
