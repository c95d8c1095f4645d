"""Script that runs the original checker of the bfcl-eval wheel on questions from standard input.

    python -I -S original_child.py FOLDER_OF_THE_UNPACKED_WHEEL

Started by `evals.tool_use.bfcl.parity`. The original needs only the standard library, except for its table of
models, which imports every vendor's client. A table of two models replaces it: one keeps dots in names, the other
writes underscores. `-I -S` hides installed packages, so that only the wheel's own files are used.

Input: one line of JSON per question. Output: one line each, a list of `[valid, error type]` or
`[null, exception]`. Values of calls are tagged (`encode`), because JSON has no tuples.
"""

import importlib
import json
import sys
import types


def main():
    """Answer questions until standard input ends."""
    sys.path.insert(0, sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr  # the original prints from within its converters
    check, check_answer, read_literal = load_original()
    for line in sys.stdin:
        request = json.loads(line)
        if "literals" in request:
            replies = [attempt(read_literal, *literal) for literal in request["literals"]]
        elif "acceptable" in request:
            replies = [attempt(check_answer, answer, request["acceptable"]) for answer in request["answers"]]
        else:
            replies = [attempt(check, request, decode(calls)) for calls in request["outputs"]]
        answers.write(json.dumps(replies) + "\n")
        answers.flush()


def load_original():
    """Return the checkers of calls and of final answers and the literal converter, all on plain data."""
    models = types.ModuleType("bfcl_eval.constants.model_config")
    models.__dict__["MODEL_CONFIG_MAPPING"] = {
        "keeps": types.SimpleNamespace(underscore_to_dot=False),
        "replaces": types.SimpleNamespace(underscore_to_dot=True),
    }
    sys.modules[models.__name__] = models
    languages = importlib.import_module("bfcl_eval.constants.enums").Language
    original = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
    agentic = importlib.import_module("bfcl_eval.eval_checker.agentic_eval.agentic_checker")

    def check(request, calls):
        verdict = original.ast_checker(
            request["functions"],
            calls,
            request["answer"],
            languages(request["language"]),
            request["category"],
            "replaces" if request["underscores"] else "keeps",
        )
        return [verdict["valid"], verdict.get("error_type", "")]

    def check_answer(answer, acceptable):
        if not answer:  # the original's runner applies this rule before its checker
            return [False, "agentic:no_last_message"]
        verdict = agentic.agentic_checker(answer, acceptable)
        return [verdict["valid"], verdict.get("error_type", "")]

    def read_literal(language, text, declared, inner):
        convert = original.java_type_converter if language == "java" else original.js_type_converter
        return [True, repr(convert(text, declared, inner))]

    return check, check_answer, read_literal


def attempt(function, *arguments):
    """Call a function; return its result, or `[None, exception]`."""
    try:
        return function(*arguments)
    except Exception as error:
        return [None, f"{type(error).__name__}: {error}"]


def encode(value):
    """Convert a value to JSON that distinguishes tuples from lists."""
    if isinstance(value, dict):
        return {"dict": [[key, encode(inner)] for key, inner in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [encode(inner) for inner in value]}
    return value


def decode(value):
    """Convert a value back from `encode`."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {key: decode(inner) for key, inner in content}
    return (tuple if kind == "tuple" else list)(decode(inner) for inner in content)


if __name__ == "__main__":
    main()
