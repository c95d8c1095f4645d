"""Shapes of replies, with the shortest instance of each shape.

Shortest instances are found by fixpoint iteration, so that recursive schemas get a finite instance.
`largest_steps` bounds the amount by which one token can raise the price of completing a reply. A budget that
reserves this amount is never exceeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelstack.toolcalls.convention import MAX_DIGITS, MOST_DIGITS, ResponseFormat
from modelstack.toolcalls.conventions.form import COMPACT, CallForm, Notation
from modelstack.toolcalls.grammar.completions import complete_number, complete_string
from modelstack.toolcalls.grammar.parameter_shapes import ParameterShapes
from modelstack.toolcalls.grammar.shapes import (
    UNREACHABLE,
    Arrays,
    Calls,
    Either,
    Ended,
    LargestSteps,
    Literals,
    Numbers,
    Objects,
    Parameters,
    Price,
    Response,
    Shape,
    Strings,
    Tagged,
    Text,
)
from modelstack.toolcalls.grammar.value_shapes import JsonShapes


def allows_words(response_format: ResponseFormat, form: CallForm) -> bool:
    """Return whether a reply may be plain words: as an answer, or as the convention's way to abstain."""
    return response_format.answer == "text" or (response_format.abstain and form.abstention is None)


class ShapeBuilder:
    """Builds the shapes of one reply format."""

    def __init__(
        self, price: Price, *, ordered: bool, notation: Notation = COMPACT, max_digits: int = MAX_DIGITS
    ) -> None:
        """Start with no shapes.

        Args:
            price: Returns the number of tokens of a text.
            ordered: Whether objects have their properties in the order of the schema.
            notation: Separators of JSON in arguments.
            max_digits: Digits that a number in arguments may have before its point, unless its bounds have more.
        """
        self.price = price
        self.shapes: list[Shape] = []
        self._ordered = ordered
        self._max_digits = max_digits
        self._json = JsonShapes(self.shapes, ordered=ordered, notation=notation, max_digits=max_digits)

    def response(
        self, response_format: ResponseFormat, form: CallForm, schemas: Mapping[str, Any], answer: Any | None
    ) -> Response:
        """Return the shape of a reply; `schemas` maps tool names to normalised parameters."""
        options: list[Shape] = []
        calls = self._calls(response_format, form, schemas) if schemas else None
        if calls is not None:
            options.append(calls)
        if response_format.abstain and form.abstention is not None:
            options.append(self.add(Literals(texts=(form.abstention,))))
        if answer is not None:
            answers = JsonShapes(
                self.shapes,
                ordered=self._ordered,
                notation=form.notation,
                max_digits=max(self._max_digits, MOST_DIGITS),
            )
            options.append(self.add(Tagged(options=((form.result_prefix, answers.document(answer)),))))
        if allows_words(response_format, form):
            options.append(self._words(form, calls))
        response = Response(options=tuple(options))
        self.add(response)
        self.settle()
        return response

    def _calls(self, response_format: ResponseFormat, form: CallForm, schemas: Mapping[str, Any]) -> Calls:
        tagged = tuple(
            (f"{form.name_prefix}{name}{form.name_suffix}", self._arguments(schema, form))
            for name, schema in schemas.items()
        )
        item = self.add(
            Tagged(options=tagged, end=form.call_end, is_call=True, n_behind_name=len(form.name_suffix))
        )
        return self.add(
            Calls(
                opening=form.opening,
                item=item,
                separator=form.separator,
                closing=form.closing,
                trailing=form.trailing,
                most=form.call_limit(response_format.call_limit),
            )
        )

    def _arguments(self, schema: Any, form: CallForm) -> Shape:
        if form.parameters is None:
            return self.value(schema)
        definitions = schema.get("$defs", {})
        return ParameterShapes(self.shapes, self._json, form.parameters, definitions).arguments(schema)

    def _words(self, form: CallForm, calls: Calls | None) -> Text:
        if calls is None:
            return self.add(Text(not_first=form.not_first_without_tools))
        return self.add(
            Text(
                not_first=form.not_first,
                not_begun=form.not_begun,
                trigger=form.trigger or "",
                spelled=form.trigger_name,
                opening=form.opening.removeprefix(form.trigger or ""),
                calls=calls,
            )
        )

    def value(self, schema: Any) -> Shape:
        """Return the shape of a normalised schema with its own `$defs`."""
        return self._json.document(schema)

    def settle(self) -> None:
        """Find the shortest instance of every shape: repeat until no price falls."""
        changed = True
        while changed:
            changed = False
            for shape in self.shapes:
                text = self._shortest(shape)
                if text is None:
                    continue
                cost = self.price(text)
                if cost < shape.cost:
                    shape.text, shape.cost = text, cost
                    changed = True

    def largest_steps(self) -> LargestSteps:
        """Return the largest amount that one token can add to the price of completing a reply."""
        naming, inside = [0], [0]
        for shape in self.shapes:
            steps = naming if isinstance(shape, Tagged | Response) else inside
            if isinstance(shape, Objects | Parameters):
                steps += [self.price(p.key) + p.shape.cost for p in shape.properties if not p.required]
            if isinstance(shape, Parameters) and shape.extra is not None:
                steps.append(self.price(f"{shape.separator}a{shape.key_end}") + shape.extra.cost)
            if isinstance(shape, Objects):
                steps += [s.cost + 4 for s in (shape.extra, *(s for _, s in shape.patterns)) if s is not None]
            elif isinstance(shape, Calls):
                steps.append(self.price(shape.separator) + shape.item.cost)
            elif isinstance(shape, Arrays):
                steps += [s.cost for s in (*shape.prefix, shape.item) if s is not None]
            elif isinstance(shape, Either):
                steps += [option.cost for option in shape.options]
            elif isinstance(shape, Tagged):
                steps += [self.price(text) + option.cost for text, option in shape.options]
        largest = max(step for step in inside if step < UNREACHABLE)
        return LargestSteps(max(step for step in (*naming, largest) if step < UNREACHABLE), largest)

    def add(self, shape: Shape) -> Any:
        """Append a shape and return it; `settle` finds its shortest instance."""
        self.shapes.append(shape)
        return shape

    def _shortest(self, shape: Shape) -> str | None:
        """Return a shortest instance of a shape, given the instances known for its parts."""
        if isinstance(shape, Literals):
            return min(shape.texts, key=self.price, default=None)
        if isinstance(shape, Strings):
            body = complete_string(shape, None, 0)
            return None if body is None else f"{shape.opening}{body}{shape.closing}"
        if isinstance(shape, Numbers):
            return complete_number(shape, "")
        if isinstance(shape, Text):
            return "0"
        if isinstance(shape, Ended):
            return shape.item.text + shape.end if shape.item.cost < UNREACHABLE else None
        if isinstance(shape, Arrays | Objects | Parameters | Calls):
            return _shortest_of_parts(shape)
        if isinstance(shape, Tagged):
            found = [(text, option) for text, option in shape.options if option.cost < UNREACHABLE]
            if not found:
                return None
            text, option = min(found, key=lambda pair: self.price(pair[0]) + pair[1].cost)
            return text + option.text + shape.end
        if isinstance(shape, Either):
            found = [option for option in shape.options if option.cost < UNREACHABLE]
            return min(found, key=lambda option: option.cost).text if found else None
        return None


def _shortest_of_parts(shape: Arrays | Objects | Parameters | Calls) -> str | None:
    """Return a shortest instance of a shape with parts; None while a required part has no instance."""
    if isinstance(shape, Calls):
        return None if shape.item.cost >= UNREACHABLE else shape.opening + shape.item.text + shape.closing
    if isinstance(shape, Arrays):
        items = [shape.at(i) for i in range(shape.least)]
        if any(item is None or item.cost >= UNREACHABLE for item in items):
            return None
        return "[" + shape.comma.join(item.text for item in items if item is not None) + "]"
    needed = [p for p in shape.properties if p.required]
    if any(p.shape.cost >= UNREACHABLE for p in needed):
        return None
    if isinstance(shape, Parameters):
        return shape.opening + shape.separator.join(p.key + p.shape.text for p in needed) + shape.closing
    return "{" + shape.comma.join(p.key + p.shape.text for p in needed) + "}"
