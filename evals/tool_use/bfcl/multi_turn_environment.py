"""Simulated world of a BFCL multi-turn case (file system, vehicle, trading and others), run from the wheel.

The simulators are those of bfcl-eval (Apache-2.0), executed from the user's own copy of the wheel. They are not
installed: the modules are compiled from their files, import each other through their own `__import__`, and stay
out of `sys.modules`. Only files whose SHA-256 matches the release are run, so a data folder cannot introduce code.
The arithmetic simulator needs mpmath, which is pure Python; nothing else outside the standard library is imported.

A call is a name and JSON values. The original builds a line of Python and passes it to `eval`, which could run
arbitrary code. Results and error texts are the same here (`execute_multi_turn_func_call` in
bfcl_eval/eval_checker/multi_turn_eval/multi_turn_utils.py).
"""

from __future__ import annotations

import builtins
import copy
import decimal
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from agentkit.errors import UserError
from evals.tool_use.bfcl.multi_turn_calls import Call
from evals.tool_use.bfcl.multi_turn_state import attributes
from evals.tool_use.bfcl.wheel import REQUIREMENT

SOURCE_FOLDER = "bfcl_eval/eval_checker/multi_turn_eval/func_source_code"
"""Path of the simulators within the wheel."""
_PACKAGE = SOURCE_FOLDER.replace("/", ".")
MODULE_OF_CLASS = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
"""The eight simulated classes and their modules; the function documents have the module's name."""
STATELESS_CLASSES = frozenset({"MathAPI"})
SHA256 = {
    "gorilla_file_system": "84173750930b09aaa31b90547c9bd79ce75714682608b35e78a9c1ea259faf2b",
    "long_context": "5c9a5710115609c779e5b2ccb43f6ad58271ed96f2ea7a797edb0d65c385aa38",
    "math_api": "abde32cc25e71b2ff3acf4d028a3c005b98409c174aba4abddbfe1c018afb9a8",
    "message_api": "cf72af1635654147af17df1891a7fb354549e78a61930139f741a31f4be21121",
    "posting_api": "32b887aaa37c7167ad9c84ddfa7bbb855c75d3c1edab19ba868aba29acc4cfa1",
    "ticket_api": "6a9375aa6425410c07a151aef27f3e44e9ed1023bb5cc5c25f14f4a9b3c99116",
    "trading_bot": "cc2e3949035b561e9d07418b081561aa07b211672200e2e511aec074bf79fcb2",
    "travel_booking": "e698e22adccf0d6d41b297f2d5e44faebd828cef4752df6a4ffb1570c0c35296",
    "vehicle_control": "f5f7a2f28968728927a98ae12ec68a32d70781cfb74c2d7b14801772362b12d1",
}
"""SHA-256 of the simulators' files in the release that `REQUIREMENT` names."""

MAX_POWER_BITS = 100_000
MAX_PRECISION_DIGITS = 10_000
"""Larger arithmetic takes seconds or never ends; the answer keys stay below 20 digits."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """Result of a call."""

    text: str
    """Text that the model reads and that the result check compares."""
    is_error: bool = False
    """Whether the call raised an exception; an error that the simulator reports in its result does not count."""


class Environment:
    """The objects of one case, built from their initial configuration and changed by calls; not thread-safe."""

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        initial_config: Mapping[str, Any],
        *,
        long_context: bool = False,
    ) -> None:
        """Build the objects.

        Args:
            folder: The folder of simulators, `SOURCE_FOLDER` of an unpacked wheel.
            class_names: The classes of the case; if two classes have a method of the same name, the later class is
                called.
            initial_config: Configuration by class name.
            long_context: Whether to fill the objects with a large amount of irrelevant content.

        Raises:
            UserError: a class is not known, or the simulators are missing or do not match the release.
        """
        load = _loader(folder)
        self._instances: dict[str, Any] = {}
        self._methods: dict[str, Callable[..., Any]] = {}
        for name in class_names:
            if name not in MODULE_OF_CLASS:
                raise UserError(f"simulated class {name!r} is not known; BFCL has {', '.join(MODULE_OF_CLASS)}.")
            instance = getattr(load(MODULE_OF_CLASS[name]), name)()
            if name not in STATELESS_CLASSES:
                config = copy.deepcopy(initial_config.get(name, {}))
                instance._load_scenario(config, long_context=long_context)
            self._instances[name] = instance
            for method_name, method in inspect.getmembers(instance, inspect.ismethod):
                if not method_name.startswith("_"):
                    self._methods[method_name] = method

    def call(self, call: Call) -> CallResult:
        """Perform a call; any error becomes the result's text."""
        method = self._methods.get(call.name)
        if method is None:
            return CallResult(f"Error during execution: name {call.name!r} is not defined", is_error=True)
        by_position = dict(zip(inspect.signature(method).parameters, call.positional, strict=False))
        if refusal := too_costly(call.name, {**by_position, **call.arguments}):
            return CallResult(f"Error during execution: {refusal}", is_error=True)
        # Copied, because an object that keeps a given list must not share it with the record of the call.
        positional, named = copy.deepcopy((call.positional, dict(call.arguments)))
        try:
            with decimal.localcontext():  # a simulator sets the precision and does not restore it
                return CallResult(_as_text(method(*positional, **named)))
        except Exception as error:  # simulators raise any exception on unexpected values; the model reads its text
            return CallResult(f"Error during execution: {error}", is_error=True)

    def state(self) -> dict[str, dict[str, Any]]:
        """Return the public attributes of every object as plain data."""
        return {name: attributes(instance) for name, instance in self._instances.items()}


def too_costly(name: str, arguments: Mapping[str, Any]) -> str | None:
    """Return why a call is refused (its numbers would hang the simulator), or None if it is allowed."""
    if name == "power":
        base, exponent = arguments.get("base"), arguments.get("exponent")
        # Floats overflow immediately; only integers grow without bound.
        if isinstance(base, int) and isinstance(exponent, int):
            return "the result is too large" if base.bit_length() * abs(exponent) > MAX_POWER_BITS else None
    elif name == "logarithm" and any(_magnitude(arguments.get(key)) == math.inf for key in ("value", "base")):
        return "the number is too large"
    digits = arguments.get("precision", arguments.get("decimal_places"))
    if name in ("logarithm", "square_root", "round_number") and _magnitude(digits) > MAX_PRECISION_DIGITS:
        return "the precision is too high"
    return None


def check_simulators(folder: Path, class_names: Sequence[str]) -> None:
    """Load the simulators of these classes, so that a suite fails before its first case.

    Raises:
        UserError: a simulator is missing or does not match the release.
    """
    load = _loader(folder)
    for name in class_names:
        load(MODULE_OF_CLASS[name])


def _magnitude(value: Any) -> float:
    """Return the absolute value of a number or of a number written as text (mpmath accepts both).

    0 for other values.
    """
    try:
        return abs(float(value))
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return 0.0


def _as_text(value: Any) -> str:
    if type(value) is str:
        return value
    if type(value) is dict:
        try:
            return json.dumps(value)
        except (TypeError, ValueError):  # holds numbers of mpmath or decimal
            return str(value)
    return str(value)


def _loader(folder: Path) -> Callable[[str], ModuleType]:
    """Return a function that returns a simulator's module by its bare name.

    Each module is executed once per loader.

    Each environment has its own loader, because some simulators change lists and dicts of their modules. In the
    original these changes leak from case to case.
    """
    loaded: dict[str, ModuleType] = {}

    def load(name: str) -> ModuleType:
        if name not in loaded:
            module = ModuleType(f"bfcl_simulator.{name}")
            module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_module}
            try:
                exec(_compiled(folder, name), module.__dict__)
            except ModuleNotFoundError as error:
                raise UserError(
                    f"BFCL's simulator {name!r} needs the package {error.name}: pip install {error.name}"
                ) from error
            loaded[name] = module
        return loaded[name]

    def import_module(name: str, *arguments: Any, **keywords: Any) -> ModuleType:
        package, _, last = name.rpartition(".")
        return load(last) if package == _PACKAGE else builtins.__import__(name, *arguments, **keywords)

    return load


@cache
def _compiled(folder: Path, name: str) -> CodeType:
    path = folder / f"{name}.py"
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"BFCL's simulator is missing: {path} ({error.strerror}). It lies in the wheel under {SOURCE_FOLDER}: "
            f"pip download --no-deps {REQUIREMENT}"
        ) from error
    if hashlib.sha256(source).hexdigest() != SHA256.get(name):
        raise UserError(
            f"{path} is not the file of {REQUIREMENT} (SHA-256 differs) and is not run. "
            f"Unpack the wheel again: pip download --no-deps {REQUIREMENT}"
        )
    return compile(source, f"<{REQUIREMENT} {name}.py>", "exec", dont_inherit=True)
