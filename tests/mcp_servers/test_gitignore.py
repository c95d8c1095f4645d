"""The rules of `.gitignore`: cases of gitignore(5), git itself on random rules, patterns made to hang a walk."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from git_repository import ENVIRONMENT, git
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_servers.filesystem.ignoring import IgnoreFiles
from mcp_servers.filesystem.policy import MAX_NAME_BYTES, Limits
from mcp_servers.filesystem.reading import Walk
from mcp_servers.filesystem.root import Root
from mcp_servers.gitignore.rules import MAX_FILE_BYTES, MAX_RULES, Rules, UnusableRules
from mcp_servers.gitignore.scope import FILE_NAMES, Scope

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

# (rules, ignored paths, other paths); a path that ends in a slash is a folder
CASES = {
    "a name, in every folder": ("a.o", "a.o x/a.o x/y/a.o a.o/b", "a.oo ba.o A.o"),
    "blank lines and comments": ("\n# a\n#b\n  \n", "", "a b #b"),
    "an escaped hash": ("\\#b", "#b", "b \\#b"),
    "an escaped exclamation mark": ("\\!b", "!b", "b"),
    "a trailing space": ("a  \nb", "a b", "a\N{NO-BREAK SPACE}"),
    "a carriage return": ("a\r\n/b\r\n", "a b", "c"),
    "a byte order mark": ("\N{ZERO WIDTH NO-BREAK SPACE}a", "a", "b"),
    "negation of an earlier line": ("*.o\n!a.o", "b.o x/b.o", "a.o x/a.o"),
    "the last line wins": ("!a\na\nb\n!b", "a", "b"),
    "nothing comes back in an ignored folder": ("x/\n!x/a", "x/ x/a", "y/a"),
    "all but one": ("/*\n!/x\n/x/*\n!/x/y", "a x/b", "x/ x/y/ x/y/a"),
    "a leading slash": ("/a", "a a/b", "x/a"),
    "two leading slashes": ("//a", "", "a x/a"),
    "a slash inside": ("x/a", "x/a x/a/b", "y/x/a a"),
    "a trailing slash": ("a/", "a/ a/b x/a/", "a x/a"),
    "a trailing slash after a slash inside": ("x/a/", "x/a/", "x/a y/x/a/"),
    "only slashes": ("/\n//\n!/", "", "a x/a"),
    "a star stops at a slash": ("x/*/a", "x/b/a x/bc/a", "x/a x/b/c/a"),
    "a star matches nothing, too": ("a*b", "ab acb acccb", "a b abc"),
    "a star matches a dot": ("*.o", ".o a.o", "o"),
    "a question mark": ("a?b", "acb a.b", "ab accb a/b"),
    "two leading stars": ("**/a", "a x/a x/y/a", "ba"),
    "two leading stars before a path": ("**/x/a", "x/a y/x/a y/z/x/a", "a x/b/a"),
    "two trailing stars": ("x/**", "x/a x/y/a", "x/ y/x/a"),
    "two stars inside": ("x/**/a", "x/a x/y/a x/y/z/a", "a y/x/a xa"),
    "two stars twice": ("x/**/y/**/a", "x/y/a x/b/y/a x/b/y/c/d/a", "x/a y/a"),
    "two stars, doubled": ("x/**/**/a", "x/a x/y/a x/y/z/a", "a"),
    "more than two stars": ("x/***/a", "x/a x/y/z/a", "a"),
    "two stars in a name": ("a**b\nx/a**b", "ab acb x/ab", "a/b x/a/b"),
    "two stars behind a name": ("foo**/bar", "foo/bar foo1/bar", "foobar foo/x/bar"),
    "two stars and an escaped slash": ("x/**\\/a", "x/y/a x/y/z/a", "x/a"),
    "only two stars": ("**", "a x/ x/a", ""),
    "only two stars, for folders": ("**/", "x/ x/a", "a"),
    "a class": ("[ab]", "a b x/a", "c ab"),
    "a negated class": ("[!ab]\n[^a]x", "c bx", "a b ax"),
    "a range": ("[a-c]\n[0-]", "a b c 0 -", "d 1"),
    "a bracket in a class": ("[]a]\n[!]]x", "] a bx", "b ]x"),
    "an escape in a class": ("[\\]x]\n[\\a-c]y", "] x by", "a dy"),
    "a named class": ("[[:digit:]_]\n[[:upper:]]", "1 _ A", "a x"),
    "a name that no class has": ("[[:digits:]]", "", "1 d"),
    "a class without its end": ("[a\na[", "", "a [a a["),
    "a class does not match a slash": ("x[/]a\ny[!b]a", "", "x/a y/a"),
    "an escaped star": ("\\*\na\\*", "* a*", "b ab"),
    "an escaped letter": ("\\a", "a", "b"),
    "a backslash at the end": ("a\\", "", "a a\\"),
    "bytes and not letters": (
        "?\n[\N{LATIN SMALL LETTER E WITH ACUTE}]",
        "a",
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
    ),
    "an exclamation mark alone": ("a\n!", "a", "!"),
}
SPACES = {
    "an escaped space at the end": ("a\\ ", ["a "], ["a", "a  "]),
    "an escaped and a bare space": ("a\\  ", ["a "], ["a", "a  "]),
    "an escaped backslash and a space": ("a\\\\ ", ["a\\"], ["a\\ ", "a "]),
    "spaces before and within": (" a b", [" a b"], ["a b", "a"]),
    "a tab at the end": ("a\t", ["a\t"], ["a"]),
}
ROWS = [(rules, ignored.split(" "), others.split(" ")) for rules, ignored, others in CASES.values()]
ROWS += SPACES.values()
IDS = [*CASES, *SPACES]


def is_ignored(files: Mapping[str, str], path: str) -> bool:
    """Ask as a walk does: folder by folder, and none below an ignored one."""
    scope, above = Scope(), ""
    *folders, name = path.removesuffix("/").split("/")
    for folder in [*folders, name]:
        for file_name in FILE_NAMES:
            if above + file_name in files:
                scope = scope.with_file(file_name, files[above + file_name].encode())
        is_folder = above + folder != path
        if scope.ignores(folder, is_folder=is_folder):
            return True
        scope, above = scope.entered(folder), f"{above}{folder}/"
    return False


@pytest.mark.parametrize(("rules", "ignored", "others"), ROWS, ids=IDS)
def test_a_case_of_the_manual_page(rules: str, ignored: list[str], others: list[str]) -> None:
    files = {".gitignore": rules}
    assert [path for path in ignored if path and not is_ignored(files, path)] == []
    assert [path for path in others if path and is_ignored(files, path)] == []


@pytest.mark.parametrize(
    ("files", "path", "expected"),
    [
        ({".gitignore": "*.o", "x/.gitignore": "!a.o"}, "x/a.o", False),
        ({".gitignore": "*.o", "x/.gitignore": "!a.o"}, "y/a.o", True),
        ({".gitignore": "!a.o", "x/.gitignore": "*.o"}, "x/a.o", True),
        ({"x/.gitignore": "/a\ny/b\nc"}, "x/a", True),
        ({"x/.gitignore": "/a\ny/b\nc"}, "x/y/b", True),
        ({"x/.gitignore": "/a\ny/b\nc"}, "x/y/z/c", True),
        ({"x/.gitignore": "/a\ny/b\nc"}, "a", False),
        ({"x/.gitignore": "/a\ny/b\nc"}, "x/x/a", False),
        ({"x/.gitignore": "/a\ny/b\nc"}, "c", False),
        ({".gitignore": "x/", "x/.gitignore": "!*"}, "x/a", True),
        ({".gitignore": "x/*", "x/.gitignore": "!a"}, "x/a", False),
        ({".gitignore": "x/y/z/a"}, "x/y/z/a", True),
        ({".gitignore": "a", ".ignore": "!a"}, "a", False),
        ({".gitignore": "!a", ".ignore": "a"}, "a", True),
        ({".ignore": "!a", "x/.gitignore": "a"}, "x/a", False),
        ({".ignore": "a", "x/.ignore": "!a", "x/.gitignore": "a"}, "x/a", False),
        ({".ignore": "b", ".gitignore": "a"}, "a", True),
    ],
)
def test_which_of_several_files_wins(files: Mapping[str, str], path: str, expected: bool) -> None:
    assert is_ignored(files, path) is expected


def test_names_that_are_not_utf8_are_matched_by_their_bytes() -> None:
    scope = Scope().with_file(".gitignore", b"a?b\n[!a]\nc*")
    for name in (b"a\xffb", b"\xff", b"c\xff\xff"):
        assert scope.ignores(name.decode("utf-8", "surrogateescape"), is_folder=False)
    assert not scope.ignores(b"a\xff\xffb".decode("utf-8", "surrogateescape"), is_folder=False)


# What git before 2.52 takes for "in all folders" although no slash is before the stars.
MISREAD_BY_OLD_GIT = re.compile(r"!?/?[^*?\[\\]*[^/*?\[\\]\*\*+(/|\\/|$)")
PIECES = [
    *(
        "a",
        "b",
        "ab",
        "/",
        "/",
        "*",
        "**",
        "**/",
        "/**",
        "***",
        "?",
        "[ab]",
        "[!a]",
        "[a-b]",
        "[]a]",
        "[[:alpha:]]",
    ),
    *(
        "[[:]a]",
        "[a/]",
        "[a",
        "[b-a]",
        "\\a",
        "\\*",
        "\\/",
        "\\\\",
        "\\",
        "\\ ",
        " ",
        "!",
        "#",
        "-",
        "\r",
        "\t",
        "é",
    ),
]
RULES = (
    st.tuples(st.sampled_from(["", "", "!", "/"]), st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
    .map("".join)
    .filter(lambda rule: not MISREAD_BY_OLD_GIT.match(rule))
)
FILES = st.fixed_dictionaries(
    {folder: st.lists(RULES, min_size=1, max_size=4).map("\n".join) for folder in ("", "a", "a/ab")}
)
FOLDERS = ("", "a", "a/ab", "a/b", "ab", "ab/a")
NAMES = ("b", "ba", "aab", "a b", "b ", "-", "[a", "!a", "#a", "*", "\\a", "a\\", "é", "A")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = new_tree(tmp_path_factory.mktemp("world"))
    for folder in FOLDERS:
        (tree / folder).mkdir(parents=True, exist_ok=True)
    for folder in FOLDERS:
        for name in NAMES:
            if not (tree / folder / name).is_dir():
                (tree / folder / name).touch()
    return tree


def new_tree(folder: Path) -> Path:
    """Return an empty working tree, with its git folder beside it so that a walk does not meet that."""
    (folder / "tree").mkdir()
    git(folder, "init", "-q", "--bare", "--template=", "repository")
    return folder / "tree"


def not_ignored_by_git(tree: Path) -> set[str]:
    paths = [path.relative_to(tree).as_posix() for path in tree.rglob("*")]
    options = ["-c", "core.bare=false", "-c", "core.ignorecase=false", "--git-dir=../repository", "--work-tree=."]
    done = subprocess.run(
        ["git", *options, "check-ignore", "--no-index", "--verbose", "--non-matching", "-z", "--stdin"],
        cwd=tree,
        env=ENVIRONMENT,
        input="\0".join(paths).encode(),
        capture_output=True,
        check=False,
    )
    fields = done.stdout.decode().split("\0")[:-1]
    answers = list(zip(fields[0::4], fields[2::4], fields[3::4], strict=True))
    assert [path for _, _, path in answers] == paths, done.stderr
    return {path for source, pattern, path in answers if not source or pattern.startswith("!")}


def not_ignored_by_walk(tree: Path) -> set[str]:
    ignore_files = IgnoreFiles()
    walk = Walk(Limits(), ignore_files=ignore_files)
    with Root(str(tree)).folder(()) as folder:
        found = {"/".join(walked.parts) for walked in walk.below(folder, ()) if not walked.is_ignored}
    assert not walk.truncated and not ignore_files.n_unusable
    return found


@needs_git
@settings(max_examples=60, deadline=None)
@given(FILES)
def test_a_walk_leaves_out_what_git_ignores(tree: Path, files: Mapping[str, str]) -> None:
    for folder, rules in files.items():
        (tree / folder / ".gitignore").write_text(rules, encoding="utf-8", newline="")
    assert not_ignored_by_walk(tree) == not_ignored_by_git(tree)


@needs_git
def test_git_agrees_with_the_table(tmp_path: Path) -> None:
    tree = new_tree(tmp_path)
    expected = dict[str, bool]()
    for rules, ignored, others in ROWS:
        if MISREAD_BY_OLD_GIT.match(rules):
            continue
        for path in filter(None, [*ignored, *others]):
            folder = tree / str(len(expected))  # one for each path: those of a row may collide
            (folder / path).parent.mkdir(parents=True)
            (folder / path).mkdir() if path.endswith("/") else (folder / path).touch()
            (folder / ".gitignore").write_text(rules, encoding="utf-8", newline="")
            expected[(folder / path).relative_to(tree).as_posix()] = path in ignored
    kept = not_ignored_by_git(tree)
    assert {path: path not in kept for path in expected} == expected


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=20))
def test_any_bytes_are_rules_or_told_to_be_none(data: bytes, name: bytes) -> None:
    try:
        scope = Scope().with_file(".ignore", data)
    except UnusableRules:
        with pytest.raises(UnicodeDecodeError):
            data.decode()
        return
    text = name.decode("utf-8", "surrogateescape")
    assert scope.entered(text).ignores(text, is_folder=True) in (True, False)


@pytest.mark.parametrize(
    "line",
    [
        "*a" * 126 + "*b",
        "**/" + "*a" * 120 + "b",
        "/**/a*a*a*/**/*a" * 16 + "/b",
        "[!b]*" * 50 + "b",
        "*?" * 127 + "b",
        "***" * 80 + "b",
        "[a-a]*[[:alpha:]]*" * 14 + "b",
        "[[:" * 80,
    ],
)
def test_the_worst_patterns_end_on_the_longest_name(line: str) -> None:
    """Where a matcher backtracks, such a pattern takes longer than the universe has; here all cost the same."""
    data = "\n".join([line] * (MAX_FILE_BYTES // (len(line) + 1))).encode()
    scope = Scope().with_file(".gitignore", data)
    for _ in range(20):
        assert not scope.ignores("a" * MAX_NAME_BYTES, is_folder=False)
        scope = scope.entered("a" * MAX_NAME_BYTES)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"#" * (MAX_FILE_BYTES + 1), "bytes"),
        (b"a\n" * (MAX_RULES + 1), "rules"),
        (b"caf\xe9", "UTF-8"),
    ],
)
def test_a_file_beyond_the_caps_is_none(data: bytes, problem: str) -> None:
    with pytest.raises(UnusableRules, match=problem):
        Rules.parsed(data)


def test_a_file_at_the_caps_is_used() -> None:
    data = b"a\n" * MAX_RULES
    data += b"#" * (MAX_FILE_BYTES - len(data))
    assert Scope().with_file(".gitignore", data).ignores("a", is_folder=False)


def test_rules_along_one_path_are_capped_and_those_beside_it_are_not() -> None:
    large = b"a" * MAX_FILE_BYTES
    scope = Scope().with_file(".gitignore", large)
    inner = scope.entered("x").with_file(".ignore", large)
    with pytest.raises(UnusableRules, match="one path"):
        inner.entered("y").with_file(".gitignore", b"b")
    assert scope.entered("z").with_file(".gitignore", large).ignores("a" * MAX_FILE_BYTES, is_folder=False)
