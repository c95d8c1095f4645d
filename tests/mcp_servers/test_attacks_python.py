"""Attacks on the Python server by escapes, by code that is hard to read, and by values that are hard to show.

Escapes must end in Python's own errors; bombs in an error or a short answer; each in a moment of the server's CPU.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp import Client

from mcp_servers.python.policy import Limits
from mcp_servers.python.server import build_server
from tests.mcp_servers.attack_bounds import assert_plain, cpu_at_most
from tests.mcp_servers.server_harness import Ask, asker

pytestmark = pytest.mark.anyio

MAX_TEXT_CHARS = 2 * Limits().output_chars + 500


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def serve() -> AsyncIterator[Ask]:
    async with Client(build_server(limits=Limits(seconds=0.7))) as client:
        yield asker(client)


@pytest.fixture
async def ask(serve: Ask) -> AsyncIterator[Ask]:
    """The server; after the attack it computes."""
    yield serve
    assert await serve("run_python", code="sum(range(5))") == ("10", False)


ESCAPES = [
    "'{0.__class__}'.format(1)", "'{0.__init__.__globals__}'.format(ValueError())", "'{0[__class__]}'.format({})",
    "f'{().__class__.__mro__}'", "match 1:\n    case int(__class__=x):\n        print(x.mro())\n    case _: 1/0",
    "class A:\n    __match_args__ = ('__class__',)\nmatch A():\n    case A(x):\n        print(x.__mro__)",
    "g = (i for i in [1])\ng.gi_frame.f_builtins", "def f():\n    yield 1\nf().gi_code", "async def f(): pass\nf().cr_frame",
    "try:\n    1/0\nexcept Exception as e:\n    print(e.__traceback__.tb_frame.f_globals)",
    "try:\n    1/0\nexcept Exception as e:\n    e.with_traceback(None).__reduce__()", "type('X', (), {}).__base__.__subclasses__()",
    "type(1).__subclasses__()", "int.mro()", "getattr(1, '__class__').__base__", "getattr('', '__cl' + 'ass__').__base__",
    "setattr(int, 'x', 1)", "globals()['__builtins__']", "__builtins__", "print.__self__", "__loader__",
    "__spec__.loader", "breakpoint()", "compile('1', '', 'eval')", "exec('open(\"escaped\", \"w\")')", "eval('__import__(\"os\").system(\"id\")')", "memoryview(b'a').obj",
    "__import__('sys').modules", "import importlib", "import sys\nsys.modules", "import sys\nsys._getframe()",
    "import os\nos.listdir('/')", "import os\nos.environ['HOME']", "import os\nos.system('touch escaped')",
    "from pathlib import Path\nlist(Path('/').iterdir())", "from pathlib import Path\nPath('/etc/passwd').read_text()",
    "import asyncio\nasyncio.create_subprocess_exec('id')", "import gc", "import inspect", "import pickle", "import ctypes",
    "import typing\ntyping.sys", "import re\nre.sys", "import json\njson.codecs", "import math\nmath.__loader__",
    "open('escaped', 'w')", "(lambda: 0).__code__", "def f(x):\n    def g(): return x\n    return g\nf(1).__closure__",
    "from os import *", "from . import x", "'%(__class__)s' % {}", "','.join(int.__dict__)", "b'\\x80'.decode('rot13')",
    "import codecs\ncodecs.decode('x', 'rot13')", "raise SystemExit(0)", "raise KeyboardInterrupt", "raise BaseException('x')",
    "print(*object.__subclasses__())", "str.__bases__", "[].__class__.__base__.__subclasses__()", "help(print)",
]  # fmt: skip


@pytest.mark.parametrize("code", ESCAPES, ids=lambda code: ascii(code)[:60])
async def test_no_way_leads_out_of_the_sandbox(code: str, ask: Ask) -> None:
    with cpu_at_most(1.0):
        text, is_error = await ask("run_python", code=code)
    assert is_error, text
    assert "Error" in text or "Exception" in text or "Exit" in text or "Interrupt" in text, text
    assert not re.search(r"root:|<frame|<code|<class '(?:object|type)'>|PATH=", text)
    assert_plain(text, max_chars=3_000)
    assert not Path("escaped").exists()


DEEP = {
    "brackets": "(" * 5_000 + "1" + ")" * 5_000,
    "lists": "[" * 20_000 + "]" * 20_000,
    "signs": "-" * 40_000 + "1",
    "not": "not " * 12_000 + "1",
    "attributes": "x" + ".a" * 20_000,
    "calls": "f" + "()" * 20_000,
    "sums": "1" + "+1" * 24_000,
    "lambdas": "lambda:" * 7_000 + "1",
    "conditions": "1 if 1 else " * 3_800 + "1",
    "dictionaries": "{1:" * 12_000 + "1" + "}" * 12_000,
    "formatted texts": "f'{" * 300 + "1" + "}'" * 300,
    "subscripts": "x" + "[0]" * 16_000,
    "comparisons": "1" + "<1" * 24_000,
    "blocks": "\n".join(" " * depth + "if 1:" for depth in range(200)) + "\n" + " " * 200 + "1",
    "functions": "\n".join(" " * depth + "def f():" for depth in range(100)) + "\n" + " " * 100 + "pass",
    "comprehensions": "[0 " + "for x in [1] " * 3_000 + "]",
    "patterns": "match 1:\n    case " + "[" * 5_000 + "x" + "]" * 5_000 + ":\n        1",
    "stars": "[*" * 10_000 + "[]" + "]" * 10_000,
    "texts": "'a'" * 10_000,
    "a NUL": "1\x001",
    "half a pair": "'\ud800'",
    "a name of 40 KB": "x" * 40_000 + " = 1",
    "a number of 40 KB": "9" * 40_000,
    "hidden direction": "x = '\u202e'\nprint(x)",
    "a page break": "\x0c1 +",
    "a bad escape": "'\\N{no such name}' '\\x1'",
}  # fmt: skip


@pytest.mark.parametrize("name", DEEP)
async def test_code_that_is_hard_to_read_is_an_answer_of_a_few_lines(name: str, ask: Ask) -> None:
    with cpu_at_most(1.0):
        text, _ = await ask("run_python", code=DEEP[name])
    assert_plain(text, max_chars=MAX_TEXT_CHARS)


BOMBS = [
    "'a' * (10**9)", "[[]] * (10**9)", "bytes(10**9)", "2 ** (2**40)", "1 << (1 << 40)", "list(range(10**9))",
    "('x' * 10**6).join(['y'] * 10**6)", "('x' * 10**6).replace('x', 'y' * 10**6)", "f'{1:>{10**9}}'", "'1'.zfill(10**10)",
    "'1'.center(10**10)", "('\\t' * 1000).expandtabs(10**9)", "''.ljust(2**62)", "{i: i for i in range(10**8)}",
    "set(range(10**8))", "import re\nre.findall('(x+x+)+y', 'x' * 10000)[0]", "import re\nre.sub('x', 'y' * 10**6, 'x' * 10**6)",
    "import json\njson.loads('[' * 100000)", "import json\njson.dumps([[]] * 10**8)", "int('9' * 10**6)",
    "class A:\n    def __repr__(s): return repr(s)\nrepr(A())", "hash((1,) * 10**9)", "sum(iter(int, 1))",
    "list(zip(range(10**9)))", "def g():\n    while 1: yield 1\nsum(g())", "while 1:\n    try:\n        1/0\n    except: continue",
    "try:\n    while 1: pass\nexcept BaseException as e:\n    while 1: pass", "x = 1\nfor i in range(1, 10**6): x *= i",
    "while 1:\n    try:\n        [0] * 10**10\n    except BaseException: pass", "sorted(range(10**8), key=lambda x: -x)",
]  # fmt: skip


@pytest.mark.parametrize("code", BOMBS, ids=lambda code: ascii(code)[:60])
async def test_a_bomb_is_an_error(code: str, ask: Ask) -> None:
    with cpu_at_most(1.0):
        text, is_error = await ask("run_python", code=code)
    assert is_error, text[:300]
    assert_plain(text, max_chars=3_000)


VALUES = [
    "x = 1\nfor _ in range(40):\n    x = [x, x]\nx",
    "x = 1\nfor _ in range(40):\n    x = (x, x)\n{'a': x}",
    "x = {}\nfor _ in range(40):\n    x = {'a': x, 'b': x}\nx",
    "x = 'y' * 1000000\n[x] * 5000",
    "x = ['y' * 1000] * 1000\n[x] * 1000",
    "{'k' * 1000000: 1}",
    "list(range(500000))",
    "'\\n' * 5000000",
    "b'x' * 5000000",
    "[[[1] * 2000] * 2000] * 2000",
    "'\\u202e' * 5000000",
    "['\\x1b[2J', '\\ufe0f' * 9, '\\U000e0041', '\\x9b']",
    "x = []\nx.append(x)\nx",
    "x = {}\nx['x'] = x\n[x] * 1000",
    "float('inf'), float('nan'), -0.0, 1e308 * 10",
    "2 ** 20000, [2 ** 20000] * 100",
    "raise ValueError('x' * 10**7)",
    "raise ValueError('\\x1b[2J\\u202e' + '\\ufe0f' * 50)",
    "raise ValueError(['\\n' * 1000000] * 10)",
    "x = 1\nfor _ in range(40):\n    x = [x, x]\nraise ValueError(x)",
    "x = 1\nfor _ in range(40):\n    x = [x, x]\nprint(x)",
    "while 1: print('x' * 1000)",
    "print('\\x1b]0;title\\x07\\x9b2J\\u202e', end='\\r')",
    "print(*['\\u3164'] * 100000, sep='\\ufe0f')",
    "import sys\nprint('x' * 10**7, file=sys.stderr)",
]


@pytest.mark.parametrize("code", VALUES, ids=lambda code: ascii(code)[:60])
async def test_any_value_error_or_print_is_shown_short_and_plain(code: str, ask: Ask) -> None:
    with cpu_at_most(1.5):
        text, _ = await ask("run_python", code=code)
    assert_plain(text, max_chars=MAX_TEXT_CHARS)


@pytest.mark.parametrize(
    "session", ["", "../x", "a b", "a\n", "\u0430", "x" * 41, "x" * 1_000_000, "a\x1b", "\ufe0f"]
)
async def test_a_session_s_name_is_a_word_or_an_error(session: str, ask: Ask) -> None:
    text, is_error = await ask("run_python", code="1", session=session)
    assert (is_error and "session" in text) or session == ""
    assert_plain(text, max_chars=2_000)
