"""Typed records in the data of a case, converted to JSON values and restored by solver and scorer."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from evals.case import Case

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


class CaseRecord(Generic[T]):
    """Stores records of one type in `Case.data` and restores them."""

    def __init__(self, key: str, kind: type[T]) -> None:
        """Use `key` of `Case.data` for records of `kind`; the validator is built at first use."""
        self._key, self._kind = key, kind

    def data(self, record: T) -> dict[str, Any]:
        """Return the entry of `Case.data` that holds a record."""
        return {self._key: self._adapter.dump_python(record, mode="json")}

    def of(self, case: Case) -> T:
        """Return the record of a case.

        Raises:
            KeyError: the case has no such record.
            pydantic.ValidationError: the record is malformed.
        """
        return self._adapter.validate_python(case.data[self._key])

    def from_json(self, line: str | bytes) -> T:
        """Parse a record from one line of JSON.

        Raises:
            pydantic.ValidationError: the line is not such a record.
        """
        return self._adapter.validate_json(line)

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        from pydantic import TypeAdapter

        return TypeAdapter(self._kind)
