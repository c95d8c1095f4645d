"""Shapes from normalised schemas, with the shortest instance of each.

The shortest instances are found by fixpoint iteration, so that recursive schemas get a finite one.
`largest_steps` bounds by how much one token can raise the price of completing a reply: a budget that keeps
this much in hand can always be kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from modelstack.toolcalls.convention import MAX_DIGITS, MOST_DIGITS, ResponseFormat, render_json
from modelstack.toolcalls.conventions.form import COMPACT, CallForm, Notation
from modelstack.toolcalls.conventions.parameters import ParameterForm
from modelstack.toolcalls.conventions.writing import write_json
from modelstack.toolcalls.grammar.completions import complete_number, complete_string
from modelstack.toolcalls.grammar.regex import Regex, RegexError, compile_regex
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
    Property,
    Response,
    Shape,
    Strings,
    Tagged,
    Text,
)

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


def types_allowed(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the JSON types of a normalised schema, integers under numbers."""
    types = schema.get("type", ("object", "array", "string", "number", "boolean", "null"))
    types = (types,) if isinstance(types, str) else tuple(types)
    return tuple(name for name in types if name != "integer" or "number" not in types)


def allows_words(response_format: ResponseFormat, form: CallForm) -> bool:
    """Say whether a reply may be words: as an answer, or where words are how a model abstains."""
    return response_format.answer == "text" or (response_format.abstain and form.abstention is None)


class ShapeBuilder:
    """Builds the shapes of one format; `price` gives the tokens that a text takes."""

    def __init__(
        self, price: Price, *, ordered: bool, notation: Notation = COMPACT, max_digits: int = MAX_DIGITS
    ) -> None:
        """Start with no shapes; `ordered` objects take their properties in the order of the schema."""
        self.price = price
        self.ordered = ordered
        self.notation = notation
        self.max_digits = max_digits
        self.shapes: list[Shape] = []
        self._any: Shape | None = None

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
            answers = ShapeBuilder(
                self.price,
                ordered=self.ordered,
                notation=Notation(comma=form.notation.comma, colon=form.notation.colon),
                max_digits=max(self.max_digits, MOST_DIGITS),
            )
            answers.shapes = self.shapes
            options.append(self.add(Tagged(options=((form.result_prefix, answers.value(answer)),))))
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
        return _ParameterShapes(self, form.parameters).arguments(schema)

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
        root = schema if isinstance(schema, Mapping) else {}
        return self._value(schema, root, {})

    def settle(self) -> None:
        """Find the shortest instance of every shape: repeat until no price falls any more."""
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
        """Return the most that one token can add to the price of completing a reply."""
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
        """Keep a shape; its shortest instance is found by `settle`."""
        self.shapes.append(shape)
        return shape

    def _value(self, schema: Any, root: Mapping[str, Any], seen: dict[str, Shape]) -> Shape:
        if schema is False:
            return Shape()
        if schema is True or not set(schema) - {"$defs"}:
            return self._anything()
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            if name not in seen:
                # An Either of one stands in for the target while that is being built: this closes the loop.
                stand_in = self.add(Either())
                seen[name] = stand_in
                stand_in.options = (self._value(root["$defs"][name], root, seen),)
            return seen[name]
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self.add(Either(options=tuple(self._value(x, root, seen) for x in schema[keyword])))
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            texts = dict.fromkeys(write_json(value, self.notation) for value in values)
            return self.add(Literals(texts=tuple(texts)))
        shapes = tuple(self._typed(name, schema, root, seen) for name in types_allowed(schema))
        return shapes[0] if len(shapes) == 1 else self.add(Either(options=shapes))

    def _typed(
        self, name: str, schema: Mapping[str, Any], root: Mapping[str, Any], seen: dict[str, Shape]
    ) -> Shape:
        """Return the shape of `schema` for one type."""
        if name == "string":
            return self.add(
                Strings(least=schema.get("minLength", 0), most=schema.get("maxLength"), regex=_regex(schema))
            )
        if name in ("number", "integer"):
            return self.add(
                Numbers(integer=name == "integer", bounds=schema, most_digits=self._most_digits(schema))
            )
        if name == "boolean":
            return self.add(Literals(texts=("true", "false")))
        if name == "null":
            return self.add(Literals(texts=("null",)))
        if name == "array":
            items = schema.get("items", True)
            return self.add(
                Arrays(
                    prefix=tuple(self._value(x, root, seen) for x in schema.get("prefixItems", ())),
                    item=None if items is False else self._value(items, root, seen),
                    least=schema.get("minItems", 0),
                    most=schema.get("maxItems"),
                    comma=self.notation.comma,
                )
            )
        return self._object(schema, root, seen)

    def _object(self, schema: Mapping[str, Any], root: Mapping[str, Any], seen: dict[str, Shape]) -> Shape:
        required = schema.get("required", ())
        extra = schema.get("additionalProperties", True)
        declared = {
            name: sub for name, sub in schema.get("properties", {}).items() if sub is not False or name in required
        }
        # Required but not declared: llguidance puts these behind the declared ones.
        declared.update({name: extra for name in required if name not in declared})
        return self.add(
            Objects(
                properties=tuple(
                    Property(
                        name,
                        render_json(name) + self.notation.colon,
                        self._value(sub, root, seen),
                        name in required,
                    )
                    for name, sub in declared.items()
                ),
                extra=None if extra is False else self._value(extra, root, seen),
                patterns=tuple(
                    (compile_regex(pattern), self._value(sub, root, seen))
                    for pattern, sub in schema.get("patternProperties", {}).items()
                    if _compiles(pattern)
                ),
                ordered=self.ordered,
                comma=self.notation.comma,
                colon=self.notation.colon,
            )
        )

    def _most_digits(self, schema: Mapping[str, Any]) -> int:
        bounds = [abs(schema[key]) for key in _BOUNDS if isinstance(schema.get(key), int | float)]
        return max([self.max_digits, *(len(str(int(bound))) for bound in bounds if math.isfinite(bound))])

    def _anything(self) -> Shape:
        """Return the one shape of any JSON value."""
        if self._any is not None:
            return self._any
        either: Either = self.add(Either())
        self._any = either
        either.options = (
            self.add(Literals(texts=("null", "true", "false"))),
            self.add(Numbers(most_digits=self.max_digits)),
            self.add(Strings()),
            self.add(Arrays(item=either, comma=self.notation.comma)),
            self.add(
                Objects(extra=either, ordered=self.ordered, comma=self.notation.comma, colon=self.notation.colon)
            ),
        )
        return either

    def _shortest(self, shape: Shape) -> str | None:
        """Return a shortest instance by what is known of the parts so far."""
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


class _ParameterShapes:
    """Builds the shapes of arguments that are written parameter by parameter."""

    def __init__(self, json: ShapeBuilder, form: ParameterForm) -> None:
        """Add to the shapes of `json`, which builds the values that are JSON here, too."""
        self._json = json
        self._form = form
        self._any: Shape | None = None
        self._inner: _ParameterShapes | None = None
        self._seen: dict[str, Shape] = {}

    def arguments(self, schema: Mapping[str, Any]) -> Shape:
        """Return the shape of a tool's arguments: of those parameters that it declares."""
        return self._members({**schema, "additionalProperties": False}, schema)

    def _members(self, schema: Mapping[str, Any], root: Mapping[str, Any], opening: str = "") -> Shape:
        """Return the shape of arguments, or of an object that is written like them."""
        extra = schema.get("additionalProperties", True)
        properties = tuple(
            Property(name, self._form.key(name), self.value(sub, root), name in schema.get("required", ()))
            for name, sub in declared_members(schema).items()
        )
        return self._json.add(
            Parameters(
                properties=properties,
                separator=self._form.separator,
                closing=self._form.closing,
                opening=opening,
                extra=None if extra is False else self.value(extra, root),
                key_end=self._form.key_suffix,
            )
        )

    def value(self, schema: Any, root: Mapping[str, Any]) -> Shape:
        """Return the shape of a value with what ends it."""
        if schema is False:
            return Shape()
        if schema is True or not set(schema) - {"$defs"}:
            return self._anything(root)
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            if name not in self._seen:
                stand_in = self._json.add(Either())
                self._seen[name] = stand_in
                stand_in.options = (self.value(root["$defs"][name], root),)
            return self._seen[name]
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._json.add(Either(options=tuple(self.value(x, root) for x in schema[keyword])))
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return self._json.add(Literals(texts=tuple(dict.fromkeys(map(self._form.value, values)))))
        shapes = tuple(self._typed(name, schema, root) for name in types_allowed(schema))
        return shapes[0] if len(shapes) == 1 else self._json.add(Either(options=shapes))

    def _anything(self, root: Mapping[str, Any]) -> Shape:
        if self._any is None:
            either: Either = self._json.add(Either())
            self._any = either
            either.options = tuple(self._typed(name, {}, root) for name in types_allowed({}))
        return self._any

    def _typed(self, name: str, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Shape:
        form, text = self._form, self._form.text
        if name == "string":
            return self._json.add(
                Strings(
                    least=schema.get("minLength", 0),
                    most=schema.get("maxLength"),
                    regex=_regex(schema),
                    opening=text.opening,
                    closing=text.closing,
                    is_raw=text.is_raw,
                    spelled=text.spelled,
                )
            )
        if name in ("boolean", "null"):
            values = (None,) if name == "null" else (True, False)
            return self._json.add(Literals(texts=tuple(map(form.value, values))))
        if name == "array" and form.text_in_list is not None:
            items = schema.get("items", True)
            return self._json.add(
                Arrays(
                    prefix=tuple(self._inside.value(x, root) for x in schema.get("prefixItems", ())),
                    item=None if items is False else self._inside.value(items, root),
                    least=schema.get("minItems", 0),
                    most=schema.get("maxItems"),
                    comma=form.comma,
                )
            )
        if name == "object" and form.object_opening:
            return self._inside._members(schema, root, form.object_opening)
        item = self._json.value({**schema, "type": name, "$defs": root.get("$defs", {})})
        return self._json.add(Ended(item=item, end=form.value_end)) if form.value_end else item

    @property
    def _inside(self) -> _ParameterShapes:
        """Builds what stands in a list, or in an object that is written like arguments."""
        if self._inner is None:
            inner = self._form.inner
            self._inner = self if inner == self._form else _ParameterShapes(self._json, inner)
        return self._inner


def declared_members(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of each property that an object may have by name, those required without one included."""
    extra = schema.get("additionalProperties", True)
    declared = {name: sub for name, sub in schema.get("properties", {}).items() if sub is not False}
    required = schema.get("required", ()) if extra is not False else ()
    return {**declared, **{name: extra for name in required if name not in declared}}


def _shortest_of_parts(shape: Arrays | Objects | Parameters | Calls) -> str | None:
    """Return a shortest instance of what is made of others; None while one of those has none."""
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


def _compiles(pattern: str) -> bool:
    try:
        compile_regex(pattern)
    except RegexError:
        return False
    return True


def _regex(schema: Mapping[str, Any]) -> Regex | None:
    """Return the automaton of the pattern; one that only the engine understands is left to the engine."""
    pattern = schema.get("pattern")
    return compile_regex(pattern) if isinstance(pattern, str) and _compiles(pattern) else None
