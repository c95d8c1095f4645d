"""Coverage of real schemas by the grammars: enforced, checked afterwards, or refused; and compile times.

Every keyword of a schema has one of three fates (`modelstack.toolcalls.grammar.coverage`): the token masks enforce
it; the grammar omits it and the answer is checked against it after decoding; or the schema is refused, naming the
keyword. A keyword that is neither enforced nor checked is "open": a pattern with look-around or back-references,
which no engine accepts and which the check skips because it runs in linear time. An unknown `format` constrains
nothing in either place and is listed as an annotation. Compile times are CPU times and depend on the vocabulary,
so the model must be stated with the figures.

    python -m evals.structured_output.coverage --data FILE_OR_FOLDER [--model smollm2-135m] [--engine llguidance]
        [--sample N --seed S] [--json found.jsonl]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from evals.harness.suite import Table
from evals.statistics import wilson
from modelstack.inference.grammar import GrammarError
from modelstack.toolcalls.convention import ResponseFormat
from modelstack.toolcalls.grammar.compiler import GrammarCompiler
from modelstack.toolcalls.grammar.coverage import EngineName, KeywordUse, UnsupportedSchemaError, keywords
from modelstack.toolcalls.grammar.dialects import modernise
from modelstack.toolcalls.grammar.regex import RegexError, compile_regex

Outcome = Literal["enforced", "checked", "open", "refused"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
MAX_COMPILE_CPU_S = 10.0
"""CPU seconds after which a schema counts as refused; a thousand times the time of a tool's schema."""
N_REASONS = 20
"""Maximum number of refusal reasons in a table, the most frequent first."""


class TookTooLong(Exception):
    """Raised if compiling exceeds its CPU time."""


@dataclass(frozen=True, slots=True)
class SchemaCoverage:
    """Result of one engine on one schema; can be written as JSON."""

    outcome: Outcome
    compile_cpu_s: float
    """CPU seconds of the compiling thread; wall time on a shared machine is not comparable."""
    enforced: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of uses of each keyword that the masks enforce."""
    checked: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of uses of each keyword that only the check after decoding decides."""
    open: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of uses of each keyword that nothing checks."""
    annotations: int = 0
    """Number of formats that constrain nothing."""
    refused_keyword: str = ""
    why: str = ""


def cover(schema: Mapping[str, Any], compiler: GrammarCompiler) -> SchemaCoverage:
    """Compile a schema as an answer's schema, with a compiler of policy "check"."""
    start = time.thread_time()
    try:
        coverage = compiler.compile(ResponseFormat(answer=schema)).coverage
    except UnsupportedSchemaError as error:
        return SchemaCoverage(
            "refused", time.thread_time() - start, refused_keyword=error.keyword, why=error.hint[:300]
        )
    except (GrammarError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"[:300]
        return SchemaCoverage("refused", time.thread_time() - start, refused_keyword="schema", why=why)
    except TookTooLong:
        raise
    except Exception as error:  # a compiler defect is reported as a result, so that the other schemas still run
        why = f"the compiler failed with {type(error).__name__}, which is a defect of this project"
        return SchemaCoverage("refused", time.thread_time() - start, refused_keyword="(defect)", why=why)
    compile_cpu_s = time.thread_time() - start
    undecidable = _undecidable(modernise(schema)) if coverage.checked else set()
    left_open = [use for use in coverage.checked if _place(use) in undecidable]
    return SchemaCoverage(
        "open" if left_open else "checked" if coverage.checked else "enforced",
        compile_cpu_s,
        enforced=_uses(coverage.enforced),
        checked=_uses(use for use in coverage.checked if use not in left_open),
        open=_uses(left_open),
        annotations=len(coverage.annotations),
    )


def _undecidable(schema: Any) -> set[str]:
    """Return the pointers of patterns that the check after decoding skips."""
    patterns = {"pattern": lambda value: [value], "patternProperties": list}
    return {
        _place(use)
        for use, value, _ in keywords(schema, "")
        if use.keyword in patterns and not all(map(_is_linear, patterns[use.keyword](value)))
    }


def _is_linear(pattern: str) -> bool:
    try:
        compile_regex(pattern)
    except RegexError:
        return False
    return True


def _place(use: KeywordUse) -> str:
    """Return a pointer with `anyOf` for `oneOf`, because the compiler converts the latter to the former."""
    return use.pointer.replace("/oneOf/", "/anyOf/")


def cover_within(limit_s: float, schema: Mapping[str, Any], compiler: GrammarCompiler) -> SchemaCoverage:
    """Cover a schema; count it as refused if it exceeds the CPU time. Only for the main thread."""
    try:
        with _cpu_limit(limit_s):
            return cover(schema, compiler)
    except TookTooLong:
        why = f"compiling takes more than {limit_s:g} s of CPU"
        return SchemaCoverage("refused", limit_s, refused_keyword="(time)", why=why)


@contextmanager
def _cpu_limit(limit_s: float) -> Generator[None]:
    """Raise TookTooLong inside the block after `limit_s` CPU seconds; without timers (Windows), never."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


def coverage_tables(found: Mapping[str, Sequence[SchemaCoverage]]) -> list[Table]:
    """Return tables of shares and compile times, keywords, and refusal reasons, with the engines side by side."""
    tables = [
        Table(
            "Schemas: what the grammar does with them (share, 95 % interval)",
            (
                "engine",
                "schemas",
                "fully enforced",
                "partly checked afterwards",
                "partly open",
                "refused",
                "compile CPU ms p50",
                "p99",
            ),
            tuple(_summary(engine, coverages) for engine, coverages in found.items()),
        ),
        _keyword_table(found),
    ]
    reasons = Counter(
        (engine, coverage.refused_keyword, coverage.why)
        for engine, coverages in found.items()
        for coverage in coverages
        if coverage.outcome == "refused"
    )
    if reasons:
        rows = tuple((*reason, str(n)) for reason, n in reasons.most_common(N_REASONS))
        tables.append(Table("Schemas refused", ("engine", "keyword", "why", "schemas"), rows))
    return tables


def source_table(sources: Sequence[str], found: Mapping[str, Sequence[SchemaCoverage]]) -> Table:
    """Return the outcomes by source of the schemas, the largest source first."""
    rows: list[tuple[str, ...]] = []
    for source, n in Counter(sources).most_common():
        row = [source, str(n)]
        for coverages in found.values():
            of_source = [c.outcome for c, its in zip(coverages, sources, strict=True) if its == source]
            row += [str(of_source.count(outcome)) for outcome in get_args(Outcome)]
        rows.append(tuple(row))
    columns = ["source", "schemas"]
    for engine in found:
        columns += [f"{engine}: enforced", "checked", "open", "refused"]
    return Table("Schemas by source", tuple(columns), tuple(rows))


def _summary(engine: str, coverages: Sequence[SchemaCoverage]) -> tuple[str, ...]:
    n = len(coverages)
    outcomes = Counter(coverage.outcome for coverage in coverages)
    shares = [f"{outcomes[o]}: {wilson(outcomes[o], n)}" for o in get_args(Outcome)]
    times_ms = sorted(1e3 * coverage.compile_cpu_s for coverage in coverages)
    return (engine, str(n), *shares, f"{_at(times_ms, 0.5):.2f}", f"{_at(times_ms, 0.99):.2f}")


def _keyword_table(found: Mapping[str, Sequence[SchemaCoverage]]) -> Table:
    """Count the uses of each keyword by fate."""
    counts = {
        engine: [_sum(getattr(c, fate) for c in coverages) for fate in ("enforced", "checked", "open")]
        for engine, coverages in found.items()
    }
    everything: Counter[str] = Counter()
    for by_fate in counts.values():
        everything |= by_fate[0] + by_fate[1] + by_fate[2]
    columns = ["keyword"]
    for engine in found:
        columns += [f"{engine}: enforced", "checked", "open"]
    rows = [
        (keyword, *(str(count[keyword]) for by_fate in counts.values() for count in by_fate))
        for keyword, _ in everything.most_common()
    ]
    annotations = [str(sum(c.annotations for c in coverages)) for coverages in found.values()]
    title = f"Keywords (formats that constrain nothing: {', '.join(annotations)} uses)"
    return Table(title, tuple(columns), tuple(rows))


def _uses(uses: Iterable[KeywordUse]) -> dict[str, int]:
    return dict(Counter(use.keyword for use in uses))


def _sum(parts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))] if ordered else float("nan")


def main() -> int:
    """Cover all schemas of a file or folder and print the tables."""
    from rich.console import Console
    from rich.progress import track

    from agentkit import LocalModel
    from agentkit.errors import UserError
    from evals.cli import print_tables
    from evals.structured_output.reading import draw, read_items

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="JSON lines (.zst too), or a folder of schemas")
    parser.add_argument(
        "--model", default="smollm2-135m", help="model whose vocabulary the grammars are compiled for"
    )
    parser.add_argument("--engine", choices=ENGINES, action="append", help="engine to measure; default: all")
    parser.add_argument("--sample", type=int, metavar="N", help="number of schemas, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawing")
    parser.add_argument(
        "--max-cpu-s", type=float, default=MAX_COMPILE_CPU_S, help="maximum CPU seconds for compiling a schema"
    )
    parser.add_argument("--json", type=Path, help="also write the results here, one line per schema and engine")
    options = parser.parse_args()
    progress = Console(stderr=True)
    found: dict[str, list[SchemaCoverage]] = {}
    try:
        items = read_items(options.data)
        if options.sample is not None:
            items = draw(items, options.sample, options.seed)
        model = LocalModel(options.model)
        vocabulary = model.load().vocabulary
    except UserError as error:
        progress.print(f"[red]error:[/red] {error}", highlight=False)
        return 2
    for engine in options.engine or ENGINES:
        compiler = GrammarCompiler(vocabulary, engine, "check", cache_size=1)
        cpu_s = time.process_time()
        found[engine] = [
            cover_within(options.max_cpu_s, item.schema, compiler)
            for item in track(items, engine, console=progress)
        ]
        progress.print(f"{engine}: {len(items)} schemas in {time.process_time() - cpu_s:.1f} s of CPU")
    model.close()
    if options.json is not None:
        lines = [
            json.dumps({"id": item.id, "source": item.source, "engine": engine, **asdict(coverage)})
            for engine, coverages in found.items()
            for item, coverage in zip(items, coverages, strict=True)
        ]
        options.json.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for table in (*coverage_tables(found), source_table([item.source for item in items], found)):
        print_tables(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
