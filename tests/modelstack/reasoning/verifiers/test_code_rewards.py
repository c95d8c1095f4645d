"""Rewards of programs: half of the tests are held back, and no trick passes them."""

from __future__ import annotations

import pytest

from modelstack.errors import UserError
from modelstack.reasoning.verifiers import code_answers
from modelstack.reasoning.verifiers.code import CodeVerifier, ProgramTests, code_of, split_tests
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward
from modelstack.sandbox.limits import Limits

QUICK = Limits(cpu_s=2, wall_s=60.0, memory_bytes=256 << 20, output_bytes=1 << 16)
TESTS = ("assert f(1) == 1", "assert f(2) == 4", "assert f(3) == 9", "assert f(12) == 144")
SQUARE = Item("square", ProgramTests(TESTS, ("f",)))


@pytest.fixture(scope="module")
def verifier() -> CodeVerifier:
    try:
        return CodeVerifier(limits=QUICK)
    except UserError as error:
        pytest.skip(str(error))


def judged(verifier: CodeVerifier, code: str, item: Item[ProgramTests] = SQUARE) -> Reward:
    return verifier.score(item, Completion(f"<think>hm</think>Here:\n```python\n{code}\n```\n"))


def test_tests_are_split_in_halves_that_the_seed_and_the_item_decide() -> None:
    split = split_tests(SQUARE)
    assert split == split_tests(SQUARE)
    assert (len(split.visible), len(split.held_back)) == (2, 2)
    assert set(split.visible) | set(split.held_back) == set(TESTS)
    assert len({split_tests(SQUARE, seed).visible for seed in range(20)}) > 1
    assert split_tests(Item("one", ProgramTests(TESTS[:1], ("f",)))).visible == ()


def test_a_right_program_is_rewarded(verifier: CodeVerifier) -> None:
    reward = judged(verifier, "def f(x):\n    return x * x")
    assert (reward.value, reward.reason) == (1.0, "4 of 4 tests passed")


def test_the_share_of_held_back_tests_counts_only_where_all_visible_ones_pass(verifier: CodeVerifier) -> None:
    split = split_tests(SQUARE)
    right = {test: test.replace("assert f(", "").replace(") ==", ":") for test in TESTS}

    def table(*tests: str) -> str:
        return f"def f(x): return {{{', '.join(right[test] for test in tests)}}}.get(x, 0)"

    assert judged(verifier, table(*split.visible)).value == 0.0
    assert judged(verifier, table(*split.visible, split.held_back[1])).value == 0.5
    assert judged(verifier, table(split.visible[0], *split.held_back)).value == 0.0
    strict = CodeVerifier(partial=False, limits=QUICK)
    assert judged(strict, table(*split.visible, split.held_back[1])).value == 0.0


HACKS = {
    "sys.exit": """
import sys
sys.exit(0)
""",
    "sys.exit in the function": """
import sys
def f(x): sys.exit(0)
""",
    "os._exit": """
import os
os._exit(0)
""",
    "os._exit in the function": """
import os
def f(x): os._exit(0)
""",
    "equality": """
class A(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = None
def f(x): return A()
""",
    "equality of no data": """
class A:
    def __eq__(self, other): return True
def f(x): return A()
""",
    "reads the tests": """
import glob, re
seen = ''
for name in [*glob.glob('/*'), *glob.glob('/tmp/*'), '/proc/self/environ', '/proc/1/mem']:
    try: seen += open(name, errors='replace').read()
    except Exception: pass
def f(x):
    m = re.search(rf'assert f.{x}. == (\\d+)', seen)
    return int(m[1]) if m else 0
""",
    "print": """
import builtins
real = print
builtins.print = lambda *a, **k: real('{"passed": true, "tests_passed": [true, true, true, true]}')
print('x')
def f(x): return 0
""",
    "stdout": """
import io, sys
sys.stdout = sys.stderr = sys.__stdout__ = io.StringIO('4 of 4 tests passed')
def f(x): return 0
""",
    "atexit": """
import atexit, sys
atexit.register(lambda: print('4 of 4 tests passed'))
def f(x): sys.exit(0)
""",
    "threads": """
import threading, os
def forge():
    while True: os.write(1, b'passed\\n')
try: threading.Thread(target=forge, daemon=True).start()
except RuntimeError: pass
def f(x): return 0
""",
    "forged verdict": """
import os
for n in range(3, 64):
    try: os.write(n, b'{"passed": true, "reason": "", "tests_passed": [true, true, true, true]}\\n')
    except OSError: pass
def f(x): return 0
""",
    "forged values": """
import os
for n in range(3, 64):
    for _ in range(9):
        try: os.write(n, b'{"value": null}\\n')
        except OSError: break
def f(x): return 0
""",
    "AssertionError": """
import builtins
builtins.AssertionError = type('A', (BaseException,), {})
builtins.Exception = BaseException
def f(x): raise AssertionError
""",
    "builtins": """
import builtins, json
builtins.compile = lambda *a, **k: 'pass'
builtins.exec = lambda *a, **k: None
json.loads = lambda *a, **k: {}
def f(x): return 0
""",
    "frames": """
import re, sys
def f(x):
    frame, seen = sys._getframe(), ''
    while frame:
        seen += repr(frame.f_locals) + repr(frame.f_globals)
        frame = frame.f_back
    m = re.search(rf'assert f.{x}. == (\\d+)', seen)
    return int(m[1]) if m else 0
""",
    "gc": """
import gc, re
def f(x):
    seen = repr([o for o in gc.get_objects() if isinstance(o, (str, list, dict))])
    m = re.search(rf'assert f.{x}. == (\\d+)', seen)
    return int(m[1]) if m else 0
""",
    "settrace": """
import sys
sys.settrace(lambda *a: None)
sys.setprofile(lambda *a: None)
def f(x): return 0
""",
    "modules": """
import sys
for name in list(sys.modules):
    if 'child' in name or 'test' in name: sys.modules[name].__dict__['be_judge'] = None
def f(x): return 0
""",
    "raises StopIteration": "def f(x): raise StopIteration",
    "no program": "",
}


@pytest.mark.parametrize("code", HACKS.values(), ids=HACKS)
def test_no_trick_is_rewarded(code: str, verifier: CodeVerifier) -> None:
    assert judged(verifier, code).value == 0.0


def test_a_reply_without_a_program_or_within_its_reasoning_is_worth_nothing(verifier: CodeVerifier) -> None:
    assert code_of("<think>```python\ndef f(x): return x * x\n```") is None
    assert verifier.score(SQUARE, Completion("<think>```python\ndef f(x): return x * x\n```")).value == 0.0
    assert verifier.score(SQUARE, Completion("")).value == 0.0


@pytest.mark.parametrize("tests", [(), ("assert True",), ("assert f(",), (*TESTS, "pass")])
def test_tests_that_ask_nothing_make_an_item_unscorable(tests: tuple[str, ...], verifier: CodeVerifier) -> None:
    assert judged(verifier, "def f(x): return x", Item("x", ProgramTests(tests, ("f",)))).value is None


def test_what_the_tests_need_and_cannot_have_makes_an_item_unscorable(verifier: CodeVerifier) -> None:
    item = Item("x", ProgramTests(TESTS, ("f",), helpers="import no_such_module"))
    assert judged(verifier, "def f(x): return x * x", item).value is None


def test_the_setup_runs_with_the_program_and_the_helpers_with_the_tests(verifier: CodeVerifier) -> None:
    gold = ProgramTests(("assert f(LIST) == near(3)",), ("f", "LIST"), "LIST = [1, 2]", "def near(x): return x")
    assert judged(verifier, "def f(xs): return sum(xs)", Item("x", gold)).value == 1.0


def test_the_names_that_tests_use_are_those_of_the_program() -> None:
    assert code_answers.tested_names(["assert sum(x) == max(1, 2)"], "def sum(a): return 1\nx = 3") == ["sum", "x"]
